import asyncio
import json
import threading
import time

import pytest

from t2l_router import wire
from t2l_router.engines.echo import EchoEncoder, EchoEngine, EchoGenerator
from t2l_router.errors import (
    GenerationFailed,
    InvalidAdapter,
    InvalidDescription,
    InvalidRequest,
    UnknownAdapter,
    UnknownModel,
)
from t2l_router.library import MemoryLibrary
from t2l_router.router import Caller, Limits, Router, ServedModel


class CountingGenerator(EchoGenerator):
    """Counts its calls and may take its time or fail."""

    def __init__(self, *, delay_s=0.0, error=None):
        self.calls = 0
        self.delay_s = delay_s
        self.error = error
        self.threads = set()

    def generate(self, embeddings):
        self.calls += 1
        self.threads.add(threading.current_thread())
        time.sleep(self.delay_s)
        if self.error:
            raise self.error
        return super().generate(embeddings)


class RefusingEngine(EchoEngine):
    """Takes no adapter."""

    async def ensure(self, adapter):
        raise InvalidAdapter("rank 9 doesn't fit")


def router(generator=None, engine=None, **limits) -> Router:
    return Router(
        model=ServedModel("org/base", "f" * 64, ("base-short",)),
        engine=engine or EchoEngine(),
        encoder=EchoEncoder(),
        generator=generator or CountingGenerator(),
        library=MemoryLibrary(1 << 20),
        limits=Limits(**limits),
    )


def request(model="org/base", **fields) -> wire.ChatRequest:
    messages = [{"role": "user", "content": "hello"}]
    return wire.parse_chat(json.dumps({"model": model, "messages": messages} | fields).encode())


async def decide(router: Router, caller=Caller(), **fields):  # noqa: B008 - frozen
    return (await router.chat(request(**fields), caller)).decision


async def test_no_description():
    """Without a task the base model answers, and says so."""
    decision = await decide(router())

    assert (decision.kind, decision.reason, decision.adapter) == (
        "base",
        "no task description",
        None,
    )


async def test_generated_then_exact():
    """The first request for a task has an adapter written; the same text finds it again."""
    subject = router()

    first = await decide(subject, t2l_description="Translate to French")
    second = await decide(subject, t2l_description=" Translate  to French\n")

    assert (first.kind, second.kind) == ("generated", "exact")
    assert first.adapter == second.adapter


async def test_answer_comes_from_the_adapter():
    """The engine is handed the adapter that was decided on."""
    answer = await router().chat(request(t2l_description="Translate"), Caller())
    text = "".join([delta.text async for delta in answer.deltas])

    assert text == f"[{answer.decision.adapter.adapter_id}] hello"
    assert set(answer.timing_ms) == {"describe", "embed", "generate", "load"}


async def test_header_description():
    """A description in the header has the same effect as one in the body."""
    decision = await decide(router(), Caller(description="Translate"))

    assert decision.kind == "generated"


@pytest.mark.parametrize("model", ["org/base", "base-short"])
async def test_names_of_the_base_model(model):
    """The base model answers to its name and its aliases."""
    assert (await decide(router(), model=model)).kind == "base"


async def test_base_on_request():
    """``t2l:base`` means no adapter, whatever the description says."""
    decision = await decide(router(), model="t2l:base", t2l_description="Translate")

    assert (decision.kind, decision.adapter) == ("base", None)


@pytest.mark.parametrize(
    "fields", [{"model": "t2l:{}"}, {"t2l_adapter": "{}"}, {"model": "t2l:{}", "t2l_adapter": "{}"}]
)
async def test_explicit_adapter(fields):
    """A request may name an adapter that was written before."""
    subject = router()
    made = (await decide(subject, t2l_description="Translate")).adapter
    fields = {name: value.format(made.adapter_id) for name, value in fields.items()}

    decision = await decide(subject, **fields)

    assert (decision.kind, decision.adapter) == ("explicit", made)


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"model": "gpt-4o"}, UnknownModel, "model"),
        ({"model": ""}, UnknownModel, "model"),
        ({"model": "x" * 1_000_000}, UnknownModel, "model"),
        ({"model": "t2l:"}, UnknownAdapter, "model"),
        ({"model": "t2l:t2l-00"}, UnknownAdapter, "model"),
        ({"t2l_adapter": "../../etc/passwd"}, UnknownAdapter, "t2l_adapter"),
        ({"model": "t2l:base", "t2l_adapter": "t2l-00"}, InvalidRequest, "t2l_adapter"),
        ({"model": "t2l:base", "t2l_required": True}, InvalidRequest, "t2l_required"),
        ({"t2l_required": True}, InvalidRequest, "t2l_required"),
        ({"t2l_description": 7}, InvalidDescription, "t2l_description"),
        ({"model": "t2l:base", "t2l_description": ""}, InvalidDescription, "t2l_description"),
    ],
)
async def test_bad_request(fields, error, param):
    """A request that can't be served as it is fails with the field at fault."""
    with pytest.raises(error) as caught:
        await decide(router(), **fields)

    assert caught.value.param == param
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("generator", "engine", "reason"),
    [
        (CountingGenerator(error=GenerationFailed("not finite")), None, "not finite"),
        (CountingGenerator(error=RuntimeError("secret path")), None, "the log says how"),
        (CountingGenerator(delay_s=0.2), None, "not ready within 0.05 s"),
        (None, RefusingEngine(), "rank 9 doesn't fit"),
    ],
)
class TestFailedGeneration:
    """Promise 6: a failed or slow generation never fails a chat, unless the caller is strict."""

    async def test_base_answers(self, generator, engine, reason):
        """The base model answers, with the reason."""
        subject = router(generator, engine, timeout_s=0.05)

        decision = await decide(subject, t2l_description="Translate")

        assert (decision.kind, decision.adapter) == ("base", None)
        assert reason in decision.reason
        assert "secret" not in decision.reason

    async def test_strict_caller(self, generator, engine, reason):
        """A caller who insists on the adapter gets the error."""
        subject = router(generator, engine, timeout_s=0.05)

        with pytest.raises(GenerationFailed, match=reason):
            await decide(subject, t2l_description="Translate", t2l_required=True)


async def test_single_flight():
    """200 first requests for one task at the same time cause one generation."""
    generator = CountingGenerator(delay_s=0.05)
    subject = router(generator)

    decisions = await asyncio.gather(
        *(decide(subject, t2l_description="Translate") for _ in range(200))
    )

    assert generator.calls == 1
    assert len({decision.adapter.adapter_id for decision in decisions}) == 1
    assert {decision.kind for decision in decisions} == {"generated"}


async def test_generation_leaves_the_event_loop_free():
    """While an adapter is written other requests go on."""
    generator = CountingGenerator(delay_s=0.2)
    subject = router(generator)
    slow = asyncio.create_task(decide(subject, t2l_description="Translate"))
    await asyncio.sleep(0.05)

    start = time.perf_counter()
    await decide(subject)

    assert time.perf_counter() - start < 0.1
    assert threading.main_thread() not in generator.threads | {None}
    assert (await slow).kind == "generated"


async def test_impatient_request_does_not_end_the_flight():
    """A request that gives up or goes away leaves the adapter to the others."""
    generator = CountingGenerator(delay_s=0.2)
    subject = router(generator, timeout_s=0.05)
    leaving = asyncio.create_task(decide(subject, t2l_description="Translate"))
    await asyncio.sleep(0.01)
    leaving.cancel()

    late = await decide(subject, t2l_description="Translate")
    await asyncio.sleep(0.3)
    later = await decide(subject, t2l_description="Translate")

    assert (late.kind, later.kind) == ("base", "exact")
    assert generator.calls == 1


async def test_failed_flight_is_tried_again():
    """A failure isn't remembered: the next request tries anew."""
    generator = CountingGenerator(error=GenerationFailed("no luck"))
    subject = router(generator)
    await decide(subject, t2l_description="Translate")
    generator.error = None

    assert (await decide(subject, t2l_description="Translate")).kind == "generated"


async def test_too_many_generations():
    """Beyond the limit of adapters being written the base model answers."""
    subject = router(CountingGenerator(delay_s=0.05), max_generating=2)

    decisions = await asyncio.gather(
        *(decide(subject, t2l_description=f"Task {i}") for i in range(5))
    )

    assert [decision.kind for decision in decisions] == ["generated"] * 2 + ["base"] * 3
    assert "2 adapters are being written" in decisions[-1].reason


async def test_tenants_do_not_share():
    """A tenant neither finds nor names another's adapter."""
    subject = router()
    made = (await decide(subject, Caller("acme"), t2l_description="Translate")).adapter

    assert (await decide(subject, Caller("rival"), t2l_description="Translate")).kind == "generated"
    with pytest.raises(UnknownAdapter):
        await decide(subject, Caller("third"), t2l_adapter=made.adapter_id)
    assert subject.models("third") == ["org/base", "t2l:base"]


async def test_models():
    """The models are the base model, ``t2l:base`` and every adapter held."""
    subject = router()
    made = (await decide(subject, t2l_description="Translate")).adapter

    assert subject.models("local") == ["org/base", "t2l:base", f"t2l:{made.adapter_id}"]


async def test_closing():
    """A closed router ends its thread and its engine."""
    subject = router()
    await decide(subject, t2l_description="Translate")

    await subject.close()

    with pytest.raises(RuntimeError):
        subject._thread.submit(print)
