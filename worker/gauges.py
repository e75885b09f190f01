"""What is measured at the moment: seen in rounds of housekeeping, told when Prometheus asks.

A page is made while forks wait: it asks neither the ledger nor a device nor a disk. What was seen too long ago is left
out, since a number that nobody looks after is worse than none.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

import psutil
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from audit.baseline import read_baseline
from audit.errors import AuditError
from db.engine import Database
from db.queue_load import queue_load
from telemetry.devices import read_device
from telemetry.logs import logger
from telemetry.metrics import had_no_room
from worker.child import Workplace
from worker.gauge_values import (
    GAUGES,
    Values,
    of_baseline,
    of_devices,
    of_disks,
    of_health,
    of_memory,
    of_queue,
    of_slots,
)
from worker.reporting import Reporting
from worker.resources import folders_of, group_limits
from worker.telling import Telling

log = logger(__name__)
STALE_S = 60.0
OF_THE_TIME = 0.01
"""Most of the time that a worker spends on asking the ledger for the queue: one that is slow is asked less often."""


class Gauges(Collector):
    """Called in every round with the ledger; collected at every scrape."""

    def __init__(self, telling: Telling, workplace: Workplace, *, reporting: Callable[[], Reporting | None]) -> None:
        self._telling = telling
        self._devices = sorted({slot.device for slot in workplace.slots} - {"cpu"})
        self._settings = workplace.settings
        self._model = workplace.model.name
        self._reporting = reporting
        self._look_at = self._ask_at = 0.0
        self._seen: tuple[float, Values] = (0.0, {})  # until when it may be told, and what it is
        self._queue: tuple[float, Values] = (0.0, {})
        self._complained: set[str] = set()

    def __call__(self, database: Database) -> None:
        """Tell the ledger of the slots, and look around, when it is time to. Raises nothing."""
        self._telling(database)
        now, every_s = time.monotonic(), self._settings.tell_every_s
        if now >= self._look_at:
            self._look_at = now + every_s
            try:
                self._seen = (now + every_s + STALE_S, self._look())
            except Exception as error:  # noqa: BLE001 - what cannot be measured disturbs nothing
                self._complain(repr(error))
        if now >= self._ask_at:
            self._ask_at = now + every_s
            try:
                self._queue = self._ask(database, now, every_s)
            except AuditError as error:
                log.debug("queue not measured", reason=error.detail)  # the round itself says that the ledger is away
            except Exception as error:  # noqa: BLE001 - as above: a round must go on to feed
                self._complain(repr(error))

    def _ask(self, database: Database, now: float, every_s: float) -> tuple[float, Values]:
        values = of_queue(queue_load(database, self._model))
        took_s = time.monotonic() - now
        self._ask_at = now + max(every_s, took_s / OF_THE_TIME)
        return self._ask_at + STALE_S, values

    def _look(self) -> Values:
        if had_no_room():
            self._complain("some counts had no room")
        readings = [(name, read_device(name)) for name in self._devices]
        return {
            **of_devices((name, reading) for name, reading in readings if reading is not None),
            **of_memory(psutil.virtual_memory().percent, group_limits()),
            **of_disks(folders_of(self._settings)),
            **self._baseline(),
        }

    def _baseline(self) -> Values:
        try:
            return of_baseline(read_baseline(self._settings.home))
        except (AuditError, OSError, ValueError) as error:
            self._complain(str(error))
            return {}

    def _complain(self, reason: str) -> None:
        if reason not in self._complained:
            self._complained.add(reason)
            log.warning("metrics incomplete", reason=reason)

    def collect(self) -> Iterable[Metric]:
        """Every gauge; those without a value as a name alone."""
        now = time.monotonic()
        values: dict[str, Sequence[tuple[tuple[str, ...], float]]] = {}
        for until, seen in (self._seen, self._queue):
            values |= seen if now < until else {}
        told_at, slots = self._telling.last
        values |= of_slots(slots, engine=self._settings.engine, later_s=now - told_at)
        with suppress(psutil.Error, KeyError):  # nothing is told yet
            reporting = self._reporting()
            values |= of_health(reporting.health()) if reporting else {}
        for name, (told, labels) in GAUGES.items():
            family = GaugeMetricFamily(f"caption_audit_{name}", told, labels=labels)
            for of, value in values.get(name, ()):
                family.add_metric(of, value)
            yield family

    def describe(self) -> Iterable[Metric]:
        """Nothing: a registry that asks for names would collect everything to find them."""
        return ()
