"""
What may be read of a conversation to find out its task.

Chats carry text from everywhere: pasted mails, web pages, tool output, fake transcripts.
Only system prompts and user turns are read, never tool output or answers, and of user turns not
what poses as another role or as instructions about instructions. The base model still sees the
messages as they came; this is only about what may choose an adapter.
"""

import re
import unicodedata
from dataclasses import dataclass

from t2l_router.wire import ChatRequest

MAX_TURNS = 16
MAX_SYSTEM_CHARS = 4_000
# An encoder reads about 1,000 characters; requests stand at the start or at the end of a turn.
HEAD_CHARS, TAIL_CHARS = 1_200, 600


@dataclass(frozen=True, slots=True)
class Reading:
    """
    What may be read of a conversation; small whatever was sent.

    Args:
        system: The text of its leading system and developer messages; None without any.
        turns: The user's turns, oldest first, the last `MAX_TURNS`; never tool output.
        is_helper: The last turn is a chat UI's own prompt: a title, tags, follow-up questions.
        in_tool_loop: The model is amid a tool call, so that the last turn was read already.
        is_tampered: The last turn held text that poses as another role or gives orders about
            instructions; it was left out.
    """

    system: str | None
    turns: tuple[str, ...]
    is_helper: bool = False
    in_tool_loop: bool = False
    is_tampered: bool = False

    @property
    def last(self) -> str:
        """The last user turn; empty if there is none."""
        return self.turns[-1] if self.turns else ""


def read(request: ChatRequest, *, helper: bool = False) -> Reading:
    """
    Read a conversation.

    Args:
        request: Of any size.
        helper: Whether the client says that this is a prompt of its own, not the user's.
    """
    leading: list[str] = []
    for message in request.messages:
        if message.role not in ("system", "developer"):
            break
        leading.append(message.content or "")
    users = [message.content or "" for message in request.messages if message.role == "user"]
    said = [_said(text) for text in users[-MAX_TURNS:]]
    last_message = request.messages[-1]
    return Reading(
        system=normalise(" \n".join(leading)[:MAX_SYSTEM_CHARS]) or None,
        turns=tuple(text for text, _ in said),
        is_helper=helper or bool(users and is_helper_prompt(users[-1])),
        in_tool_loop=last_message.role == "tool" or bool(last_message.tool_calls),
        is_tampered=bool(said and said[-1][1]),
    )


def normalise(text: str) -> str:
    """Give composed characters, plain spaces, no control or invisible characters; keep lines."""
    composed = unicodedata.normalize("NFC", text)
    visible = "".join(
        c for c in composed if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs")
    )
    lines = (" ".join(line.split()) for line in visible.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


# A title, tags and so on ...
_ARTEFACT = re.compile(
    r"\b(title|name|tags?|follow[- ]?ups?|quer(?:y|ies)|emoji|keywords?|topics?|"
    r"auto-?complet\w*|suggest(?:ed|ions?)?|summar\w+|prompts?)\b",
    re.IGNORECASE,
)
# ... of this very chat, which no user speaks of in the third person ...
_THE_CHAT = re.compile(
    r"</?(?:chat_history|conversation|history|messages|context|chat|transcript|type|text)>|"
    r"\b(?:chat|conversation|message) history\b|"
    r"\b(?:the|this|our|my|following|above|previous|preceding|entire|ongoing)\s+"
    r"(?:chat|conversation|dialogue|dialog|discussion|thread|query|exchange|messages?)\b",
    re.IGNORECASE,
)
# ... in a form that a program will read.
_FOR_A_PROGRAM = re.compile(
    r"^#{2,3} (?:task|guidelines|output|chat history|instructions)\b|"
    r"\b(?:json|no(?:thing)? (?:else|quotes|quotation|punctuation|explanation|other text)|"
    r"avoid (?:quotation|punctuation|special)|without (?:quot|punct|any lead|explan)\w*|"
    r"(?:only|just) (?:the |return|respond|reply|output|give|with)|"
    r"(?:return|respond|reply|output|answer)\b.{0,30}\bonly|"
    r"\d+(?:\s*(?:-|to|or)\s*\d+)?[- ]words?|(?:words?|characters?) (?:or (?:less|fewer)|max)|"
    r"array|list of strings)",
    re.IGNORECASE | re.MULTILINE,
)


def is_helper_prompt(text: str) -> bool:
    """
    Whether a turn is what chat UIs send to name, tag or continue a chat.

    Semantics:
        It asks for a title, tags or the like, of the chat itself, in a form for a program. The
        wording differs between programs and their versions; these three don't.
    """
    edges = f"{text[:HEAD_CHARS]}\n{text[-TAIL_CHARS:]}"
    return all(rule.search(edges) for rule in (_ARTEFACT, _THE_CHAT, _FOR_A_PROGRAM))


_ROLE_LINE = re.compile(
    r"^[^\w\n]*(?:system|assistant|developer|user|human|tool|ai|bot)"
    r"(?:[ _](?:prompt|message|note|instructions?|override|role))?\W{0,3}[:>\]|].*$",
    re.IGNORECASE | re.MULTILINE,
)
_OUR_FIELD = re.compile(r"^.*\bx?[-_]?t2l[-_]\w+.*$", re.IGNORECASE | re.MULTILINE)
_ORDER = re.compile(
    r"[^.!?\n]*\b(?:ignore|disregard|forget|override|overrule|discard|bypass)\b[^.!?\n]{0,60}?"
    r"\b(?:above|previous|prior|earlier|before|instructions?|prompts?|rules|task|question)\b"
    r"[^\n]*",
    re.IGNORECASE,
)


def _said(text: str) -> tuple[str, bool]:
    """What the user himself says in a turn, and whether something else was left out."""
    if len(text) > HEAD_CHARS + TAIL_CHARS:
        text = f"{text[:HEAD_CHARS]}\n...\n{text[-TAIL_CHARS:]}"
    text = normalise(text)
    own = text
    for rule in (_ROLE_LINE, _OUR_FIELD, _ORDER):
        own = rule.sub("", own)
    own = own.strip()
    return own, own != text
