"""
Everything that can go wrong in the adapter library, as one tree.

* StoreError
  x NotFound
    + AdapterNotFound · AliasNotFound · KeyNotFound · LeaseLost · DecisionNotFound
  x Conflict                    the request contradicts what the library holds
    + AdapterPinned · AliasTaken · EncoderMismatch · QuotaExceeded · SchemaOutdated
  x InvalidInput                the caller's value can't be used
    + InvalidName · InvalidFilter · InvalidImport · DimensionMismatch
  x VerificationFailed          stored data is not what it was
    + AdapterCorrupt · AuditBroken · StoreCorrupt
  x StoreUnavailable            the world around the library
    + StoreBusy · StoreFull · StoreReadOnly
"""


class StoreError(Exception):
    """The root of every error that the library raises on purpose; its text is fit for the user."""


class NotFound(StoreError):
    """There is no such thing, or it belongs to another tenant (the two look the same)."""


class AdapterNotFound(NotFound):
    """No such adapter for this tenant."""


class AliasNotFound(NotFound):
    """No such alias for this tenant."""


class KeyNotFound(NotFound):
    """No such API key."""


class LeaseLost(NotFound):
    """The lease expired and may be held by somebody else."""


class DecisionNotFound(NotFound):
    """No such decision in the tenant's log, or not any more."""


class Conflict(StoreError):
    """The request contradicts what the library holds; nothing was changed."""


class AdapterPinned(Conflict):
    """The adapter is pinned, so it can't be removed."""


class AliasTaken(Conflict):
    """The alias names another adapter already."""


class EncoderMismatch(Conflict):
    """The library is indexed by another encoder."""


class QuotaExceeded(Conflict):
    """The tenant's quota has no room for this."""


class SchemaOutdated(Conflict):
    """The database has the schema of another version of this software."""


class InvalidInput(StoreError):
    """A value can't be used as it is; nothing was changed."""


class InvalidName(InvalidInput):
    """A tenant, alias or tag name has forbidden characters or length."""


class InvalidFilter(InvalidInput):
    """A filter expression can't be understood."""


class InvalidImport(InvalidInput):
    """The files are no acceptable LoRA adapter."""


class DimensionMismatch(InvalidInput):
    """A task embedding has the wrong size, is not finite or not of unit length."""


class VerificationFailed(StoreError):
    """Stored data is not what it was when it was stored."""


class AdapterCorrupt(VerificationFailed):
    """An adapter's files are missing or don't hash to its id."""


class AuditBroken(VerificationFailed):
    """The audit log was changed after the fact."""


class StoreCorrupt(VerificationFailed):
    """The database file is damaged or is no library."""


class StoreUnavailable(StoreError):
    """The library can't be used right now."""


class StoreBusy(StoreUnavailable):
    """Other writers held the database for too long; trying again later helps."""


class StoreFull(StoreUnavailable):
    """There is no room on the disk; nothing half-written is left."""


class StoreReadOnly(StoreUnavailable):
    """The library lies on a medium that can't be written, or was opened for reading."""
