"""What the operating system says, as the library's own errors."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EACCES, EDQUOT, ENOSPC, EPERM, EROFS
from http import HTTPStatus

from adapters_store.errors import StoreFull, StoreReadOnly, StoreUnavailable


@contextmanager
def named_missing_packages(what: str) -> Iterator[None]:
    """
    Translate the `ImportError` of a block that needs the extra ``postgres``.

    Args:
        what: What needs it.

    Raises:
        StoreUnavailable: Naming the command that installs it.
    """
    try:
        yield
    except ImportError:
        told = f"{what} needs more packages: pip install '.[postgres]' in a checkout of t2l"
        raise StoreUnavailable(told) from None


@contextmanager
def named_os_errors(doing: str) -> Iterator[None]:
    """
    Translate an `OSError` of the block.

    Args:
        doing: What failed then, to follow "can't".

    Raises:
        StoreFull: There is no room.
        StoreReadOnly: Writing is not allowed.
        StoreUnavailable: Anything else.
    """
    try:
        yield
    except _drivers_errors() as error:
        raise StoreUnavailable(f"can't {doing}: {error}") from error
    except OSError as error:
        if error.errno in (ENOSPC, EDQUOT):
            raise StoreFull(f"can't {doing}: no room on the disk; free some space") from error
        if error.errno in (EROFS, EACCES, EPERM):
            raise StoreReadOnly(f"can't {doing}: {error}; check the permissions") from error
        raise StoreUnavailable(f"can't {doing}: {error}") from error


def require_missing(error: FileNotFoundError, url: str) -> None:
    """
    Make sure that a file is missing: fsspec says so of all that HTTP refuses or can't reach.

    Args:
        error: What fsspec said.
        url: Where it looked.

    Raises:
        StoreUnavailable: The server can't be reached, or refused.
    """
    cause, aiohttp = error.__cause__, sys.modules.get("aiohttp")
    if aiohttp is None or not isinstance(cause, aiohttp.ClientError):
        return
    if not isinstance(cause, aiohttp.ClientResponseError):
        raise StoreUnavailable(f"{url} can't be reached: {cause}") from error
    if cause.status not in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
        raise StoreUnavailable(f"{url} answers {cause.status} {cause.message}") from error


def _drivers_errors() -> tuple[type[Exception], ...]:
    """What drivers of fsspec raise that is no `OSError`; of those that are loaded, which import."""
    kinds = (("botocore.exceptions", "BotoCoreError"), ("httpx", "TransportError"))
    return tuple(
        getattr(sys.modules[module], name) for module, name in kinds if module in sys.modules
    )
