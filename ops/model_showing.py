"""`model verify`, `model list` and `model show`: what is here, whether it is whole, what the engine makes of it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit.errors import ModelRefused
from audit.models import Installed, installed, model_directory, read_record, revisions_in
from audit.settings import DEMO_MODEL, Settings
from ops.show import console, print_json
from ops.text import iso, one_line, plain
from worker.engines.describe import Description, describe, precision
from worker.engines.model_files import CHECKSUMS, ModelFiles, inspect_model, write_checksums
from worker.engines.staging import STAGING, bytes_in
from worker.engines.weights_file import inspect_weights

if TYPE_CHECKING:
    from collections.abc import Mapping

REVISION = re.compile(r"[0-9a-f]{12}")


def verify_and_tell(settings: Settings, *, write: bool, as_json: bool) -> int:
    """Say whether the model is whole; returns the exit status. Raises ModelRefused when there is no such model."""
    directory = directory_of(settings)
    try:
        if write:
            write_checksums(directory)
        files = inspect_model(directory, name=settings.model_name)
        check_promises(files)
    except ModelRefused as error:
        return _refused(settings, directory, error, as_json=as_json, what="is not whole")
    told = {"model": files.name, "directory": str(directory), "revision": files.revision, "files": len(files.sha256)}
    if as_json:
        print_json(told | {"ok": True, "reason": None})
    else:
        print(f"{files.name}: revision {files.revision}, {len(files.sha256)} files are what {CHECKSUMS} says")
    return 0


def directory_of(settings: Settings) -> Path:
    """The model's directory, also when it is a fetched one that lacks files: that is what verify is there to say."""
    try:
        return model_directory(settings)
    except ModelRefused:
        name = settings.model_name
        if not name.startswith("/") and "/" in name and "@" not in name:
            for one in installed(settings.home, name):
                return one.directory
        raise


def check_promises(files: ModelFiles) -> None:
    """Raise ModelRefused unless there are checksums, and the name of a fetched folder is its revision."""
    if not (files.directory / CHECKSUMS).exists():
        cure = "where the folder is known to be good, `caption-audit model verify DIR --write-checksums` makes it"
        raise ModelRefused("model_checksum", f"{files.directory}: no {CHECKSUMS} to compare with; {cure}")
    folder = files.directory.name
    if read_record(files.directory) and REVISION.fullmatch(folder) and folder != files.revision:
        raise ModelRefused(
            "model_checksum", f"{files.directory}: its files are revision {files.revision}; fetch it again"
        )


def list_and_tell(settings: Settings, *, as_json: bool) -> None:
    """Every model here, one a line."""
    used = _used(settings)
    rows = [_row(one, used=used) for one in _all(settings)]
    half = list(_half_fetched(settings.home))
    if as_json:
        print_json({"models": rows, "half_fetched": half})
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("", "model", "revision", "size", "weights", "fetched", "state"):
        table.add_column(title, no_wrap=title != "state", justify="right" if title == "size" else "left")
    for row in rows:
        state = "complete" if row["complete"] else f"incomplete: {row['lacks']}"
        table.add_row(
            "*" if row["used"] else "",
            plain(str(row["model"])),
            plain(str(row["revision"])),
            f"{row['bytes'] / 1e6:,.1f} MB",
            str(row["precision"] or "?"),
            str(row["fetched_at"] or "-")[:10],
            plain(state),
        )
    console().print(table)
    for entry in half:
        print(one_line(f"half fetched: {entry['name']}, {entry['bytes'] / 1e6:,.1f} MB; `model fetch` goes on with it"))


def _all(settings: Settings) -> Iterator[Installed]:
    yield Installed(directory=DEMO_MODEL, revision="shipped", hub_id="demo", asked=None, since=0.0, lacks=None)
    root = settings.home / "models"
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        if folder.is_dir() and not folder.name.startswith("."):
            found = revisions_in(folder)
            yield from sorted(found, key=lambda one: (one.lacks is None, one.since, one.revision), reverse=True)


def _used(settings: Settings) -> Path | None:
    try:
        return model_directory(settings)
    except ModelRefused:
        return None


def _row(one: Installed, *, used: Path | None) -> "Mapping[str, Any]":
    flat = not REVISION.fullmatch(one.revision)
    name = one.hub_id or (one.directory if flat else one.directory.parent).name
    return {
        "model": name,
        "revision": one.revision,
        "asked": one.asked,
        "bytes": bytes_in(one.directory),
        "precision": _precision(one.directory),
        "fetched_at": iso(one.since or None),
        "complete": one.lacks is None,
        "lacks": one.lacks,
        "used": one.directory == used,
        "directory": str(one.directory),
    }


def _precision(directory: Path) -> str | None:
    try:
        return precision(inspect_weights(directory / "model.safetensors"))
    except (ModelRefused, OSError):
        return None


def _half_fetched(home: Path) -> Iterator[dict[str, Any]]:
    for staging in sorted((home / "models").glob(f"*/{STAGING}*")):
        yield {"name": staging.parent.name, "bytes": bytes_in(staging / "files"), "directory": str(staging)}


def show_and_tell(settings: Settings, *, as_json: bool) -> int:
    """Describe the model; returns 1 when the engine refuses it."""
    directory = model_directory(settings)
    try:
        description = describe(inspect_model(directory, name=settings.model_name))
    except ModelRefused as error:
        return _refused(settings, directory, error, as_json=as_json, what="would be refused by a worker")
    if as_json:
        print_json(description.to_json() | {"refused": None})
    else:
        for line in _lines(description):
            print(plain(line))
    return 0


def _lines(described: Description) -> Iterator[str]:
    told = described.to_json()
    fetched, sizes, limits, prompt = told["fetched"], told["architecture"], told["limits"], told["prompt"]
    yield f"{told['model']}: revision {told['revision']}, {told['bytes'] / 1e6:,.1f} MB in {told['directory']}"
    if fetched:
        asked = f"{fetched['id']}, {fetched['asked']}, newest commit {fetched['hub_commit'] or 'not said'}"
        yield f"  fetched       {fetched['fetched_at']} from {fetched['hub']}: {asked}"
    millions = f"{sizes['parameters'] / 1e6:,.1f} million parameters" if sizes["parameters"] else "parameters unknown"
    yield f"  weights       {told['weights']['file']}, {told['weights']['precision'] or 'pickled'}, {millions}"
    yield (
        f"  architecture  {sizes['encoder_layers']} encoder and {sizes['decoder_layers']} decoder layers, d_model "
        f"{sizes['d_model']}, {sizes['encoder_attention_heads']} heads, feed-forward {sizes['encoder_ffn_dim']}, "
        f"{sizes['resnet_type']}, {sizes['embedding_rows']:,} embedding rows"
    )
    yield f"  prompt        {prompt['caption']!r}"
    yield f"  with premise  {prompt['premise']!r}" if prompt["premise"] else "  with premise  refused"
    yield "  labels        " + ", ".join(f"{label} = token {number}" for label, number in told["labels"].items())
    yield f"  limits        {limits['words']} words, {limits['tokens']} tokens, {limits['image_px']} px a side"
    yield f"  checksums     {told['checksums'] or 'none: nothing says whether it is the file that was fetched'}"
    yield "the engine"
    for sentence in told["engine"]:
        yield f"  - {sentence}"


def _refused(settings: Settings, directory: Path, error: ModelRefused, *, as_json: bool, what: str) -> int:
    if as_json:
        told = {"model": settings.model_name, "directory": str(directory)}
        print_json(
            told | {"ok": False, "reason": error.detail, "refused": {"code": error.code, "detail": error.detail}}
        )
    else:
        print(one_line(f"{settings.model_name} {what}: {error.detail} ({error.code})"))
    return 1
