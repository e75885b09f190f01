"""Counting what an exporter loses. The SDK is imported here, and so only where something is exported."""

from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from telemetry.complaints import Complaints


class Counted(SpanExporter):
    """An exporter whose losses are counted."""

    def __init__(self, inner: SpanExporter) -> None:
        self._inner = inner

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """As the inner one does."""
        result = SpanExportResult.FAILURE
        try:
            result = self._inner.export(spans)
        finally:
            taken = result is SpanExportResult.SUCCESS
            Complaints.of_this_process().exported(len(spans), taken=taken)
        return result

    def shutdown(self) -> None:
        """As the inner one does."""
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """As the inner one does."""
        return self._inner.force_flush(timeout_millis)
