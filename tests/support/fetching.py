"""What the tests of `caption-audit model` share: a model at a hub, and the command's answers."""

import hashlib
import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from audit.models import installed

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
ID = "iic/small-ofa"
WEIGHTS = "model.safetensors"
PATIENCE = {
    "MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS": "1",
    "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "1",
}
"""Retries that a hub which is away for good need not be given."""


def fetched(cli: Cli, *arguments: str, **env: str) -> dict[str, Any]:
    done = cli("model", "fetch", ID, "--json", *arguments, **env)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def refused(cli: Cli, *arguments: str, status: int, **env: str) -> str:
    """The one line that the command says when it ends with this exit status."""
    done = cli(*arguments, **env)
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def visible(home: Path) -> list[str]:
    """What a worker could take for a model."""
    return [one.directory.name for one in installed(home, ID)]


def hashes(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


def pickled(served: Path) -> bytes:
    """The shipped weights as torch.save writes them, tied tensors under all their names."""
    state = load_file(served / WEIGHTS)
    table = state["encoder.embed_tokens.weight"]
    state |= dict.fromkeys(("decoder.embed_tokens.weight", "decoder.output_projection.weight"), table)
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()
