"""Stop strings in a text that comes in pieces."""

from collections.abc import Sequence


class StopStrings:
    """
    Lets a text through up to the first stop string, which never shows, not even in part.

    The stop string that is complete first counts; of two that end together, the longer one. So the
    result doesn't depend on how the text is cut into pieces.

    Args:
        stops: None of them empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """Take the next piece and return what is certain to lie before any stop string."""
        assert not self.stopped, "the text has ended"
        text = self._held + text
        if ends := [(at + len(s), at) for s in self._stops if (at := text.find(s)) >= 0]:
            self.stopped = True
            self._held = ""
            return text[: min(ends)[1]]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """Return what was held back, once the text has ended without a stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of *text* that begins *stop*."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
