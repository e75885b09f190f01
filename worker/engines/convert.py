"""From pytorch_model.bin to model.safetensors: tensors alone, every one compared, in a process of its own.

A .bin is a pickle. torch.load(weights_only=True) builds nothing but tensors of it and refuses the rest; that happens in
a child process with bounded memory and time, so that a hostile file can cost no more than itself.
"""

import os
import re
import resource
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from audit.errors import ModelRefused, Permanent
from worker.images.careful import without_secrets

LIMIT_S = 1800
MEMORY_BYTES = 6_000_000_000
"""Address space that importing torch may take; the file's own size is added several times."""
TIED_BY_OFA = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
"""modelscope makes these two one table by itself, so the second is left out. The output projection is written even when
it is the same table: modelscope would leave it random."""


def convert(source: Path, target: Path) -> None:
    """Write `target` anew, or nothing of it; raises ModelRefused when the file is no mapping of names to tensors.

    Raises Permanent (`disk_full`, `conversion_failed`).
    """
    bound = MEMORY_BYTES + 5 * source.stat().st_size
    program = [sys.executable, "-m", "worker.engines.convert", str(source), str(target), str(bound)]
    root = str(Path(__file__).resolve().parents[2])
    # What reads a stranger's pickle needs no passwords.
    process = subprocess.Popen(
        program,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**without_secrets(os.environ), "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    try:
        _, errors = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        raise Permanent("conversion_failed", f"{source}: not converted within {LIMIT_S} s") from None
    finally:
        if process.poll() is None:  # too slow, or interrupted
            process.kill()
            process.communicate()
        _partial(target).unlink(missing_ok=True)
    if process.returncode:
        raise _failure(source, process.returncode, errors)


def _failure(source: Path, status: int, errors: str) -> Permanent:
    last = (errors.strip().splitlines() or [f"status {status}"])[-1][:400]
    if status == ModelRefused.exit_status:
        return ModelRefused("model_weights", last)
    if "No space left" in last or "File too large" in last:
        return Permanent("disk_full", f"{source}: no room for it as safetensors; make room, then fetch again")
    return Permanent("conversion_failed", f"{source}: {last}")


def _partial(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def _run(source: Path, target: Path) -> None:
    from safetensors.torch import save_file

    tensors = _written(_read(source))
    partial = _partial(target)
    try:
        save_file(tensors, partial, metadata={"format": "pt"})
    except Exception as error:
        with suppress(OSError):
            partial.unlink()
        # safetensors has an error of its own for what the system refuses.
        raise OSError(str(error)) from error
    _compare(tensors, partial)
    partial.replace(target)


def _read(source: Path) -> dict[str, Any]:
    import torch

    try:
        state = torch.load(source, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        # torch's own text goes on for a page, and recommends to load such files without this safeguard.
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"asks for {named[1][:100]}, which is no tensor" if named else f"is damaged ({type(error).__name__})"
        raise ModelRefused("model_weights", f"{source}: it {what}; nothing of it was run") from error
    if not isinstance(state, Mapping) or not state:
        raise ModelRefused("model_weights", f"{source}: not a mapping of names to tensors")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
            raise ModelRefused("model_weights", f"{source}: {str(name)[:100]!r} is no plain tensor")
    return dict(state)


def _written(state: dict[str, Any]) -> dict[str, Any]:
    """Each tensor with memory of its own, as the format wants it, in its own precision."""
    import torch

    first, second = (state.get(name) for name in TIED_BY_OFA)
    if first is not None and second is not None and first.shape == second.shape and torch.equal(first, second):
        del state[TIED_BY_OFA[1]]
    written: dict[str, Any] = {}
    seen: set[int] = set()
    for name, value in state.items():
        place = value.untyped_storage().data_ptr()
        whole = value.untyped_storage().nbytes() == value.numel() * value.element_size()
        own = value.numel() == 0 or (place not in seen and value.is_contiguous() and whole)
        seen.add(place)
        written[name] = value if own else value.clone(memory_format=torch.contiguous_format)
    return written


def _compare(tensors: Mapping[str, Any], path: Path) -> None:
    """Byte by byte, so that not-a-number equals itself."""
    import torch
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        if set(file.keys()) != set(tensors):
            raise RuntimeError("other names were written than were read")
        for name, value in tensors.items():
            back = file.get_tensor(name)
            same = back.dtype == value.dtype and back.shape == value.shape
            if not same or not torch.equal(
                back.reshape(-1).view(torch.uint8), value.contiguous().reshape(-1).view(torch.uint8)
            ):
                raise RuntimeError(f"{name} was written with other values than were read")


def _main(source: str, target: str, memory_bytes: str) -> int:
    resource.setrlimit(resource.RLIMIT_AS, (int(memory_bytes), int(memory_bytes)))
    try:
        _run(Path(source), Path(target))
    except ModelRefused as error:
        print(error.detail, file=sys.stderr)
        return error.exit_status
    except (OSError, RuntimeError, MemoryError, ValueError) as error:
        print(f"{type(error).__name__}: {error}".replace("\n", " "), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
