"""``t2l adapters``: the adapter library, one verb a command."""

import click

from t2l_router.cli.adapters import browse, change, duplicates, make, move, upkeep


class Verbs(click.Group):
    """Knows the short names of verbs and lists the verbs in the order they were added."""

    aliases = {"ls": "list", "info": "show", "delete": "rm"}  # noqa: RUF012 - never changed

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Find a verb by its name or short name."""
        return super().get_command(ctx, self.aliases.get(cmd_name, cmd_name))

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Name the verbs in their order."""
        return list(self.commands)


@click.group(cls=Verbs)
def command() -> None:
    """
    See, name, move and retire adapters.

    REF is an adapter's id, the start of it (t2l- and 4 digits or more), or an alias.
    """


for verb in (
    *browse.VERBS,
    *make.VERBS,
    *change.VERBS,
    *move.VERBS,
    *upkeep.VERBS,
    *duplicates.VERBS,
):
    command.add_command(verb)
