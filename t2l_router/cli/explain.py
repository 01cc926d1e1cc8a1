"""``t2l explain``: which adapter would serve a request and why, or why one served an answer."""

import asyncio
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from adapters_store.names import DEFAULT_TENANT
from t2l_router import storage, wire
from t2l_router.bootstrap import build_explainer
from t2l_router.cli.conversation import Stated
from t2l_router.cli.examples import examples_option
from t2l_router.cli.loading import loading
from t2l_router.cli.options import server_option, settings_options
from t2l_router.cli.output import Output, output_option
from t2l_router.cli.talk import client_of
from t2l_router.client import HttpClient
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
@server_option("Ask this server instead of loading the models here; T2L_API_KEY is the key.")
@click.option(
    "--tenant",
    "-t",
    help=f"Who asks.  [default: {DEFAULT_TENANT}; with --server the key's tenant]",
)
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
    server: str | None,
    tenant: str | None,
) -> None:
    """
    Say which adapter would serve a task and why; nothing is stored.

    The decision is the server's own, over the same library. With --trace it is one that was taken
    before, as the library's log has it.
    """
    stated = Stated(description, wire_form(examples)).fields()
    if sum(bool(given) for given in (stated, body, trace)) != 1:
        raise click.UsageError(
            "give a task (DESCRIPTION, --examples FILE or both), --request FILE or --trace TRACE"
        )
    if server is not None:
        if trace is not None or tenant is not None:
            raise click.UsageError(
                "a server tells its key's tenant what would serve now: leave out --tenant; "
                "--trace looks where the library is, without --server"
            )
        out.record(_explained(client_of(server, settings), body, stated))
        return
    tenant = tenant or DEFAULT_TENANT
    if trace is not None:
        with storage.open_library(settings, actor=storage.operator()) as store:
            entry = asdict(store.decisions.get(trace, tenant=tenant))
        detail = entry.pop("detail")
        out.record(entry | detail)
        return
    request = wire.parse_chat(_request(body, stated, settings.base_model))
    with loading() as (enter, progress):
        router = build_explainer(settings, enter=enter, progress=progress)

    async def explain() -> dict[str, object]:
        try:
            return explanation_of(await router.explain(request, Caller(tenant)))
        finally:
            await router.close()

    out.record(asyncio.run(explain()))


def _request(body: Path | None, stated: dict[str, Any], model: str) -> bytes:
    if body is not None:
        return body.read_bytes()
    turn = {"role": "user", "content": ""}
    return json.dumps({"model": model, "messages": [turn], **stated}).encode()


def _explained(client: HttpClient, body: Path | None, stated: dict[str, Any]) -> dict[str, Any]:
    try:
        model = client.models()[0] if body is None else ""
        request = _request(body, stated, model)
        wire.parse_chat(request)  # what is wrong with it is told in the same words
        return client.explain(json.loads(request))
    finally:
        client.close()
