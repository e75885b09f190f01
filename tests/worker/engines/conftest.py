"""Model directories for the engines' tests."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.worker.engines.tiny_ofa import draw_picture, make_tiny_ofa
from worker.engines.model_files import inspect_model
from worker.engines.ofa import OfaEngine, load_ofa


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good model directory; tests that break one copy it first (`model_dir`)."""
    directory = tmp_path_factory.mktemp("tiny")
    make_tiny_ofa(directory)
    return directory


@pytest.fixture
def model_dir(pristine: Path, tmp_path: Path) -> Path:
    """A copy of the good directory, for the test to spoil."""
    return Path(shutil.copytree(pristine, tmp_path / "model"))


@pytest.fixture(scope="session")
def engine(pristine: Path) -> OfaEngine:
    """The good directory, loaded once."""
    return load_ofa(inspect_model(pristine), device="cpu", precision="fp32")


@pytest.fixture(scope="session")
def pictures() -> Sequence[Image.Image]:
    """Eight RGB pictures of different sizes and contents."""
    return [draw_picture(number) for number in range(8)]
