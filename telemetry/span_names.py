"""The spans there are, and what each of them tells; docs/traces.md shows this table, and tests hold both to the code.

What is told goes by short words in the work's own code. OpenTelemetry's semantic conventions have a name for some of
them, the rest is ours: `caption_audit.` and the word. A word with a dot is somebody's own name and stays as it is.
"""

from dataclasses import dataclass

NAMES = {
    "messages": "messaging.batch.message_count",
    "system": "messaging.system",
    "operation": "messaging.operation.type",
    "bytes": "caption_audit.image.bytes",
    "width": "caption_audit.image.width",
    "height": "caption_audit.image.height",
    "format": "caption_audit.image.format",
}


def attribute(word: str) -> str:
    """The name of an attribute on a span."""
    found = NAMES.get(word)
    if found is None:
        found = NAMES[word] = word if "." in word else f"caption_audit.{word}"
    return found


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of span: whose children it is, what it means, and the words that it tells."""

    parents: tuple[str, ...]
    means: str
    tells: tuple[str, ...] = ()


SPANS = {
    "submit": Kind((), "a manifest becomes a batch", ("batch", "pairs", "chunks", "duplicates", "failed", "new")),
    "register": Kind(("submit",), "its pairs are written to the ledger", ("rows", "batch", "new")),
    "ring": Kind(("submit",), "first messages to Redis", ("system", "operation", "messages")),
    "chunk": Kind(
        (),
        "a worker's process has a chunk in hand; links to the `submit` that it comes from",
        (*("batch", "chunk", "system", "operation", "attempt", "careful", "pairs", "queue_wait_s", "ending"),),
    ),
    "claim": Kind(("chunk",), "taking it in the ledger", ("refusal",)),
    "preprocess": Kind(("chunk",), "one pair: texts, picture, cache", ("pair", "cached", "flags")),
    "fetch": Kind(("preprocess",), "the picture's bytes", ("bytes",)),
    "decode": Kind(("preprocess",), "bytes to pixels", ("width", "height", "format", "careful")),
    "inference": Kind(("chunk",), "one pass of the model over a micro-batch", ("pairs", "tokens")),
    "alone": Kind(("chunk",), "a pair that a pass failed on, by itself", ("tokens",)),
    "postprocess": Kind(("chunk",), "scores to outcomes", ("pairs", "failed")),
    "record": Kind(("chunk",), "outcomes to the ledger, which renews the lease", ("pairs", "recorded")),
    "renew": Kind(("chunk",), "a longer lease, since it gets on"),
    "mark": Kind(("chunk",), "after a death: which pair is about to be touched", ("pair", "at")),
    "release": Kind(("chunk",), "giving back what is not judged", ("charged",)),
}


def table() -> str:
    """For docs/traces.md: `python -m telemetry.span_names` prints it."""
    rows = ["| span | in | is | tells |", "|---|---|---|---|"]
    for name, kind in SPANS.items():
        inside = ", ".join(f"`{one}`" for one in kind.parents) or "-"
        rows.append(f"| `{name}` | {inside} | {kind.means} | {', '.join(kind.tells) or '-'} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(table(), end="")
