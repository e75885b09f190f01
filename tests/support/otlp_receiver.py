"""An OTLP receiver: HTTP and the official protobuf messages, as a collector speaks them; it keeps what it is given."""

import gzip
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from tests.support.waiting import wait_until

ERROR = Status.STATUS_CODE_ERROR


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A span as it came; ids are hex, and `parent` is empty for a root."""

    name: str
    trace: str
    id: str
    parent: str
    kind: str
    attributes: Mapping[str, Any]
    events: Sequence[tuple[str, Mapping[str, Any]]]
    links: Sequence[tuple[str, str]]
    failed: bool
    status: str
    began: float
    seconds: float
    scope: str
    resource: Mapping[str, Any]


@dataclass(slots=True)
class Receiver:
    """`delay_s` and `answer` may be changed while it runs; without `keep` it takes what comes, and parses nothing."""

    url: str = ""
    keep: bool = True
    taken_bytes: int = 0
    delay_s: float = 0.0
    answer: int = 200
    spans: list[Span] = field(default_factory=list)
    requests: list[Mapping[str, str]] = field(default_factory=list)

    def named(self, name: str) -> list[Span]:
        """Those of that name, as they came."""
        return [span for span in list(self.spans) if span.name == name]

    def wait_for(self, name: str, *, count: int = 1, timeout_s: float = 90) -> list[Span]:
        """Until so many spans of that name have come."""
        told = f"{count} spans {name!r}"
        wait_until(lambda: len(self.named(name)) >= count, timeout_s=timeout_s, what=told)
        return self.named(name)

    def trace(self, trace: str) -> list[Span]:
        """All spans of a trace."""
        return [span for span in list(self.spans) if span.trace == trace]

    def take(self, headers: Mapping[str, str], body: bytes) -> None:
        """Parse a request; raises for what is none."""
        self.taken_bytes += len(body)
        if not self.keep:
            return
        data = gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body
        self.spans.extend(_spans(ExportTraceServiceRequest.FromString(data)))


@contextmanager
def receiving(*, port: int = 0, keep: bool = True) -> Iterator[Receiver]:
    """A receiver on a free port of 127.0.0.1; `url` is what OTEL_EXPORTER_OTLP_ENDPOINT is to be."""
    receiver = Receiver(keep=keep)
    server = ThreadingHTTPServer(("127.0.0.1", port), _handler(receiver))
    server.daemon_threads = True
    receiver.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            receiver.requests.append(headers | {"path": self.path})
            time.sleep(receiver.delay_s)
            status = receiver.answer
            if status == 200 and self.path == "/v1/traces" and headers["content-type"] == "application/x-protobuf":
                receiver.take(headers, body)
            elif status == 200:
                status = 404
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(status)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler


def _spans(request: ExportTraceServiceRequest) -> Iterator[Span]:
    for batch in request.resource_spans:
        resource = _plain(batch.resource.attributes)
        for scope in batch.scope_spans:
            for span in scope.spans:
                yield Span(
                    name=span.name,
                    trace=span.trace_id.hex(),
                    id=span.span_id.hex(),
                    parent=span.parent_span_id.hex(),
                    kind=WireSpan.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
                    attributes=_plain(span.attributes),
                    events=[(event.name, _plain(event.attributes)) for event in span.events],
                    links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
                    failed=span.status.code == ERROR,
                    status=span.status.message,
                    began=span.start_time_unix_nano / 1e9,
                    seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                    scope=scope.scope.name,
                    resource=resource,
                )


def _plain(attributes: Sequence[KeyValue] | Any) -> dict[str, Any]:
    return {one.key: _value(one.value) for one in attributes}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind) if kind else None
