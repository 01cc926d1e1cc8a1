"""Calls of a server's admin API, their answers as values and their errors as the library's own."""

from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import TypeAdapter, ValidationError

from adapters_store.errors import (
    AdapterNotFound,
    Conflict,
    InvalidInput,
    StoreError,
    StoreUnavailable,
)
from t2l_router.errors import ServerUnreachable
from t2l_router.wire import error_of

T = TypeVar("T")
PAGE = 200
_TIMEOUT_S = 30.0
_ERRORS: dict[int, type[StoreError]] = {
    400: InvalidInput,
    404: AdapterNotFound,
    409: Conflict,
    413: InvalidInput,
    503: StoreUnavailable,
}


class Connection:
    """
    One server.

    Args:
        url: The server's address, with or without ``/v1``.
        api_key: Of scope ``admin``.
    """

    def __init__(self, url: str, api_key: str | None) -> None:
        key = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(
            base_url=url.rstrip("/").removesuffix("/v1") + "/admin", headers=key
        )
        self.url = url

    def close(self) -> None:
        """Close it."""
        self._http.close()

    def call(self, kind: type[T], method: str, path: str, **options: Any) -> T:
        """
        One request and its answer as a value.

        Args:
            kind: Of the value.
            method: Of the request.
            path: Below ``/admin``.
            options: httpx's; parameters that are None are left out.

        Raises:
            ServerUnreachable: Nobody answers, or not in time.
            StoreError: What the library says.
        """
        answer = self.send(method, path, **options)
        try:
            return TypeAdapter(kind).validate_json(answer.content)
        except ValidationError:
            raise StoreError(
                f"{self.url} answers in a form unknown here; is it t2l, and of this version?"
            ) from None

    def pages(self, kind: type[T], path: str, limit: int | None, **params: Any) -> list[T]:
        """The first *limit* rows of a list, or all, fetched page by page."""
        found: list[T] = []
        cursor: int | str | None = None
        while limit is None or len(found) < limit:
            wanted = PAGE if limit is None else min(PAGE, limit - len(found))
            page = self.call(
                dict[str, Any], "GET", path, params=params | {"limit": wanted, "cursor": cursor}
            )
            rows: list[T] = TypeAdapter(list[kind]).validate_python(page["data"])  # type: ignore[valid-type]
            found += rows
            cursor = page["next_cursor"]
            if cursor is None:
                break
        return found

    def send(
        self, method: str, path: str, *, timeout_s: float | None = _TIMEOUT_S, **options: Any
    ) -> httpx.Response:
        """One request and its answer, if that is no error; raises as `call` does."""
        params = {k: v for k, v in options.pop("params", {}).items() if v is not None}
        try:
            answer = self._http.request(method, path, params=params, timeout=timeout_s, **options)
        except httpx.TransportError as error:
            raise ServerUnreachable(
                f"no answer from {self.url}: {error}; is `t2l serve` running?"
            ) from error
        if answer.is_success:
            return answer
        told = error_of(answer.text)
        message = told.message if told else f"the server answered {answer.status_code}"
        if answer.status_code == HTTPStatus.UNAUTHORIZED:
            message += "; T2L_API_KEY holds the key that is sent"
        if told and told.code == "unknown_url":
            message += "; the admin API of `t2l serve --admin-port` is at that port"
        raise _ERRORS.get(answer.status_code, StoreError)(message)


def adapter_path(ref: str) -> str:
    """The path of an adapter."""
    return f"/adapters/{quote(ref, safe='')}"
