"""A conversation in the terminal: history, task and how answers are shown."""

import sys
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from t2l_router import wire
from t2l_router.cli.output import Output
from t2l_router.cli.talk import Talk

BASE = "t2l:base"


@dataclass(slots=True)
class Spoken:
    """One answer as far as it has come."""

    text: str = ""
    facts: wire.AdapterFacts | None = None

    def take(self, piece: wire.AdapterFacts | str) -> None:
        """Add the next piece."""
        if isinstance(piece, str):
            self.text += piece
        else:
            self.facts = piece

    def document(self) -> dict[str, Any]:
        """The answer as JSON shows it."""
        return {"answer": self.text, "t2l": self.facts and self.facts.model_dump()}


@dataclass(frozen=True, slots=True)
class Stated:
    """
    The task as the user states it; stating nothing leaves it to the conversation.

    Args:
        description: In words.
        examples: As requests hold them.
    """

    description: str | None = None
    examples: list[dict[str, str]] = field(default_factory=list)

    def fields(self) -> dict[str, Any]:
        """Give the fields of a request for it."""
        named = {"t2l_description": self.description, "t2l_examples": self.examples}
        return {name: value for name, value in named.items() if value}


@dataclass(slots=True)
class Conversation:
    """
    Asks turn by turn and prints the answers.

    Args:
        talk: Who answers.
        options: Fields of every request, ``model`` among them.
        task: What the user states; None once he dropped it: then the base model answers.
        out: How to print.
        compare: Have the base model answer too.
    """

    talk: Talk
    options: dict[str, Any]
    task: Stated | None
    out: Output
    compare: bool = False
    messages: list[dict[str, str]] = field(default_factory=list)

    async def turn(self, prompt: str) -> None:
        """Ask, print the answer, and remember both once the answer is whole."""
        messages = [*self.messages, {"role": "user", "content": prompt}]
        stated = {"model": BASE} if self.task is None else self.task.fields()
        body = self.options | {"messages": messages} | stated
        spoken = await (self._compare(body) if self.compare else self._show(body))
        self.messages = [*messages, {"role": "assistant", "content": spoken.text}]

    async def _show(self, body: dict[str, Any]) -> Spoken:
        spoken = Spoken()
        async with aclosing(self.talk.ask(body)) as pieces:
            async for piece in pieces:
                spoken.take(piece)
                if isinstance(piece, str) and self.out.style != "json":
                    click.echo(piece, nl=False)
        if self.out.style == "json":
            self.out.json(spoken.document())
        else:
            click.echo()
            self._note(spoken)
        return spoken

    async def _compare(self, body: dict[str, Any]) -> Spoken:
        base, adapted = Spoken(), Spoken()
        is_live = self.out.is_human and sys.stdout.isatty()
        with Live(console=Console(quiet=not is_live), auto_refresh=False) as live:
            for spoken, change in ((base, {"model": BASE}), (adapted, {})):
                async with aclosing(self.talk.ask(body | change)) as pieces:
                    async for piece in pieces:
                        spoken.take(piece)
                        live.update(_side_by_side(base, adapted), refresh=True)
        if self.out.style == "json":
            self.out.json({"base": base.document(), "adapted": adapted.document()})
        elif not is_live:
            click.echo(f"base: {base.text}\nadapted: {adapted.text}")
        self._note(adapted)
        return adapted

    def _note(self, spoken: Spoken) -> None:
        if spoken.facts is not None:
            facts = spoken.facts
            self.out.note(click.style(f"[{facts.adapter or 'base'}: {facts.reason}]", dim=True))


def _side_by_side(base: Spoken, adapted: Spoken) -> Table:
    table = Table(expand=True, show_lines=True)
    table.add_column("base", ratio=1)
    table.add_column("adapted", ratio=1)
    table.add_row(Text(base.text), Text(adapted.text))
    return table
