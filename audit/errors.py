"""Two families of error, and the exit status each one ends a command with.

Permanent errors become a failure row (or refuse the whole request); trying again cannot help. Transient errors are
tried again, and only worker/tasks.py decides how often. `code` is stable, for programs; `detail` is one readable line
that names the cause and, where there is one, the cure.
"""

from typing import ClassVar


class AuditError(Exception):
    """Base of everything this project raises on purpose."""

    exit_status: ClassVar[int] = 1

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class Permanent(AuditError):
    """Trying again cannot help."""


class Transient(AuditError):
    """May work when tried again."""

    exit_status = 75


class BadImage(Permanent):
    """The picture cannot be read, or may not be."""


class BadCaption(Permanent):
    """The caption (or premise) cannot be judged."""


class BadRow(Permanent):
    """One row of an otherwise good manifest is wrong."""


class UsageError(Permanent):
    """The request itself is wrong: an option, a setting, an unknown batch."""

    exit_status = 2


class ManifestInvalid(UsageError):
    """The whole manifest is refused; nothing of it was registered."""


class ModelRefused(UsageError):
    """The model directory is not one that the engine can answer for; the detail names the file and the reason."""


class PairTimedOut(Permanent):
    """One pair took longer than a pair may."""


class EngineFault(Transient):
    """The engine failed for a reason that is no pair's fault (device error, scores that are not finite)."""


class PoisonedProcess(EngineFault):
    """The process cannot be trusted any more (a CUDA error): its results are discarded and it leaves at once."""


class OutOfDeviceMemory(EngineFault):
    """The micro-batch did not fit the device."""


class DeviceTooSmall(EngineFault):
    """The model does not fit the device, whatever the micro-batch; loading it again would not help."""

    exit_status = 69


class Unavailable(Transient):
    """A service that the command needs does not answer."""

    exit_status = 69


class LedgerUnavailable(Unavailable):
    """The SQL database does not answer."""


class LedgerRefused(LedgerUnavailable):
    """The database answers, and an operator must change something: password, name, privilege, TLS.

    To what already runs it is an outage like any other: the work waits, and goes on when it is mended.
    """

    exit_status = 2


class BrokerUnavailable(Transient):
    """Redis does not answer; what was committed to the ledger is sent later."""


class BrokerRefused(BrokerUnavailable):
    """Redis answers and does not let us in: its password or its user in REDIS_URL is wrong."""

    exit_status = 2
