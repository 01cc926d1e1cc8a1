"""Which adapter a conversation holds, and under which key it is found again."""

import hashlib
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from adapters_store.identity import AdapterId
from adapters_store.sessions import SessionRow
from t2l_router.behind import Behind
from t2l_router.calls import Calls
from t2l_router.decision import Caller
from t2l_router.errors import InvalidRequest, LibraryUnavailable
from t2l_router.topics import Topic
from t2l_router.wire import ChatRequest

logger = logging.getLogger(__name__)

HEADER = "X-T2L-Session"
MAX_NAME = 200

# One may hold 20 kB of topics; the library has the rest.
_MAX_IN_MEMORY = 2_000


@dataclass(frozen=True, slots=True)
class Held:
    """
    What a conversation holds.

    Args:
        adapter_id: The adapter; None is the base model.
        description_hash: `names.text_hash` of what it was chosen for, if a client described it.
        topic: What to tell topic shifts from; None if the client chose, so that it stays.
        before: The key of the turn before, for conversations that are known by their history.
    """

    adapter_id: AdapterId | None
    description_hash: str | None = None
    topic: Topic | None = None
    before: str | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """
    One conversation at one turn.

    Args:
        tenant: Whose it is.
        key: Where to look; None at a first turn without a name.
        name: What the client calls it; None if it is known by its history.
        turns: The history with the new turn, to find the key of the next one.
    """

    tenant: str
    key: str | None
    name: str | None
    turns: tuple[tuple[str, str], ...]

    def next_key(self, answer: str) -> str:
        """Where the next turn will look, once this one is answered."""
        if self.name is not None:
            return _named(self.tenant, self.name)
        return _fingerprint(self.tenant, (*self.turns, ("assistant", answer)))


def conversation_of(request: ChatRequest, caller: Caller) -> Conversation:
    """
    Say which conversation a request belongs to.

    Args:
        request: Its field ``t2l_session`` names it; without a name its history does.
        caller: Whose it is: the same name of two tenants is two conversations.

    Raises:
        InvalidRequest: Field and header differ, or the name is empty or too long.
    """
    tenant = caller.tenant
    names = {name for name in (request.t2l_session, caller.session) if name is not None}
    if len(names) > 1:
        raise InvalidRequest(
            f"t2l_session and {HEADER} name different sessions; give one of them",
            param="t2l_session",
        )
    if any(not 0 < len(name.strip()) <= MAX_NAME for name in names):
        raise InvalidRequest(
            f"a session's name has 1 to {MAX_NAME} characters", param="t2l_session"
        )
    name = next(iter(names), caller.chat_id and caller.chat_id[:MAX_NAME]) or None
    turns = tuple((turn.role, turn.content or "") for turn in request.messages)
    if name is not None:
        return Conversation(tenant, _named(tenant, name), name, turns)
    answered = max((i for i, (role, _) in enumerate(turns) if role == "assistant"), default=None)
    key = None if answered is None else _fingerprint(tenant, turns[: answered + 1])
    return Conversation(tenant, key, None, turns)


class Sessions:
    """
    The conversations of all tenants: the latest in memory, all of them in the library.

    Args:
        calls: Reads those that aren't in memory.
        behind: Writes them.
        idle: After this time without a turn a conversation has ended.
        fresh_s: For so long a named session in memory is taken as it is; then another router may
            have changed it. 0 asks the library at each turn.
    """

    def __init__(
        self, calls: Calls, behind: Behind, *, idle: timedelta, fresh_s: float = 5.0
    ) -> None:
        self._fresh_s = fresh_s
        self._calls = calls
        self._behind = behind
        self._idle = idle
        self._held: OrderedDict[str, tuple[Held, float]] = OrderedDict()

    async def find(self, conversation: Conversation) -> Held | None:
        """What the conversation holds; None if it is new, has ended or the library is away."""
        key = conversation.key
        if key is None:
            return None
        now = time.monotonic()
        held, seen_at = self._held.get(key, (None, 0.0))
        age = now - seen_at
        if held is not None and age > self._idle.total_seconds():
            held = None
        # A history stands for itself; a name may have come to mean something else elsewhere.
        if held is not None and (conversation.name is None or age < self._fresh_s):
            return held
        try:
            row = await self._calls.run(
                lambda store: store.sessions.get(key, tenant=conversation.tenant, idle=self._idle)
            )
        except LibraryUnavailable:
            return held
        found = None if row is None else _from_row(row)
        if found is None:
            self._held.pop(key, None)
            return None
        self._note(key, found)
        return found

    def remember(self, conversation: Conversation, answer: str, held: Held) -> bool:
        """Note what the conversation holds after an answer; whether that is news to the library."""
        key = conversation.next_key(answer)
        known, _ = self._held.get(key, (None, 0.0))
        # Topics are compared by identity: a turn that moves one makes a new one.
        if known is not None and known.topic is held.topic and known == held:
            self._note(key, held)
            self._behind.touch(key)
            return False
        if conversation.name is None:
            # Of a history's keys the last two are kept: the latest answer may be asked for anew.
            if held.before is not None and held.before != conversation.key:
                self._forget(held.before)
            held = Held(held.adapter_id, held.description_hash, held.topic, conversation.key)
        self._note(key, held)
        self._behind.session(key, _to_row(held, conversation.tenant))
        return True

    def forget(self, conversation: Conversation) -> bool:
        """Let go of what a named conversation holds; whether it was named."""
        if conversation.name is None or conversation.key is None:
            return False
        self._forget(conversation.key)
        return True

    def _forget(self, key: str) -> None:
        self._held.pop(key, None)
        self._behind.session(key, None)

    def _note(self, key: str, held: Held) -> None:
        self._held[key] = (held, time.monotonic())
        self._held.move_to_end(key)
        if len(self._held) > _MAX_IN_MEMORY:
            self._held.popitem(last=False)


def _named(tenant: str, name: str) -> str:
    return hashlib.sha256(json.dumps(["name", tenant, name]).encode()).hexdigest()


def _fingerprint(tenant: str, turns: Iterable[tuple[str, str]]) -> str:
    # Clients trim answers before they send them back.
    said = [(role, text.strip()) for role, text in turns]
    return hashlib.sha256(json.dumps(["history", tenant, said]).encode()).hexdigest()


def _to_row(held: Held, tenant: str) -> SessionRow:
    state = {
        "description_hash": held.description_hash,
        "topic": None if held.topic is None else held.topic.to_json(),
        "before": held.before,
    }
    return SessionRow(tenant, held.adapter_id, json.dumps(state))


def _from_row(row: SessionRow) -> Held | None:
    """What a conversation holds; None if a version that writes it otherwise has written it."""
    try:
        state = json.loads(row.state)
        topic = None if state["topic"] is None else Topic.from_json(state["topic"])
        return Held(row.adapter_id, state["description_hash"], topic, state["before"])
    except (ValueError, KeyError, TypeError) as error:
        logger.warning("a conversation begins anew, its row can't be read: %r", error)
        return None
