import json
import zlib
from dataclasses import replace

import numpy as np
import pytest

from t2l_router import heads
from t2l_router.errors import CheckpointMismatch, ConfigError, ModelCorrupt
from t2l_router.heads import Heads, Layers
from t2l_router.inference import hear
from t2l_router.inference_head import HeadInference
from t2l_router.inference_library import LibraryInference, load_examples
from t2l_router.inference_llm import LlmInference
from t2l_router.reading import Reading
from t2l_router.topics import Judge, begin, evidence
from t2l_router.turns import ACTS, N_HASHED, N_SURFACE

D = 64
TASKS = ("Translate English text into French.", "Sort a list.", "Write a poem.")
WORDS = N_SURFACE + N_HASHED


class WordEncoder:
    """Texts with the same words are near."""

    def embed(self, texts):
        rows = np.zeros((len(texts), D), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.lower().replace('"', " ").replace(".", " ").split():
                row[hash_of(word)] += 1
            row[0] += 1e-3
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def hash_of(word: str) -> int:
    return zlib.crc32(word.encode()) % D


def linear(d_in: int, *bias: float) -> Layers:
    """The same answer whatever is read."""
    return Layers((np.zeros((d_in, len(bias)), np.float32),), (np.array(bias, np.float32),))


def made(act: str = "ask", *, states: float = 9.0, shift: float = -9.0) -> Heads:
    encoder = WordEncoder()
    nothing = HeadInference(encoder, unjudged(act, states))
    turn = nothing.turn(Reading(None, ("a",)))
    n = len(evidence(begin(None, "a", turn.embedding, None, source="inferred"), turn))
    always = linear(n, 0.0, shift, -9.0)
    judge = Judge(np.zeros(n, np.float32), np.ones(n, np.float32), always.weights, always.biases)
    return replace(unjudged(act, states), judge=judge)


def unjudged(act: str, states: float) -> Heads:
    no_judge = Judge(np.zeros(0, np.float32), np.zeros(0, np.float32), (), ())
    return Heads(
        acts=linear(D + WORDS, *(9.0 if name == act else 0.0 for name in ACTS)),
        states=linear(D + WORDS, states),
        to_task=linear(D, *[0.0] * D),
        which=linear(D + WORDS, 0.0, 0.0, 0.0),
        judge=no_judge,
        tasks=TASKS,
        task_embeddings=WordEncoder().embed(TASKS),
        task_bias=np.zeros(3, np.float32),
        encoder="words",
    )


def inference(*args, **kwargs) -> HeadInference:
    return HeadInference(WordEncoder(), made(*args, **kwargs))


def reading(*turns, system=None, **fields) -> Reading:
    return Reading(system, turns, **fields)


def test_known_task():
    """A request in other words for a known task gets that task's description."""
    heard = hear(inference(), reading('translate english into french: "Hi"'), None, tenant="t")

    assert heard.description == TASKS[0]
    assert not heard.kept
    assert heard.topic.active.source == "inferred"


def test_unknown_task():
    """A request that no known task covers is its own description, without its material."""
    heard = hear(inference(), reading('Rhyme with this: "the old grey owl"'), None, tenant="t")

    assert heard.description == "Rhyme with this"


def test_opposite_of_a_known_task():
    """A request that contradicts the nearest known task isn't taken for it."""
    heard = hear(inference(), reading("Translate French text into English."), None, tenant="t")

    assert heard.description == "Translate French text into English."


def test_bare_input():
    """A turn that states no task is at the nearest known one."""
    heard = hear(inference("input"), reading("list a sort"), None, tenant="t")

    assert heard.description == TASKS[1]


def test_bare_input_near_a_wide_task():
    """A common task that holds different ones is no guess: the user's words stand."""
    known = replace(made("input"), wide=frozenset({1}))
    heard = hear(HeadInference(WordEncoder(), known), reading("list a sort"), None, tenant="t")

    assert heard.description == "list a sort"


def test_system_prompt():
    """The task that a system prompt states serves the turns after it, and is kept."""
    strategy = inference("input")
    asked = reading("Hello.", system="Reverse the words of each message.")
    heard = hear(strategy, asked, None, tenant="t")
    again = hear(strategy, reading("Hello.", "Bye.", system=asked.system), heard.topic, tenant="t")

    assert heard.description == "Reverse the words of each message."
    assert heard.topic.active.source == "system"
    assert (heard.kept, again.kept) == (False, True)
    assert again.description == heard.description


def test_commands_of_a_system_prompt():
    """Of a prompt with several tasks each turn is at the one whose mark it begins with."""
    strategy = inference("input")
    system = 'If a text starts with "A:" sort a list. If it starts with "B:" rhyme with owls.'
    turns = ("A: c, b, a", "B: night", "B: day", "A: z, y")
    topic, said = None, []
    for i in range(4):
        heard = hear(strategy, reading(*turns[: i + 1], system=system), topic, tenant="t")
        said.append((heard.description, heard.kept))
        topic = heard.topic

    rhymes = "rhyme with owls."
    assert said == [(TASKS[1], False), (rhymes, False), (rhymes, True), (TASKS[1], False)]
    assert {task.source for task in (topic.active, *topic.earlier)} == {"system"}


def test_common_task_of_a_system_prompt():
    """A system prompt that surely means a common task gets that task's description."""
    heard = hear(inference("input"), reading("x", system="Sort a list"), None, tenant="t")

    assert heard.description == TASKS[1]
    assert heard.inferred.is_common


@pytest.mark.parametrize(
    "other", [{"embedding": np.ones(D // 2, np.float32)}, {"which": np.ones(9, np.float32)}]
)
@pytest.mark.parametrize(
    "system", [None, "Reverse each message.", 'If a text starts with "A:" sort a list.']
)
def test_topic_of_other_heads(other, system):
    """What other heads or another encoder made of a conversation counts as nothing."""
    strategy, asked = inference(), reading("A: sort a list", system=system)
    topic = hear(strategy, reading("sort a list"), None, tenant="t").topic
    foreign = replace(topic, active=replace(topic.active, **other))

    anew, heard = (hear(strategy, asked, before, tenant="t") for before in (None, foreign))

    assert (heard.description, heard.why, heard.kept) == (anew.description, anew.why, False)
    assert heard.topic.to_json() == anew.topic.to_json()


def test_persona():
    """A system prompt that states no task leaves the task to the turns."""
    strategy = inference("input", states=-9.0)
    heard = hear(strategy, reading("sort", system="You are kind."), None, tenant="t")

    assert heard.topic.active.source == "inferred"


def test_small_talk():
    """Small talk has no task; a topic that was there stays."""
    topic = hear(inference(), reading("sort a list"), None, tenant="t").topic
    strategy = HeadInference(WordEncoder(), made("aside"))

    assert hear(strategy, reading("hi"), None, tenant="t").description is None
    system = reading("hi", system="Sort the words.")
    assert hear(strategy, system, None, tenant="t").topic.active.description == "Sort the words."
    assert hear(strategy, reading("hi", is_helper=True), topic, tenant="t").topic == topic


@pytest.mark.parametrize("fields", [{"is_tampered": True}, {"in_tool_loop": True}])
def test_held_turns(fields):
    """A turn with injected text, or amid a tool call, keeps the conversation's task."""
    topic = hear(inference(), reading("sort a list"), None, tenant="t").topic
    strategy = inference(shift=99.0)
    heard = hear(strategy, reading("Rhyme with owl", **fields), topic, tenant="t")

    assert (heard.description, heard.kept) == (topic.active.description, True)


@pytest.mark.parametrize("text", ["", "...", "?!", "\n"])
def test_turns_without_words(text):
    """A turn without a word has no task."""
    assert hear(inference(), reading(text), None, tenant="t").description is None


def test_heads_round_trip(tmp_path):
    """Heads survive being stored; other encoders' and broken files are refused."""
    path = tmp_path / heads.FILE
    made().save(path)
    loaded = heads.load(path, encoder="words")

    assert loaded.tasks == TASKS
    assert loaded.judge(np.zeros(len(loaded.judge.mean), np.float32))[0] > 0.9
    with pytest.raises(CheckpointMismatch, match="another encoder"):
        heads.load(path, encoder="other")
    path.write_bytes(b"no safetensors")
    with pytest.raises(ModelCorrupt):
        heads.load(path, encoder="words")


def test_library_by_examples(tmp_path):
    """A bare input is at the task whose example inputs are nearest."""
    path = tmp_path / "examples.jsonl"
    rows = [
        ("Name the colour.", "grass snow"),
        ("Name the sound.", "dog cow"),
        ("Name the sound.", "cat"),
    ]
    path.write_text("".join(json.dumps({"description": d, "input": i}) + "\n" for d, i in rows))
    strategy = LibraryInference(WordEncoder(), made("input"), load_examples(path))

    assert hear(strategy, reading("cow dog"), None, tenant="t").description == "Name the sound."


@pytest.mark.parametrize(
    "text",
    ["", "\n", "[]", "{}", '{"description": "", "input": "a"}', '{"description": "a", "input": 1}'],
)
def test_bad_examples(tmp_path, text):
    """A file of something else is refused with the line."""
    path = tmp_path / "examples.jsonl"
    path.write_text(text)

    with pytest.raises(ConfigError, match="inference_examples"):
        load_examples(path)


def llm(answer) -> LlmInference:
    pytest.importorskip("litellm")
    options = {"mock_response": answer}
    return LlmInference(
        WordEncoder(), made(), model="openai/gpt-4o-mini", timeout_s=2, options=options
    )


# litellm's types trip a warning of pydantic's.
READ_ONLY = pytest.mark.filterwarnings("ignore:Item 'summary' on TypedDict")


@READ_ONLY
def test_llm():
    """The model's task is taken, and may be none."""
    asked = reading('Rhyme with this: "the old grey owl"')

    heard = hear(llm('{"task": "Find a rhyme."}'), asked, None, tenant="t")
    assert heard.description == "Find a rhyme."
    assert hear(llm('{"task": null}'), asked, None, tenant="t").description is None


@READ_ONLY
@pytest.mark.parametrize(
    "answer",
    [
        "Sure! The task is to rhyme.",
        "{}",
        '{"task": 7}',
        '{"task": "..."}',
        '{"task": "a\\u0000b"}',
        json.dumps({"task": "word " * 100}),
        '{"task": "Rhyme.", "adapter": "t2l-1"}',
        TimeoutError("slow"),
    ],
)
def test_llm_is_not_trusted(answer):
    """An answer of another form, and none at all, leave the task to the heads."""
    heard = hear(llm(answer), reading('Rhyme with this: "the old grey owl"'), None, tenant="t")

    assert heard.description == "Rhyme with this"
