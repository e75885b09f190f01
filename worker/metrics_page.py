"""The page /metrics: what all processes of this worker have counted, and its gauges."""

from collections.abc import Iterable, Mapping

from prometheus_client.registry import Collector

from audit.message import Lane
from audit.verdict import Label
from telemetry.exposition import exposition
from telemetry.logs import logger
from telemetry.metrics import share, start_at_zero
from worker.deaths import Reason
from worker.pages import METRICS, Page
from worker.recycling import COUNTED
from worker.tasks import Ending

log = logger(__name__)
KNOWN: Mapping[str, Iterable[str]] = {
    "verdicts": Label,
    "cache_lookups": ("hit", "miss"),
    "chunks": Ending,
    "chunks_resent": Lane,
    "recycles": COUNTED.values(),
    "restarts": Reason,
    "out_of_device_memory": ("halved", "alone", "failed", "cpu"),
    "canaries": ("right", "wrong"),
    "queue_wait_seconds": Lane,
    "stage_seconds": ("claim", "preprocess", "inference", "postprocess", "record"),
    "confidence": Label,
}
"""Labels that are there from the start, by the name of the meter; codes, flags and formats come as they are met."""


def count_together(slots: int) -> None:
    """Main process, before its first fork. Without memory for it nothing is counted, and everything is judged."""
    try:
        share(slots)
    except OSError as error:
        cure = "free memory, and start the worker anew"
        log.warning("metrics not counted", reason=error.strerror or str(error), cure=cure)
    else:
        start_at_zero(KNOWN)


def metrics_page(*gauges: Collector) -> Page:
    """All of it, as Prometheus reads it."""
    return Page(content_type=METRICS, body=exposition(*gauges))
