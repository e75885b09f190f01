"""What a hub could do to us: code, pickles, names that lead elsewhere. None of it is run, or kept."""

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from audit.settings import DEMO_MODEL
from tests.support.fetching import ID, PATIENCE, WEIGHTS, Cli, fetched, pickled, refused, visible
from tests.support.hub_server import Hub
from worker.engines.canary import prove
from worker.engines.model_files import inspect_model
from worker.engines.ofa import load_ofa


def test_weights_in_a_pickle_become_safetensors(cli: Cli, hub: Hub, home: Path, tmp_path: Path) -> None:
    """ModelScope serves .bin files; what a worker loads is plain tensors, and it answers the same."""
    files = hub.models[ID]["master"]
    del files[WEIGHTS]
    files["pytorch_model.bin"] = pickled(DEMO_MODEL)
    told = fetched(cli)
    directory = Path(told["directory"])
    names = {path.name for path in directory.iterdir()}
    assert WEIGHTS in names
    assert "pytorch_model.bin" not in names
    back, shipped = load_file(directory / WEIGHTS), load_file(DEMO_MODEL / WEIGHTS)
    assert {name: value.dtype for name, value in back.items()} == {name: value.dtype for name, value in shipped.items()}
    assert all(back[name].equal(value) for name, value in shipped.items())
    record = json.loads((directory / "fetched.json").read_text())
    assert record["converted_from"] == {"pytorch_model.bin": hashlib.sha256(files["pytorch_model.bin"]).hexdigest()}
    hub.asked.clear()
    assert fetched(cli)["fresh"] is False
    assert answers(directory, tmp_path) == answers(DEMO_MODEL, tmp_path)


def answers(directory: Path, tmp_path: Path) -> list[tuple[float, float, float]]:
    """The scores of the model's own canary questions, once it has proved itself."""

    engine = load_ofa(inspect_model(directory), device="cpu", precision="fp32")
    prove(engine)
    scores = engine.judge([question for question, _ in engine.known_answers()])
    return [(score.p_yes, score.p_no, score.p_maybe) for score in scores]


def test_a_pickle_that_wants_to_run_something_is_refused(cli: Cli, hub: Hub, home: Path, tmp_path: Path) -> None:
    """A .bin is a program; only tensors are taken from it."""

    marker = tmp_path / "tripped"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {marker}",)

    stream = io.BytesIO()
    torch.save({"weight": Evil()}, stream)
    files = hub.models[ID]["master"]
    del files[WEIGHTS]
    files["pytorch_model.bin"] = stream.getvalue()
    line = refused(cli, "model", "fetch", ID, status=2)
    assert "posix.system" in line
    assert "nothing of it was run" in line
    assert not marker.exists()
    assert visible(home) == []


def test_only_plain_data_is_taken(cli: Cli, hub: Hub, home: Path, tmp_path: Path) -> None:
    """Code, requirements, pickles and names that lead elsewhere stay at the hub."""
    files = hub.models[ID]["master"]
    for name in ("ms_wrapper.py", "requirements.txt", "resources/extra.json", "setup.cfg", "optimizer.pkl"):
        files[name] = b"open('/nowhere', 'w')\n"
    escape = {"Path": "../../escaped.json", "Type": "blob", "Size": 2, "Sha256": hashlib.sha256(b"{}").hexdigest()}
    hub.listed_besides = [escape, {"Path": None}, {"Path": "config.json/../x.json", "Type": "blob", "Size": 1}]
    directory = Path(fetched(cli)["directory"])
    names = {path.name for path in directory.iterdir()}
    assert names.isdisjoint({"ms_wrapper.py", "requirements.txt", "extra.json", "setup.cfg", "optimizer.pkl"})
    assert not list(tmp_path.rglob("escaped.json"))
    assert {asked.file for asked in hub.asked} <= {None, *names}
    assert "ms_wrapper.py" in json.loads((directory / "fetched.json").read_text())["left_at_the_hub"]


def test_a_model_that_the_engine_refuses_costs_no_weights(cli: Cli, hub: Hub, home: Path) -> None:
    """The small files are understood before gigabytes come."""
    files = hub.models[ID]["master"]
    files["configuration.json"] = files["configuration.json"].replace(b"visual-entailment", b"image-captioning")
    assert "task is 'image-captioning'" in refused(cli, "model", "fetch", ID, status=2)
    assert hub.downloads(WEIGHTS) == []
    assert visible(home) == []


def test_our_secrets_stay_here_and_a_token_goes_only_when_it_is_named(cli: Cli, hub: Hub, tmp_path: Path) -> None:
    """A login that lies in the user's home must not be sent to whatever mirror is set."""
    login = tmp_path / "user" / ".modelscope" / "credentials"
    login.mkdir(parents=True)
    (login / "cookies").write_bytes(b"cposix\nsystem\n(S'touch tripped'\ntR.")
    fetched(cli, DATABASE_URL="postgresql://user:secret@db/x")
    assert {asked.token for asked in hub.asked} == {None}
    assert not (tmp_path / "tripped").exists()
    hub.asked.clear()
    fetched(cli, MODELSCOPE_API_TOKEN="named")
    assert {asked.token for asked in hub.asked} == {"named"}


@pytest.mark.parametrize("entry", [None, 7, {"Path": 3, "Type": "blob", "Size": 1}])
def test_what_is_no_listing_is_called_so(cli: Cli, hub: Hub, home: Path, entry: Any) -> None:
    """An error in the client's own code tells nobody what to do."""
    hub.listed_besides = [entry]
    line = refused(cli, "model", "fetch", ID, status=1)
    assert "not as a hub does" in line
    assert "MODELSCOPE_ENDPOINT" in line
    assert visible(home) == []


def test_what_is_said_of_a_hub_that_fails_is_short_and_holds_no_secret(cli: Cli, hub: Hub) -> None:
    """A mirror may want a password in its URL; the line goes into logs and tickets."""
    hub.status[WEIGHTS] = 500
    mirror = {"MODELSCOPE_ENDPOINT": hub.url.replace("//", "//me:s3cret@"), **PATIENCE}
    line = refused(cli, "model", "fetch", ID, status=69, **mirror)
    assert (hub.url.removeprefix("http://") in line, "s3cret" in line) == (True, False)
    away = refused(cli, "model", "fetch", ID, status=69, MODELSCOPE_ENDPOINT="http://me:s3cret@127.0.0.1:9", **PATIENCE)
    assert "(Connection refused)" in away
    assert "s3cret" not in away
