"""The house's own rules: what the folders promise, kept in the test run."""

import ast
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("audit", "db", "telemetry", "producer", "worker", "ops", "demo")


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in (ROOT / folder).rglob("*.py")]


def loaded_by(modules: str) -> set[str]:
    """Names of all modules in a fresh process that has imported these."""
    code = f"import sys, {modules}; print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(told.stdout.split())


@pytest.mark.parametrize("name", PACKAGES)
def test_each_top_level_name_has_one_owner(name: str) -> None:
    """`worker`, `producer` and `db` are names on PyPI too: another distribution must not slip under ours."""
    owners = {owner.lower() for owner in packages_distributions().get(name, ["caption-audit"])}
    assert owners == {"caption-audit"}
    found = subprocess.run(
        [sys.executable, "-c", f"import {name}; print({name}.__file__)"], capture_output=True, text=True, check=True
    )
    assert Path(found.stdout.strip()) == ROOT / name / "__init__.py"


def test_tests_are_no_package() -> None:
    """An __init__.py there would let tests be imported, and shipped, under a name of their own."""
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_the_environment_has_one_reader() -> None:
    """Settings are parsed once; a second reader would disagree with the first."""
    readers = [
        path.relative_to(ROOT).as_posix()
        for path in sources("audit", "db", "producer")
        if any(word in path.read_text() for word in ("os.environ", "os.getenv"))
    ]
    assert readers == ["audit/settings.py"]


def test_nothing_unpickles() -> None:
    """Messages, models and pictures are hostile until parsed; a pickle is code."""
    for path in sources(*PACKAGES):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {"pickle", "marshal", "shelve", "dill", "joblib"} & set(names), path
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert any(word.arg == "weights_only" for word in node.keywords), path


def test_heavy_libraries_stay_in_their_room() -> None:
    """`caption-audit --help` answers at once, and a producer needs no torch."""
    assert not loaded_by("ops.cli") & {"torch", "modelscope", "celery", "sqlalchemy", "rich"}
    assert not loaded_by("producer, worker.lifecycle") & {"torch", "modelscope"}


def test_arrows_point_one_way() -> None:
    """The arrows are ops -> worker | producer -> db -> audit; import-linter holds it, here as in `make check`."""
    lint = Path(sys.executable).with_name("lint-imports")
    told = subprocess.run([str(lint), "--no-logo"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout


def test_files_can_be_held_in_the_head() -> None:
    """Beyond 300 lines a file is two."""
    long = {
        path.relative_to(ROOT).as_posix(): n for path in sources(*PACKAGES) if (n := path.read_text().count("\n")) > 300
    }
    assert long == {}
