"""The command `submit`: a manifest becomes a batch."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audit.errors import BrokerUnavailable
from audit.message import Lane
from audit.policy import Policy
from audit.verdict import Label
from ops.arguments import JsonOption, ManifestFormat, examples

if TYPE_CHECKING:
    from audit.settings import Settings
    from producer import Handle


def register(app: typer.Typer) -> None:
    """Add the command."""
    epilog = examples(
        "caption-audit submit pairs.csv --watch",
        "caption-audit submit pairs.jsonl --image-root /data/shop --name spring --json",
        "caption-audit submit pairs.csv --flag-label No --flag-label Maybe",
        "caption-audit submit pairs.csv --flag-p-no 0.3 --again",
        "zcat pairs.csv.gz | caption-audit submit - --format csv --image-root /data/shop",
    )
    app.command(epilog=epilog)(submit)


def submit(
    manifest: Annotated[str, typer.Argument(metavar="FILE", help="CSV, TSV or JSON Lines; `-` is standard input.")],
    *,
    name: Annotated[str | None, typer.Option(help="A name for people; by default the file's.")] = None,
    image_root: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Images are inside of it; by default the file's folder.")
    ] = None,
    id_column: Annotated[str, typer.Option(help="Column with the pair's id.")] = "id",
    image_column: Annotated[str, typer.Option(help="Column with the picture's path or URL.")] = "image",
    caption_column: Annotated[str, typer.Option(help="Column with the caption.")] = "caption",
    premise_column: Annotated[str, typer.Option(help="Column with a text to read beside the picture.")] = "premise",
    kind: Annotated[ManifestFormat | None, typer.Option("--format", help="By default from the file's ending.")] = None,
    flag_label: Annotated[
        list[Label] | None,
        typer.Option(case_sensitive=False, metavar="LABEL", help="Flag Yes, No or Maybe; repeatable. Default: No."),
    ] = None,
    flag_p_no: Annotated[
        float | None, typer.Option(help="Flag p_no of at least this, whatever the label; alone, it replaces the label.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="A new batch, though the same file was submitted.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it to its end; exit status 3: with failures.")] = False,
    as_json: JsonOption = False,
    lane: Annotated[Lane, typer.Option(help="Interactive goes before bulk.")] = Lane.BULK,
    tenant: Annotated[str, typer.Option(help="Tenants take turns.")] = "default",
    priority: Annotated[int, typer.Option(help="Higher goes first within its lane.")] = 0,
    model: Annotated[str | None, typer.Option(help="Judge with this model; by default AUDIT_MODEL.")] = None,
) -> int:
    """Register every pair of FILE in the ledger and start its judging.

    The same file with the same options is the same batch: it is found, not judged twice.
    """
    import producer
    from audit.settings import read_settings

    settings = read_settings()
    columns = producer.ColumnNames(id=id_column, image=image_column, caption=caption_column, premise=premise_column)
    try:
        handle = producer.submit(
            manifest,
            settings=settings,
            name=name,
            file_format=producer.Format(kind.value) if kind else None,
            columns=columns,
            image_root=image_root,
            policy=policy_of(flag_label, flag_p_no),
            again=again,
            tenant=tenant,
            lane=lane,
            priority=priority,
            model=model,
            on_progress=_show_registering if sys.stderr.isatty() else None,
        )
    except KeyboardInterrupt:
        print("\ninterrupted: nothing of it is judged yet; submitting the file again completes it", file=sys.stderr)
        return 130
    with handle:
        return _report(handle, settings, watch=watch, as_json=as_json)


def policy_of(labels: list[Label] | None, p_no_at_least: float | None) -> Policy:
    """The policy of the two options; without either it flags the label No."""
    if labels:
        return Policy(labels=frozenset(labels), p_no_at_least=p_no_at_least)
    return Policy() if p_no_at_least is None else Policy(labels=frozenset(), p_no_at_least=p_no_at_least)


def _report(handle: "Handle", settings: "Settings", *, watch: bool, as_json: bool) -> int:
    from ops import show
    from ops.asking import follow_or_say_how, print_summary
    from ops.text import one_line
    from ops.watching import exit_status

    told: dict[str, Any] = {
        "batch": handle.batch,
        "name": handle.name,
        "pairs": handle.pairs,
        "chunks": handle.chunks,
        "new": handle.new,
        "duplicates": handle.duplicates,
        "failed": handle.failed,
        "sent": handle.sent,
    }
    lines = _lines(handle, settings)
    for line in lines[1:] if as_json else lines:
        print(line, file=sys.stderr if as_json else sys.stdout, flush=True)
    for note in handle.notes:
        print(f"note: {one_line(note)}", file=sys.stderr)
    if not watch or not handle.sent:  # without Redis there may be nothing to watch for a long time
        if as_json:
            show.print_json(told)
        return 0 if handle.sent else BrokerUnavailable.exit_status
    seen = follow_or_say_how(handle.database, handle.batch, settings)
    if as_json:
        last = seen or handle.progress()
        show.print_json(told | {name: show.progress_json(last)[name] for name in ("state", "counts")})
    elif seen is not None:
        print_summary(handle.database, seen, settings)
    return 130 if seen is None else exit_status(seen)


def _lines(handle: "Handle", settings: "Settings") -> list[str]:
    from ops.hints import typed
    from ops.text import counted, plain

    what = "is new" if handle.new else "was submitted before (--again judges it anew)"
    pairs, chunks = counted(handle.pairs, "pair"), counted(handle.chunks, "chunk")
    lines = [f"batch {handle.batch} ({plain(handle.name)}) {what}: {pairs} in {chunks}"]
    if handle.duplicates:
        lines.append(f"  left out as repetitions: {counted(handle.duplicates, 'row')}")
    if handle.new and handle.failed:
        lines.append(f"  failed at once: {counted(handle.failed, 'row')} that cannot be judged")
    if not handle.new and handle.progress().state == "cancelled":
        lines.append("  it was cancelled, and stays so: --again judges the file anew")
    if handle.problem:
        up, sweep = typed("up", settings), typed("sweep", settings)
        cure = f"any worker sends it (`{up}` starts one with a Redis), or `{sweep}`"
        lines.append(f"  {plain(handle.problem)}; the batch is registered: {cure}")
    return lines


def _show_registering(done: int, total: int) -> None:
    from ops.text import counted

    end = "\n" if done >= total else ""
    print(f"\rregistered {done:,} of {counted(total, 'row')}", end=end, file=sys.stderr, flush=True)
