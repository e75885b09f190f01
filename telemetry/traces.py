"""Spans: what was done, for how long, and as part of what. telemetry/exporting.py decides whether they go anywhere.

While they do not, none is made: the outermost one draws ids, so that log lines and outcomes can be joined by them, and
those within it cost a microsecond. Nothing from outside stands on a span but numbers and our own words: of an exception
its type, its code and where it came from, never its text.
"""

import random
import traceback
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, Protocol, Self

from opentelemetry import context, trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode

from audit.errors import AuditError, Permanent
from telemetry.span_names import attribute

NAME = "caption-audit"
KINDS = {"chunk": SpanKind.CONSUMER, "ring": SpanKind.PRODUCER}
MOST_CHARS = 120
"""Of a word that is told."""
MOST_STACK = 4000
DEEPEST = 8
"""Causes of an error that are followed."""

_here: ContextVar["_Open | None"] = ContextVar("span", default=None)
_tracers: dict[int, tuple[object, trace.Tracer]] = {}


class Seen(Protocol):
    """A part of the work that goes on."""

    def tell(self, **told: Any) -> None:
        """Put sizes and counts on its span: numbers, booleans, and words of our own. None is left out."""

    def fail(self, code: str) -> None:
        """It did not come to a good end."""

    def link(self, traceparent: str | None) -> None:
        """It has to do with that other span, given as W3C trace context writes it."""


class _Nothing:
    """Not recorded."""

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def tell(self, **told: Any) -> None:
        pass

    def fail(self, code: str) -> None:
        pass

    def link(self, traceparent: str | None) -> None:
        pass


_NOTHING = _Nothing()


class _Ids(_Nothing):
    """Not recorded, but with a trace id and a span id for all that is inside."""

    __slots__ = ("_token",)
    _token: Token[context.Context]

    def __enter__(self) -> Self:
        # 1 at least: ids of zeros are none.
        ids = SpanContext(random.getrandbits(128) | 1, random.getrandbits(64) | 1, is_remote=False)
        self._token = context.attach(trace.set_span_in_context(NonRecordingSpan(ids)))
        return self

    def __exit__(self, *_: object) -> None:
        context.detach(self._token)


class _Open:
    """A span around a block, child of the one that this thread is in."""

    __slots__ = ("_name", "_outer", "_span", "_token", "_told", "_tracer")
    _span: trace.Span
    _token: Token[context.Context]
    _outer: "Token[_Open | None]"

    def __init__(self, tracer: trace.Tracer, name: str, told: Mapping[str, Any]) -> None:
        self._tracer, self._name, self._told = tracer, name, told

    def __enter__(self) -> Self:
        kind = KINDS.get(self._name, SpanKind.INTERNAL)
        self._span = self._tracer.start_span(self._name, kind=kind, attributes=_attributes(self._told))
        self._token = context.attach(trace.set_span_in_context(self._span))
        self._outer = _here.set(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        _here.reset(self._outer)
        context.detach(self._token)
        if error is not None:
            self.note(error)
        self._span.end()

    def tell(self, **told: Any) -> None:
        if self._span.is_recording():
            self._span.set_attributes(_attributes(told))

    def fail(self, code: str) -> None:
        if self._span.is_recording():
            self._span.set_attribute("error.type", code[:MOST_CHARS])
            self._span.set_status(Status(StatusCode.ERROR, code[:MOST_CHARS]))

    def link(self, traceparent: str | None) -> None:
        if traceparent and self._span.is_recording():
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

            there = TraceContextTextMapPropagator().extract({"traceparent": traceparent}, context=context.Context())
            to = trace.get_current_span(there).get_span_context()
            if to.is_valid:
                self._span.add_link(to)

    def note(self, error: BaseException) -> None:
        """Its type, its code and its way here; what it says may quote what came from outside."""
        if not self._span.is_recording():
            return
        if isinstance(error, Permanent):  # found wrong, as it is there to: where in our code says nothing
            self.fail(error.code)
            return
        name = _type_of(error)
        code = error.code if isinstance(error, AuditError) else name
        told = {"exception.type": name, "exception.stacktrace": stack_of(error), "exception.escaped": "True"}
        self._span.add_event("exception", told | ({"exception.message": code} if code != name else {}))
        self.fail(code)

    def abandon(self, code: str) -> None:
        """End it and all that it is in: the process leaves in the middle of them."""
        self.fail(code)
        self._span.end()
        outer = self._outer.old_value
        if isinstance(outer, _Open):
            outer.abandon(code)


def span(name: str, **told: Any) -> AbstractContextManager[Seen]:
    """A span around the block; what is told stands on it as attributes. An exception is noted, and goes on."""
    made_by = tracer()
    if made_by is not None:
        return _Open(made_by, name, told)
    return _NOTHING if trace.get_current_span().get_span_context().is_valid else _Ids()


def here() -> Seen:
    """The span that this thread is in."""
    return _here.get() or _NOTHING


def tracer() -> trace.Tracer | None:
    """Of the provider that was set up for this process, by us or by somebody else; None without one."""
    provider = trace.get_tracer_provider()
    known = _tracers.get(id(provider))
    if known is not None:
        return known[1]
    if isinstance(provider, trace.ProxyTracerProvider):
        return None
    made = provider.get_tracer(NAME, _version())
    if isinstance(made, trace.NoOpTracer):  # OTEL_SDK_DISABLED
        return None
    _tracers.clear()
    _tracers[id(provider)] = (provider, made)  # with the provider, so that its id is nobody else's
    return made


def ids() -> tuple[str, str] | None:
    """Trace id (32 hex digits) and span id (16) of where this thread is; None outside of every span."""
    there = trace.get_current_span().get_span_context()
    if not there.is_valid:
        return None
    return trace.format_trace_id(there.trace_id), trace.format_span_id(there.span_id)


def traceparent() -> str | None:
    """Where this thread is, as W3C trace context writes it; None outside of every span."""
    found = ids()
    flags = trace.get_current_span().get_span_context().trace_flags
    return f"00-{found[0]}-{found[1]}-{flags:02x}" if found else None


def abandon(code: str) -> None:
    """End every span that this thread is in as failed: the process is about to leave."""
    open_span = _here.get()
    if open_span is not None:
        open_span.abandon(code)


@contextmanager
def within(outer: context.Context | None) -> Iterator[None]:
    """Go on in a context that came from elsewhere, unless this thread is in a span already."""
    if outer is None or trace.get_current_span().get_span_context().is_valid:
        yield
        return
    token = context.attach(outer)
    try:
        yield
    finally:
        context.detach(token)


def stack_of(error: BaseException) -> str:
    """Types and places of an error and its causes, without their texts; the latest part when it is long."""
    parts: list[str] = []
    one: BaseException | None = error
    while one is not None and len(parts) < DEEPEST:
        parts.append("".join(traceback.format_tb(one.__traceback__)) + _type_of(one) + "\n")
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    return "\ncaused:\n\n".join(reversed(parts))[-MOST_STACK:]


def _type_of(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _attributes(told: Mapping[str, Any]) -> dict[str, Any]:
    return {attribute(word): _plain(value) for word, value in told.items() if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, tuple | list):
        return [str(one)[:MOST_CHARS] for one in value]
    return str(value)[:MOST_CHARS]


def _version() -> str:
    from importlib.metadata import version

    return version(NAME)
