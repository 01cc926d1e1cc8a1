"""Whether the server can answer yet, and if not, what it waits for."""

import logging

from t2l_router.errors import T2LError
from t2l_router.router import Router

logger = logging.getLogger(__name__)


class NotReady(T2LError):
    """The server is still loading, or could not load."""


class Readiness:
    """
    Where the thread that loads hands the router over to the requests.

    Each method makes one assignment, so the two sides need no lock.
    """

    def __init__(self) -> None:
        self._phase = "starting"
        self._router: Router | None = None
        self._error: Exception | None = None

    @property
    def phase(self) -> str:
        """What is going on, for people."""
        if self.is_loaded and not self.is_ready:
            return "the engine can't answer; the log says why"
        return self._phase

    @property
    def error(self) -> Exception | None:
        """Why loading ended without a router."""
        return self._error

    @property
    def router(self) -> Router:
        """
        The router.

        Raises:
            NotReady: Loading hasn't finished, or failed.
        """
        if self._router is None:
            raise NotReady(f"not ready: {self._phase}")
        return self._router

    @property
    def is_loaded(self) -> bool:
        """Whether there is a router, in whatever health."""
        return self._router is not None

    @property
    def is_ready(self) -> bool:
        """Whether requests are answered."""
        return self._router is not None and self._router.health().ok

    def enter(self, phase: str) -> None:
        """Begin the next phase of loading."""
        self._phase = phase
        logger.info("%s", phase)

    def finish(self, router: Router) -> None:
        """End loading: from now on requests are answered."""
        self._router = router
        self._phase = "ready"

    def fail(self, error: Exception) -> None:
        """End loading without a router."""
        self._error = error
        self._phase = f"loading failed: {error}"
