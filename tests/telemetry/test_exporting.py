"""OpenTelemetry's variables, one process each: what they switch on, and what a wrong one costs."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping

import pytest

from telemetry.exporting import asked_for
from tests.support.otlp_receiver import Receiver, receiving
from tests.support.ports import free_port
from tests.support.running import ROOT

WORK = """
import sys, time
from audit.settings import Settings
from telemetry.exporting import flush, start_traces
from telemetry.logs import configure_logs
from telemetry.traces import ids, span
configure_logs(Settings(log_files=False))
on = start_traces({"caption_audit.slot": 3})
with span("chunk", batch=7, name_that_is_long="x" * 500):
    inner = ids()
    with span("claim"):
        pass
began = time.monotonic()
flush()
sdk = "sdk" if "opentelemetry.sdk" in sys.modules else "no sdk"
print("on" if on else "off", inner is not None, sdk, file=sys.stderr)
print("flushed", time.monotonic() - began, file=sys.stderr)
"""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Takes everything at once."""
    with receiving() as made:
        yield made


def run(environment: Mapping[str, str], code: str = WORK) -> "subprocess.CompletedProcess[str]":
    """A process that traces a little."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


def warnings(told: "subprocess.CompletedProcess[str]") -> list[dict[str, str]]:
    """Lines of the log."""
    return [json.loads(line) for line in told.stderr.splitlines() if line.startswith("{")]


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        ({}, ()),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://there:4318"}, ()),
        ({"OTEL_TRACES_EXPORTER": "", "OTEL_EXPORTER_OTLP_ENDPOINT": ""}, ()),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://there:4318"}, ("otlp",)),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://there:4318/v1/traces"}, ("otlp",)),
        ({"OTEL_TRACES_EXPORTER": " console , otlp,console"}, ("console", "otlp")),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "True"}, ()),
        ({"OTEL_METRICS_EXPORTER": "otlp", "OTEL_SERVICE_NAME": "mine"}, ()),
    ],
)
def test_only_what_is_asked_for_is_exported(environment: Mapping[str, str], names: tuple[str, ...]) -> None:
    """The SDK's own default would be a receiver on every host; ours is silence."""
    assert asked_for(environment) == names


def test_switched_off_it_does_not_even_load_the_sdk() -> None:
    """A pool process has better uses for its memory; and ids are there all the same."""
    assert "off True no sdk" in run({}).stderr


def test_the_console_gets_a_line_a_span() -> None:
    """The first look needs no receiver; one line each, so that jq reads what several processes write."""
    spans = [json.loads(line) for line in run({"OTEL_TRACES_EXPORTER": "console"}).stdout.splitlines()]
    assert [span["name"] for span in spans] == ["claim", "chunk"]
    assert spans[0]["parent_id"] == spans[1]["context"]["span_id"]
    assert spans[1]["attributes"] == {"caption_audit.batch": 7, "caption_audit.name_that_is_long": "x" * 120}
    assert spans[1]["kind"] == "SpanKind.CONSUMER"


def test_what_an_operator_says_of_the_service_goes_before_what_we_know(receiver: Receiver) -> None:
    """OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES are for whoever runs it."""
    told = run(
        {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{receiver.url}/v1/traces",
            "OTEL_SERVICE_NAME": "audits",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test,host.name=elsewhere",
        }
    )
    assert warnings(told) == []
    (resource,) = [span.resource for span in receiver.named("chunk")]
    ours = {"caption_audit.slot": 3, "telemetry.sdk.language": "python"}
    theirs = {"service.name": "audits", "deployment.environment.name": "test", "host.name": "elsewhere"}
    assert resource.items() >= (ours | theirs).items()


def test_limits_of_the_sdk_hold(receiver: Receiver) -> None:
    """They are the SDK's to read; this shows that it does."""
    run({"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "10"})
    (chunk,) = receiver.named("chunk")
    assert chunk.attributes["caption_audit.name_that_is_long"] == "x" * 10


WRONG = {
    "OTEL_TRACES_EXPORTER": ("jaeger", "no exporter 'jaeger'"),
    "OTEL_EXPORTER_OTLP_PROTOCOL": ("smoke", "protocol 'smoke'"),
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": ("grpc", "otlp_proto_grpc"),
    "OTEL_EXPORTER_OTLP_TIMEOUT": ("soon", "soon"),
    "OTEL_EXPORTER_OTLP_COMPRESSION": ("tight", "tight"),
    "OTEL_BSP_MAX_QUEUE_SIZE": ("-1", "max_queue_size"),
    "OTEL_BSP_SCHEDULE_DELAY": ("often", "OTEL_BSP_SCHEDULE_DELAY"),
    "OTEL_TRACES_SAMPLER": ("some", "some"),
    "OTEL_TRACES_SAMPLER_ARG": ("many", "TRACES_SAMPLER_ARG"),
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": ("few", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT"),
    "OTEL_PROPAGATORS": ("smoke", None),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_one_line_and_the_work_goes_on(name: str, receiver: Receiver) -> None:
    """A typing error in a variable must not cost a worker its start, nor fill its log."""
    value, told = WRONG[name]
    sampler = {"OTEL_TRACES_SAMPLER": "traceidratio"} if name == "OTEL_TRACES_SAMPLER_ARG" else {}
    done = run({"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, **sampler, name: value})
    assert " True " in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    lines = warnings(done)
    if told is None:  # read where a context comes in, and nowhere else
        assert lines == []
    else:
        (line,) = lines
        assert line["level"] == "warning"
        assert told in line["reason"], line


def test_headers_that_are_written_wrongly_are_not_shown(receiver: Receiver) -> None:
    """The SDK quotes them, and a header that lacks its name is the password alone."""
    given = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_EXPORTER_OTLP_HEADERS": "Bearer s3cretT0ken"}
    told = run(given)
    assert "s3cretT0ken" not in told.stderr
    assert "Header format invalid" in warnings(told)[0]["reason"]


def test_an_unknown_propagator_costs_the_callers_trace_and_no_more() -> None:
    """It is read as OpenTelemetry's propagators are imported, which raises."""
    code = (
        "from audit.settings import Settings\nfrom telemetry.logs import configure_logs\n"
        "configure_logs(Settings(log_files=False))\n"
        "from telemetry.exporting import started_by\nassert started_by() is None"
    )
    (line,) = warnings(run({"OTEL_PROPAGATORS": "smoke"}, code))
    assert line["event"] == "trace of the caller not taken on"


def test_a_receiver_that_is_away_is_told_of_once() -> None:
    """Each try of the exporter is a line of its own; an outage at night must not fill the log."""
    code = WORK + "\nfrom opentelemetry import trace\n[trace.get_tracer_provider().force_flush() for _ in range(2)]"
    address = f"http://127.0.0.1:{free_port()}"
    done = run({"OTEL_EXPORTER_OTLP_ENDPOINT": address, "OTEL_EXPORTER_OTLP_TIMEOUT": "3"}, code)
    (line,) = warnings(done)
    assert line["event"] == "traces not exported"
    assert "refused" in line["reason"]


def test_a_receiver_that_does_not_answer_does_not_hold_up_the_end(receiver: Receiver) -> None:
    """Whoever stops a worker, or recycles a process, must not wait for a stranger.

    Safeguard: the last spans are handed over by a thread that is not waited for beyond FLUSH_S; the SDK's own
    force_flush knows a limit and does not keep it.
    """
    receiver.delay_s = 60
    began = time.monotonic()
    done = run({"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_EXPORTER_OTLP_TIMEOUT": "50"})
    assert time.monotonic() - began < 40
    (flushed,) = [line for line in done.stderr.splitlines() if line.startswith("flushed")]
    assert float(flushed.split()[1]) < 20


def test_what_an_exception_says_stays_in_the_log(receiver: Receiver) -> None:
    """Libraries quote what they were given: a caption, a URL with a password. Its type and its way are enough here."""
    code = """
from telemetry.exporting import flush, start_traces
from telemetry.traces import span
start_traces()
def given(caption):
    raise ValueError(caption)
def judge():
    try:
        given("whis" + "pered")
    except ValueError as error:
        raise RuntimeError(f"cannot judge: {error}") from error
try:
    with span("chunk"), span("inference"):
        judge()
except RuntimeError:
    flush()
"""
    run({"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}, code)
    inference, chunk = receiver.spans
    assert (inference.status, chunk.status) == ("RuntimeError", "RuntimeError")
    ((name, told),) = inference.events
    assert name == "exception"
    assert told["exception.type"] == "RuntimeError"
    assert "ValueError\n\ncaused:\n" in told["exception.stacktrace"]
    assert "in given" in told["exception.stacktrace"]
    assert all("whispered" not in repr(span) for span in receiver.spans)


def test_complaints_of_somebody_elses_provider_are_summed_up_too() -> None:
    """Under opentelemetry-instrument the main process has one, and its receiver can be away for a night as well."""
    code = """
from audit.settings import Settings
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from telemetry.exporting import sum_up_complaints
from telemetry.logs import configure_logs
from telemetry.traces import span
configure_logs(Settings(log_files=False))
provider = TracerProvider(shutdown_on_exit=False)
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
sum_up_complaints()
for _ in range(3):
    with span("chunk"):
        pass
"""
    away = f"http://127.0.0.1:{free_port()}"
    (line,) = warnings(run({"OTEL_EXPORTER_OTLP_ENDPOINT": away, "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}, code))
    assert line["event"] == "traces not exported"
