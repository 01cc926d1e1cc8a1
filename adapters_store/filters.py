"""The filter grammar of ``list`` and ``prune``: ``tag=x``, ``size>10MB``, ``accessed>30d``."""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, func, or_, select

from adapters_store.errors import InvalidFilter
from adapters_store.schema import adapters, tags

_EXPRESSION = re.compile(r"(?P<key>[a-z]+)\s*(?P<op>=|<|>)\s*(?P<value>.+)", re.DOTALL)
_SIZE = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>|b|kb|mb|gb|kib|mib|gib)", re.IGNORECASE)
_AGE = re.compile(r"(?P<number>\d+(\.\d+)?)(?P<unit>s|m|h|d|w)")
_BYTES = {
    "": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9,
    "kib": 2**10, "mib": 2**20, "gib": 2**30,
}  # fmt: skip
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
STATES = ("generated", "approved", "quarantined", "deleted")

GRAMMAR = (
    "tenant=T, tag=T, state=S, base=NAME, origin=O, hypernet=ID, hits<N, hits>N, size>10MB, "
    "size<10MB, created>30d, accessed>30d (more than 30 days ago; units s, m, h, d, w)"
)


def conditions(expressions: Sequence[str], *, now: datetime) -> list[ColumnElement[bool]]:
    """
    What filter expressions ask of an adapter: different keys must all hold, of one key any.

    Deleted adapters are left out unless ``state=`` asks for them.

    Raises:
        InvalidFilter: An expression can't be understood.
    """
    by_key: dict[str, list[ColumnElement[bool]]] = defaultdict(list)
    for expression in expressions:
        match = _EXPRESSION.fullmatch(expression.strip())
        if match is None:
            raise InvalidFilter(f"filter {expression!r}: use {GRAMMAR}")
        key, op, value = match["key"], match["op"], match["value"].strip()
        # ``size>1MB`` and ``size<2MB`` make a range, so the operator belongs to the key.
        by_key[key if op == "=" else key + op].append(_condition(expression, key, op, value, now))
    if "state" not in by_key:
        by_key["state"] = [adapters.c.state != "deleted"]
    return [or_(*alternatives) for alternatives in by_key.values()]


def parse_size(text: str) -> int:
    """Bytes of ``10MB``, ``1.5GiB`` or ``4096``. Raises `InvalidFilter`."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidFilter(f"size {text!r}: use a number with B, kB, MB, GB, KiB, MiB or GiB")
    return int(float(match["number"]) * _BYTES[match["unit"].lower()])


def parse_age(text: str) -> timedelta:
    """The time span of ``90s``, ``12h`` or ``30d``. Raises `InvalidFilter`."""
    match = _AGE.fullmatch(text.strip())
    if match is None:
        raise InvalidFilter(f"age {text!r}: use a number with s, m, h, d or w, such as 30d")
    return timedelta(seconds=float(match["number"]) * _SECONDS[match["unit"]])


def _condition(
    expression: str, key: str, op: str, value: str, now: datetime
) -> ColumnElement[bool]:
    if op == "=" and key in _EQUALS:
        if key == "state" and value not in STATES:
            raise InvalidFilter(f"filter {expression!r}: state is one of {', '.join(STATES)}")
        return _EQUALS[key](value)
    column: ColumnElement[object]
    if op != "=" and key == "hits":
        if not value.isdecimal():
            raise InvalidFilter(f"filter {expression!r}: {value!r} is no whole number")
        return _compared(adapters.c.hits, op, int(value))
    if op != "=" and key == "size":
        return _compared(adapters.c.size_bytes, op, parse_size(value))
    if op != "=" and key in ("created", "accessed"):
        # Never used counts from its creation: a new adapter is not stale.
        last = func.coalesce(adapters.c.last_used_at, adapters.c.created_at)
        column = adapters.c.created_at if key == "created" else last
        # Older than 30 days is a smaller time.
        return _compared(column, "<" if op == ">" else ">", now - parse_age(value))
    raise InvalidFilter(f"filter {expression!r}: use {GRAMMAR}")


def _compared(column: ColumnElement[object], op: str, value: object) -> ColumnElement[bool]:
    return column < value if op == "<" else column > value


def _tagged(value: str) -> ColumnElement[bool]:
    return (
        select(tags.c.name)
        .where(and_(tags.c.adapter_pk == adapters.c.pk, tags.c.name == value))
        .exists()
    )


_EQUALS: dict[str, Callable[[str], ColumnElement[bool]]] = {
    "tenant": lambda value: adapters.c.tenant == value,
    "state": lambda value: adapters.c.state == value,
    "hypernet": lambda value: adapters.c.hypernet_id.startswith(value, autoescape=True),
    "origin": lambda value: adapters.c.origin == value,
    "base": lambda value: or_(
        adapters.c.base.startswith(value, autoescape=True),
        func.lower(adapters.c.base_model).contains(value.lower(), autoescape=True),
    ),
    "tag": _tagged,
}
