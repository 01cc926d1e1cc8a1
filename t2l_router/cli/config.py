"""``t2l config``: the settings in effect and where each comes from."""

import click

from t2l_router import config
from t2l_router.cli.output import Column, Output, output_option


@click.command()
@output_option
def command(out: Output) -> None:
    """
    Show the settings in effect and where each comes from.

    A setting is taken from the command's flag, else from the environment variable T2L_<NAME>, else
    from t2l.toml in the working directory, else it has its default.
    """
    values = config.load().model_dump(mode="json")
    origins = config.origins()
    rows = [
        {
            "setting": name,
            "value": values[name],
            "origin": origins[name],
            "meaning": field.description,
        }
        for name, field in config.Settings.model_fields.items()
    ]
    value = Column("value", "value", _shown)
    out.table(rows, [Column("setting", "setting"), value, Column("origin", "origin")])
    for name in config.strangers():
        out.warn(f"{name} is no setting")


def _shown(value: object) -> str:
    if isinstance(value, list):  # as it is given; of upstreams, their names
        value = ",".join(one["name"] if isinstance(one, dict) else one for one in value) or None
    return "-" if value is None else str(value)
