"""What a turn's wording shows besides its meaning, as numbers for the heads that read turns."""

import re
import zlib
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

ACTS = ("ask", "input", "follow-up", "aside", "helper", "return")
"""What a user turn can be: a request, something to do it with, a change to the last answer, small
talk, a chat UI's own prompt, a return to an earlier task."""

N_SURFACE = 11
N_HASHED = 2_048
_MAX_WORDS = 25
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?|\d+|[^\w\s]")
_QUOTED = re.compile(r'```.*?```|"[^"\n]{12,}"|“[^”]{12,}”|«[^»]{12,}»', re.DOTALL)
_MAX_REQUEST_CHARS = 300
# Words to either side of a colon that separates a request from its material.
_REQUEST_WORDS, _SHORT, _LONG = range(3, 17), 3, 11
_PASSAGE = 30  # words of a line that asks for nothing itself


def wording(text: str) -> NDArray[np.float32]:
    """Give ``[N_SURFACE + N_HASHED]`` float32: length and punctuation, then words and pairs."""
    return np.concatenate([_surface(text), _hashed(text)])


def _surface(text: str) -> NDArray[np.float32]:
    n, words = max(len(text), 1), len(text.split())
    marks = sum(not c.isalnum() and not c.isspace() for c in text)
    return np.array(
        [
            min(np.log1p(n) / 7, 1.2),
            min(words / 10, 2),
            "\n" in text,
            '"' in text or "“" in text,
            "?" in text,
            ":" in text,
            text[:1].islower(),
            text.endswith("."),
            marks / n,
            sum(c.isdigit() for c in text) / n,
            words <= 3,  # noqa: PLR2004 - "shorter", "thank you so"
        ],
        dtype=np.float32,
    )


def _hashed(text: str) -> NDArray[np.float32]:
    # The hashing trick: no vocabulary to ship, and words nobody trained on cost nothing.
    words = ["0" if word.isdigit() else word for word in _WORD.findall(text.lower()[:1_000])]
    ends = [f"^{words[0]}", f"${words[-1]}"] if words else []
    words = words[:_MAX_WORDS]
    pairs = [f"{one} {two}" for one, two in pairwise(words)]
    row = np.zeros(N_HASHED, np.float32)
    for key in (*ends, *words, *pairs):
        code = zlib.crc32(key.encode())
        row[code % N_HASHED] += 1 if code >> 31 else -1
    norm = float(np.linalg.norm(row))
    return row * np.float32(3 / norm) if norm else row


def request_part(text: str) -> str:
    """
    Give what a turn asks for, without the text that it is to be done with.

    Semantics:
        Quotations and code blocks go; of several lines the first and a short last one stay; of
        "request: material" the request stays. A turn that is all material stays as it is.
    """
    unquoted = _QUOTED.sub(" ", text)
    own = unquoted.strip(" \n:")
    lines = [line for line in own.split("\n") if any(c.isalnum() for c in line)]
    if not lines:
        return text[:_MAX_REQUEST_CHARS]
    first, last = lines[0], lines[-1]
    if len(lines) > 1 and len(last) < min(100, 2 * len(first)):
        is_passage = len(first.split()) > _PASSAGE and len(last.split()) <= _LONG
        first = last if is_passage else f"{first} {last}"
    request, colon, material = first.partition(": ")
    n_request, n_material = len(request.split()), len(material.split())
    is_request = n_request in _REQUEST_WORDS or n_material > _LONG
    if colon and unquoted == text and n_material > _SHORT and is_request:
        first = request
    return first[:_MAX_REQUEST_CHARS]
