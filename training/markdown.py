"""Rows of Markdown tables, and figures as they stand in them."""

from collections.abc import Mapping, Sequence


def head(*titles: str) -> list[str]:
    """Give a table's first two lines."""
    return [row(titles), "|" + "---|" * len(titles)]


def row(cells: Sequence[object]) -> str:
    """Give one line of a table."""
    return "| " + " | ".join(map(str, cells)) + " |"


def span(difference: Mapping[str, float]) -> str:
    """Write a row of `training.compare`: the difference and its interval."""
    ends_ = f"{difference['low']:+.1f} to {difference['high']:+.1f}"
    return f"{difference['difference']:+.1f} ({ends_})"


def ends(low: float, high: float) -> str:
    """Write an interval."""
    return f"{low:.1f} to {high:.1f}"
