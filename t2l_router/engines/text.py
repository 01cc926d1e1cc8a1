"""From tokens to text as they come: whole characters only, and nothing of a stop string."""

from collections.abc import Callable, Sequence

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class TokenText:
    """
    Decodes tokens one by one; their texts joined are the text of all.

    A token's text depends on its neighbours (leading spaces, characters of several tokens), so each
    is decoded after those before it, and a text that ends inside a character waits for the rest.

    Args:
        decode: Token ids to text, without special tokens.

    Source:
        The two offsets are those of Hugging Face's text-generation-inference. tokenizers' own
        `DecodeStream` raises on byte tokens that are no UTF-8, which a hot sampler does produce.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._context = 0  # ids before this index no longer matter
        self._shown = 0  # ids before this index have been returned as text

    def feed(self, token: int) -> str:
        """Take a token and return the text that is now complete."""
        self._ids.append(token)
        text = self._pending()
        if not text or text.endswith(_INCOMPLETE):
            return ""
        self._context, self._shown = self._shown, len(self._ids)
        return text

    def flush(self) -> str:
        """Return what is left, without a character that was never completed."""
        return self._pending().rstrip(_INCOMPLETE)

    def _pending(self) -> str:
        shown = self._decode(self._ids[self._context : self._shown])
        return self._decode(self._ids[self._context :])[len(shown) :]


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
