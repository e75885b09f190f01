"""What was counted, and what is measured at the moment, in the text format that Prometheus reads."""

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from telemetry.metrics import instruments, totals
from telemetry.places import Counted


def exposition(*gauges: Collector) -> bytes:
    """One page of all of it."""
    registry = CollectorRegistry()
    for collector in (_Counters(), *gauges):
        registry.register(collector)
    return generate_latest(registry)


class _Counters(Collector):
    """All that was counted, by every process of this worker."""

    def collect(self) -> Iterable[Metric]:
        found = totals()
        by_metric: dict[str, list[tuple[Counted, float]]] = {}
        for counted, value in (found or {}).items():
            by_metric.setdefault(counted[0], []).append((counted, value))
        for instrument in instruments():
            if found is None:
                yield from instrument.collect()
                continue
            (family,) = instrument.describe()
            family.samples += _samples(family, by_metric.get(family.name, []))
            yield family

    def describe(self) -> Iterable[Metric]:
        """Nothing: a registry that asks for names would collect everything to find them."""
        return ()


def _samples(family: Metric, values: list[tuple[Counted, float]]) -> Iterator[Sample]:
    if family.type != "histogram":
        for (_, name, labels), value in values:
            yield Sample(name, dict(labels), value)
        return
    sums: dict[tuple[tuple[str, str], ...], float] = {}
    buckets: dict[tuple[tuple[str, str], ...], dict[float, float]] = {}
    for (_, name, labels), value in values:
        if name.endswith("_sum"):
            sums[labels] = value
        else:
            bounds = buckets.setdefault(tuple(label for label in labels if label[0] != "le"), {})
            bounds[float(dict(labels)["le"])] = value
    for labels, bounds in buckets.items():
        so_far = 0.0  # a place holds each bucket's own count; Prometheus reads how many are not above its bound
        for bound in sorted(bounds):
            so_far += bounds[bound]
            yield Sample(f"{family.name}_bucket", {**dict(labels), "le": _written(bound)}, so_far)
        yield Sample(f"{family.name}_count", dict(labels), so_far)
        yield Sample(f"{family.name}_sum", dict(labels), sums.get(labels, 0.0))


def _written(bound: float) -> str:
    text: str = floatToGoString(bound)  # type: ignore[no-untyped-call]  # theirs
    return text
