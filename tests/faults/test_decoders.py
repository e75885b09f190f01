"""Pictures that crash or hang their decoder: named, alone, and without a model reload each."""

from pathlib import Path

import pytest

from audit.settings import Settings
from db.queries import progress
from tests.support.manifests import draw, write_csv
from tests.support.recovery import recovery
from tests.support.running import changed, check_promises, finished, ledger, results, running, submitted
from tests.support.waiting import wait_until

CRASHING_DECODER = """
import os, signal
from PIL import Image
opened = Image.open
def fragile(file, *arguments, **options):
    where = file.tell() if hasattr(file, "tell") else None
    if where is not None:
        crashes = b"CRASH-MARKER" in file.read()
        file.seek(where)
        if crashes:
            os.kill(os.getpid(), signal.SIGSEGV)
    return opened(file, *arguments, **options)
Image.open = fragile
"""

NATIVE_LOOP = "from collections import deque\nfrom itertools import repeat\n"


@pytest.fixture
def careful(sqlite_settings: Settings) -> Settings:
    """Short leases, so that a death is noticed soon."""
    return changed(
        sqlite_settings, devices="cpu", lease_s=6, pair_limit_s=5, feed_every_s=0.2, resend_s=2, breaker_open_s=1
    )


def poisoned(folder: Path, *, good: int, bad: int) -> Path:
    """Pictures of which some hold the marker; it stands behind their last chunk, where decoders do not look."""
    draw(folder / "good.png")
    whole = (folder / "good.png").read_bytes()
    (folder / "bad.png").write_bytes(whole + b"CRASH-MARKER")
    names = ["good.png"] * good
    for number in range(bad):
        names.insert(number * 2, "bad.png")
    return write_csv(folder / "pairs.csv", [(f"{n}-{name[0]}", name, "stub:yes") for n, name in enumerate(names)])


def hook(folder: Path, code: str = CRASHING_DECODER) -> str:
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    return str(folder)


def test_one_crashing_picture_of_sixty_four_fails_alone(careful: Settings, tmp_path: Path) -> None:
    """63 verdicts and one failure that names the picture.

    Safeguard: after a death pictures are decoded in a throwaway process (worker/images/careful.py).
    """
    batch = submitted(careful, poisoned(tmp_path, good=63, bad=1))
    with running(careful, tmp_path, PYTHONPATH=hook(tmp_path / "hook")) as worker:
        worker.wait_for("model proved")
        with recovery(22, "one picture of 64 crashes the decoder: from the claim to the last outcome", within_s=60):
            finished(careful, batch, watch=worker)
        assert len(worker.events("model proved")) <= 3
    codes = results(careful, batch)
    assert codes == {key: "decoder_crashed" if key.endswith("b") else "Yes" for key in codes}
    assert len(codes) == 64
    check_promises(careful, batch)


def test_a_lost_image_folder_fails_no_pair(careful: Settings, tmp_path: Path) -> None:
    """One host without its mount must not write file_missing for a million pairs; the chunk waits for the mount."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    batch = submitted(careful, poisoned(folder, good=6, bad=0))
    folder.rename(tmp_path / "elsewhere")
    with running(careful, tmp_path) as worker, ledger(careful) as database:
        worker.wait_for("place of pictures is left alone")
        assert results(careful, batch) == {}
        (tmp_path / "elsewhere").rename(folder)
        wait_until(lambda: progress(database, batch).state == "done", timeout_s=60, what="the batch to be judged")
        assert worker.events("worker process leaves") == []
    assert set(results(careful, batch).values()) == {"Yes"}
    check_promises(careful, batch)


@pytest.mark.long
def test_sixty_four_crashing_pictures_of_sixty_four_cost_two_reloads_at_most(careful: Settings, tmp_path: Path) -> None:
    """A folder of broken files must not cost a model's load each.

    Safeguard: as above; the process that holds the model decodes none of them any more.
    """
    batch = submitted(careful, poisoned(tmp_path, good=0, bad=64))
    with running(careful, tmp_path, PYTHONPATH=hook(tmp_path / "hook")) as worker:
        worker.wait_for("model proved")
        with recovery(22, "64 pictures of 64 crash the decoder: from the claim to the last outcome", within_s=60):
            finished(careful, batch, watch=worker, timeout_s=200)
        assert len(worker.events("model proved")) <= 3
    assert results(careful, batch) == {f"{number}-b": "decoder_crashed" for number in range(64)}
    check_promises(careful, batch)


@pytest.mark.long
def test_a_picture_on_which_the_decoder_spins_is_timed_out_alone(careful: Settings, tmp_path: Path) -> None:
    """A loop in a decoder holds the GIL: the process is killed from outside, and then a throwaway one has the picture.

    Safeguard: worker/housekeeping.py kills what makes no progress; worker/images/careful.py limits each picture.
    """
    quick = changed(careful, lease_s=4, pair_limit_s=3, decode_limit_s=2)
    batch = submitted(quick, poisoned(tmp_path, good=7, bad=1))
    spinning = CRASHING_DECODER.replace("os.kill(os.getpid(), signal.SIGSEGV)", "deque(repeat(None), maxlen=0)")
    with running(quick, tmp_path, PYTHONPATH=hook(tmp_path / "hook", NATIVE_LOOP + spinning)) as worker:
        worker.wait_for("model proved")
        with (
            ledger(quick) as database,
            recovery(7, "a decoder that spins: from the claim to a verdict", within_s=4 + 5),
        ):
            wait_until(lambda: progress(database, batch).judged, timeout_s=90, what=f"a verdict{worker.tail()}")
        finished(quick, batch, watch=worker)
        assert len(worker.events("stuck process killed")) <= 3
    codes = results(quick, batch)
    assert codes == {key: "decoder_timeout" if key.endswith("b") else "Yes" for key in codes}
    assert len(codes) == 8
    check_promises(quick, batch)


def test_a_folder_of_crashing_pictures_does_not_cost_a_reload_each(careful: Settings, tmp_path: Path) -> None:
    """They crash a throwaway process; the model's process dies once, before anybody knew."""
    batch = submitted(careful, poisoned(tmp_path, good=0, bad=12))
    with running(careful, tmp_path, PYTHONPATH=hook(tmp_path / "hook")) as worker:
        finished(careful, batch, watch=worker)
        assert len(worker.events("model proved")) <= 3
    assert set(results(careful, batch).values()) == {"decoder_crashed"}
    check_promises(careful, batch)
