"""
The commands of a system prompt that holds several tasks and lets each turn choose one.

    If the text starts with "S:" summarise it. If it starts with "K:" list its keywords.

Such a prompt is many tasks: which of them a turn is at stands in the turn's first word.
"""

import re
from collections.abc import Mapping

_WORD, _SIGIL = r"[A-Za-z][\w-]{0,15}[:>]?", r"[/!#@][A-Za-z][\w-]{0,15}"
_OPEN, _CLOSE, _DASHES = "\"'`“‘<[", "\"'`”’>]", "—–-"  # noqa: RUF001 - as users type them
_QUOTED = re.compile(rf"[{re.escape(_OPEN)}]({_SIGIL}|{_WORD})[{re.escape(_CLOSE)}]")
_BARE = re.compile(rf"(?<!\S)({_SIGIL})(?=\s)")
# A list of commands: "T: translate it", "/sum - summarise it", "EN = correct the English".
_LISTED = re.compile(
    rf"\W{{0,3}}?({_SIGIL}|[A-Z]{{1,6}})[\"'`]?\s*(?:=|->|→|[{_DASHES}]|:|means\b)\s+"
)
_SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n+")
_CHOOSES = re.compile(r"\b(?:start|beg[iu]n|prefix|preface|led by|command|mode)", re.IGNORECASE)
_LEAD = re.compile(
    rf"[\s,:.=>{_DASHES}]*(?:then|means|get|gets|is|are|to)?\b[\s,:]*", re.IGNORECASE
)


def commands(system: str) -> dict[str, str]:
    """
    Find the commands of a system prompt: what a turn begins with -> what to do then.

    Returns:
        Marks in lower case, with their ``:`` or ``/``; empty unless there are at least two.
    """
    found: dict[str, str] = {}
    for sentence in filter(None, map(str.strip, _SENTENCE.split(system))):
        marks = _QUOTED.findall(sentence) or _BARE.findall(sentence)
        listed = _LISTED.match(sentence)
        if len(marks) == 1 and _CHOOSES.search(sentence):
            after = sentence.partition(marks[0])[2].lstrip(_CLOSE)
            task, mark = after[_end(_LEAD.match(after)) :], marks[0]
        elif listed:
            task, mark = sentence[listed.end() :], listed[1]
        else:
            continue
        if any(map(str.isalpha, task)):
            found.setdefault(mark.lower(), task)
    return found if len(found) > 1 else {}


def chosen(marks: Mapping[str, str], turn: str) -> str | None:
    """
    Give the task of the command that a turn begins with; None if it begins with none.

    Args:
        marks: What `commands` found.
        turn: What the user wrote.
    """
    said = turn.lstrip(f" {_OPEN}").lower()
    for mark in sorted(marks, key=len, reverse=True):
        after = said.removeprefix(mark)
        if after != said and (mark[-1] in ":>" or _ends_mark(mark, after)):
            return marks[mark]
    return None


def _ends_mark(mark: str, after: str) -> bool:
    # "I think" doesn't choose the command I.
    return not after[:1].isalnum() and (len(mark) > 1 or after[:1] in tuple(":)>-\n"))


def _end(found: "re.Match[str] | None") -> int:
    return found.end() if found else 0
