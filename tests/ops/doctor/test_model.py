"""Model folders that are not whole, or of two models: the shipped one, copied and spoiled."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.settings import DEMO_MODEL, Settings
from ops.doctor.lines import Line, State
from ops.doctor.model import checksum_lines, folder_lines, reading_s, shape_lines
from tests.ops.doctor.conftest import LIMIT_S, Named
from worker.engines.model_files import write_checksums


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the shipped model, to be spoiled."""
    return Path(shutil.copytree(DEMO_MODEL, tmp_path / "model"))


def of(folder: Path, **more: object) -> Settings:
    return Settings.model_validate({"model": str(folder), "home": folder.parent / "home", **more})


def shapes(folder: Path) -> Iterator[Line]:
    return shape_lines(of(folder), os.environ, limit_s=LIMIT_S * 3)


def test_a_whole_model_is_ok(folder: Path, named: Named) -> None:
    """Files and sums; that of its tensors is seen where the whole command runs, which takes seconds."""
    assert named(folder_lines(of(folder)), "folder").state is State.OK
    assert named(checksum_lines(of(folder)), "files").state is State.OK


def test_one_byte_that_is_another_is_wrong_and_its_file_is_named(folder: Path, named: Named) -> None:
    """A disk or a copy did it; the answers would be others, and nobody would know why."""
    weights = folder / "model.safetensors"
    with weights.open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-1000, os.SEEK_END)
        file.write(bytes([byte ^ 1]))
    line = named(checksum_lines(of(folder)), "files")
    assert (line.state, str(weights) in line.found, "sha256" in line.found) == (State.WRONG, True, True)


@pytest.mark.parametrize("name", ["vocab.json", "model.safetensors"])
def test_a_file_that_is_missing_is_named(folder: Path, named: Named, name: str) -> None:
    """A copy that was interrupted."""
    (folder / name).unlink()
    line = named(folder_lines(of(folder)), "folder")
    assert (line.state, name in line.found) == (State.WRONG, True)
    assert named(checksum_lines(of(folder)), "files").state is State.WRONG


def test_a_file_that_is_cut_off_is_wrong(folder: Path, named: Named) -> None:
    """Also where nothing lists its sum: the header says how long it is."""
    (folder / "SHA256SUMS").unlink()
    os.truncate(folder / "model.safetensors", 1_000_000)
    assert "truncated" in named(checksum_lines(of(folder)), "files").found
    assert named(shapes(folder), "state_dict").state is State.WRONG


def test_weights_of_another_architecture_are_wrong(folder: Path, named: Named) -> None:
    """Every file is whole and has its sum; together they are no model."""
    config = json.loads((folder / "config.json").read_text())
    config["encoder_ffn_dim"] *= 2
    (folder / "config.json").write_text(json.dumps(config))
    write_checksums(folder)
    assert named(checksum_lines(of(folder)), "files").state is State.OK
    line = named(shapes(folder), "state_dict")
    assert (line.state, "has the wrong shape of encoder.layers.0.fc1.bias" in line.found) == (State.WRONG, True)


def test_a_model_without_sums_is_a_warning(folder: Path, named: Named) -> None:
    """It may be good; nothing says so."""
    (folder / "SHA256SUMS").unlink()
    assert named(checksum_lines(of(folder)), "files").state is State.WARNING


def test_a_model_that_is_not_there_is_wrong_once(tmp_path: Path, named: Named) -> None:
    """One line, not three."""
    for model in (str(tmp_path / "absent"), "iic/not-fetched"):
        settings = Settings.model_validate({"model": model, "home": tmp_path})
        assert named(folder_lines(settings), "folder").state is State.WRONG
        told = [*checksum_lines(settings), *shape_lines(settings, os.environ, limit_s=LIMIT_S)]
        assert (told, reading_s(settings)) == ([], 0.0)


def test_the_stub_engine_reads_no_model(tmp_path: Path) -> None:
    """Tests of queues need none."""
    settings = Settings.model_validate({"model": str(tmp_path), "engine": "stub"})
    told = [*folder_lines(settings), *checksum_lines(settings), *shape_lines(settings, os.environ, limit_s=LIMIT_S)]
    assert [line.state for line in told] == [State.OK]


def test_a_large_model_has_time_to_be_read(folder: Path) -> None:
    """Reading two gigabytes from a slow disk takes longer than a check may take otherwise."""
    with (folder / "more.bin").open("wb") as file:
        file.truncate(2 * 10**9)
    assert 40 < reading_s(of(folder)) < 41


def test_a_fetched_model_whose_file_has_another_size_is_wrong(tmp_path: Path, named: Named) -> None:
    """A disk that was full while it was fetched or copied; the record beside it knows the sizes."""
    home = tmp_path / "home"
    fetched = Path(shutil.copytree(DEMO_MODEL, home / "models" / "small-ofa" / "e8e27298903e"))
    sizes = {path.name: {"size": path.stat().st_size} for path in fetched.iterdir()}
    (fetched / "fetched.json").write_text(json.dumps({"id": "iic/small-ofa", "files": sizes}))
    settings = Settings.model_validate({"model": "iic/small-ofa", "home": home})
    assert named(folder_lines(settings), "folder").state is State.OK
    os.truncate(fetched / "model.safetensors", 1_000_000)
    line = named(folder_lines(settings), "folder")
    assert (line.state, "model.safetensors is missing or cut off" in line.found) == (State.WRONG, True)
