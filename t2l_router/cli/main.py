"""The program ``t2l``: finds the command's module, runs it, and turns errors into exit codes."""

import importlib
from http import HTTPStatus
from typing import Any

import click

from t2l_router.cli import output
from t2l_router.environment import wait_briefly
from t2l_router.errors import CallRefused

# One line a noun: module ``t2l_router.cli.<noun>`` with a ``command``. The help text stands here
# so that ``t2l --help`` imports none of them.
COMMANDS: dict[str, str] = {
    "serve": "Serve the OpenAI-compatible API.",
    "chat": "Chat with an adapted model.",
    "generate": "Write the adapter for a task to a directory that PEFT and vLLM load.",
    "explain": "Say which adapter serves a request, and why.",
    "stats": "Show how requests were served, and how people liked it.",
    "models": "Fetch, list, check and remove base models and encoders.",
    "adapters": "Run the adapter library.",
    "keys": "Make and revoke API keys; limit what tenants may use.",
    "index": "See and rebuild the vector index; move it to another encoder.",
    "db": "Migrate, back up and restore the library's database.",
    "describe": "Have a language model describe your tasks, to train on them.",
    "train": "Train a hypernetwork for a base model on your own tasks.",
    "eval": "Score a hypernetwork on the test examples of tasks.",
    "doctor": "Check the environment, the models, the disk and the device.",
    "config": "Show the settings in effect and where each comes from.",
}


class Program(click.Group):
    """Loads a command's module only when that command runs, and reports every expected error."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Name the commands in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import the command's module."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"t2l_router.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the table of commands."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an expected error is one line on stderr and its exit code."""
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.ClickException, click.Abort, BrokenPipeError):
            raise  # click's own; a reader that has seen enough, as `head` does, is no error
        except KeyboardInterrupt:
            ctx.exit(output.INTERRUPTED)
        except Exception as error:
            code = output.exit_code(error)
            if code is None:
                raise
            hint = ""
            if isinstance(error, CallRefused) and error.status == HTTPStatus.UNAUTHORIZED:
                hint = "; T2L_API_KEY holds the key that is sent"
            click.echo(f"Error: {error}{hint}", err=True)
            ctx.exit(code)


@click.command(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="t2l", prog_name="t2l")
def main() -> None:
    """Adapt a local language model to each conversation's task."""
    wait_briefly()


if __name__ == "__main__":
    main()
