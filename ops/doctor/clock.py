"""How far this host's clock is from that of Redis and of the database."""

import time
from collections.abc import Callable, Iterator

from audit.errors import BrokerUnavailable, LedgerUnavailable, UsageError
from audit.settings import Settings
from ops.doctor.disk import ledger_file
from ops.doctor.lines import Line, ok, warning
from ops.queue_messages import redis_client
from ops.text import duration

MOST_S = 2.0
UNSEEN_S = 0.01
SYNCHRONISE = "let chrony or systemd-timesyncd set the clocks (`timedatectl`)"


def redis_lines(settings: Settings, *, limit_s: float) -> Iterator[Line]:
    """Against Redis's TIME; where Redis does not answer, its own line says so."""
    if settings.redis_url is None and not settings.redis_socket.exists():
        return
    import redis

    try:
        with redis_client(settings.broker_url, connect_s=limit_s / 2, answer_s=limit_s / 2) as client:
            off_s, round_trip_s = offset(lambda: _seconds(client.time()))
    except (BrokerUnavailable, redis.exceptions.NoPermissionError):
        return
    means = "Celery's times are wrong, and a worker whose clock is ahead takes back messages that others work on"
    yield _line("Redis", off_s, round_trip_s, means)


def sql_lines(settings: Settings, *, limit_s: float) -> Iterator[Line]:
    """Against the database's own clock; where it does not answer, the ledger's line says so."""
    from db.diagnosis import open_to_look, seconds

    if ledger_file(settings) is not None:
        yield ok("SQL", "the ledger is a file of this host, and uses its clock")
        return
    try:
        database = open_to_look(settings.ledger_url, silent_s=limit_s)
        try:
            seconds(database)  # connects, so that what is measured is the answer alone
            off_s, round_trip_s = offset(lambda: seconds(database))
        finally:
            database.close()
    except (LedgerUnavailable, UsageError):
        return
    means = "leases and outcomes go by the database's clock and are right; logs and metrics of this host are not"
    yield _line("SQL", off_s, round_trip_s, means)


def offset(ask: Callable[[], float]) -> tuple[float, float]:
    """How far the other clock is ahead of ours, and how long the answer took, both in seconds."""
    began, asked_at = time.monotonic(), time.time()
    told = ask()
    round_trip_s = time.monotonic() - began
    return told - (asked_at + round_trip_s / 2), round_trip_s


def _line(name: str, off_s: float, round_trip_s: float, means: str) -> Line:
    off = abs(off_s)
    shown = f"its clock is {duration(off)} {'ahead of' if off_s > 0 else 'behind'} this host's"
    if off < UNSEEN_S:
        shown = "its clock is this host's, to a hundredth of a second"
    # An answer that was slow may have waited on one half of its way alone.
    if off - round_trip_s / 2 > MOST_S:
        return warning(name, shown, means=means, cure=SYNCHRONISE)
    return ok(name, shown)


def _seconds(told: tuple[int, int]) -> float:
    seconds, microseconds = told
    return seconds + microseconds / 1e6
