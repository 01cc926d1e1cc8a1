"""What was decided about one request and why: a value, and how it is logged and shown."""

import math
import uuid
from dataclasses import dataclass, field
from typing import Any, Literal

from adapters_store.decisions import DecisionEntry
from adapters_store.names import DEFAULT_TENANT, text_hash
from t2l_router import policy
from t2l_router.describe import TaskDescription
from t2l_router.engines.base import AdapterRef

DecisionKind = Literal["exact", "reused", "verified", "generated", "sticky", "explicit", "base"]


def new_trace() -> str:
    """A name for one decision."""
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class Caller:
    """
    What the transport knows about a request besides its body.

    Args:
        tenant: Whose adapters may serve; never taken from the body.
        description: The header ``X-T2L-Description`` as it came.
        session: The header ``X-T2L-Session`` as it came.
        chat_id: What a chat UI calls the conversation; a session's name if there is no other.
        helper: The client says that this is a prompt of its own, such as one for a title.
        trace: Names the decision; feedback refers to it.
    """

    tenant: str = DEFAULT_TENANT
    description: str | None = None
    session: str | None = None
    chat_id: str | None = None
    helper: bool = False
    trace: str = field(default_factory=new_trace)


@dataclass(frozen=True, slots=True)
class Decision:
    """
    Which adapter serves and why.

    Args:
        kind: How it was chosen.
        reason: Why, for people; says nothing about the conversation.
        adapter: None is the base model.
        task: What it was chosen for, where it was looked for.
        reasons: What the policy went by.
        distance: Delta-W distance of a new adapter and the held one, if they were compared.
        trace: Its name in the log.
    """

    kind: DecisionKind
    reason: str
    adapter: AdapterRef | None = None
    task: TaskDescription | None = None
    reasons: policy.Reasons | None = None
    distance: float | None = None
    trace: str = ""

    @property
    def score(self) -> float | None:
        """Cosine of the nearest held description, where one was looked for."""
        match = self.reasons.match if self.reasons else None
        return match.score if match else None


def entry_of(
    decision: Decision,
    caller: Caller,
    timing_ms: dict[str, float],
    *,
    is_shadow: bool = False,
    with_text: bool = False,
) -> DecisionEntry:
    """
    The decision as it is logged.

    Args:
        decision: What was decided.
        caller: For whom.
        timing_ms: What each phase took.
        is_shadow: The base model answered, whatever was decided.
        with_text: Log the task description itself, not only its hash.
    """
    task, reasons = decision.task, decision.reasons
    match = reasons.match if reasons else None
    detail: dict[str, Any] = {
        "reason": decision.reason,
        "timing_ms": {phase: round(ms, 2) for phase, ms in timing_ms.items()},
    }
    if task is not None:
        detail["source"] = task.source
        if with_text:
            detail["description"] = task.label
    if reasons is not None:
        detail["thresholds"] = thresholds_of(reasons.thresholds)
        # The kinds alone: a finding quotes words of the descriptions.
        detail["findings"] = sorted({finding.kind for finding in reasons.findings})
    if match is not None:
        detail |= {"nearest": match.adapter_id, "other": match.other}
    if is_shadow:
        detail["shadow"] = True
    return DecisionEntry(
        trace=decision.trace,
        tenant=caller.tenant,
        kind=decision.kind,
        adapter_id=decision.adapter.adapter_id if decision.adapter else None,
        description_hash=text_hash(task.label) if task else None,
        score=match.score if match else None,
        margin=match.margin if match else None,
        distance=_finite(decision.distance),
        detail=detail,
    )


def explanation_of(decision: Decision) -> dict[str, Any]:
    """Everything about a decision, for the tenant himself: texts included; JSON values only."""
    task, reasons = decision.task, decision.reasons
    match = reasons.match if reasons else None
    return {
        "decision": decision.kind,
        "reason": decision.reason,
        "adapter": decision.adapter.adapter_id if decision.adapter else None,
        "task": {
            "text": task.text or None,
            "source": task.source,
            "examples": len(task.examples),
        }
        if task
        else None,
        "nearest": {
            "adapter": match.adapter_id,
            "description": match.description,
            "score": round(match.score, 4),
            "margin": round(match.margin, 4),
            "other": match.other,
            "other_score": match.other_score and round(match.other_score, 4),
        }
        if match
        else None,
        "findings": [str(finding) for finding in reasons.findings] if reasons else [],
        "distance": _finite(decision.distance),
        "thresholds": thresholds_of(reasons.thresholds) if reasons else None,
    }


def thresholds_of(thresholds: policy.Thresholds) -> dict[str, float | None]:
    """The numbers; None where nothing is enough."""
    return {
        "score": _finite(thresholds.score),
        "margin": _finite(thresholds.margin),
        "verify_score": _finite(thresholds.verify_score),
        "max_distance": thresholds.max_distance,
    }


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 4)
