"""
Requests that nobody would send, by Hypothesis, to every route of the application.

    python -m tests.conformance.fuzz [--cases N] [--out tests/bench/results]

No schema holds them back: any JSON in any field, any bytes as a body, any header, path and method.
No answer may be a server error, and every error must have OpenAI's form. The application runs in
this process, as `t2l serve` puts it together, but without a socket.
"""

import argparse
import json
import logging
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.bench.report import publish
from tests.conformance.inprocess import Asked, Attack, application

TOGETHER = 6  # requests an example: more would be more than Hypothesis draws for one
HOSTILE = (
    "../../etc/passwd", "a\r\nSet-Cookie: x=1", "\0", "\ud800", "﷽" * 200, "' OR 1=1 --",
    "{{7*7}}", "t2l:", "t2l:base", "t2l-" + "0" * 32, "%00", "%2e%2e%2f", "-1", "NaN", "",
    "Translate to French", "a" * 5_000,
)  # fmt: skip
CHAT_FIELDS = (
    "messages", "model", "stream", "stream_options", "temperature", "top_p", "seed", "stop",
    "max_tokens", "max_completion_tokens", "n", "logprobs", "top_logprobs", "response_format",
    "tools", "tool_choice", "logit_bias", "metadata", "t2l_description", "t2l_adapter",
    "t2l_session", "t2l_required", "cache_salt", "user", "prompt", "input", "trace", "rating",
    "encoding_format", "dimensions", "suffix", "echo", "best_of", "anything",
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
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(("user", "system", "assistant", "tool", "developer")) | texts},
        optional={"content": values, "name": values, "tool_calls": values, "tool_call_id": values},
    ),
    max_size=4,
)
SOUND = {"model": "echo", "messages": [{"role": "user", "content": "hi"}], "prompt": "hi"}


def encoded(value: Any) -> bytes:
    """A value as JSON, or what comes near it: lone surrogates and infinities included."""
    return json.dumps(value).encode()


@st.composite
def attacks(draw: st.DrawFn) -> Attack:
    """Draw a request to any route, near to a sound one or far from it."""
    leaves_after = draw(st.none() | st.integers(0, 3)) if draw(st.integers(0, 19)) == 0 else None
    kind = draw(
        st.sampled_from(("fields", "fields", "fields", "messages", "bytes", "admin", "any"))
    )
    headers = {"content-type": b"application/json"}
    if draw(st.integers(0, 9)) == 0:
        name = draw(
            st.sampled_from(
                ("x-t2l-description", "x-t2l-session", "x-request-id", "content-type",
                 "traceparent", "x-openwebui-chat-id", "accept")
            )
        )  # fmt: skip
        value = draw(st.binary(max_size=60))
        # These three bytes would end the header: the client, not the server, refuses them.
        headers[name] = bytes(byte for byte in value if byte not in b"\r\n\0").strip()
    if kind == "admin":
        place = draw(st.sampled_from(ADMIN)).replace("{}", quote(_sound(draw(texts)), safe=""))
        query = draw(
            st.dictionaries(
                st.sampled_from(("tenant", "limit", "cursor", "filter", "ref", "top", "deleted")),
                texts,
                max_size=2,
            )
        )
        asked = "&".join(f"{name}={quote(_sound(value))}" for name, value in query.items())
        method = draw(st.sampled_from(("GET", "POST", "PUT", "PATCH", "DELETE")))
        return Attack(
            method, f"/admin/{place}?{asked}", encoded(draw(values)), headers, leaves_after
        )
    if kind == "any":
        method = draw(st.sampled_from(("GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE")))
        path = "/" + quote(_sound(draw(texts)), safe="/%")
        return Attack(method, draw(st.sampled_from(("", "/v1", "/v1/models"))) + path, b"", headers)
    path = draw(st.sampled_from(POSTED))
    if kind == "bytes":
        start = draw(st.sampled_from((b"", b"{", b"[" * 500, b'{"messages":', encoded(SOUND))))
        return Attack("POST", path, start + draw(st.binary(max_size=200)), headers, leaves_after)
    body: dict[str, Any] = dict(SOUND)
    if kind == "messages":
        body["messages"] = draw(messages)
    body |= draw(st.dictionaries(st.sampled_from(CHAT_FIELDS), values, max_size=3))
    return Attack("POST", path, encoded(body), headers, leaves_after)


def _sound(text: str) -> str:
    return text.encode(errors="replace").decode()


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
    logging.getLogger("t2l_router").setLevel(logging.CRITICAL)
    with (
        tempfile.TemporaryDirectory(prefix="t2l-fuzz-") as directory,
        application(Path(directory)) as asked,
    ):

        @seed(number)
        @settings(
            max_examples=max(1, cases // TOGETHER),
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(st.lists(attacks(), min_size=TOGETHER, max_size=TOGETHER))
        def attacked(drawn: list[Attack]) -> None:
            for attack in drawn:
                judge(asked, attack, statuses)

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
