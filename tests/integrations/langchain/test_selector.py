"""Adapters chosen in chains, over a server and in this process."""

from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableBranch, RunnableLambda, RunnablePassthrough

from integrations.langchain import T2LAdapterSelector

TASKS = {"fr": "Translate to French", "rhyme": "Rhyme"}


def test_choice_is_the_adapter_that_answers(llm):
    """The adapter chosen for a description is the one that answers with it."""
    selector = T2LAdapterSelector(llm, lambda given: TASKS.get(given["kind"]))
    answer = llm.invoke("x", t2l_description=TASKS["fr"])

    choice = selector.invoke({"kind": "fr"})
    assert choice.adapter == answer.response_metadata["t2l"]["adapter"]
    assert (choice.decision, choice.description) == ("exact", TASKS["fr"])


def test_choosing_writes_nothing(llm):
    """An unknown task would be written, and isn't; bound to its choice, the model writes it."""
    selector = T2LAdapterSelector(llm, lambda given: given)
    task = f"Something new, {type(llm.client).__name__}"

    choice = selector.invoke(task)
    assert (choice.decision, choice.adapter) == ("generated", None)
    assert selector.invoke(task) == choice
    answer = llm.bind(**choice.fields()).invoke("x")
    assert answer.response_metadata["t2l"]["decision"] == "generated"
    assert selector.invoke(task).adapter == answer.response_metadata["t2l"]["adapter"]


def test_examples(llm):
    """The choice for examples is the adapter that answers with them, in a model with others too."""
    examples = [{"input": "sun", "output": f"SUN {type(llm.client).__name__}"}]
    selector = T2LAdapterSelector(llm, lambda given: given, examples=examples)
    other = llm.model_copy(update={"t2l_examples": [{"input": "a", "output": "b"}]})

    choice = selector.invoke("Shout")
    written = other.bind(**choice.fields()).invoke("x").response_metadata["t2l"]
    held = selector.invoke("Shout")
    again = other.bind(**held.fields()).invoke("x").response_metadata["t2l"]
    assert (choice.decision, choice.examples, written["decision"]) == (
        "generated",
        examples,
        "generated",
    )
    assert held.adapter == written["adapter"] == again["adapter"]
    assert again["decision"] == "explicit"


def test_no_description(llm):
    """Without a task the base model is chosen."""
    choice = T2LAdapterSelector(llm, lambda _: None).invoke("x")
    assert (choice.decision, choice.fields()) == (
        "base",
        {"t2l_description": None, "t2l_examples": None},
    )


def test_conversation(llm):
    """Without a describing step the input is a conversation, read as a chat's would be."""
    choice = T2LAdapterSelector(llm).invoke("hello there")
    assert choice.decision == llm.invoke("hello there").response_metadata["t2l"]["decision"]


def test_in_a_chain(llm):
    """A chain answers each input with its own adapter."""
    prompt = ChatPromptTemplate([("user", "{text}")])
    selector = T2LAdapterSelector(llm, lambda given: TASKS.get(given["kind"]))
    chain = RunnablePassthrough.assign(choice=selector) | RunnableLambda(
        lambda given: prompt | llm.bind(**given["choice"].fields())
    )

    answers = chain.batch([{"kind": kind, "text": "x"} for kind in ("fr", "rhyme", "other")])
    french, rhyme, other = (answer.response_metadata["t2l"]["adapter"] for answer in answers)
    assert None is not french != rhyme is not None
    assert other is None


async def test_branch(llm):
    """A branch may depend on whether an adapter is held."""
    await llm.ainvoke("x", t2l_description=TASKS["fr"])
    branch = RunnableBranch(
        (lambda choice: choice.adapter is not None, lambda choice: "held"), lambda choice: "none"
    )
    chain = T2LAdapterSelector(llm, lambda given: given) | branch

    assert await chain.ainvoke(TASKS["fr"]) == "held"
    assert await chain.ainvoke("Never said before") == "none"
    if not llm.router:
        await llm.client.aclose()
