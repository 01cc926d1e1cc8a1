"""The adapter library of a running server, by its admin API: what operators do from elsewhere."""

from t2l_router.remote.store import RemoteStore

__all__ = ["RemoteStore"]
