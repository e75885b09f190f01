"""A real worker, watched by a real Prometheus with our rules."""

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from audit.settings import Settings
from tests.support.observability import OF_PROMETHEUS, RULES, dashboard, metrics_in, queries, rules
from tests.support.ports import free_port
from tests.support.prometheus_server import Prometheus, find_prometheus
from tests.support.running import changed, finished, running, submitted
from tests.support.waiting import wait_until


def test_what_is_asked_for_is_what_a_worker_tells(sqlite_settings: Settings, tmp_path: Path) -> None:
    """From the worker's page to an alert: names agree, outcomes arrive, and only what is wrong fires."""
    executable = find_prometheus()
    if executable is None:
        pytest.skip("there is no prometheus: install it (apt: prometheus)")
    settings = changed(sqlite_settings, http_port=free_port(), tell_every_s=0.5)
    target = f"127.0.0.1:{settings.http_port}"
    manifest = tmp_path / "pairs.csv"
    rows = "".join(f"{number},none-{number}.png,a red ball\n" for number in range(12))
    manifest.write_text(f"id,image,caption\n{rows}")
    with running(settings, tmp_path) as worker:
        worker.wait_for("model proved")
        prometheus = Prometheus(
            executable, tmp_path / "prometheus", targets={"caption-audit": [target, "127.0.0.1:9"]}, rules=RULES
        )
        try:
            batch = submitted(settings, manifest)
            assert finished(settings, batch, watch=worker).failed == 12
            failed = 'sum(caption_audit_failures_total{code!=""}) == 12'
            wait_until(lambda: prometheus.query(failed), timeout_s=60, what="twelve failures on the worker's page")
            drained = "max(caption_audit_queue_pairs) == 0 and max(caption_audit_model_info) == 1"
            wait_until(lambda: prometheus.query(drained), timeout_s=60, what="an empty queue, and a model")
            pending = 'ALERTS{alertname="CaptionAuditWorkerDown", instance="127.0.0.1:9"}'
            wait_until(lambda: prometheus.query(pending), timeout_s=60, what="an alert for a worker that is away")
            fired = {row["metric"]["alertname"] for row in prometheus.query("ALERTS")}
            page = prometheus.page(target)
        finally:
            prometheus.close()
    # A machine that runs tests may be short of memory or disk, and an alert about that would be right.
    wrong = {"CaptionAuditNoProgress", "CaptionAuditNoWorker", "CaptionAuditFailures", "CaptionAuditCanaryWrong"}
    assert fired & wrong == set()
    told = {family.name for family in text_string_to_metric_families(page)}
    asked = {
        name for query in [*queries(dashboard()), *(rule["expr"] for rule in rules())] for name in metrics_in(query)
    }
    raw = {name for name in asked if ":" not in name} - OF_PROMETHEUS
    endings = ("_total", "_bucket", "_sum", "_count")
    families = {next((name.removesuffix(end) for end in endings if name.endswith(end)), name) for name in raw}
    assert families - told == set()
