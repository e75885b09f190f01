"""The model's folder: its files and sizes, their sha256, and whether the weights fit the architecture."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from audit.errors import ModelRefused
from audit.models import NEEDED, WEIGHTS, model_directory
from audit.settings import Settings
from ops.doctor.child import told_by
from ops.doctor.lines import Line, ok, warning, wrong
from ops.model_showing import check_promises, directory_of

BYTES_A_SECOND = 50e6
"""What even a slow disk gives: so much longer may reading the files take."""
FETCH = "`caption-audit model verify` says more; `caption-audit model fetch` makes a fetched one whole"
START = "a worker would not start"


def reading_s(settings: Settings) -> float:
    """How long reading every byte of the model may take."""
    try:
        with os.scandir(model_directory(settings)) as entries:
            return sum(entry.stat().st_size for entry in entries if entry.is_file()) / BYTES_A_SECOND
    except (ModelRefused, OSError):
        return 0.0


def folder_lines(settings: Settings) -> Iterator[Line]:
    """Whether the folder is there, with every file and, where it was fetched, with the sizes that were fetched."""
    if settings.engine == "stub":
        yield ok("folder", "the stub engine reads no model")
        return
    try:
        directory = model_directory(settings)
    except ModelRefused as error:
        yield wrong("folder", error.detail, means=START, cure="fetch it, or set AUDIT_MODEL to one that is here")
        return
    weights = [name for name in WEIGHTS if (directory / name).is_file()]
    lacking = [name for name in NEEDED if not (directory / name).is_file()] + ([] if weights else [WEIGHTS[0]])
    if lacking:
        yield wrong("folder", f"{directory} lacks {', '.join(lacking)}", means=START, cure=FETCH)
        return
    size = sum(path.stat().st_size for path in directory.iterdir() if path.is_file())
    yield ok("folder", f"{directory}, {size / 1e6:,.1f} MB")


def checksum_lines(settings: Settings) -> Iterator[Line]:
    """Every byte against SHA256SUMS, and every text against what the engine understands."""
    from worker.engines.model_files import inspect_model

    directory = _there(settings)
    if directory is None:
        return
    try:
        files = inspect_model(directory, name=settings.model_name)
    except ModelRefused as error:
        yield wrong("files", error.detail, means=START, cure=FETCH)
        return
    try:
        check_promises(files)
    except ModelRefused as error:
        means = "nothing says whether these are the bytes that were published"
        yield warning("files", error.detail, means=means, cure=FETCH)
        return
    yield ok("files", f"{len(files.sha256)} have their sha256, revision {files.revision}")


def shape_lines(settings: Settings, environ: Mapping[str, str], *, limit_s: float) -> Iterator[Line]:
    """Names and shapes of the weights against the architecture, without reading the weights."""
    directory = _there(settings)
    if directory is None:
        return
    weights = next((name for name in WEIGHTS if (directory / name).is_file()), None)
    if weights is None:
        return
    surroundings = {**environ, "CUDA_VISIBLE_DEVICES": ""}
    told = told_by("worker.engines.shape_probe", str(directory), weights, environ=surroundings, limit_s=limit_s)
    if told["problem"]:
        cure = "config.json and the weights are of two models: fetch the folder again"
        yield wrong("state_dict", told["problem"], means=START, cure=cure)
    else:
        yield ok("state_dict", f"{told['tensors']} tensors of {weights} fit the architecture")


def _there(settings: Settings) -> Path | None:
    """The folder, if there is one to look into; folder_lines says when there is none."""
    if settings.engine == "stub":
        return None
    try:
        return directory_of(settings)
    except ModelRefused:
        return None
