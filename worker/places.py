"""Places that pictures come from: what one chunk found out is told to the ledger, for all that are to come."""

from audit.errors import LedgerUnavailable
from db.breakers import Rules, answered, failed
from telemetry.logs import logger
from telemetry.metrics import meters
from worker.office import Office, patiently

log = logger(__name__)


def away(office: Office, place: str, reason: str) -> None:
    """Pictures of this place cannot be read here, whatever their names. Raises LedgerUnavailable."""
    host, rules = office.claimant.holder.host, Rules.from_settings(office.settings)
    wait_s = patiently(
        lambda: failed(office.database, host=host, place=place, reason=reason, rules=rules), office, until_stopped=False
    )
    if wait_s is None:
        log.info("pictures are away", place=place, reason=reason)
        return
    meters().breaker_opened.inc()
    log.warning("place of pictures is left alone", place=place, reason=reason, wait_s=round(wait_s, 1))


def well(office: Office, place: str) -> None:
    """A chunk of a place that had failed was judged: others may be, too. Raises nothing."""
    try:
        was_open = answered(office.database, host=office.claimant.holder.host, place=place)
    except LedgerUnavailable as error:
        log.warning("place of pictures not told of", reason=error.detail)  # the next chunk tells it
        return
    if was_open:
        log.info("place of pictures is back", place=place)
