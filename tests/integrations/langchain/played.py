"""Models whose servers answer as a test wants."""

import json
from contextlib import contextmanager

from integrations.langchain import ChatT2L
from tests.answers import answering, send


@contextmanager
def facing(answer, **fields):
    """A model whose server answers as *answer* does."""
    with answering(answer) as url:
        llm = ChatT2L(base_url=url, model="m", **fields)
        yield llm
        llm.client.close()


@contextmanager
def saying(message: dict, *, finish_reason="stop"):
    """A model that answers with this message, and the bodies it was asked."""
    bodies = []

    def answer(handler, body):
        bodies.append(json.loads(body))
        choice = {"index": 0, "message": message, "finish_reason": finish_reason}
        send(handler, 200, json.dumps({"model": "m", "choices": [choice]}).encode())

    with facing(answer) as llm:
        yield llm, bodies
