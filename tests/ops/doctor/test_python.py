"""Pythons and packages that were not meant."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ops.doctor.lines import State
from ops.doctor.python import LOCK, name_lines, pin_lines, version_line
from tests.ops.conftest import ROOT
from tests.ops.doctor.conftest import Named


def pretend(folder: Path, name: str, version: str) -> None:
    """A distribution that is in front of the installed one of that name."""
    about = folder / f"{name}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_what_is_pinned_is_what_is_told(named: Named) -> None:
    """An installed package has a copy of the repository's own list; here it is that list itself."""
    assert LOCK.read_bytes() == (ROOT / "requirements.lock").read_bytes()
    assert named(pin_lines(), "pins").state is State.OK


def test_an_installed_package_brings_the_list_of_pins(tmp_path: Path) -> None:
    """There is no requirements.lock beside it, and it must be able to tell, too."""
    copy = tmp_path / "source"
    folders = ("audit", "db", "telemetry", "producer", "worker", "ops")
    for folder in folders:
        shutil.copytree(ROOT / folder, copy / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "requirements.lock", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, copy)
    command = [sys.executable, "-c", "from setuptools import setup; setup()", "-q", "build", "--build-lib", "built"]
    subprocess.run(command, cwd=copy, check=True, capture_output=True, timeout=300)
    shipped = copy / "built" / "ops" / "doctor" / "requirements.lock"
    assert not shipped.is_symlink()
    assert shipped.read_bytes() == (ROOT / "requirements.lock").read_bytes()


def test_packages_that_are_missing_or_others_are_told(tmp_path: Path, named: Named) -> None:
    """Nobody has run the tests with them."""
    lock = tmp_path / "lock"
    lock.write_text(
        "# pins\nno-such-package==1.0\npsutil==99.0; python_version > '3'\nnever==1; python_version < '3'\n"
    )
    missing, other = pin_lines(lock)
    assert (missing.state, missing.found) == (State.WRONG, "missing: no-such-package")
    assert (other.state, other.found.endswith("(pinned 99.0)")) == (State.WARNING, True)


@pytest.mark.parametrize(
    ("name", "version"), [("transformers", "5.0.1"), ("celery", "5.7.0"), ("kombu", "5.7.0"), ("redis", "8.1.0")]
)
def test_what_is_known_not_to_work_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: Named, name: str, version: str
) -> None:
    """An upgrade of one package is the usual way into it; the reason is told, so that nobody tries again."""
    pretend(tmp_path, name, version)
    monkeypatch.syspath_prepend(str(tmp_path))
    line = named(pin_lines(), name)
    assert (line.state, version in line.found) == (State.WRONG, True)


def test_a_build_of_a_pinned_version_is_that_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: Named
) -> None:
    """What is built for CUDA 12.6 and what is built for CPU have one version, with different ends."""
    pinned = next(line for line in LOCK.read_text().splitlines() if line.startswith("torch==")).removeprefix("torch==")
    pretend(tmp_path, "torch", f"{pinned}+cu126")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert named(pin_lines(), "pins").state is State.OK


@pytest.mark.parametrize(
    ("version", "state"), [((3, 10, 4), State.WRONG), ((3, 11, 0), State.OK), ((3, 13, 0), State.WRONG)]
)
def test_a_python_that_is_not_meant_is_wrong(named: Named, version: tuple[int, ...], state: State) -> None:
    """By what the package says of itself."""
    assert named(version_line(version), "python").state is state


def test_another_package_of_our_name_is_named(tmp_path: Path) -> None:
    """`worker`, `db` and `producer` are on PyPI, too, and a folder called so is in many places."""
    (tmp_path / "producer").mkdir()
    (tmp_path / "producer" / "__init__.py").write_text("")
    code = "from ops.doctor.python import name_lines; print(*((line.state.value, line.found) for line in name_lines()))"
    told = {}
    for name, path in (("ours", str(ROOT)), ("strange", f"{tmp_path}{os.pathsep}{ROOT}")):
        environ = {**os.environ, "PYTHONPATH": path}
        command = [sys.executable, "-P", "-c", code]
        told[name] = subprocess.run(command, env=environ, cwd="/", capture_output=True, text=True, check=True).stdout
    assert told["ours"].startswith("('ok', ")
    assert told["strange"].startswith("('wrong', ")
    assert f"producer from {tmp_path / 'producer'}" in told["strange"]
    assert next(name_lines()).name == "packages"
