"""``t2l adapters``: the adapter library, one verb a command."""

import importlib

import click

# Each verb's module and help. The help text stands here so that ``t2l adapters --help`` imports
# neither the library nor what makes adapters.
VERBS: dict[str, tuple[str, str]] = {
    "list": ("browse", "List adapters, the newest first."),
    "show": ("browse", "Show everything about one adapter."),
    "stats": ("browse", "Count adapters, descriptions and hits."),
    "df": ("browse", "Show what each tenant's adapters take on the disk."),
    "history": ("browse", "Show who did what, the newest first."),
    "create": ("make", "Write an adapter for a task and keep it."),
    "search": ("make", "Find the adapters whose descriptions are nearest to TEXT."),
    "import": ("make", "Take in a PEFT directory or zip file (safetensors only)."),
    "pull": ("make", "Take in an adapter from a URL."),
    "rm": ("change", "Take adapters out of service and end their aliases."),
    "undelete": ("change", "Bring a removed adapter back; its aliases stay ended."),
    "alias": ("change", "Give adapters names that may move to another adapter later."),
    "tag": ("change", "Add tags to an adapter."),
    "pin": ("change", "Protect an adapter from every kind of removal."),
    "unpin": ("change", "End an adapter's protection."),
    "judge": ("change", "Approve an adapter, put it into quarantine, or take that back."),
    "promote": ("change", 'Give an adapter of the tenant to every tenant (tenant "shared").'),
    "quota": ("change", "Show or set how much a tenant may keep and generate."),
    "export": ("move", "Write an adapter as PEFT, vLLM and import read it."),
    "push": ("move", "Write an adapter below a URL."),
    "verify": ("upkeep", "Re-hash everything and name what belongs to no adapter."),
    "prune": ("upkeep", "Free the space of adapters that were deleted long ago."),
    "dedupe": ("duplicates", "Find adapters that do the same, and merge them."),
}
_SHORT_NAMES = {"ls": "list", "info": "show", "delete": "rm"}


class Verbs(click.Group):
    """Loads a verb's module only when that verb runs; knows the short names of verbs."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Name the verbs in the order of the table."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Find a verb by its name or short name."""
        name = _SHORT_NAMES.get(cmd_name, cmd_name)
        if name not in VERBS:
            return None
        module = importlib.import_module(f"{__name__}.{VERBS[name][0]}")
        found: click.Command = next(verb for verb in module.VERBS if verb.name == name)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the table of verbs."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in VERBS.items()])


@click.group(cls=Verbs)
def command() -> None:
    """
    See, name, move and retire adapters.

    REF is an adapter's id, the start of it (t2l- and 4 digits or more), or an alias.
    """
