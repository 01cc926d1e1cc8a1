import asyncio
import threading
import time

import pytest

from t2l_router.engines.echo import EchoEngine
from t2l_router.engines.echo_adapters import EchoGenerator
from t2l_router.errors import (
    GenerationFailed,
    InvalidAdapter,
    InvalidDescription,
    InvalidRequest,
    UnknownAdapter,
    UnknownModel,
)
from t2l_router.router import Caller, Router
from tests.routers import answer, decide, echo_router, request


class CountingGenerator(EchoGenerator):
    """Counts its calls and may take its time or fail."""

    def __init__(self, *, delay_s=0.0, error=None):
        self.calls = 0
        self.began, self.may_go_on = threading.Event(), threading.Event()
        self.may_go_on.set()
        self.delay_s = delay_s
        self.error = error
        self.threads = set()

    def generate(self, embeddings):
        self.calls += 1
        self.began.set()
        self.threads.add(threading.current_thread())
        time.sleep(self.delay_s)
        assert self.may_go_on.wait(60)
        if self.error:
            raise self.error
        return super().generate(embeddings)


class RefusingEngine(EchoEngine):
    """Takes no adapter."""

    async def ensure(self, adapter):
        raise InvalidAdapter("rank 9 doesn't fit")


@pytest.fixture(name="routers")
async def _routers(tmp_path):
    """Makes routers over one library, and closes them."""
    made = []

    def make(generator=None, engine=None, **settings) -> Router:
        generator = generator or CountingGenerator()
        made.append(echo_router(tmp_path, generator=generator, engine=engine, **settings))
        return made[-1]

    yield make
    for router in made:
        await router.close()


async def test_no_description(routers):
    """Without a task the base model answers, and says so."""
    decision = await decide(routers())

    assert (decision.kind, decision.reason, decision.adapter) == (
        "base",
        "no task description",
        None,
    )


async def test_generated_then_exact(routers):
    """The first request for a task has an adapter written; the same text finds it again."""
    subject = routers()

    first = await decide(subject, t2l_description="Translate to French")
    second = await decide(subject, t2l_description=" Translate  to French\n")

    assert (first.kind, second.kind) == ("generated", "exact")
    assert first.adapter == second.adapter


async def test_answer_comes_from_the_adapter(routers):
    """The engine is handed the adapter that was decided on."""
    answer = await routers().chat(request(t2l_description="Translate"), Caller())
    text = "".join([delta.text async for delta in answer.deltas])

    assert text == f"[{answer.decision.adapter.adapter_id}] hello"
    assert {"describe", "embed", "search", "generate"} <= set(answer.timing_ms)


async def test_header_description(routers):
    """A description in the header has the same effect as one in the body."""
    decision = await decide(routers(), Caller(description="Translate"))

    assert decision.kind == "generated"


@pytest.mark.parametrize("model", ["org/base", "base-short"])
async def test_names_of_the_base_model(model, routers):
    """The base model answers to its name and its aliases."""
    assert (await decide(routers(), model=model)).kind == "base"


async def test_base_on_request(routers):
    """``t2l:base`` means no adapter, whatever the description says."""
    decision = await decide(routers(), model="t2l:base", t2l_description="Translate")

    assert (decision.kind, decision.adapter) == ("base", None)


@pytest.mark.parametrize(
    "fields", [{"model": "t2l:{}"}, {"t2l_adapter": "{}"}, {"model": "t2l:{}", "t2l_adapter": "{}"}]
)
async def test_explicit_adapter(fields, routers):
    """A request may name an adapter that was written before."""
    subject = routers()
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
        ({"t2l_adapter": "no-such-alias"}, UnknownAdapter, "t2l_adapter"),
        ({"t2l_description": "?!..."}, InvalidDescription, "t2l_description"),
        ({"t2l_description": "a" * 100_000}, InvalidDescription, "t2l_description"),
        ({"t2l_description": 7}, InvalidDescription, "t2l_description"),
        ({"model": "t2l:base", "t2l_description": ""}, InvalidDescription, "t2l_description"),
    ],
)
async def test_bad_request(fields, error, param, routers):
    """A request that can't be served as it is fails with the field at fault."""
    with pytest.raises(error) as caught:
        await decide(routers(), **fields)

    assert caught.value.param == param
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("generator", "engine", "patience_s", "reason"),
    [
        (CountingGenerator(error=GenerationFailed("not finite")), None, 60, "not finite"),
        (CountingGenerator(error=RuntimeError("secret path")), None, 60, "the log says how"),
        (CountingGenerator(delay_s=2), None, 1, "not ready within 1 s"),
        (None, RefusingEngine(), 60, "rank 9 doesn't fit"),
    ],
)
class TestFailedGeneration:
    """Promise 6: a failed or slow generation never fails a chat, unless the caller is strict."""

    async def test_base_answers(self, generator, engine, patience_s, reason, routers):
        """The base model answers, with the reason."""
        subject = routers(generator, engine, generation_timeout_s=patience_s)

        decision = await decide(subject, t2l_description="Translate")

        assert (decision.kind, decision.adapter) == ("base", None)
        assert reason in decision.reason
        assert "secret" not in decision.reason

    async def test_strict_caller(self, generator, engine, patience_s, reason, routers):
        """A caller who insists on the adapter gets the error."""
        subject = routers(generator, engine, generation_timeout_s=patience_s)

        with pytest.raises(GenerationFailed, match=reason):
            await decide(subject, t2l_description="Translate", t2l_required=True)


async def test_single_flight(routers):
    """200 first requests for one task at the same time cause one generation."""
    generator = CountingGenerator(delay_s=0.05)
    subject = routers(generator)

    decisions = await asyncio.gather(
        *(decide(subject, t2l_description="Translate") for _ in range(200))
    )

    assert generator.calls == 1
    assert len({decision.adapter.adapter_id for decision in decisions}) == 1
    assert {decision.kind for decision in decisions} == {"generated"}


async def test_generation_leaves_the_event_loop_free(routers):
    """While an adapter is written other requests go on."""
    generator = CountingGenerator()
    generator.may_go_on.clear()
    subject = routers(generator, generation_timeout_s=60)
    slow = asyncio.create_task(decide(subject, t2l_description="Translate"))
    await asyncio.to_thread(generator.began.wait, 60)

    await decide(subject)

    assert not slow.done()
    generator.may_go_on.set()
    assert threading.main_thread() not in generator.threads | {None}
    assert (await slow).kind == "generated"


async def test_impatient_request_does_not_end_the_flight(routers):
    """A request that gives up or goes away leaves the adapter to the others."""
    generator = CountingGenerator()
    generator.may_go_on.clear()
    subject = routers(generator, generation_timeout_s=0.05)
    leaving = asyncio.create_task(decide(subject, t2l_description="Translate"))
    await asyncio.to_thread(generator.began.wait, 60)
    leaving.cancel()

    late = await decide(subject, t2l_description="Translate")
    generator.may_go_on.set()
    # On a busy machine even waiting for the finished flight may take longer than 0.05 s.
    while (later := await decide(subject, t2l_description="Translate")).kind == "base":
        pass

    assert late.kind == "base"
    assert later.kind in ("generated", "exact")  # by the first flight, awaited or over
    assert generator.calls == 1


async def test_failed_flight_is_tried_again(routers):
    """A failure isn't remembered: the next request tries anew."""
    generator = CountingGenerator(error=GenerationFailed("no luck"))
    subject = routers(generator)
    await decide(subject, t2l_description="Translate")
    generator.error = None

    assert (await decide(subject, t2l_description="Translate")).kind == "generated"


async def test_too_many_generations(routers):
    """Beyond the limit of adapters being written the base model answers."""
    subject = routers(CountingGenerator(delay_s=0.05), max_generating=2)

    decisions = await asyncio.gather(
        *(decide(subject, t2l_description=f"Task {i}") for i in range(5))
    )

    assert [decision.kind for decision in decisions] == ["generated"] * 2 + ["base"] * 3
    assert "2 adapters are being written" in decisions[-1].reason


async def test_tenants_do_not_share(routers):
    """A tenant neither finds nor names another's adapter."""
    subject = routers()
    made = (await decide(subject, Caller("acme"), t2l_description="Translate")).adapter

    assert (await decide(subject, Caller("rival"), t2l_description="Translate")).kind == "generated"
    with pytest.raises(UnknownAdapter):
        await decide(subject, Caller("third"), t2l_adapter=made.adapter_id)
    assert await subject.models("third") == ["org/base", "t2l:base"]


async def test_models(routers):
    """The models are the base model, ``t2l:base`` and every adapter held."""
    subject = routers()
    made = (await answer(subject, t2l_description="Translate"))[0].adapter

    assert await subject.models("local") == ["org/base", "t2l:base", f"t2l:{made.adapter_id}"]


async def test_closing(routers):
    """A closed router ends its thread and its engine."""
    subject = routers()
    await decide(subject, t2l_description="Translate")

    await subject.close()

    with pytest.raises(RuntimeError):
        subject._matcher.maker._thread.submit(print)
