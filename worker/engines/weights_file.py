"""What can be known of a weights file without torch: is it whole, and which tensors does it name."""

import json
import math
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audit.errors import ModelRefused

MAX_HEADER_BYTES = 32_000_000
"""A safetensors header of OFA-huge is about 0.2 MB; the format itself allows 100 MB."""
BYTES_PER_ELEMENT = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsFile:
    """Where the weights are. `shapes` and `dtypes` are by tensor name; None for pickled files: only torch can tell.

    Types are those of safetensors: F32, BF16 ...
    """

    name: str
    shapes: Mapping[str, tuple[int, ...]] | None
    dtypes: Mapping[str, str] | None


def inspect_weights(path: Path) -> WeightsFile:
    """Say what the file holds; raises ModelRefused when it is cut off or malformed."""
    if path.suffix == ".safetensors":
        header = _safetensors_header(path)
        shapes = _shapes(path, header)
        return WeightsFile(name=path.name, shapes=shapes, dtypes={name: str(header[name]["dtype"]) for name in shapes})
    _check_pickled(path)
    return WeightsFile(name=path.name, shapes=None, dtypes=None)


def _safetensors_header(path: Path) -> dict[str, Any]:
    """Read the header: 8 bytes of length, then JSON (https://github.com/huggingface/safetensors#format)."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
            raise _broken(
                path, f"its header says {length} bytes, but the file has {size}: truncated, or no safetensors"
            )
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise _broken(path, "its header is not JSON") from error
    if not isinstance(header, dict):
        raise _broken(path, "its header is not a JSON object")
    header.pop("__metadata__", None)
    expected = 8 + length + max((_entry(path, name, entry)[1] for name, entry in header.items()), default=0)
    if size != expected:
        raise _broken(path, f"it has {size} bytes, but its header describes {expected}: truncated or overwritten")
    return header


def _shapes(path: Path, header: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: _entry(path, name, entry)[0] for name, entry in header.items()}


def _entry(path: Path, name: str, entry: Any) -> tuple[tuple[int, ...], int]:
    """One tensor's shape and the offset after its last byte."""
    try:
        shape, (start, end) = tuple(entry["shape"]), entry["data_offsets"]
        wanted = math.prod(shape) * BYTES_PER_ELEMENT[entry["dtype"]]
        good = all(isinstance(part, int) and part >= 0 for part in (*shape, start, end)) and end - start == wanted
    except (KeyError, TypeError, ValueError):
        good = False
    if not good:
        raise _broken(path, f"its header's entry for {name!r} makes no sense")
    return shape, end


def _check_pickled(path: Path) -> None:
    """torch.save writes a zip archive, whose directory stands at the end: a cut-off file has none."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise _broken(
            path, f"it is no whole torch archive ({error}): truncated, or saved by torch before 1.6"
        ) from error
    if not any(os.path.basename(name) == "data.pkl" for name in names):
        raise _broken(path, "it is a zip archive, but not one that torch.save wrote (no data.pkl)")


def _broken(path: Path, reason: str) -> ModelRefused:
    return ModelRefused("model_weights", f"{path}: {reason}")
