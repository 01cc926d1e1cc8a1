"""What several routers over one library promise, each in a process of its own."""

import time

import pytest

from adapters_store import AdapterStore
from tests.adapter_files import BASE, ENCODER, add, make_embedding
from tests.fleet import routers

pytestmark = pytest.mark.slow  # many processes

FRENCH, SORT = "Translate English sentences into French", "Sort these words by their length"


@pytest.fixture(scope="module")
def fleet(fleet_config):
    """Three routers."""
    with routers(fleet_config, 3) as processes:
        yield processes


def turn(text, *earlier):
    """The messages of a conversation."""
    said = [{"role": role, "content": content} for role, content in earlier]
    return [*said, {"role": "user", "content": text}]


def test_one_generation(fleet):
    """A task that is new to all is written once, and all serve the same adapter."""
    for process in fleet:
        process.send(*[{"t2l_description": FRENCH}] * 20)
    replies = [process.read() for process in fleet]

    answers = [answer for reply in replies for answer in reply["answers"]]
    assert sum(reply["generations"] for reply in replies) == 1
    assert len({answer["text"] for answer in answers}) == 1
    assert {answer["kind"] for answer in answers} <= {"generated", "exact"}


def test_named_conversation(fleet):
    """A conversation goes on at any router, from one turn to the next without a pause."""
    for number in range(6):
        one, two = fleet[number % 3], fleet[(number + 1) % 3]
        name = f"talk-{number}"

        begun = one.ask(t2l_session=name, t2l_description=FRENCH)
        goes_on = two.ask(t2l_session=name)
        changed = two.ask(t2l_session=name, t2l_description=SORT)
        back = one.ask(t2l_session=name)

        assert (goes_on["kind"], goes_on["adapter"]) == ("sticky", begun["adapter"])
        assert (back["kind"], back["adapter"]) == ("sticky", changed["adapter"])
        assert changed["adapter"] != begun["adapter"]


def test_conversation_known_by_its_history(fleet):
    """So does one without a name."""
    for number in range(6):
        one, two = fleet[number % 3], fleet[(number + 1) % 3]
        hello = f"hello {number}"

        begun = one.ask(t2l_description=FRENCH, messages=turn(hello))
        history = ("user", hello), ("assistant", begun["text"])
        goes_on = two.ask(messages=turn("and this?", *history))

        assert (goes_on["kind"], goes_on["adapter"]) == ("sticky", begun["adapter"])


def test_new_adapters_are_found_at_once(fleet):
    """What one router has written, the others find without a pause."""
    for number in range(6):
        text = f"Describe the weather in the manner of person {number}"

        written = fleet[number % 3].ask(t2l_description=text)
        found = [process.ask(t2l_description=text) for process in fleet]

        assert written["kind"] == "generated"
        assert {(answer["kind"], answer["adapter"]) for answer in found} == {
            ("exact", written["adapter"])
        }


def test_deleted_adapters_serve_no_more(fleet, fleet_config):
    """A second after an adapter was deleted, no router serves it, whoever held it."""
    tasks = {"t2l_description": "Answer in rhymes", "t2l_session": "rhymes"}
    adapter = fleet[0].ask(**tasks)["adapter"]
    for process in fleet:
        process.ask(t2l_session="rhymes")

    with AdapterStore.open(fleet_config) as store:
        store.delete(adapter, tenant="local")
    time.sleep(1.05)

    answers = [process.ask(t2l_session="rhymes") for process in fleet]
    assert adapter not in {answer["adapter"] for answer in answers}


def test_search_sees_other_routers_additions(new_fleet_config):
    """An index takes in what others have added before it answers."""
    with (
        AdapterStore.open(new_fleet_config) as one,
        AdapterStore.open(new_fleet_config) as two,
    ):
        for seed in range(20):
            writer, reader = (one, two) if seed % 2 else (two, one)
            record = add(writer, seed)

            hits = reader.search(make_embedding(seed), tenant="acme", base=BASE, encoder=ENCODER)

            assert hits[0].adapter.id == record.id


def test_budget_is_shared(fleet_config):
    """Three routers together write as many adapters as a tenant's budget allows, and no more."""
    with routers(fleet_config, 3, generations_per_hour=6) as fleet:
        for number, process in enumerate(fleet):
            texts = [f"Count to {10 * number + i} in words" for i in range(8)]
            process.send(*[{"t2l_description": text, "tenant": "frugal"} for text in texts])
        answers = [answer for process in fleet for answer in process.read()["answers"]]

        written = [answer for answer in answers if answer["kind"] == "generated"]
        refused = [answer for answer in answers if answer["kind"] == "base"]
        assert len(written) == 6
        assert len(refused) == len(answers) - len(written)
        assert "quota of 6 generations per hour" in refused[0]["reason"]
