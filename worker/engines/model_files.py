"""A model directory, looked at without torch: which files it has, whether they are whole, and what they say.

The worker's parent process does this once; its children get the answer and check with check_unchanged() that the files
are still the same. `python -m worker.engines.model_files DIRECTORY` shows a directory, and with --write it writes its
SHA256SUMS.
"""

import hashlib
import os
import re
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from audit.errors import ModelRefused
from audit.models import NEEDED, WEIGHTS
from worker.engines.canary import FILE as CANARY
from worker.engines.canary import KnownAnswer, read_known_answers
from worker.engines.ofa_spec import MAX_JSON_BYTES, OfaSpec, answers_file, read_json, read_spec
from worker.engines.weights_file import WeightsFile, inspect_weights

CHECKSUMS = "SHA256SUMS"
CHECKSUM_LINE = re.compile(r"([0-9a-f]{64}) [ *](?:\./)?(.+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStamp:
    """What changes when a file is written or replaced: bytes, nanoseconds of the last write, inode."""

    size: int
    mtime_ns: int
    inode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """A directory that was inspected; plain values, so that it can be handed to child processes.

    `sha256` and `stamps` are by file name; `revision` is short and changes with any byte that can change an answer.
    `known_answers` are the questions of canary.json, if the directory brings one.
    """

    directory: Path
    name: str
    spec: OfaSpec
    weights: WeightsFile
    known_answers: tuple[KnownAnswer, ...]
    sha256: Mapping[str, str]
    stamps: Mapping[str, FileStamp]
    revision: str


def inspect_model(directory: Path, *, name: str | None = None) -> ModelFiles:
    """Read, hash and validate a model directory; raises ModelRefused naming the file and the reason.

    `name` is what the ledger calls the model; default: the directory's own name. Reads every byte once: 1.9 GB of
    weights take some seconds.
    """
    try:
        return _inspected(Path(os.path.realpath(directory)), name=name)
    except OSError as error:
        where = error.filename or directory
        raise ModelRefused("model_file", f"{where}: {error.strerror}; check its owner and its mode") from error


def _inspected(directory: Path, *, name: str | None) -> ModelFiles:
    if not directory.is_dir():
        raise ModelRefused("model_file", f"{directory}: no such directory")
    # Checksums first: a damaged file is better called damaged than malformed.
    stamps, sha256 = _check_listed(directory)
    listed = set(sha256)
    used = _used_files(directory)
    needed = [*used, *_canary_files(directory)]
    for file in needed:
        _check_regular(directory, file)
        if listed and file not in listed:
            raise ModelRefused("model_checksum", f"{directory / file}: {CHECKSUMS} does not list it")
        stamps.setdefault(file, _stamp(directory / file))
        sha256[file] = sha256.get(file) or _sha256(directory / file)
    spec = read_spec(directory, read_json(directory / "configuration.json"))
    weights = inspect_weights(directory / next(file for file in used if file in WEIGHTS))
    _check_embedding(directory, spec, weights)
    files = ModelFiles(
        directory=directory,
        name=name or directory.name,
        spec=spec,
        weights=weights,
        known_answers=read_known_answers(directory),
        sha256=sha256,
        stamps=stamps,
        revision=hashlib.sha256("\n".join(f"{sha256[file]} {file}" for file in used).encode()).hexdigest()[:12],
    )
    check_unchanged(files)
    return files


def check_unchanged(files: ModelFiles) -> None:
    """Raise ModelRefused when a file was written or replaced since inspect_model(); costs a stat a file."""
    for file, stamp in files.stamps.items():
        path = files.directory / file
        try:
            now = _stamp(path)
        except FileNotFoundError:
            now = None
        if now != stamp:
            raise ModelRefused("model_changed", f"{path}: it has changed since it was checked; start the worker anew")


def write_checksums(directory: Path) -> Path:
    """Write SHA256SUMS for every file of the directory, as `sha256sum *` would; returns its path.

    What stood under that name is replaced, at once: a link is not followed, and a pipe is not waited for.
    """
    directory = Path(os.path.realpath(directory))
    entries = [entry for entry in os.scandir(directory) if not entry.is_dir(follow_symlinks=False)]
    names = sorted(entry.name for entry in entries if not entry.name.startswith(CHECKSUMS))
    for file in names:
        _check_regular(directory, file)
    path, fresh = directory / CHECKSUMS, directory / f"{CHECKSUMS}.{os.getpid()}"
    lines = "".join(f"{_sha256(directory / file)}  {file}\n" for file in names)
    try:
        with fresh.open("x", encoding="utf-8") as file_of_sums:
            file_of_sums.write(lines)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    return path


def _used_files(directory: Path) -> list[str]:
    """The files that an answer depends on, in a fixed order; raises ModelRefused when one is missing."""
    for file in NEEDED:
        _check_regular(directory, file)
    weights = [file for file in WEIGHTS if os.path.lexists(directory / file)]
    if not weights:
        split = sorted(path.name for path in directory.glob("*.index.json"))
        hint = f" (weights split in several files, as {split[0]} says, are not supported)" if split else ""
        raise ModelRefused("model_file", f"{directory}: neither {' nor '.join(WEIGHTS)} is there{hint}")
    configuration = read_json(directory / "configuration.json")
    answers = answers_file(configuration, directory / "configuration.json")
    # safetensors wins when both are there, as in modelscope.
    return [*NEEDED, answers, weights[0]]


def _canary_files(directory: Path) -> list[str]:
    """canary.json and its pictures, or nothing."""
    if not os.path.lexists(directory / CANARY):
        return []
    _check_regular(directory, CANARY)
    return [CANARY, *(known.image_file for known in read_known_answers(directory))]


def _check_regular(directory: Path, file: str) -> None:
    """Refuse what is missing, a link that leads elsewhere, a pipe: opening a pipe would wait for ever."""
    path = directory / file
    if not os.path.lexists(path):
        raise ModelRefused("model_file", f"{path}: missing")
    real = os.path.realpath(path)
    if not real.startswith(f"{directory}{os.sep}"):
        raise ModelRefused("model_file", f"{path}: a link that leads out of the directory, to {real}")
    if not os.path.exists(real) or not stat.S_ISREG(os.stat(real).st_mode):
        raise ModelRefused("model_file", f"{path}: not a regular file")


def _check_listed(directory: Path) -> tuple[dict[str, FileStamp], dict[str, str]]:
    """Stamps and hashes of the files that SHA256SUMS lists, after they were compared; nothing without such a file."""
    stamps, sha256 = {}, {}
    for file, wanted in _listed(directory).items():
        _check_regular(directory, file)
        stamps[file], sha256[file] = _stamp(directory / file), _sha256(directory / file)
        if sha256[file] != wanted:
            raise ModelRefused("model_checksum", f"{directory / file}: its sha256 is not the one in {CHECKSUMS}")
    return stamps, sha256


def _listed(directory: Path) -> dict[str, str]:
    """What SHA256SUMS says, by file name; nothing when there is no such file."""
    path = directory / CHECKSUMS
    if not os.path.lexists(path):
        return {}
    _check_regular(directory, CHECKSUMS)
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ModelRefused("model_checksum", f"{path}: more than the {MAX_JSON_BYTES} bytes that it may have")
    listed = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        match = CHECKSUM_LINE.fullmatch(line)
        if match is None or match[2] != os.path.basename(match[2]):
            raise ModelRefused("model_checksum", f"{path}: not a line of sha256sum for a file here: {line[:100]!r}")
        listed[match[2]] = match[1]
    return listed


def _check_embedding(directory: Path, spec: OfaSpec, weights: WeightsFile) -> None:
    if weights.shapes is None:
        return
    tables = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "decoder.output_projection.weight")
    found = {name: weights.shapes[name] for name in tables if name in weights.shapes}
    if not found:
        raise ModelRefused("model_weights", f"{directory / weights.name}: no token embedding, so this is no OFA")
    for name, shape in found.items():
        if shape != spec.embedding_shape:
            wanted = f"config.json and vocab.json say {spec.embedding_shape}"
            raise ModelRefused("model_weights", f"{directory / weights.name}: {name} is {shape}, but {wanted}")


def _stamp(path: Path) -> FileStamp:
    status = os.stat(path)
    return FileStamp(size=status.st_size, mtime_ns=status.st_mtime_ns, inode=status.st_ino)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _main(arguments: list[str]) -> int:
    directory, *options = arguments or [""]
    if not directory or options not in ([], ["--write"]):
        print("usage: python -m worker.engines.model_files DIRECTORY [--write]", file=sys.stderr)
        return 2
    try:
        if options:
            write_checksums(Path(directory))
        files = inspect_model(Path(directory))
    except ModelRefused as error:
        print(error, file=sys.stderr)
        return error.exit_status
    print(f"{files.name}: revision {files.revision}, {len(files.sha256)} files")
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
