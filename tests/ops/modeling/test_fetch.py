"""`caption-audit model fetch` against a hub on this machine: modelscope's real client, real downloads."""

import hashlib
import json
import os
import pty
import subprocess
from pathlib import Path

from audit.settings import DEMO_MODEL
from tests.ops.conftest import COMMAND
from tests.support.fetching import ID, PATIENCE, WEIGHTS, Cli, fetched, hashes, pickled, visible
from tests.support.hub_server import HEAD, Hub


def test_a_fetched_model_is_the_served_one(cli: Cli, hub: Hub, home: Path, tmp_path: Path) -> None:
    """Every byte, under a revision that outcomes name too; and nothing anywhere but under AUDIT_HOME."""
    (tmp_path / "user").mkdir()
    told = fetched(cli)
    directory = home / "models" / "small-ofa" / told["revision"]
    assert told == {
        "id": ID,
        "asked": "master",
        "revision": told["revision"],
        "directory": str(directory),
        "fresh": True,
        "downloaded_bytes": sum(len(content) for content in hub.models[ID]["master"].values()),
    }
    found = hashes(directory)
    served = {name: hashlib.sha256(content).hexdigest() for name, content in hub.models[ID]["master"].items()}
    assert {name: found[name] for name in served} == served
    assert set(found) - set(served) == {"fetched.json", "SHA256SUMS"}
    record = json.loads((directory / "fetched.json").read_text())
    assert (record["id"], record["asked"], record["hub_commit"], record["hub"]) == (ID, "master", HEAD, hub.url)
    assert sorted(path.name for path in (home / "models" / "small-ofa").iterdir()) == [".fetch.lock", told["revision"]]
    assert list((tmp_path / "user").rglob("*")) == []
    assert cli("model", "verify", ID).returncode == 0
    assert json.loads(cli("model", "show", ID, "--json").stdout)["revision"] == told["revision"]


def test_fetching_again_is_quick_and_changes_nothing(cli: Cli, hub: Hub, home: Path) -> None:
    """A script may fetch at every start: it costs one question to the hub."""
    told = fetched(cli)
    hub.asked.clear()
    assert fetched(cli) == told | {"fresh": False, "downloaded_bytes": 0}
    assert [asked.file for asked in hub.asked] == [None]
    assert "is there already" in cli("model", "fetch", ID).stdout


def test_a_hub_that_is_away_does_not_take_what_is_here(cli: Cli, hub: Hub) -> None:
    """A restart during an outage of the hub must not fail for a model that was fetched long ago."""
    fetched(cli)
    hub.status["listing"] = 503
    done = cli("model", "fetch", ID, **PATIENCE)
    assert done.returncode == 0
    assert "is there already" in done.stdout
    assert "the hub was not asked" in done.stderr


def test_a_moved_branch_is_another_revision(cli: Cli, hub: Hub, home: Path) -> None:
    """The newest complete one is used, a pinned one stays, and workers of both can be told apart."""
    first = fetched(cli)["revision"]
    hub.models[ID]["v1"] = dict(hub.models[ID]["master"])
    files = hub.models[ID]["master"]
    files["configuration.json"] = files["configuration.json"].replace(b'"seed": 7', b'"seed": 8')
    second = fetched(cli)["revision"]
    assert first != second
    assert visible(home) == [second, first]
    listed = {
        row["revision"]: row["used"]
        for row in json.loads(cli("model", "list", "--json", AUDIT_MODEL=ID).stdout)["models"]
    }
    assert listed == {"shipped": False, first: False, second: True}
    pinned = json.loads(cli("model", "verify", f"{ID}@{first[:6]}", "--json").stdout)
    assert pinned["revision"] == first
    assert fetched(cli, "--revision", "v1") == fetched(cli, "--revision", "v1") | {"revision": first, "fresh": False}


def test_a_hub_without_hashes_serves_too(cli: Cli, hub: Hub) -> None:
    """Then sizes are all that can be compared; what came is written down all the same."""
    hub.hashes_listed = False
    directory = Path(fetched(cli)["directory"])
    assert set(json.loads((directory / "fetched.json").read_text())["hub_sha256"].values()) == {None}
    assert cli("model", "verify", ID).returncode == 0


def test_a_proxy_is_used(cli: Cli, hub: Hub) -> None:
    """HTTP_PROXY leads there: the hub here plays the proxy for a host that does not exist."""
    assert fetched(cli, MODELSCOPE_ENDPOINT="http://hub.invalid", HTTP_PROXY=hub.url, NO_PROXY="")["fresh"]


def test_a_person_sees_how_far_it_is(hub: Hub, home: Path, environment: dict[str, str]) -> None:
    """Two gigabytes take minutes: a terminal shows one line that grows, and what to do when it is there."""
    files = hub.models[ID]["master"]
    del files[WEIGHTS]
    files["pytorch_model.bin"] = pickled(DEMO_MODEL)
    size = f"{len(files['pytorch_model.bin']) / 1e6:,.1f}"
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "model", "fetch", ID],
        env=environment,
        cwd=home.parent,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    os.close(theirs)
    told, _ = process.communicate(timeout=150)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert process.returncode == 0
    assert f"pytorch_model.bin {size} of {size} MB" in shown
    assert "converting pytorch_model.bin" in shown
    assert f"export AUDIT_MODEL={ID}" in told
