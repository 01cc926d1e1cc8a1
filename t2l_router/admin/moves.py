"""Routes by which adapters come and go: create, import, describe, search, export, blobs."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, BinaryIO, cast

from fastapi import APIRouter, Request, Response
from pydantic import Field, StrictInt, StringConstraints
from starlette.exceptions import HTTPException

from adapters_store import AdapterRecord, Task, imports, transfer
from adapters_store.faults import named_os_errors
from adapters_store.identity import AdapterId
from adapters_store.names import ADAPTER_ID
from adapters_store.records import Hit
from t2l_router import intake
from t2l_router.admin.acting import MOST, Acting, Body, Name, Ref, Routes
from t2l_router.describe import MAX_CHARS, TaskDescription, of_examples, validated
from t2l_router.errors import InvalidDescription
from t2l_router.examples import MOST as MOST_EXAMPLES
from t2l_router.gate import principal_of
from t2l_router.readiness import Readiness
from t2l_router.router import Router
from t2l_router.wire import Example

ZIP = "application/zip"
IMPORT_PATH = "/admin/adapters/import"
_ID = f"^{ADAPTER_ID.pattern}$"
_AT_ONCE = 2  # imports that are unpacked in memory

_Text = Annotated[str, StringConstraints(min_length=1, max_length=MAX_CHARS)]
_ZIPPED: dict[int | str, dict[str, Any]] = {200: {"content": {ZIP: {}}}}


class Described(Body):
    """A task, in words."""

    description: _Text


class Told(Body):
    """A task, in words, by examples, or both."""

    description: _Text | None = None
    examples: list[Example] | None = Field(None, min_length=1, max_length=MOST_EXAMPLES)


class Search(Body):
    """What to look for; in the body, because descriptions don't belong into proxies' logs."""

    text: _Text
    limit: StrictInt = Field(5, ge=1, le=MOST)


class MoveRoutes(Routes):
    """
    The routes.

    Args:
        acting: Knows for whom requests act.
        readiness: Holds the router, whose models read descriptions.
        max_import_bytes: Largest zip file, and largest weights in one.
    """

    def __init__(self, acting: Acting, readiness: Readiness, max_import_bytes: int) -> None:
        super().__init__(acting)
        self._readiness = readiness
        self._max_bytes = max_import_bytes
        self._importing = asyncio.Semaphore(_AT_ONCE)

    async def create(
        self, request: Request, body: Told, tenant: Name | None = None
    ) -> AdapterRecord:
        """Make sure that a task has an adapter, as a request with it would."""
        store, whose = self._acting.for_one(request, tenant)
        task = _task(body)
        adapter_id = await self._readiness.router.prepare(task, tenant=whose)
        return await asyncio.to_thread(store.get, adapter_id, tenant=whose)

    async def import_(self, request: Request, tenant: Name | None = None) -> AdapterRecord:
        """Take in a PEFT adapter: a zip file with safetensors, as `export` gives it."""
        store, whose = self._acting.for_one(request, tenant)
        router = self._readiness.router
        principal = principal_of(request)
        async with _received(request) as file, self._importing:
            source = f"upload:{principal.key_id or 'http'}"
            foreign = await asyncio.to_thread(
                imports.read_zip, file, source, max_bytes=self._max_bytes
            )
            router.fit.check(foreign)
            tasks = await _tasks(router, intake.texts_of(foreign))
            return await asyncio.to_thread(
                intake.take_in, store, foreign, tasks, tenant=whose, fit=router.fit
            )

    async def describe(
        self, request: Request, ref: Ref, body: Described, tenant: Name | None = None
    ) -> AdapterRecord:
        """Give an adapter one more description, by which it is found."""
        store, whose = self._acting.for_one(request, tenant)
        text = intake.remembered(body.description, param="description")
        (task,) = await _tasks(self._readiness.router, [text])
        return await asyncio.to_thread(store.add_description, ref, task, tenant=whose)

    async def search(self, request: Request, body: Search, tenant: Name | None = None) -> list[Hit]:
        """The adapters whose descriptions are nearest to a text."""
        store, whose = self._acting.for_one(request, tenant)
        router = self._readiness.router
        rows, _ = await router.embed([validated(body.text, param="text")])
        fit = router.fit
        return await asyncio.to_thread(
            store.search, rows[0], tenant=whose, base=fit.base, encoder=fit.encoder, k=body.limit
        )

    def export(self, request: Request, ref: Ref, tenant: Name | None = None) -> Response:
        """An adapter as a zip file that PEFT, vLLM and `import` read."""
        store, whose = self._acting.for_one(request, tenant)
        record = store.get(ref, tenant=whose)
        return _zip(record.id, transfer.zipped(store.export(record.id, tenant=whose)))

    def blob(self, adapter_id: Annotated[str, StringConstraints(pattern=_ID)]) -> Response:
        """An adapter of any tenant by its whole id: a zip file without its descriptions."""
        files = self._acting.store.blob(AdapterId(adapter_id))
        return _zip(adapter_id, transfer.zipped(files))


@asynccontextmanager
async def _received(request: Request) -> AsyncIterator[BinaryIO]:
    """The request's body in a file of no name, so that slow uploads cost no memory."""
    given = request.headers.get("content-type", "").partition(";")[0].strip()
    if given != ZIP:
        raise HTTPException(415, f"send a zip file with Content-Type: {ZIP}")
    with tempfile.TemporaryFile() as file:
        with named_os_errors("receive an adapter"):
            async for piece in request.stream():
                await asyncio.to_thread(file.write, piece)
            file.flush()
        yield cast("BinaryIO", file)


def _task(body: Told) -> TaskDescription:
    text = "" if body.description is None else validated(body.description, param="description")
    if body.examples is not None:
        pairs = [(pair.input, pair.output) for pair in body.examples]
        return of_examples(text, pairs, param="examples")
    if not text:
        raise InvalidDescription("give a description, examples, or both", param="description")
    return TaskDescription(text, "body")


async def _tasks(router: Router, texts: list[str]) -> list[Task]:
    if not texts:
        return []
    rows, _ = await router.embed(texts)
    return intake.tasks_of(texts, rows, router.fit)


def _zip(adapter_id: str, contents: bytes) -> Response:
    name = {"content-disposition": f'attachment; filename="{adapter_id}.zip"'}
    return Response(contents, media_type=ZIP, headers=name)


def add_routes(router: APIRouter, moves: MoveRoutes) -> None:
    """Add the routes of scope ``admin`` to *router*."""
    body = {"required": True, "content": {ZIP: {"schema": {"type": "string", "format": "binary"}}}}
    router.add_api_route("/adapters", moves.create, methods=["POST"])
    router.add_api_route(
        "/adapters/import", moves.import_, methods=["POST"], openapi_extra={"requestBody": body}
    )
    router.add_api_route("/adapters/{ref}/descriptions", moves.describe, methods=["POST"])
    router.add_api_route("/search", moves.search, methods=["POST"])
    router.add_api_route(
        "/adapters/{ref}/export", moves.export, responses=_ZIPPED, response_class=Response
    )


def add_pulling(router: APIRouter, moves: MoveRoutes) -> None:
    """Add the route of scope ``pull`` to *router*."""
    router.add_api_route(
        "/blobs/{adapter_id}", moves.blob, responses=_ZIPPED, response_class=Response
    )
