"""What each route asks before it does anything: who is it, may they, and not too fast."""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Annotated, Any

from fastapi import Request, Response, Security
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import Headers

from adapters_store.keys import Scope
from adapters_store.names import DEFAULT_TENANT
from t2l_router import describe, sessions
from t2l_router.access import Access, Principal
from t2l_router.decision import Caller
from t2l_router.errors import KeyLacksScope
from t2l_router.wire import Usage

# Only for the OpenAPI document; the header is read by `Access`, whose errors have our shape.
BEARER = Security(HTTPBearer(auto_error=False, description="An API key: t2l keys create"))
_Bearer = Annotated[HTTPAuthorizationCredentials | None, BEARER]


class Gate:
    """
    FastAPI dependencies that let requests in.

    Args:
        access: Keys and limits; None lets everybody in as the tenant ``local``.
    """

    def __init__(self, access: Access | None = None) -> None:
        self.access = access

    async def chat(self, request: Request, _: _Bearer = None) -> None:
        """Let in who may chat, within the tenant's limits."""
        principal = await self._enter(request, "chat")
        if self.access is not None:
            headers = self.access.admit(principal.tenant)
            request.state.headers += [(k.encode(), v.encode()) for k, v in headers]

    async def look(self, request: Request, _: _Bearer = None) -> None:
        """Let in who may chat, for what costs nothing."""
        await self._enter(request, "chat")

    async def admin(self, request: Request, _: _Bearer = None) -> None:
        """Let in who may run the library."""
        await self._enter(request, "admin")

    async def pull(self, request: Request, _: _Bearer = None) -> None:
        """Let in the operator's engine servers, which fetch adapters of all tenants by id."""
        principal = await self._enter(request, "pull")
        if principal.tenant != DEFAULT_TENANT:
            raise KeyLacksScope(f"engine servers use a key of the operator ({DEFAULT_TENANT})")

    async def is_store_reachable(self) -> bool:
        """Whether the library's database answers; true where none is needed."""
        return self.access is None or await self.access.is_reachable()

    def spend(self, tenant: str, usage: Usage) -> None:
        """Count an answer's tokens."""
        if self.access is not None:
            self.access.spend(tenant, usage.prompt_tokens, usage.completion_tokens)

    async def _enter(self, request: Request, scope: Scope) -> Principal:
        principal = Principal()
        if self.access is not None:
            headers = Headers(scope=request.scope)
            principal = await self.access.principal(
                headers.get("authorization"),
                scope,
                host=headers.get("host"),
                origin=headers.get("origin"),
            )
        request.state.principal = principal
        return principal


def routes_behind(check: Callable[[Request], Awaitable[None]]) -> type[APIRoute]:
    """
    A kind of route that lets requests in before it does anything else.

    FastAPI's dependencies run after it has read and parsed the body, a stranger's too.

    Args:
        check: One of `Gate`'s.
    """

    class Behind(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            answer = super().get_route_handler()

            async def let_in(request: Request) -> Response:
                await check(request)
                if self.body_field is not None:
                    # Kept by the request; read by FastAPI, one that is too large would be a 400.
                    await request.body()
                return await answer(request)

            return let_in

    return Behind


def principal_of(request: Request) -> Principal:
    """Who sent a request that was let in."""
    principal: Principal = request.state.principal
    return principal


def tenant_of(request: Request) -> str:
    """Whose request this is: the tenant of the key that it came in with, never of its body."""
    return principal_of(request).tenant


def caller_of(request: Request) -> Caller:
    """Who asks, and what the request's headers say about its task and conversation."""
    headers = request.headers
    caller = Caller(
        tenant_of(request),
        headers.get(describe.HEADER),
        session=headers.get(sessions.HEADER),
        chat_id=headers.get("X-OpenWebUI-Chat-Id"),
        helper="X-OpenWebUI-Task" in headers,
    )
    request.state.trace = caller.trace
    return caller
