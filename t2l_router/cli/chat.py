"""``t2l chat``: talk to an adapted model in the terminal."""

import asyncio
import contextlib
import importlib
import sys
from typing import Any

import click

from t2l_router import bootstrap
from t2l_router.cli.conversation import Conversation, Stated
from t2l_router.cli.examples import examples_option
from t2l_router.cli.loading import loading
from t2l_router.cli.options import server_option, settings_options
from t2l_router.cli.output import Output, output_option
from t2l_router.cli.talk import Talk, client_of
from t2l_router.config import Settings
from t2l_router.describe import validated
from t2l_router.errors import T2LError
from t2l_router.examples import Pair, wire_form
from t2l_router.inprocess import InProcessClient

_HELP = "/task TEXT sets the task, /task alone drops it, /new starts over, /quit or Ctrl-D ends."


@click.command()
@click.argument("prompt", required=False)
@click.option(
    "-d", "--description", help="The task, in a sentence; without it the conversation shows it."
)
@examples_option
@click.option("-m", "--model", help="A model as /v1/models lists them, e.g. t2l:base.")
@server_option("Ask this server instead of loading the models here; T2L_API_KEY is the key.")
@click.option("--compare", is_flag=True, help="Answer with the base model too, side by side.")
@click.option("--seed", type=int, help="Equal seeds give equal answers.")
@click.option("--temperature", type=float, help="0 takes the likeliest words.")
@click.option("--max-tokens", type=int, help="Longest answer.")
@settings_options("data_dir", "base_model", "hypernet", "encoder", "device")
@output_option
def command(
    *,
    prompt: str | None,
    description: str | None,
    examples: tuple[Pair, ...],
    model: str | None,
    server: str | None,
    settings: Settings,
    out: Output,
    compare: bool,
    **sampling: Any,
) -> None:
    """
    Chat with an adapted model.

    Answers PROMPT, or standard input if it is not a terminal; otherwise asks for one prompt after
    another.

    Example: t2l chat -d "Translate English to French" "Good morning"
    """
    if description is not None:
        description = validated(description)
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read().strip("\r\n")
        if not prompt:
            raise click.UsageError("Give a PROMPT, or one on standard input.")
    talk = Talk(client_of(server, settings)) if server else _load(settings)
    options = {name: value for name, value in sampling.items() if value is not None}
    # One event loop for all turns; Ctrl-C ends what runs in it, and not at once the program.
    with asyncio.Runner() as runner:
        try:
            options["model"] = model or runner.run(talk.default_model())
            task = Stated(description, wire_form(examples))
            conversation = Conversation(talk, options, task, out, compare=compare)
            if prompt is None:
                _repeat(runner, conversation)
            else:
                runner.run(conversation.turn(prompt))
        finally:
            runner.run(talk.close())


def _load(settings: Settings) -> Talk:
    with loading() as (enter, progress):
        router = bootstrap.build_router(settings, enter=enter, progress=progress)
    return Talk(InProcessClient(router))


def _repeat(runner: asyncio.Runner, conversation: Conversation) -> None:
    """Read and answer prompts until the user has enough."""
    with contextlib.suppress(ImportError):  # Windows has none
        importlib.import_module("readline")  # gives `input` its history and line editing
    click.echo(_HELP, err=True)
    while True:
        try:
            prompt = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            click.echo(err=True)
            return
        if prompt in ("/quit", "/exit"):
            return
        try:
            if prompt.startswith("/"):
                _obey(prompt, conversation)
            elif prompt:
                runner.run(conversation.turn(prompt))
        except KeyboardInterrupt:
            click.echo(" (stopped)", err=True)
        except T2LError as error:
            click.echo(f"Error: {error}", err=True)


def _obey(line: str, conversation: Conversation) -> None:
    command, _, text = line.partition(" ")
    if command == "/task":
        conversation.task = Stated(validated(text)) if text.strip() else None
    elif command == "/new":
        conversation.messages = []
    else:
        click.echo(_HELP, err=True)
