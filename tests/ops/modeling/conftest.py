"""A hub on this machine, and a command that knows no other."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.settings import DEMO_MODEL
from tests.support.fetching import ID
from tests.support.hub_server import Hub, serving


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub that serves the shipped model as `iic/small-ofa`."""
    with serving() as running:
        running.serve_directory(ID, DEMO_MODEL)
        yield running


@pytest.fixture
def environment(environment: dict[str, str], hub: Hub, tmp_path: Path) -> dict[str, str]:
    """The command's environment, with this hub as the mirror and no network besides."""
    kept = {name: value for name, value in environment.items() if not name.startswith("MODELSCOPE_")}
    return kept | {"MODELSCOPE_ENDPOINT": hub.url, "NO_PROXY": "127.0.0.1", "HOME": str(tmp_path / "user")}


@pytest.fixture
def home(environment: dict[str, str]) -> Path:
    """AUDIT_HOME."""
    return Path(environment["AUDIT_HOME"])
