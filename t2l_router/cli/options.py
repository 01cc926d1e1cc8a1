"""Settings as command line options."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

from t2l_router.config import Settings, load

R = TypeVar("R")


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
                f"--{name.replace('_', '-')}", name, help=f"{field.description}{shown}"
            )(decorated)
        return decorated

    return decorate
