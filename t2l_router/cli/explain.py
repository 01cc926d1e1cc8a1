"""``t2l explain``: which adapter would serve a request and why, or why one served an answer."""

import asyncio
import json
from dataclasses import asdict
from pathlib import Path

import click

from adapters_store.names import DEFAULT_TENANT
from t2l_router import storage, wire
from t2l_router.bootstrap import build_explainer
from t2l_router.cli.conversation import Stated
from t2l_router.cli.examples import examples_option
from t2l_router.cli.loading import loading
from t2l_router.cli.options import settings_options
from t2l_router.cli.output import Output, output_option
from t2l_router.config import Settings
from t2l_router.decision import Caller, explanation_of
from t2l_router.examples import Pair, wire_form


@click.command()
@click.argument("description", required=False)
@examples_option
@click.option(
    "--request",
    "body",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A chat request as JSON, instead of a task.",
)
@click.option(
    "--trace", help="X-T2L-Trace of an answer, or its first 8 digits or more: look its decision up."
)
@click.option("--tenant", "-t", default=DEFAULT_TENANT, show_default=True, help="Who asks.")
@settings_options("data_dir", "base_model", "hypernet", "encoder", "device")
@output_option
def command(
    *,
    out: Output,
    settings: Settings,
    description: str | None,
    examples: tuple[Pair, ...],
    body: Path | None,
    trace: str | None,
    tenant: str,
) -> None:
    """
    Say which adapter would serve a task and why; nothing is stored.

    The decision is the server's own, over the same library. With --trace it is one that was taken
    before, as the log has it.
    """
    stated = Stated(description, wire_form(examples)).fields()
    if sum(bool(given) for given in (stated, body, trace)) != 1:
        raise click.UsageError(
            "give a task (DESCRIPTION, --examples FILE or both), --request FILE or --trace TRACE"
        )
    if trace is not None:
        with storage.open_library(settings, actor=storage.operator()) as store:
            entry = asdict(store.decisions.get(trace, tenant=tenant))
        detail = entry.pop("detail")
        out.record(entry | detail)
        return
    if body is not None:
        request = wire.parse_chat(body.read_bytes())
    else:
        turn = {"role": "user", "content": ""}
        chat = {"model": settings.base_model, "messages": [turn], **stated}
        request = wire.parse_chat(json.dumps(chat).encode())
    with loading() as (enter, progress):
        router = build_explainer(settings, enter=enter, progress=progress)

    async def explain() -> dict[str, object]:
        try:
            return explanation_of(await router.explain(request, Caller(tenant)))
        finally:
            await router.close()

    out.record(asyncio.run(explain()))
