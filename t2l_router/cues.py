"""What a turn's opening and small words say about the turn before: a change, more of the same."""

import re

from t2l_router.guard_words import LANGUAGES, TASK_VERBS

_CHANGE = re.compile(
    r"\b(?:(?:some(?:thing)?|any|an?) ?(?:other|else|different)|different(?:ly)?|new (?:topic|task|"
    r"subject|question|thing|job)|next (?:topic|task|job|subject|thing)|change of|switch\w*|swap|"
    r"unrelated|enough|moving on|move on|(?:that's|thats|that is) (?:it|all|enough)|forget|skip|"
    r"(?:all )?done|finished|last thing|one more thing|while you're|by the way|btw|seriously|"
    r"as well|instead|on another)\b",
    re.IGNORECASE,
)
_TURN = re.compile(
    r"^\W*(?:(?:ok(?:ay)?|right|great|thanks|and|so|alright)\W+)*(?:now|then|also)\b"
)
_MORE = re.compile(
    r"\b(?:next(?: one)?|another(?: one)?|again|same|one more|more|as before|this one|"
    r"go on|continue|too|also)\b",
    re.IGNORECASE,
)
_FORM = re.compile(
    r"\b(?:\w+er|less|more|only|just|max(?:imum)?|at most|without|with(?: the)?|as (?:an? )?|"
    r"in an? |"
    r"bullets?|table|json|csv|yaml|list|emoji|words?|sentences?|lines?|numbered|bold|sorted)\b",
    re.IGNORECASE,
)
_BACK = re.compile(
    r"\b(?:it|that|this|these|those|them|both|all of|above|last|first|second|previous)\b",
    re.IGNORECASE,
)
_THE = re.compile(r"\bthe (?!same\b|other\b)\w{3,}", re.IGNORECASE)
_ASKS = re.compile(
    r"^\W*(?:(?:ok(?:ay)?|and|so|but|well|hm+|now|then|right|thanks)\W+)*(?:who|what|when|where|why|"
    r"how|which|whose|is|are|am|was|were|do|does|did|can|could|may|might|should|will|would|has|have)\b",
    re.IGNORECASE,
)
_OPENING = re.compile(
    r"^\W*(?:(?:ok(?:ay)?|and|so|now|then|right|great|perfect|thanks|thank you|cool|alright|also|"
    r"please|pls|next|(?:can|could|would) you(?: please)?|help me|let's|"
    r"i (?:need|want)(?: you to)?|actually|finally|here)\W+)*",
    re.IGNORECASE,
)

CUES = (
    *("change", "now", "more", "form", "back", "the", "question", "asks", "verb", "language"),
    *("colon", "short"),
)
"""What `cues` counts."""


def cues(request: str) -> tuple[float, ...]:
    """
    Give a number from 0 to 1 for each of `CUES`.

    Args:
        request: The part of a turn that asks for something, as `turns.request_part` gives it.
    """
    opening = request[:80]
    words = _OPENING.sub("", request.lower(), count=1).split()
    first = words[0].strip(".,:;!?\"'") if words else ""
    n_words = len(request.split())
    return (
        float(bool(_CHANGE.search(opening))),
        float(bool(_TURN.search(opening.lower()))),
        float(bool(_MORE.search(opening))),
        min(len(_FORM.findall(request)), 3) / 3,
        min(len(_BACK.findall(request)), 2) / 2,
        min(len(_THE.findall(request)), 2) / 2,
        float(request.rstrip().endswith("?")),
        float(bool(_ASKS.search(opening))),
        float(first in TASK_VERBS),
        float(any(word.strip(".,:;!?\"'").lower() in LANGUAGES for word in request.split())),
        float(":" in request),
        min(n_words, 6) / 6,
    )
