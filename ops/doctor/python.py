"""Python itself, and the packages that run in it, against the versions that this one was tested with."""

import importlib.util
import os
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from importlib.metadata import version as installed_version
from pathlib import Path

from ops.doctor.lines import Line, ok, warning, wrong

LOCK = Path(__file__).with_name("requirements.lock")
"""The repository's own file: a link to it, and in an installed package a copy. The versions that pyproject.toml allows
are many; those that were tested are these, and an installed package must be able to tell as well as a checkout."""
OURS = ("audit", "db", "producer", "worker", "telemetry", "ops", "demo")
MOST_NAMED = 8
KNOWN_BAD = {
    "transformers": ("<5", "5 has lost the tokenizer classes that modelscope's OFA needs: no model loads"),
    "celery": ("<5.7", "5.7.0 can end a worker after a restart of Redis (no attribute 'hostname')"),
    "kombu": ("<5.7", "5.7 belongs to Celery 5.7, which can end a worker after a restart of Redis"),
    "redis": ("<6.5", "kombu 5.6, which is pinned, asks for an older one"),
}
"""What is known to work of a package, and why the rest does not; see docs/decisions/0001-celery-pins.md."""
REINSTALL = "pip install -r requirements.lock"


def version_line(version: tuple[int, ...] = sys.version_info[:3]) -> Iterator[Line]:
    """Whether this package says that it runs in this Python."""
    from packaging.specifiers import SpecifierSet

    shown = ".".join(map(str, version))
    try:
        wanted = str(distribution("caption-audit").metadata["Requires-Python"])
    except PackageNotFoundError:
        means = "its version and its requirements are not known; `caption-audit` itself may be missing"
        yield warning("python", f"{shown}; caption-audit is not installed here", means=means, cure="pip install .")
        return
    if SpecifierSet(wanted).contains(shown):
        yield ok("python", f"{shown} in {sys.prefix}")
    else:
        means = "packages that are pinned were built and tested for others"
        yield wrong("python", f"{shown}, wanted is {wanted}", means=means, cure="make a .venv with such a Python")


def pin_lines(lock: Path = LOCK) -> Iterator[Line]:
    """Every pinned package that is missing, or has another version; one that is known not to work has its own line."""
    wanted = dict(_pins(lock.read_text(encoding="utf-8")))
    found = {name: _version(name) for name in wanted}
    bad = {name: line for name, line in ((name, _known_bad(name, found[name])) for name in wanted) if line}
    missing = sorted(name for name, version in found.items() if version is None)
    others = sorted(
        f"{name} {version} (pinned {wanted[name]})"
        for name, version in found.items()
        if version is not None and name not in bad and version.partition("+")[0] != wanted[name]
    )
    if missing:
        means = "what needs them fails when it is first used"
        yield wrong("pins", f"missing: {_some(missing)}", means=means, cure=REINSTALL)
    if others:
        means = "nobody has run the tests with these versions"
        yield warning("pins", f"other versions: {_some(others)}", means=means, cure=REINSTALL)
    if not (missing or others or bad):
        yield ok("pins", f"{len(wanted)} packages have the pinned versions")
    yield from bad.values()


def name_lines() -> Iterator[Line]:
    """`worker`, `db` and `producer` are names of other people's packages too."""
    root = Path(__file__).resolve().parents[2]
    strangers = [f"{name} from {where}" for name in OURS if (where := _origin(name)) != str(root / name)]
    if strangers:
        means = "Python takes other code for ours: errors will make no sense"
        cure = "uninstall what brought it, and mind PYTHONPATH and the folder that you stand in"
        yield wrong("packages", f"not ours: {'; '.join(strangers)}", means=means, cure=cure)
    else:
        yield ok("packages", f"all of ours come from {root}")


def _pins(text: str) -> Iterator[tuple[str, str]]:
    """Name and version of each line that holds on this machine."""
    from packaging.requirements import Requirement

    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            pinned = Requirement(line)
            if pinned.marker is None or pinned.marker.evaluate():
                yield pinned.name, str(pinned.specifier).removeprefix("==")


def _known_bad(name: str, version: str | None) -> Line | None:
    from packaging.specifiers import SpecifierSet

    if version is None or name not in KNOWN_BAD:
        return None
    good, why = KNOWN_BAD[name]
    if SpecifierSet(good).contains(version, prereleases=True):
        return None
    return wrong(name, f"version {version}, wanted is {good}", means=why, cure=f"{REINSTALL} (or: '{name}{good}')")


def _version(name: str) -> str | None:
    try:
        return installed_version(name)
    except PackageNotFoundError:
        return None


def _origin(name: str) -> str:
    spec = importlib.util.find_spec(name)
    return os.path.dirname(os.path.realpath(spec.origin)) if spec and spec.origin else "nowhere"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"{', '.join(names[:MOST_NAMED])}{more}"
