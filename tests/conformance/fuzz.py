"""
Requests that nobody would send, of what Hypothesis draws, to every route of the application.

    python -m tests.conformance.fuzz [--cases N] [--out tests/bench/results]

No schema holds them back: any JSON in any field, any bytes as a body, any header, path and method.
No answer may be a server error, and every error must have OpenAI's form. The application runs in
this process, as `t2l serve` puts it together, but without a socket.
"""

import argparse
import json
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.bench.report import publish
from tests.conformance.inprocess import Asked, Attack, application

TOGETHER = 50  # requests an example
HOSTILE = (
    "../../etc/passwd", "a\r\nSet-Cookie: x=1", "\0", "\ud800", "﷽" * 200, "' OR 1=1 --",
    "{{7*7}}", "t2l:", "t2l:base", "t2l-" + "0" * 32, "%00", "%2e%2e%2f", "-1", "NaN", "",
    "Translate to French", "a" * 5_000,
)  # fmt: skip
CHAT_FIELDS = (
    "messages", "model", "stream", "stream_options", "temperature", "top_p", "seed", "stop",
    "max_tokens", "max_completion_tokens", "n", "logprobs", "top_logprobs", "response_format",
    "tools", "tool_choice", "logit_bias", "metadata", "t2l_description", "t2l_examples",
    "t2l_adapter", "t2l_session", "t2l_required", "cache_salt", "user", "prompt", "input", "trace",
    "rating", "encoding_format", "dimensions", "suffix", "echo", "best_of", "anything",
)  # fmt: skip
POSTED = (
    "/v1/chat/completions", "/v1/chat/completions", "/v1/chat/completions", "/v1/completions",
    "/v1/embeddings", "/v1/t2l/explain", "/v1/t2l/feedback",
)  # fmt: skip
ADMIN = (
    "adapters", "adapters/{}", "adapters/{}/undelete", "adapters/{}/descriptions",
    "adapters/{}/state", "adapters/{}/pin", "adapters/{}/tags", "adapters/{}/promote",
    "adapters/{}/export", "history", "stats", "aliases", "aliases/{}", "aliases/{}/history",
    "limits", "usage", "adapters/import", "adapters/{}/merge", "search", "quota", "space",
    "duplicates", "prune", "verify", "keys", "blobs/{}",
)  # fmt: skip

MESSAGE_FIELDS = ("role", "content", "name", "tool_calls", "tool_call_id", "refusal")
ADMIN_FIELDS = (
    "description", "text", "limit", "ref", "move", "state", "pinned", "add", "remove", "name",
    "scopes", "expires_at", "filters", "to_quota", "purge_after_s", "apply", "others", "by",
    "max_adapters", "examples",
)  # fmt: skip
QUERY = (
    "tenant", "limit", "cursor", "filter", "ref", "top", "deleted", "by", "threshold", "days",
)  # fmt: skip
HEADERS = (
    "x-t2l-description", "x-t2l-session", "x-request-id", "content-type", "traceparent",
    "x-openwebui-chat-id", "accept", "origin",
)  # fmt: skip

texts = st.sampled_from(HOSTILE) | st.text(max_size=30)
scalars = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | texts
    | st.sampled_from((0, 1, 2, -1, 1e308, 10**400))
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)
SOUND = {"model": "echo", "messages": [{"role": "user", "content": "hi"}], "prompt": "hi"}


def encoded(value: Any) -> bytes:
    """A value as JSON, or what comes near it: lone surrogates and infinities included."""
    return json.dumps(value).encode()


@dataclass(frozen=True, slots=True)
class Mix:
    """
    Requests put together of what Hypothesis has drawn: drawing each costs more than answering it.

    Args:
        random: Chooses, the same for the same seed.
        values: To choose from.
        texts: To choose from.
        noise: Bytes to choose from.
    """

    random: Random
    values: list[Any]
    texts: list[str]
    noise: list[bytes]

    def attack(self) -> Attack:
        """A request to any route, near to a sound one or far from it."""
        random = self.random
        leaves_after = random.randrange(4) if random.random() < 0.03 else None
        kind = random.choice(("fields", "fields", "messages", "bytes", "admin", "admin", "any"))
        headers = self._headers()
        if kind == "admin":
            place = random.choice(ADMIN).replace("{}", quote(self._path(), safe=""))
            names = random.sample(QUERY, random.randrange(3))
            query = "&".join(f"{name}={quote(self._path())}" for name in names)
            method = random.choice(("GET", "GET", "POST", "PUT", "PATCH", "DELETE"))
            body = random.choice((self._object(ADMIN_FIELDS), random.choice(self.values)))
            path = f"/admin/{place}?{query}"
            return Attack(method, path, encoded(body), headers, leaves_after)
        if kind == "any":
            method = random.choice(("GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE"))
            start = random.choice(("", "/v1", "/v1/models"))
            return Attack(method, f"{start}/{quote(self._path(), safe='/%')}", b"", headers)
        path = random.choice(POSTED)
        if kind == "bytes":
            starts = (b"", b"{", b"[" * 500, b'{"messages":', encoded(SOUND))
            content = random.choice(starts) + random.choice(self.noise)
            return Attack("POST", path, content, headers, leaves_after)
        body = dict(SOUND)
        if kind == "messages":
            body["messages"] = [self._object(MESSAGE_FIELDS) for _ in range(random.randrange(4))]
        body |= self._object(CHAT_FIELDS)
        return Attack("POST", path, encoded(body), headers, leaves_after)

    def _headers(self) -> dict[str, bytes]:
        headers = {"content-type": b"application/json"}
        if self.random.random() < 0.1:
            value = self.random.choice(self.noise)[:60]
            # These three bytes would end the header: the client, not the server, refuses them.
            plain = bytes(byte for byte in value if byte not in b"\r\n\0").strip()
            headers[self.random.choice(HEADERS)] = plain
        return headers

    def _object(self, fields: Sequence[str]) -> dict[str, Any]:
        names = self.random.sample(fields, self.random.randrange(4))
        found = {name: self.random.choice(self.values) for name in names}
        if "role" in fields:
            found["role"] = self.random.choice(("user", "system", "tool", *self.texts[:1]))
        for name in {"t2l_examples", "examples"} & found.keys():
            if self.random.random() < 0.7:
                found[name] = [self._pair() for _ in range(self.random.randrange(5))]
        return found

    def _pair(self) -> dict[str, Any]:
        """An example as it should be, or nearly."""
        names = self.random.choice((("input", "output"), ("input", "output", "x"), ("output",)))
        return {name: self.random.choice((*self.texts, self.values[0])) for name in names}

    def _path(self) -> str:
        return self.random.choice(self.texts).encode(errors="replace").decode()


mixes = st.builds(
    Mix,
    st.integers(0, 2**63).map(Random),
    st.lists(values, min_size=12, max_size=20),
    st.lists(texts, min_size=6, max_size=12),
    st.lists(st.binary(max_size=200), min_size=3, max_size=6),
)


def judge(asked: Asked, attack: Attack, statuses: Counter[str]) -> None:
    """Send a request; what comes back is no server error, and an error in OpenAI's form."""
    answer = asked.ask(attack)
    statuses[f"{answer.status // 100}xx"] += 1
    if answer.error is not None:
        told = "".join(traceback.format_exception(answer.error))
        raise AssertionError(f"{attack}: {told}")
    if attack.leaves_after is not None:
        return
    assert 200 <= answer.status < 500, (attack, answer.status, answer.body[:500])
    assert b"x-request-id" in answer.headers, attack
    if answer.status >= 400 and attack.method != "HEAD":
        detail = json.loads(answer.body)["error"]
        assert set(detail) == {"message", "type", "param", "code"}, (attack, answer.body)
    for value in answer.headers.values():
        assert not {*b"\r\n\0"} & {*value}, (attack, answer.headers)
    if answer.headers.get(b"content-type", b"").startswith(b"text/event-stream"):
        assert answer.body.endswith(b"\n\n"), (attack, answer.body[-200:])


def run(cases: int, number: int = 0) -> Counter[str]:
    """
    Send so many requests; how many statuses of each hundred came back.

    Args:
        cases: How many.
        number: Seed of what is drawn.
    """
    statuses: Counter[str] = Counter()
    with (
        tempfile.TemporaryDirectory(prefix="t2l-fuzz-") as directory,
        application(Path(directory)) as asked,
    ):

        @seed(number)
        @settings(
            max_examples=max(1, cases // TOGETHER),
            phases=[Phase.generate],  # what fails is told whole
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(mixes)
        def attacked(mix: Mix) -> None:
            for _ in range(TOGETHER):
                judge(asked, mix.attack(), statuses)

        attacked()
    return statuses


def main() -> None:
    """Run and report; a wrong answer ends it with the request that brought it about."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="directory for the JSON document")
    arguments = parser.parse_args()
    began = time.perf_counter()
    statuses = run(arguments.cases, arguments.seed)
    metrics = {"cases": sum(statuses.values()), "server_errors": statuses["5xx"], **statuses}
    publish(
        "fuzz", metrics, began=began, out=arguments.out,
        module="tests.conformance.fuzz", seed=arguments.seed,
    )  # fmt: skip


if __name__ == "__main__":
    main()
