"""
Everything that can go wrong, as one tree; `server` and `cli` translate it, each once, at the edge.

* T2LError
  x ConfigError                 a setting is missing or wrong; start-up only
  x RequestError                the caller's fault, 4xx
    + InvalidRequest · InvalidDescription · UnknownModel · UnknownAdapter · AdapterRefused
    + UnknownDecision · PromptTooLong
  x AccessError                 who asks, and how much
    + InvalidKey · KeyLacksScope · HostRefused · RateLimited · BudgetSpent · AccessUnavailable
  x ModelError                  weights on the disk
    + ModelUnavailable · ModelCorrupt · DiskFull · CheckpointMismatch
  x AdapterError                one adapter's tensors
    + InvalidAdapter · GenerationFailed
      - GenerationBusy · BudgetExceeded
  x LibraryUnavailable          the adapter library can't be used right now
  x EngineError                 the thing that produces tokens
    + EngineBusy · EngineFailed · UpstreamFailed · UpstreamTimeout · EngineUnreachable
  x CallError                   a client's call that brought no answer
    + ServerUnreachable · ServerTimeout · CallRefused
"""

_SERVER_ERROR = 5  # hundred


class T2LError(Exception):
    """The root of every error that t2l raises on purpose; its text is fit for the user."""


class ConfigError(T2LError):
    """A setting is missing or wrong; every bad setting is named at once."""


class RequestError(T2LError):
    """
    The request can't be served as it is.

    Args:
        message: What happened, with the value, and what to do.
        param: The request field at fault, in OpenAI's notation (``messages[0].content``).
    """

    code: str | None = None

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class InvalidRequest(RequestError):
    """A field is missing, of the wrong type or out of range."""

    code = "invalid_value"


class InvalidDescription(RequestError):
    """The task description is empty, too long or not text."""

    code = "invalid_task_description"


class UnknownModel(RequestError):
    """No such model is served here."""

    code = "model_not_found"


class UnknownAdapter(RequestError):
    """No such adapter, or it belongs to another tenant (the two look the same)."""

    code = "adapter_not_found"


class AdapterRefused(RequestError):
    """The adapter is there, but may not serve: it is quarantined, deleted or another model's."""

    code = "adapter_refused"


class UnknownDecision(RequestError):
    """No such decision in the log, or it belongs to another tenant (the two look the same)."""

    code = "decision_not_found"


class PromptTooLong(RequestError):
    """Prompt and requested tokens don't fit into the model's context window."""

    code = "context_length_exceeded"


class AccessError(T2LError):
    """The request is not let in."""

    code: str | None = None


class InvalidKey(AccessError):
    """The API key is missing, unknown, revoked or expired."""

    code = "invalid_api_key"


class KeyLacksScope(AccessError):
    """The API key is good, but not for this."""

    code = "insufficient_scope"


class HostRefused(AccessError):
    """A server that needs no key was reached by a name that it doesn't go by."""

    code = "host_refused"


class RateLimited(AccessError):
    """
    The tenant asks too fast; trying again later helps.

    Args:
        message: Which limit.
        retry_after_s: When to try again.
        headers: What is left of each limit.
    """

    code = "rate_limit_exceeded"

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: int = 1,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.headers = headers


class BudgetSpent(AccessError):
    """The tenant's tokens of the day are used; trying again before midnight UTC does not help."""

    code = "insufficient_quota"


class AccessUnavailable(AccessError):
    """Keys can't be checked, because the database can't be reached."""


class ModelError(T2LError):
    """Model weights can't be used."""


class ModelUnavailable(ModelError):
    """The weights could not be fetched from any source."""


class ModelCorrupt(ModelError):
    """The weights on the disk or from the source are not what they should be."""


class DiskFull(ModelError):
    """There is no room to write the weights; nothing half-written is left."""


class CheckpointMismatch(ModelError):
    """The hypernetwork checkpoint was trained for another base model or encoder."""


class AdapterError(T2LError):
    """An adapter can't be used."""


class InvalidAdapter(AdapterError):
    """The adapter's tensors have the wrong names or shapes, aren't finite, or are too large."""


class GenerationFailed(AdapterError):
    """The hypernetwork gave no usable adapter."""


class GenerationBusy(GenerationFailed):
    """Too many adapters are being written; trying again later helps."""


class BudgetExceeded(GenerationFailed):
    """The tenant has had as many adapters written as its quota allows for now."""


class LibraryUnavailable(T2LError):
    """The adapter library can't be used right now; trying again later helps."""


class EngineError(T2LError):
    """The engine gave no answer."""


class EngineBusy(EngineError):
    """The engine's queue is full; trying again later helps."""


class EngineFailed(EngineError):
    """The engine broke while answering this request."""


class EngineUnreachable(EngineError):
    """No server of the engine answers; trying again later helps."""


class UpstreamFailed(EngineError):
    """Another server that was to answer did not, or not in full."""


class UpstreamTimeout(EngineError):
    """Another server that was to answer took too long."""


class CallError(T2LError):
    """A client's call to a server, or to a router in its own process, brought no answer."""

    is_retryable = False


class ServerUnreachable(CallError):
    """No server answers at the address given, or the connection broke."""

    is_retryable = True


class ServerTimeout(CallError):
    """The server is there but says nothing for too long; it may still be at work."""


class CallRefused(CallError):
    """
    The server answered with an error.

    Args:
        message: The server's own words.
        status: HTTP status; 500 for an error within a stream, whose status was sent before it.
        code: OpenAI's ``code``.
        param: The request field at fault.
        request_id: What the server's log knows the request by.
        retry_after_s: When the server wants to be asked again.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str | None = None,
        param: str | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.request_id = request_id
        self.retry_after_s = retry_after_s

    @property
    def is_retryable(self) -> bool:  # type: ignore[override]
        """Whether the same request may be answered later."""
        return self.status in (408, 409, 429) or self.status // 100 == _SERVER_ERROR
