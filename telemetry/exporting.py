"""Where spans go: set up from OpenTelemetry's own variables, once a process, when they ask for an exporter.

Without OTEL_TRACES_EXPORTER and without an OTLP endpoint nothing is exported and the SDK is not even imported. What a
variable holds is read by the SDK; here is only what it leaves to whoever sets it up. A process whose program has set up
a provider (`opentelemetry-instrument`) keeps that one.
"""

import atexit
import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import IO, TYPE_CHECKING, Any

from opentelemetry import context, trace
from opentelemetry.propagators.textmap import Getter

from telemetry.complaints import Complaints, Heard
from telemetry.logs import logger
from telemetry.traces import NAME, tracer

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.sdk.trace.export import SpanExporter

log = logger(__name__)
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
BY_PROTOCOL = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
FLUSH_S = 1.0
"""Longest that the end of a process waits for its last spans to be taken."""


_last: "_LastSpans | None" = None


def start_traces(about: Mapping[str, str | int] | None = None, *, console: IO[str] | None = None) -> bool:
    """Set up exporting if it is asked for; True when spans of this process go somewhere.

    `about` stands on the resource of all its spans; `console` is where the console exporter writes, by default stdout.
    Starts threads: call it where nobody forks without exec any more, that is in a pool process and not in its main
    process. What is wrong with a variable is one line in the log. Calling it again does nothing.
    """
    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        exported = tracer() is not None  # set up before, by us or by somebody else
    elif names := asked_for(os.environ):
        exported = _start(names, about or {}, console or sys.stdout)
    else:
        return False
    if exported:
        _listen()
        _last_spans()
    return exported


def sum_up_complaints() -> None:
    """Of a provider that somebody else has set up, in a process of which ours sets up none."""
    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        _listen()


def asked_for(environ: Mapping[str, str]) -> Sequence[str]:
    """Names of the exporters that OpenTelemetry's variables ask for; empty: nothing is exported."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return ()
    told = [name.strip() for name in environ.get("OTEL_TRACES_EXPORTER", "").split(",") if name.strip()]
    if not told:
        # The specification's default would be `otlp` to localhost, for every process of everybody.
        return ("otlp",) if any(environ.get(name, "").strip() for name in ENDPOINTS) else ()
    return () if "none" in map(str.lower, told) else tuple(dict.fromkeys(told))


def flush(limit_s: float = FLUSH_S) -> None:
    """As the process ends: hand over the spans that are not exported yet, if that is soon done; the rest is lost."""
    if _last is not None:
        _last.hand_over(limit_s)


class _LastSpans(threading.Thread):
    """Hands over what is left, once. The SDK knows a limit for that and does not keep it, hence a thread.

    It is there before it is needed: an interpreter that ends makes no new ones.
    """

    def __init__(self) -> None:
        super().__init__(name="last-spans", daemon=True)
        self._pid = os.getpid()
        self._asked, self._done = threading.Event(), threading.Event()

    def run(self) -> None:
        """Wait for the end."""
        self._asked.wait()
        force: Any = getattr(trace.get_tracer_provider(), "force_flush", None)
        try:
            if force is not None:
                force()
        finally:
            self._done.set()

    def hand_over(self, limit_s: float) -> None:
        """Wait for it; a process that was forked off has no such thread, and no spans."""
        self._asked.set()
        if self._pid == os.getpid():
            self._done.wait(limit_s)


def started_by() -> context.Context | None:
    """Where whoever started this program was: TRACEPARENT in the environment, or what OTEL_PROPAGATORS reads there."""
    try:
        from opentelemetry.propagate import extract
    except Exception as error:  # noqa: BLE001 - an unknown propagator is a ValueError, one that is broken is anything
        log.warning("trace of the caller not taken on", reason=f"OTEL_PROPAGATORS: {type(error).__name__}")
        return None
    found = extract(os.environ, context=context.Context(), getter=_Environment())
    return found if trace.get_current_span(found).get_span_context().is_valid else None


class _Environment(Getter[Mapping[str, str]]):
    """Keys as they are written in an environment."""

    def get(self, carrier: Mapping[str, str], key: str) -> list[str] | None:
        value = carrier.get(key.upper().replace("-", "_"))
        return None if value is None else [value]

    def keys(self, carrier: Mapping[str, str]) -> list[str]:
        return list(carrier)


def _start(names: Sequence[str], about: Mapping[str, str | int], console: IO[str]) -> bool:
    with _heard() as heard:
        tried = [heard.tried(name, partial(_processor, name, console)) for name in names]
        made = [processor for processor in tried if processor is not None]
        done = bool(made and heard.tried("provider", partial(_set_up, made, about)))
    if heard.lines:
        log.warning("traces not exported as asked" if done else "traces not exported", reason="; ".join(heard.lines))
    return done


def _processor(name: str, console: IO[str]) -> "SpanProcessor":
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    from telemetry.counted_spans import Counted

    return BatchSpanProcessor(Counted(_exporter(name, console)))


def _exporter(name: str, console: IO[str]) -> "SpanExporter":
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter

    found = _load("opentelemetry_traces_exporter", _entry(name))
    if found is ConsoleSpanExporter:  # a line a span: several processes write there
        return ConsoleSpanExporter(out=console, formatter=lambda span: span.to_json(indent=None) + os.linesep)
    made: SpanExporter = found()
    return made


def _entry(name: str) -> str:
    if name.lower() != "otlp":
        return name
    asked = next((value for one in PROTOCOLS if (value := os.environ.get(one, "").strip())), "http/protobuf")
    if asked not in BY_PROTOCOL:
        raise ValueError(f"the protocol {asked!a} is none of {', '.join(BY_PROTOCOL)}")
    return BY_PROTOCOL[asked]


def _load(group: str, name: str) -> Any:
    from importlib.metadata import entry_points

    found = [*entry_points(group=group, name=name), *entry_points(group=group, name=name.lower())]
    if not found:
        raise ValueError(f"no exporter {name!a} is installed")
    return found[0].load()


def _set_up(processors: "Sequence[SpanProcessor]", about: Mapping[str, str | int]) -> bool:
    from opentelemetry.sdk.trace import TracerProvider

    # At exit the SDK would wait for as long as its exporter likes to try.
    provider = TracerProvider(resource=_resource(about), shutdown_on_exit=False)
    for processor in processors:
        provider.add_span_processor(processor)
    trace.set_tracer_provider(provider)
    return True


def _resource(about: Mapping[str, str | int]) -> "Resource":
    """What the operator says in OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME goes before what we know."""
    from importlib.metadata import version

    from opentelemetry.sdk.resources import Resource

    ours = {
        "service.name": NAME,
        "service.version": version(NAME),
        "host.name": os.uname().nodename,
        "process.pid": os.getpid(),
        **about,
    }
    told = dict(Resource.create().attributes)
    if str(told.get("service.name", "")).startswith("unknown_service"):
        del told["service.name"]
    return Resource({**ours, **told})


@contextmanager
def _heard() -> Iterator[Heard]:
    """What OpenTelemetry's loggers say inside the block, instead of their lines and tracebacks."""
    theirs, heard = logging.getLogger("opentelemetry"), Heard()
    propagated, theirs.propagate = theirs.propagate, False
    theirs.addHandler(heard)
    try:
        yield heard
    finally:
        theirs.removeHandler(heard)
        theirs.propagate = propagated


def _listen() -> None:
    """From now on its complaints are summed up."""
    theirs = logging.getLogger("opentelemetry")
    theirs.propagate = False
    theirs.addHandler(Complaints.of_this_process())
    for chatty in ("urllib3", "requests"):
        logging.getLogger(chatty).setLevel(logging.ERROR)  # they tell of each try, and of its address


def _last_spans() -> None:
    global _last  # noqa: PLW0603 - one a process
    if _last is None:
        _last = _LastSpans()
        _last.start()
        atexit.register(flush)
