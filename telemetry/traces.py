"""Spans: what was done, for how long, and as part of what; the OTEL_* variables of OpenTelemetry decide where they go.

Without an exporter spans are not recorded, but have ids all the same, so that log lines can be joined by them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

NAME = "caption-audit"
_ids_alone = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)


class Seen(Protocol):
    """A part of the work that goes on; `tell` puts sizes and counts on its span."""

    def tell(self, **told: Any) -> None:
        """Add attributes; numbers, words and booleans."""
        ...


class _Span:
    __slots__ = ("_span",)

    def __init__(self, inner: trace.Span) -> None:
        self._span = inner

    def tell(self, **told: Any) -> None:
        if self._span.is_recording():
            self._span.set_attributes(told)


def tracer() -> trace.Tracer:
    """Whoever has set up a provider for the whole process decides; else ours."""
    provider = trace.get_tracer_provider()
    real = provider if isinstance(provider, TracerProvider) else _ids_alone
    return real.get_tracer(NAME)


@contextmanager
def span(name: str, **told: Any) -> Iterator[Seen]:
    """A span around the block, child of the one that this thread is in."""
    with tracer().start_as_current_span(name, attributes=told) as inner:
        yield _Span(inner)


def ids() -> tuple[str, str] | None:
    """Trace id (32 hex digits) and span id (16) of where this thread is; None outside of every span."""
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)
