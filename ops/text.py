"""Text for people: what hostile captions must not do to a terminal, and numbers with their units."""

from datetime import UTC, datetime

from audit import text

plain = text.plain
"""Here too, for those who show text and numbers."""


def one_line(text: str, *, limit: int = 600) -> str:
    """Escaped, on one line, and of bearable length."""
    shown = plain(" ".join(text.split()))
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def duration(seconds: float) -> str:
    """`12.3 s`, `4 min 05 s` or `3 h 20 min`."""
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02d} min"


def counted(number: int, noun: str) -> str:
    """`1 chunk`, `2,000 chunks`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def iso(seconds: float | None) -> str | None:
    """Seconds since the epoch as ISO 8601 in UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
