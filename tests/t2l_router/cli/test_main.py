import subprocess
import sys
from importlib import import_module

import click
import pytest
from click.testing import CliRunner

from t2l_router.cli import adapters
from t2l_router.cli import main as program
from t2l_router.errors import (
    CallRefused,
    ConfigError,
    InvalidAdapter,
    ServerTimeout,
    ServerUnreachable,
    T2LError,
    UnknownModel,
)


def run(error: Exception | type[BaseException]) -> click.testing.Result:
    """Run a command that raises *error*."""

    @click.command()
    def command() -> None:
        raise error

    group = program.Program("t2l")
    group.get_command = lambda ctx, name: command
    return CliRunner().invoke(group, ["anything"])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (T2LError("x"), 1),
        (ConfigError("x"), 2),
        (UnknownModel("x"), 3),
        (FileExistsError("x"), 4),
        (InvalidAdapter("x"), 5),
        (ServerUnreachable("x"), 6),
        (ServerTimeout("x"), 6),
        (CallRefused("x", status=400), 2),
        (CallRefused("x", status=404), 3),
        (CallRefused("x", status=401), 1),
        (CallRefused("x", status=429), 1),
        (CallRefused("x", status=503), 1),
        (KeyboardInterrupt, 130),
    ],
)
def test_error_exit_code(error, code):
    """An expected error ends the program with the code the user can script on."""
    result = run(error)

    assert code == result.exit_code
    assert result.stdout == ""


def test_error_is_one_line():
    """An expected error is one line on stderr, without a traceback."""
    result = run(UnknownModel("no model 'x'; `t2l models list` shows what there is"))

    assert result.stderr == "Error: no model 'x'; `t2l models list` shows what there is\n"


def test_missing_key_is_told_where_it_goes():
    """Who lacks a key is told how the program takes it."""
    assert "T2L_API_KEY" in run(CallRefused("give an API key", status=401)).stderr
    assert "T2L_API_KEY" not in run(CallRefused("slow down", status=429)).stderr


@pytest.mark.parametrize("name", ["models", "keys", "index", "db", "adapters"])
def test_commands_of_a_group_are_told_whole(name):
    """What a group lists is cut nowhere."""
    result = CliRunner().invoke(program.main, [name, "--help"])

    assert "..." not in result.output.partition("Commands:")[2]


def test_help_names_the_values():
    """A setting of few values shows them."""
    told = CliRunner().invoke(program.main, ["serve", "--help"]).output

    assert "--engine [local|vllm|echo]" in told
    assert "--device [auto|cpu|cuda]" in told
    assert "--port INTEGER" in told


@pytest.mark.parametrize("args", [["chat", "hi"], ["adapters", "list"], ["keys", "list"]])
def test_server_is_an_address(args):
    """Something else is a usage error, and nobody is called."""
    result = CliRunner().invoke(program.main, [*args, "--server", "t2l.example"])

    assert result.exit_code == 2
    assert "is no address such as http://127.0.0.1:8000" in result.stderr


def test_chat_without_a_prompt():
    """Nothing on standard input is no prompt."""
    result = CliRunner().invoke(program.main, ["chat"], input="\n")

    assert result.exit_code == 2
    assert "Give a PROMPT" in result.stderr


def test_reader_that_has_enough():
    """A pipe that is closed early, as by ``head``, is no error that is told."""
    program_, told = [sys.executable, "-m", "t2l_router.cli.main", "config"], subprocess.PIPE
    with subprocess.Popen(program_, stdout=told, stderr=told, text=True) as done:
        done.stdout.close()
        assert done.stderr.read() == ""


def test_bug_keeps_its_traceback():
    """An error nobody expected is not made to look like the user's."""
    result = run(ZeroDivisionError("a bug"))

    assert isinstance(result.exception, ZeroDivisionError)


@pytest.mark.parametrize("name", program.COMMANDS)
def test_command_loads(name):
    """Every noun of the table has a module with a command that has help."""
    result = CliRunner().invoke(program.main, [name, "--help"])

    assert result.exit_code == 0, result.output
    assert import_module(f"t2l_router.cli.{name}").command.help


def test_unknown_command():
    """A misspelled noun is a usage error."""
    result = CliRunner().invoke(program.main, ["serv"])

    assert result.exit_code == 2
    assert "No such command 'serv'" in result.stderr


@pytest.mark.parametrize("statement", ["import t2l_router", "import t2l_router.server"])
def test_import_is_light(statement):
    """Importing the request path imports no model library."""
    assert heavy_modules(statement) == ""


@pytest.mark.parametrize("name", ["", *program.COMMANDS])
def test_help_is_light(name):
    """Help imports no model library."""
    args = ["t2l", name, "--help"] if name else ["t2l", "--help"]
    statement = (
        f"import sys; sys.argv = {args}\n"
        "from t2l_router.cli.main import main\n"
        "import contextlib, io\n"
        "with contextlib.redirect_stdout(io.StringIO()): main(standalone_mode=False)"
    )

    assert heavy_modules(statement) == ""


@pytest.mark.parametrize("name", adapters.VERBS)
def test_verb_of_adapters(name):
    """Each verb of the table is there, under its name and with the help that the table shows."""
    verb = adapters.command.get_command(None, name)

    assert name == verb.name
    assert adapters.VERBS[name][1] == verb.get_short_help_str(100)


def test_help_of_adapters_needs_no_library():
    """The verbs are listed without the library, its index or the server."""
    statement = (
        "import click\nfrom t2l_router.cli.adapters import command\n"
        "assert 'dedupe' in command.get_help(click.Context(command))"
    )

    assert heavy_modules(statement, "faiss", "sqlalchemy", "fastapi", "numpy") == ""


def heavy_modules(
    statement: str, *heavy: str, default=("torch", "transformers", "sentence_transformers")
) -> str:
    """The model libraries, or others, that a fresh interpreter holds after *statement*."""
    check = f"\nimport sys\nprint(*sorted({set(heavy or default)} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", statement + check], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
