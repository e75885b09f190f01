"""`caption-audit model verify`, `list` and `show`, and which revision a worker takes."""

import json
import os
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from audit.models import model_directory
from audit.settings import DEMO_MODEL, Settings
from tests.support.fetching import ID, WEIGHTS, Cli, fetched, pickled, refused
from tests.support.hub_server import Hub


def test_a_copied_folder_is_a_model_once_it_is_whole(cli: Cli, hub: Hub, home: Path, tmp_path: Path) -> None:
    """The way without a network: copy the folder, verify it; half a copy is not found by anybody."""
    directory = Path(fetched(cli)["directory"])
    away = tmp_path / "away"
    target = away / "models" / "small-ofa" / directory.name
    shutil.copytree(directory, target)
    offline = {"AUDIT_HOME": str(away), "MODELSCOPE_ENDPOINT": "http://127.0.0.1:9"}
    assert cli("model", "verify", ID, **offline).returncode == 0
    weights = target / WEIGHTS
    content = weights.read_bytes()
    weights.write_bytes(content[:-1])
    assert f"{WEIGHTS} is missing or cut off" in refused(cli, "model", "show", ID, status=2, **offline)
    assert cli("model", "verify", ID, **offline).returncode == 1
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    done = cli("model", "verify", ID, **offline)
    assert (done.returncode, WEIGHTS in done.stdout, "sha256" in done.stdout) == (1, True, True)
    weights.write_bytes(content)
    assert cli("model", "verify", ID, **offline).returncode == 0


def test_a_plain_folder_can_be_given_checksums(cli: Cli, home: Path, tmp_path: Path) -> None:
    """What ModelScope's own tools downloaded has none: verify says so, and writes them when it is told to."""
    folder = shutil.copytree(DEMO_MODEL, home / "models" / "small-ofa")
    (folder / "SHA256SUMS").unlink()
    done = cli("model", "verify", ID)
    assert (done.returncode, "--write-checksums" in done.stdout) == (1, True)
    assert cli("model", "verify", ID, "--write-checksums").returncode == 0
    assert cli("model", "verify", str(folder)).returncode == 0
    (folder / "vocab.json").write_bytes((folder / "vocab.json").read_bytes() + b" ")
    assert cli("model", "verify", ID).returncode == 1


def test_another_owners_model_of_the_same_name_is_not_taken_for_it(cli: Cli, hub: Hub, home: Path) -> None:
    """Folders carry the name alone; the record says whose it is."""
    fetched(cli)
    assert "somebody/small-ofa is not under" in refused(cli, "model", "verify", "somebody/small-ofa", status=2)


def test_a_refused_model_is_shown_with_the_reason(cli: Cli, home: Path) -> None:
    """`show` is where people look why a worker does not start."""
    folder = shutil.copytree(DEMO_MODEL, home / "models" / "small-ofa")
    (folder / "SHA256SUMS").unlink()
    path = folder / "configuration.json"
    path.write_text(path.read_text().replace("prev_output", "none"))
    done = cli("model", "show", ID, "--json")
    assert done.returncode == 1
    assert "prompt_type is 'none'" in json.loads(done.stdout)["refused"]["detail"]


def test_what_the_engine_will_do_is_shown(cli: Cli, tmp_path: Path) -> None:
    """Prompts, labels, limits, precision; and a pickle or a folder's code is called by its name."""
    folder = shutil.copytree(DEMO_MODEL, tmp_path / "model")
    (folder / "SHA256SUMS").unlink()
    (folder / "ms_wrapper.py").write_text("raise SystemExit\n")
    path = folder / "configuration.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"plugins": ["x"], "allow_remote": True}))
    state = load_file(folder / WEIGHTS)
    save_file(
        {name: value.bfloat16() if value.is_floating_point() else value for name, value in state.items()},
        folder / WEIGHTS,
    )
    told = json.loads(cli("model", "show", "model", "--json").stdout)
    assert told["architecture"]["parameters"] == 5_888_260
    assert told["weights"]["precision"] == "bf16"
    assert told["limits"] == {"words": 80, "tokens": 80, "image_px": 96}
    assert list(told["labels"]) == ["yes", "no", "maybe"]
    assert (told["never_read"], told["ignored_keys"]) == (["ms_wrapper.py"], ["plugins", "allow_remote"])
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickled(DEMO_MODEL))
    assert "weights_only=True" in cli("model", "show", str(folder)).stdout


def test_the_newest_record_decides_whatever_the_copying_did_to_dates(home: Path) -> None:
    """Two machines with the same folders must judge with the same one."""
    for revision, when in (
        ("aaaaaaaaaaaa", "2026-03-01T00:00:00+00:00"),
        ("bbbbbbbbbbbb", "2026-02-01T00:00:00+00:00"),
    ):
        folder = shutil.copytree(DEMO_MODEL, home / "models" / "small-ofa" / revision)
        (folder / "fetched.json").write_text(json.dumps({"id": ID, "fetched_at": when}))
    os.utime(home / "models" / "small-ofa" / "bbbbbbbbbbbb" / "configuration.json")

    aside = home / "models" / "small-ofa" / ".replaced-cccccccccccc"
    shutil.copytree(DEMO_MODEL, aside)
    (aside / "fetched.json").write_text(json.dumps({"id": ID, "fetched_at": "2026-04-01T00:00:00+00:00"}))
    settings = Settings.model_validate({"home": home, "model": ID})
    assert model_directory(settings).name == "aaaaaaaaaaaa"
    (home / "models" / "small-ofa" / "aaaaaaaaaaaa" / "merges.txt").unlink()
    assert model_directory(settings).name == "bbbbbbbbbbbb"


def test_checksums_replace_what_stood_under_their_name(cli: Cli, tmp_path: Path) -> None:
    """A folder is a stranger's: a link would be written through, and a pipe would be waited for, for ever."""
    folder, elsewhere = shutil.copytree(DEMO_MODEL, tmp_path / "copied"), tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    (folder / "resources").mkdir()
    sums = folder / "SHA256SUMS"
    sums.unlink()
    sums.symlink_to(elsewhere)
    assert cli("model", "verify", str(folder), "--write-checksums").returncode == 0
    assert (elsewhere.read_text(), sums.is_symlink()) == ("mine", False)
    sums.unlink()
    os.mkfifo(sums)
    assert cli("model", "verify", str(folder), "--write-checksums").returncode == 0
    assert sorted(path.name for path in folder.glob("SHA256SUMS*")) == ["SHA256SUMS"]
