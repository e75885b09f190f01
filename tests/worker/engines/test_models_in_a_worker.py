"""A fetched model in a real worker: it judges, nothing of its folder is run, and a changed file ends it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from audit.settings import DEMO_MODEL, Settings
from tests.support.manifests import small_manifest
from tests.support.recovery import recovery
from tests.support.running import ROOT, changed, check_promises, finished, running, submitted, told, variables
from tests.support.waiting import wait_until
from worker.engines.model_files import write_checksums

HOOK = """
import sys

def watch(event, arguments):
    if event == "subprocess.Popen" and "pip" in str(arguments[1]):
        open({marker!r}, "a").write(f"{{arguments[1]}}\\n")

sys.addaudithook(watch)
"""
UNSAFE = """
import sys
from modelscope.utils.plugins import register_modelhub_repo
register_modelhub_repo(sys.argv[1], allow_remote=True)
"""


@pytest.fixture
def trusting(tmp_path: Path) -> tuple[Path, Path]:
    """A fetched model that modelscope's own loaders would trust, full of code; and the file that its code writes."""
    directory = tmp_path / "home" / "models" / "ofa_tripwire" / "aaaaaaaaaaaa"
    shutil.copytree(DEMO_MODEL, directory)
    marker = tmp_path / "tripped"
    for name in ("tripwire.py", "ms_wrapper.py", "__init__.py", "setup.py", "modeling_ofa.py"):
        (directory / name).write_text(f"open({str(marker)!r}, 'a').write({name!r} + '\\n')\n")
    (directory / "requirements.txt").write_text("tripwire-package\n")
    path = directory / "configuration.json"
    traps = {"plugins": ["tripwire-package"], "allow_remote": True, "trust_remote_code": True}
    path.write_text(json.dumps(json.loads(path.read_text()) | traps))
    write_checksums(directory)
    return directory, marker


def hook(folder: Path, marker: Path) -> str:
    """PYTHONPATH with code that notes, in every process of ours, whoever starts pip."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HOOK.format(marker=str(marker)))
    return str(folder)


def test_the_tripwire_can_trip(trusting: tuple[Path, Path], tmp_path: Path) -> None:
    """modelscope, told to trust the folder, runs its code and starts pip: else the next test would prove nothing."""
    directory, marker = trusting
    subprocess.run(
        [sys.executable, "-c", UNSAFE, directory],
        env={**os.environ, "PYTHONPATH": hook(tmp_path / "hook", marker), "PIP_NO_INDEX": "1"},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert "pip" in marker.read_text()
    marker.unlink()
    (directory / "requirements.txt").unlink()
    subprocess.run([sys.executable, "-c", UNSAFE, directory], capture_output=True, timeout=120, check=False)
    assert "tripwire.py" in marker.read_text()


def test_nothing_of_a_model_is_run_by_any_command_or_worker(
    trusting: tuple[Path, Path], sqlite_settings: Settings, tmp_path: Path
) -> None:
    """Verify, show, list and a worker that judges with it: no code of the folder, and no pip."""
    directory, marker = trusting
    ofa = changed(sqlite_settings, engine="ofa", devices="cpu", model="iic/ofa_tripwire")
    path = hook(tmp_path / "hook", marker)
    environment = {**os.environ, **variables(ofa), "PYTHONPATH": f"{path}{os.pathsep}{ROOT}"}
    for command in ("verify", "show", "list"):
        told_so = subprocess.run(
            [sys.executable, "-m", "ops.cli", "model", command],
            cwd=directory,  # where `import tripwire` would find it
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert told_so.returncode == 0, told_so.stderr
    batch = submitted(ofa, small_manifest(tmp_path / "pairs_of"))
    with running(ofa, tmp_path, PYTHONPATH=path) as worker:
        assert finished(ofa, batch, watch=worker).judged == 8
    assert {row.engine for row in told(ofa, batch).values()} == {"ofa"}
    check_promises(ofa, batch)
    assert not marker.exists(), marker.read_text()


def test_a_child_refuses_files_that_changed_since_the_worker_started(sqlite_settings: Settings, tmp_path: Path) -> None:
    """Half of a batch judged with one model and half with another, under one revision, would be a lie.

    Safeguard: worker/engines/model_files.py (check_unchanged) before every load.
    """
    directory = shutil.copytree(DEMO_MODEL, tmp_path / "ofa")
    ofa = changed(sqlite_settings, engine="ofa", devices="cpu", model=str(directory), feed_every_s=0.2)
    with running(ofa, tmp_path) as worker:
        worker.wait_for("model proved", timeout_s=120)
        weights = directory / "model.safetensors"
        content = weights.read_bytes()
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        wait_until(lambda: bool(worker.children()), timeout_s=60, what="a child")
        worker.children()[0].kill()
        assert worker.process.wait(timeout=120) == 2
        last = worker.tail().strip().splitlines()[-1]
    assert f"{weights}: it has changed since it was checked" in last


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def of_another_architecture(path: Path) -> None:
    configuration = path.with_name("configuration.json")
    content = json.loads(configuration.read_text())
    content["task"] = "image-captioning"
    configuration.write_text(json.dumps(content))
    write_checksums(path.parent)


@pytest.mark.parametrize(
    ("spoil", "file"),
    [
        (cut, "model.safetensors"),
        (flip, "model.safetensors"),
        (Path.unlink, "model.safetensors"),
        (of_another_architecture, "configuration.json"),
    ],
)
def test_a_worker_refuses_a_spoilt_model_and_writes_no_verdict(
    sqlite_settings: Settings, tmp_path: Path, spoil: Callable[[Path], None], file: str
) -> None:
    """Cut off, one bit flipped, not all there, or another kind of model: answers of it would look like any others.

    Safeguard: worker/engines/model_files.py checks and hashes every file before the first process is made.
    """
    directory = shutil.copytree(DEMO_MODEL, tmp_path / "ofa")
    ofa = changed(sqlite_settings, engine="ofa", devices="cpu", model=str(directory), feed_every_s=0.2)
    batch = submitted(ofa, small_manifest(tmp_path / "pairs_of"))
    spoil(directory / "model.safetensors")
    with recovery(18, f"a spoilt model is refused: {spoil.__name__}", within_s=5), running(ofa, tmp_path) as worker:
        assert worker.process.wait(timeout=120) == 2
    assert f"{directory}/{file}" in worker.tail().strip().splitlines()[-1]
    assert told(ofa, batch) == {}
