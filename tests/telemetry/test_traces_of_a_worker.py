"""A real worker and a real submission, and what a receiver of OTLP gets of them."""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from audit.message import TASK_NAME
from audit.pair import BatchId
from audit.settings import Settings
from telemetry.span_names import SPANS
from tests.support.otlp_receiver import Receiver, receiving
from tests.support.ports import free_port
from tests.support.running import changed, check_promises, finished, results, running
from tests.support.tracing import known_words, manifest, one, submitted, to, trace_ids, working


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Takes everything at once."""
    with receiving() as made:
        yield made


def test_a_chunk_is_one_trace_from_claim_to_record_and_leads_to_its_submission(
    settings: Settings, tmp_path: Path, receiver: Receiver
) -> None:
    """Whoever asks why a pair took so long, or failed, sees all of it in one place; the ledger leads there."""
    secret = "a caption that nobody else may read"
    path = manifest(tmp_path, {"a": f"stub:yes {secret}", "b": "stub:no", "c": secret, "d": "stub:yes"}, c="gone.png")
    quick = changed(settings, devices="cpu", chunk_pairs=4)
    batch = submitted(quick, path, to(receiver))
    with working(quick, tmp_path, to(receiver)) as worker:
        finished(quick, batch, watch=worker)
        chunk = receiver.wait_for("chunk")[0]
        worker.stop()
        assert not [line for line in worker.lines() if "traces" in str(line.get("event"))], worker.tail()

    submission = receiver.trace(one(receiver.named("submit"), "submit").trace)
    root = one(submission, "submit")
    assert root.parent == ""
    assert {span.name: span.parent for span in submission} == {"submit": "", "register": root.id, "ring": root.id}
    assert root.attributes == {
        "caption_audit.batch": batch,
        "caption_audit.new": True,
        "caption_audit.pairs": 4,
        "caption_audit.chunks": 1,
        "caption_audit.duplicates": 0,
        "caption_audit.failed": 0,
    }
    assert one(submission, "register").attributes["caption_audit.rows"] == 4
    ring = one(submission, "ring")
    assert ring.kind == "producer"
    assert ring.attributes == {
        "messaging.system": "redis",
        "messaging.operation.type": "send",
        "messaging.batch.message_count": 1,
    }

    spans = receiver.trace(chunk.trace)
    assert chunk.trace != root.trace, "a batch of a million chunks would be one trace"
    assert (chunk.parent, chunk.kind, chunk.links) == ("", "consumer", [(root.trace, root.id)])
    by_id = {span.id: span for span in spans}
    tree = Counter((span.name, by_id[span.parent].name if span.parent else "") for span in spans)
    assert tree == {
        ("chunk", ""): 1,
        ("claim", "chunk"): 1,
        ("preprocess", "chunk"): 4,
        ("fetch", "preprocess"): 4,
        ("decode", "preprocess"): 3,
        ("inference", "chunk"): 3,
        ("postprocess", "chunk"): 4,
        ("record", "chunk"): 1,
    }, "one on CPU is a micro-batch of one"
    told = dict(chunk.attributes)
    assert 0 <= told.pop("caption_audit.queue_wait_s") < 120
    assert told == {
        "messaging.system": "redis",
        "messaging.operation.type": "process",
        "caption_audit.batch": batch,
        "caption_audit.chunk": 0,
        "caption_audit.attempt": 1,
        "caption_audit.careful": False,
        "caption_audit.pairs": 4,
        "caption_audit.ending": "done",
    }
    decoded = [span for span in spans if span.name == "decode"]
    size = {"caption_audit.image.width": 9, "caption_audit.image.height": 7, "caption_audit.image.format": "PNG"}
    assert [span.attributes for span in decoded] == [size] * 3
    weight = (tmp_path / "red.png").stat().st_size
    fetched = [span.attributes.get("caption_audit.image.bytes") for span in spans if span.name == "fetch"]
    assert sorted(fetched, key=str) == [weight] * 3 + [None]
    assert one(spans, "record").attributes == {"caption_audit.pairs": 4, "caption_audit.recorded": "done"}

    failed = [span for span in spans if span.failed]
    assert {(span.name, span.status, span.attributes["error.type"]) for span in failed} == {
        ("fetch", "file_missing", "file_missing"),
        ("preprocess", "file_missing", "file_missing"),
    }
    assert [span.attributes["caption_audit.pair"] for span in failed if span.name == "preprocess"] == [2]
    for span in (*spans, *submission):
        assert set(span.attributes) <= known_words(span), span
        assert by_id.get(span.parent) is None or by_id[span.parent].name in SPANS[span.name].parents
        assert (span.scope, span.resource["service.name"]) == ("caption-audit", "caption-audit")
        assert secret not in repr(span)
        assert "red.png" not in repr(span)
        assert "gone.png" not in repr(span)
    who: Mapping[str, Any] = chunk.resource
    assert who["caption_audit.slot"] == 0
    assert who["caption_audit.engine"] == "stub"
    assert {
        "host.name",
        "process.pid",
        "service.version",
        "caption_audit.model",
        "caption_audit.model_revision",
    } <= set(who)
    assert trace_ids(quick, batch) == dict.fromkeys(range(4), chunk.trace)
    assert results(quick, batch) == {"a": "Yes", "b": "No", "c": "file_missing", "d": "Yes"}


def test_an_engine_that_fails_is_noted_on_the_spans_it_failed_in(
    sqlite_settings: Settings, tmp_path: Path, receiver: Receiver
) -> None:
    """The type, the code and the place of an error are there, also when its process left at once; no text of anybody's.

    Safeguard: worker/tasks.py ends the open spans and hands them over before os._exit.
    """
    quick = changed(
        sqlite_settings, devices="cpu", chunk_pairs=4, lease_s=3, pair_limit_s=2, feed_every_s=0.2, resend_s=2
    )
    captions = {"good": "stub:yes", "bad": "stub:nan whispered", "poison": "stub:poison whispered"}
    batch = submitted(quick, manifest(tmp_path, captions), to(receiver))
    with working(quick, tmp_path, to(receiver)) as worker:
        finished(quick, batch, watch=worker, timeout_s=120)
        receiver.wait_for("mark")
        worker.stop()
    chunks = receiver.named("chunk")
    died = [chunk for chunk in chunks if chunk.failed]
    assert {chunk.attributes["error.type"] for chunk in died} == {"process is poisoned"}, chunks
    spans = receiver.trace(died[0].trace)
    poisoned = [span for span in spans if span.name == "inference" and span.failed]
    ((event, told),) = poisoned[-1].events
    assert event == "exception"
    assert told["exception.type"] == "audit.errors.PoisonedProcess"
    assert "worker/engines/stub.py" in told["exception.stacktrace"]
    assert "exception.message" in told
    alone = [span for span in receiver.named("alone") if span.failed]
    assert {span.status for span in alone} == {"engine_failed"}
    assert any(chunk.attributes.get("caption_audit.careful") for chunk in chunks), "after a death"
    assert {span.attributes["caption_audit.at"] for span in receiver.named("mark")} == {"decode", "judge"}
    assert all("whispered" not in repr(span) for span in receiver.spans)
    for span in receiver.spans:
        assert set(span.attributes) <= known_words(span), span
    judged_in = set(trace_ids(quick, batch).values()) - {None}
    assert judged_in <= {chunk.trace for chunk in chunks}


def test_who_starts_a_submission_has_it_in_his_own_trace(
    sqlite_settings: Settings, tmp_path: Path, receiver: Receiver
) -> None:
    """A pipeline that traces its steps tells them where they are by TRACEPARENT, as OpenTelemetry documents it."""
    trace, caller = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    told = to(receiver, TRACEPARENT=f"00-{trace}-{caller}-01", OTEL_EXPORTER_OTLP_COMPRESSION="gzip")
    headers = {"OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20s3cret,x-scope=audits"}
    submitted(sqlite_settings, manifest(tmp_path, {"a": "stub:yes"}), told | headers)
    root = one(receiver.spans, "submit")
    assert (root.trace, root.parent) == (trace, caller)
    assert {request["content-encoding"] for request in receiver.requests} == {"gzip"}
    assert {request["authorization"] for request in receiver.requests} == {"Bearer s3cret"}
    assert {request["x-scope"] for request in receiver.requests} == {"audits"}


def test_without_an_exporter_outcomes_have_trace_ids_all_the_same(settings: Settings, tmp_path: Path) -> None:
    """Log lines and outcomes are joined by them, whether or not anybody collects traces."""
    batch = submitted(settings, manifest(tmp_path, {"a": "stub:yes", "b": "stub:no"}), {})
    with running(changed(settings, devices="cpu"), tmp_path) as worker:
        finished(settings, batch, watch=worker)
    (found,) = set(trace_ids(settings, batch).values())
    assert len(found) == 32
    assert int(found, 16) > 0


def test_a_disabled_sdk_exports_nothing(sqlite_settings: Settings, tmp_path: Path, receiver: Receiver) -> None:
    """OTEL_SDK_DISABLED is how an operator switches it off without hunting for the other variables."""
    disabled = to(receiver, OTEL_SDK_DISABLED="true")
    batch = submitted(sqlite_settings, manifest(tmp_path, {"a": "stub:yes"}), disabled)
    with working(changed(sqlite_settings, devices="cpu"), tmp_path, disabled) as worker:
        finished(sqlite_settings, batch, watch=worker)
        worker.stop()
    assert receiver.requests == []
    assert all(trace_ids(sqlite_settings, batch).values())


def test_of_sampled_chunks_all_spans_come_and_of_others_none(
    sqlite_settings: Settings, tmp_path: Path, receiver: Receiver
) -> None:
    """Production samples chunks, not spans: half a tree says nothing."""
    half = to(receiver, OTEL_TRACES_SAMPLER="parentbased_traceidratio", OTEL_TRACES_SAMPLER_ARG="0.5")
    quick = changed(sqlite_settings, devices="cpu", chunk_pairs=1)
    captions = {f"p{number}": "stub:yes" for number in range(40)}
    batch = submitted(quick, manifest(tmp_path, captions), half)
    with working(quick, tmp_path, half) as worker:
        finished(quick, batch, watch=worker)
        worker.stop()
    chunks = receiver.named("chunk")
    # Of 40 throws of a coin, fewer than 4 or more than 36 come in one run of 10 ** 8.
    assert 4 <= len(chunks) <= 36
    assert len(set(trace_ids(quick, batch).values())) == 40
    for chunk in chunks:
        names = Counter(span.name for span in receiver.trace(chunk.trace))
        assert names == dict.fromkeys((*names,), 1)
        assert set(names) >= {"chunk", "claim", "preprocess", "fetch", "decode", "postprocess", "record"}


def test_receivers_that_are_away_or_slow_cost_spans_and_nothing_else(
    sqlite_settings: Settings, tmp_path: Path, receiver: Receiver
) -> None:
    """Judging never waits for whoever collects traces; what does not fit the queue is dropped, and told of in lines."""
    quick = changed(sqlite_settings, devices="cpu", chunk_pairs=5)
    captions = {f"p{number}": "stub:yes" for number in range(200)}
    small = {"OTEL_BSP_MAX_QUEUE_SIZE": "16", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "8"}
    receiver.delay_s = 300
    batch = submitted(quick, manifest(tmp_path, captions), {})
    for endpoint in (f"http://127.0.0.1:{free_port()}", receiver.url):
        folder = tmp_path / endpoint.rpartition(":")[2]
        folder.mkdir()
        with working(quick, folder, to(receiver, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, **small)) as worker:
            finished(quick, batch, watch=worker)
            assert worker.stop() == 0
            told = [line for line in worker.lines() if "trace" in str(line["event"]).lower()]
            assert 1 <= len(told) <= 6, told
            assert {line["event"] for line in told} == {"traces not exported"}
            assert "Traceback" not in worker.log.read_text()
        batch = submitted(quick, manifest(folder, captions | {"more": "stub:no"}), {})
    check_promises(quick, BatchId(1))


def test_under_opentelemetry_instrument_spans_come_once_and_inside_the_tasks_own(
    sqlite_settings: Settings, tmp_path: Path, receiver: Receiver
) -> None:
    """Its provider is the process's; a second one beside it would send each span twice, and to two traces."""
    instrument = Path(sys.executable).with_name("opentelemetry-instrument")
    if not instrument.exists():
        pytest.skip("opentelemetry-instrument is not installed (opentelemetry-distro)")
    quick = changed(sqlite_settings, devices="cpu", chunk_pairs=2)
    told = to(receiver, OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf", OTEL_SERVICE_NAME="theirs")
    told |= {"OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none", "OTEL_TRACES_EXPORTER": "otlp"}
    batch = submitted(quick, manifest(tmp_path, {"a": "stub:yes", "b": "stub:no"}), to(receiver))
    with working(quick, tmp_path, told, before=[sys.executable, str(instrument)]) as worker:
        finished(quick, batch, watch=worker)
        chunk = receiver.wait_for("chunk")[0]
        receiver.wait_for(f"run/{TASK_NAME}")
        assert worker.stop() == 0
        assert "traces not exported" not in worker.log.read_text(), "a second provider was tried"
    (task,) = [span for span in receiver.trace(chunk.trace) if span.id == chunk.parent]
    assert task.name.startswith("run/")
    assert task.scope.startswith("opentelemetry.instrumentation.celery")
    ours = [span for span in receiver.trace(chunk.trace) if span.scope == "caption-audit"]
    assert Counter(span.name for span in ours) == {
        **dict.fromkeys(("chunk", "claim", "record"), 1),
        **dict.fromkeys(("preprocess", "fetch", "decode", "inference", "postprocess"), 2),
    }
    assert len({span.id for span in receiver.spans}) == len(receiver.spans), "each once"
    assert {span.resource["service.name"] for span in ours} == {"theirs"}
    assert chunk.links == [(root.trace, root.id) for root in receiver.named("submit")]
    assert set(trace_ids(quick, batch).values()) == {chunk.trace}
