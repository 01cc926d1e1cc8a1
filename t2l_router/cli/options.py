"""Settings as command line options, and other options that commands share."""

import functools
import sys
from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_args, get_origin
from urllib.parse import urlsplit

import click

from t2l_router.config import Settings, load

R = TypeVar("R")


yes_option = click.option("--yes", "-y", is_flag=True, help="Don't ask.")


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something that can't be undone; without a terminal, ``-y`` is the answer."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Say -y, or look first with --dry-run.")
    click.confirm(question, abort=True, err=True)


def server_option(help: str) -> Callable[[Callable[..., R]], Callable[..., R]]:  # noqa: A002
    """Give a command the option ``--server``: an address, with or without ``/v1``."""
    return click.option("--server", metavar="URL", callback=_address, help=help)


def _address(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    parts = urlsplit(value or "http://none")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise click.BadParameter(f"{value!r} is no address such as http://127.0.0.1:8000")
    return value


def settings_options(*names: str) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """
    Give a command an option per setting and an argument ``settings``.

    Every setting is read, whichever may be given on the command line, and all that is wrong with
    them is reported together.

    Args:
        names: The settings that become options.
    """

    def decorate(command: Callable[..., R]) -> Callable[..., R]:
        @functools.wraps(command)
        def with_settings(*args: Any, **kwargs: Any) -> R:
            flags = {name: kwargs.pop(name) for name in names}
            return command(*args, settings=load(flags), **kwargs)

        decorated: Callable[..., R] = with_settings
        for name in reversed(names):
            field = Settings.model_fields[name]
            default = field.get_default(call_default_factory=True)
            shown = "" if default is None else f"  [default: {default}]"
            decorated = click.option(
                f"--{name.replace('_', '-')}",
                name,
                metavar=_metavar(field.annotation),
                help=f"{field.description}{shown}",
            )(decorated)
        return decorated

    return decorate


def _metavar(kind: Any) -> str:
    """What help shows for a setting's value; that it is right is seen when all are read."""
    if get_origin(kind) is Literal:
        return f"[{'|'.join(get_args(kind))}]"
    return "INTEGER" if int in (kind, *get_args(kind)) else "TEXT"
