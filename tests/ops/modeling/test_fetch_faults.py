"""What goes wrong while a model is fetched: it says so in one line, nothing half-done is visible, and it goes on."""

import io
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from audit.errors import Unavailable
from tests.ops.conftest import COMMAND
from tests.support.fetching import ID, PATIENCE, WEIGHTS, Cli, fetched, refused, visible
from tests.support.hub_server import Hub
from tests.support.waiting import wait_until
from worker.engines.hub_process import hub_process


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_an_interrupted_fetch_goes_on(
    cli: Cli, hub: Hub, home: Path, environment: dict[str, str], how: signal.Signals
) -> None:
    """Ctrl-C, a service's stop, a crash: nothing half-fetched is a model, and the next call asks for the rest alone."""
    hub.stall_after[WEIGHTS] = 5_000_000
    process = subprocess.Popen(
        [*COMMAND, "model", "fetch", ID], env=environment, cwd=home.parent, stderr=subprocess.PIPE, text=True
    )
    try:
        assert hub.stalled.wait(timeout=150)
        incomplete = f"*/.fetching-*/files/{WEIGHTS}.incomplete"
        wait_until(lambda: _bytes(home, incomplete) > 4_000_000, timeout_s=150, what="bytes on disk")
        process.send_signal(how)
        _, errors = process.communicate(timeout=150)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == (-9 if how is signal.SIGKILL else 130)
    assert "Traceback" not in errors
    assert visible(home) == []
    assert "no configuration" not in errors
    assert "half fetched: small-ofa" in cli("model", "list").stdout
    assert "fetch" in refused(cli, "model", "show", ID, status=2)
    hub.stall_after.clear()
    hub.go_on.set()
    told = fetched(cli)
    assert told["downloaded_bytes"] < 10_500_000
    second = hub.downloads(WEIGHTS)[-1].range
    assert second is not None
    assert int(second.removeprefix("bytes=").rstrip("-")) > 4_000_000
    assert cli("model", "verify", ID).returncode == 0


def _bytes(home: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in (home / "models").glob(pattern))


def test_a_flipped_byte_is_asked_for_again(cli: Cli, hub: Hub) -> None:
    """One bad transfer heals itself."""
    hub.flip[WEIGHTS] = 1
    fetched(cli)
    assert len(hub.downloads(WEIGHTS)) == 2
    assert cli("model", "verify", ID).returncode == 0


def test_bytes_that_stay_wrong_are_refused_and_not_kept(cli: Cli, hub: Hub, home: Path) -> None:
    """A damaged mirror must end in an error that names the file, not in a model that answers rubbish."""
    hub.flip[WEIGHTS] = 99
    line = refused(cli, "model", "fetch", ID, status=1)
    assert WEIGHTS in line
    assert "(model_checksum)" in line
    assert visible(home) == []
    assert not list((home / "models").rglob(f"{WEIGHTS}*"))
    hub.flip.clear()
    fetched(cli)


def test_a_damaged_model_is_fetched_again(cli: Cli, hub: Hub) -> None:
    """What `model verify` finds broken must be mended by the command that it names, not called there already."""
    told = fetched(cli)
    weights = Path(told["directory"]) / WEIGHTS
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert cli("model", "verify", ID).returncode == 1
    assert fetched(cli) == told
    assert cli("model", "verify", ID).returncode == 0


def test_a_hub_that_does_not_answer_is_unavailable(cli: Cli, hub: Hub) -> None:
    """Exit 69 and what to look at: network, proxy, mirror."""
    line = refused(cli, "model", "fetch", ID, status=69, MODELSCOPE_ENDPOINT="http://127.0.0.1:9", **PATIENCE)
    assert "http://127.0.0.1:9" in line or "the hub does not answer" in line
    assert "HTTPS_PROXY" in line
    hub.status[WEIGHTS] = 500
    assert "(hub_unavailable)" in refused(cli, "model", "fetch", ID, status=69, **PATIENCE)
    hub.status[WEIGHTS] = 403
    assert "MODELSCOPE_API_TOKEN" in refused(cli, "model", "fetch", ID, status=2, **PATIENCE)


def test_two_fetches_do_not_meet(cli: Cli, hub: Hub, environment: dict[str, str], tmp_path: Path) -> None:
    """The second is told to come back later; the first is not disturbed."""
    hub.stall_after[WEIGHTS] = 5_000_000
    first = subprocess.Popen([*COMMAND, "model", "fetch", ID], env=environment, cwd=tmp_path)
    try:
        assert hub.stalled.wait(timeout=150)
        assert f"process {first.pid} is fetching" in refused(cli, "model", "fetch", ID, status=75)
        hub.stall_after.clear()
        hub.go_on.set()
        assert first.wait(timeout=150) == 0
    finally:
        first.kill()
        first.wait()
    assert fetched(cli)["fresh"] is False


def test_a_full_disk_is_seen_before_anything_is_downloaded(cli: Cli, hub: Hub, home: Path) -> None:
    """A model that cannot fit is refused in one line, with the bytes that are missing."""
    weights = hub.models[ID]["master"][WEIGHTS]
    listed = {"Path": "pytorch_model.bin", "Type": "blob", "Size": 49_000_000_000, "Sha256": "0" * 64}
    del hub.models[ID]["master"][WEIGHTS]
    hub.listed_besides = [listed]
    if shutil.disk_usage(home.parent).free > 98_000_000_000:
        pytest.skip("this disk has room for anything that is taken")
    line = refused(cli, "model", "fetch", ID, status=1)
    assert "(disk_full)" in line
    assert "make room" in line
    assert {asked.file for asked in hub.asked} == {None}
    assert weights


@pytest.fixture
def tiny_disk(home: Path) -> Iterator[Path]:
    """AUDIT_HOME on a file system of 70 MB, which a filler leaves 8 MB of once the room was checked."""
    home.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", str(home)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield home
    subprocess.run(["umount", "-l", str(home)], check=False)


def test_a_disk_that_fills_up_on_the_way_costs_nothing(
    cli: Cli, hub: Hub, tiny_disk: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    """One line, nothing half-written visible, and the same command goes on when there is room."""
    hub.stall_after["configuration.json"] = 0
    process = subprocess.Popen(
        [*COMMAND, "model", "fetch", ID], env=environment | PATIENCE, cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    try:
        assert hub.stalled.wait(timeout=150)
        filler = tiny_disk / "filler"
        filler.write_bytes(b"\0" * (shutil.disk_usage(tiny_disk).free - 8_000_000))
        hub.stall_after.clear()
        hub.go_on.set()
        _, errors = process.communicate(timeout=150)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 1
    assert "(disk_full)" in errors.strip().splitlines()[-1]
    assert "Traceback" not in errors
    assert visible(tiny_disk) == []
    filler.unlink()
    assert fetched(cli)["fresh"] is True
    assert hub.downloads(WEIGHTS)[-1].range is not None


def test_a_cut_connection_goes_on_where_it_was_cut(cli: Cli, hub: Hub) -> None:
    """Two gigabytes over a bad line must not start from nothing each time."""
    hub.cut_after[WEIGHTS] = 5_000_000
    fetched(cli)
    first, second = hub.downloads(WEIGHTS)
    assert first.range is None
    assert second.range is not None
    assert 4_000_000 < int(second.range.removeprefix("bytes=").rstrip("-")) <= 5_046_272


def test_unknown_ids_and_revisions_are_usage_errors(cli: Cli) -> None:
    """Exit 2, and a line that says which of the two it was."""
    assert "iic/nothing" in refused(cli, "model", "fetch", "iic/nothing", status=2)
    assert "no revision 'v99'" in refused(cli, "model", "fetch", ID, "--revision", "v99", status=2)
    assert "no ModelScope id" in refused(cli, "model", "fetch", "../x", status=2)


def test_what_stops_behind_the_conversion_does_not_stop_the_next_fetch(cli: Cli, hub: Hub) -> None:
    """The pickle is gone by then. A model that is refused there is refused again in the same words, not for a lack of
    our own notes; an interruption there would have ended every later fetch as well."""
    stream = io.BytesIO()
    torch.save({"encoder.embed_tokens.weight": torch.zeros(3, 4)}, stream)
    files = hub.models[ID]["master"]
    del files[WEIGHTS]
    files["pytorch_model.bin"] = stream.getvalue()
    line = refused(cli, "model", "fetch", ID, status=2)
    assert "encoder.embed_tokens.weight is (3, 4)" in line
    assert refused(cli, "model", "fetch", ID, status=2) == line


def test_a_hub_that_brings_nothing_new_is_given_up(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub can keep its client busy for ever; a fetch that runs by night must end and say so."""
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    hub.stall_after[WEIGHTS] = 0
    with hub_process(tmp_path / "client", silent_s=2.0) as asked:
        asked.ask(ID, revision="master")
        with pytest.raises(Unavailable, match="nothing new came for 2 s"):
            asked.take([WEIGHTS], into=tmp_path / "files", cache=tmp_path / "cache", progress=lambda *_: None)
