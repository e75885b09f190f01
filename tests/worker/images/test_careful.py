"""A picture that kills or hangs its decoder is named, and nothing else is.

The crashes are real: a `sitecustomize` on PYTHONPATH, or a library in LD_PRELOAD, acts on marked pictures in the
careful process, as a broken decoder would.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from shutil import which

import psutil
import pytest

from audit.errors import BadImage, Transient
from tests.worker.images.pictures import animation, encoded, exif, flag
from worker.images.careful import CarefulDecoder, without_secrets
from worker.images.decode import Decoded
from worker.images.limits import ImageLimits
from worker.images.load import load_picture

LIMITS = ImageLimits()
REPOSITORY = Path(__file__).resolve().parents[3]
HOOK = """
import os, signal, sys, time
import PIL.Image
real = PIL.Image.open
def hooked(fp, *args, **kwargs):
    data = fp.read(); fp.seek(0)
    if b"MARK:SEGV" in data: os.kill(os.getpid(), signal.SIGSEGV)
    if b"MARK:ABRT" in data: os.abort()
    if b"MARK:KILL" in data: os.kill(os.getpid(), signal.SIGKILL)
    if b"MARK:EXIT" in data: os._exit(3)
    if b"MARK:HANG" in data: time.sleep(600)
    if b"MARK:SPIN" in data:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        while True: pass
    if b"MARK:MEMORY" in data: bytearray(1 << 40)
    if b"MARK:NOISE" in data:
        print("noise on stdout", flush=True); os.write(1, b"noise"); os.write(2, b"noise")
    if b"MARK:ONCE" in data:
        marker = os.environ["ONCE"]
        if not os.path.exists(marker):
            open(marker, "w").close(); os.kill(os.getpid(), signal.SIGSEGV)
    return real(fp, *args, **kwargs)
PIL.Image.open = hooked
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with a good picture and one for each way to go wrong."""
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(HOOK)
    monkeypatch.setenv("PYTHONPATH", str(hook))
    monkeypatch.setenv("ONCE", str(tmp_path / "once"))
    made = tmp_path / "root"
    made.mkdir()
    (made / "good.png").write_bytes(encoded(flag(), "PNG"))
    for mark in ("SEGV", "ABRT", "KILL", "EXIT", "HANG", "SPIN", "MEMORY", "NOISE", "ONCE"):
        (made / f"{mark}.png").write_bytes(encoded(flag(), "PNG") + f"MARK:{mark}".encode())
    return made


def outcome(decoder: CarefulDecoder, reference: str, root: Path) -> Decoded | str:
    """The picture, or the failure in words."""
    try:
        return decoder.decode(reference, root=root)
    except BadImage as error:
        return str(error)


def careful(limit_s: float = 20.0, limits: ImageLimits = LIMITS) -> CarefulDecoder:
    return CarefulDecoder(limits=limits, decode_limit_s=limit_s)


def children() -> list[int]:
    return [child.pid for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]


def wait_until(holds: Callable[[], bool], limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_finds_what_decoding_in_place_finds(root: Path) -> None:
    """A chunk's second attempt must not change verdicts: same pixels, flags, hash and failures."""
    (root / "turned.jpg").write_bytes(encoded(flag(), "JPEG", exif=b"Exif\0\0" + exif(6)))
    (root / "wrong.jpg").write_bytes(animation("GIF"))
    (root / os.fsdecode(b"\xff.png")).write_bytes(encoded(flag().convert("L"), "PNG"))
    (root / "half.png").write_bytes(encoded(flag(), "PNG")[:100])
    references = ("good.png", "turned.jpg", "wrong.jpg", os.fsdecode(b"\xff.png"))
    failing = ("half.png", "none", "../x", "", "\ud800", "\x1b", "http://h", "a" * 100_000)
    with careful() as decoder:
        for reference in references:
            there, here = decoder.decode(reference, root=root), load_picture(reference, root=root, limits=LIMITS)
            assert (there.image.tobytes(), there.image.size, there.flags, there.sha256, there.width, there.height) == (
                here.image.tobytes(), here.image.size, here.flags, here.sha256, here.width, here.height,
            )  # fmt: skip
        for reference in failing:
            with pytest.raises(BadImage) as caught:
                load_picture(reference, root=root, limits=LIMITS)
            assert outcome(decoder, reference, root) == str(caught.value)
        assert len(children()) == 1


@pytest.mark.parametrize(
    ("mark", "words"),
    [
        ("SEGV", "signal 11 (SIGSEGV)"),
        ("ABRT", "signal 6 (SIGABRT)"),
        ("KILL", "signal 9 (SIGKILL)"),
        ("EXIT", "exit status 3"),
    ],
)
def test_a_picture_that_kills_its_decoder_is_named_and_its_neighbours_are_read(
    mark: str, words: str, root: Path
) -> None:
    """One broken file must cost neither the worker nor the pictures around it."""
    with careful() as decoder:
        assert isinstance(outcome(decoder, "good.png", root), Decoded)
        assert outcome(decoder, f"{mark}.png", root) == (
            f"decoder_crashed: decoding it killed its process, twice: {words}"
        )
        assert isinstance(outcome(decoder, "good.png", root), Decoded)


def test_one_death_blames_no_picture(root: Path) -> None:
    """The kernel's memory killer takes whom it likes; only a death in a fresh process as well is the picture's."""
    with careful() as decoder:
        assert isinstance(outcome(decoder, "ONCE.png", root), Decoded)
    assert (root.parent / "once").exists()


def test_a_shutdown_of_the_whole_group_blames_no_picture(root: Path) -> None:
    """TERM and INT reach the careful process as well; the worker decides when it is done."""
    with careful() as decoder:
        decoder.decode("good.png", root=root)
        (child,) = children()
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(child, number)
        decoder.decode("good.png", root=root)
        assert children() == [child]


def test_a_process_that_died_while_idle_is_replaced(root: Path) -> None:
    """Nothing was being decoded: nothing is to blame."""
    with careful() as decoder:
        decoder.decode("good.png", root=root)
        (before,) = children()
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: not children())
        decoder.decode("good.png", root=root)
        assert children() != [before]


@pytest.mark.parametrize("mark", ["HANG", "SPIN"])
def test_a_picture_that_hangs_its_decoder_is_named(mark: str, root: Path) -> None:
    """Without a limit one file would stop a worker for ever, and its lease would be renewed for nothing."""
    with careful(limit_s=0.5) as decoder:
        start = time.monotonic()
        assert outcome(decoder, f"{mark}.png", root) == (
            "decoder_timeout: decoding it took over 0.5 s (AUDIT_DECODE_LIMIT_S)"
        )
        assert time.monotonic() - start < 10.0
        assert children() == []
    with careful() as decoder:
        assert isinstance(outcome(decoder, "good.png", root), Decoded)


def test_running_out_of_its_memory_is_the_pictures_size_and_no_crash(root: Path) -> None:
    """The process has a limit of its own, so that the machine's is never reached."""
    with careful() as decoder:
        assert str(outcome(decoder, "MEMORY.png", root)).startswith("image_too_large: ")
        assert isinstance(outcome(decoder, "good.png", root), Decoded)


def test_what_libraries_print_is_no_answer(root: Path) -> None:
    """Decoders complain on stdout and stderr; the answers have a channel of their own."""
    with careful() as decoder:
        assert isinstance(outcome(decoder, "NOISE.png", root), Decoded)


def test_the_limits_travel(root: Path) -> None:
    """Careful must not mean lenient."""
    with careful(limits=ImageLimits(max_image_pixels=100)) as decoder:
        assert str(outcome(decoder, "good.png", root)).startswith("image_too_large: 96x64 is over 100 pixels")


@pytest.mark.skipif(which("gcc") is None, reason="needs a C compiler")
def test_a_preloaded_library_that_crashes_is_survived(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real crash in native code, while the file is opened; LD_PRELOAD must reach the process."""
    source, library = root.parent / "crash.c", root.parent / "crash.so"
    source.write_text(
        "#define _GNU_SOURCE\n#include <dlfcn.h>\n#include <fcntl.h>\n#include <stdarg.h>\n#include <string.h>\n"
        "int open64(const char *path, int flags, ...) {\n"
        '  if (strstr(path, "crash-me")) *(volatile int *)0 = 1;\n'
        "  va_list rest; va_start(rest, flags); int mode = va_arg(rest, int); va_end(rest);\n"
        '  int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, "open64");\n'
        "  return real(path, flags, mode);\n}\n"
    )
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    (root / "crash-me.png").write_bytes(encoded(flag(), "PNG"))
    monkeypatch.setenv("LD_PRELOAD", str(library))
    with careful() as decoder:
        assert str(outcome(decoder, "crash-me.png", root)).endswith("signal 11 (SIGSEGV)")
        assert isinstance(outcome(decoder, "good.png", root), Decoded)


def test_it_starts_quickly_and_without_a_model(root: Path) -> None:
    """A folder of crashing pictures costs two starts each: torch would make that minutes."""
    with careful() as decoder:
        start = time.monotonic()
        decoder.decode("good.png", root=root)
        assert time.monotonic() - start < 2.0  # 0.1 s on a quiet machine
        (child,) = children()
        maps = Path(f"/proc/{child}/maps").read_text()
    assert not [name for name in ("torch", "numpy", "pydantic", "sqlalchemy") if f"/{name}/" in maps]


def test_it_gets_no_secrets_no_files_and_no_core_dump(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What a decoder is made to do by an attacker, it does with what it has."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:hush@h/d")
    monkeypatch.setenv("REDIS_URL", "redis://:hush@h")
    monkeypatch.setenv("SOME_PASSWORD", "hush")
    with open(tmp_path / "ledger", "wb") as ledger, careful() as decoder:
        os.set_inheritable(ledger.fileno(), True)
        decoder.decode("good.png", root=root)
        (child,) = children()
        environ = Path(f"/proc/{child}/environ").read_bytes()
        opened = {os.readlink(entry) for entry in Path(f"/proc/{child}/fd").iterdir()}
        limits = psutil.Process(child)
        assert limits.rlimit(psutil.RLIMIT_CORE) == (0, 0)
        assert limits.rlimit(psutil.RLIMIT_AS)[1] <= 1 << 31
    assert b"hush" not in environ
    assert b"PYTHONPATH=" in environ
    assert {name.partition(":")[0].partition("#")[0] for name in opened if " (deleted)" not in name} == {
        "/dev/null", "socket",
    }  # fmt: skip


def test_secrets_are_known_by_name_or_by_their_look() -> None:
    """Everything else is kept: a preloaded library may need its own settings."""
    kept = {"PATH": "/bin", "PYTHONPATH": "x", "LD_PRELOAD": "y", "LANG": "C", "AUDIT_HOME": "/a", "MARKER": "z"}
    secrets = {
        "DATABASE_URL": "x", "REDIS_URL": "x", "CELERY_BROKER_URL": "x", "AWS_SECRET_ACCESS_KEY": "x",
        "PGPASSWORD": "x", "hf_token": "x", "API_KEY": "x", "ODD": "amqp://u:p@h/",
    }  # fmt: skip
    assert without_secrets({**kept, **secrets}) == kept


def test_nothing_is_left_when_it_is_closed_or_interrupted(root: Path) -> None:
    """Also by a time limit that strikes in the middle: the half-read answer must not be the next picture's."""

    class TimeLimit(Exception):
        pass

    def strike(*_: object) -> None:
        raise TimeLimit

    before = len(os.listdir("/proc/self/fd"))
    with careful() as decoder:
        decoder.decode("good.png", root=root)
        previous = signal.signal(signal.SIGUSR1, strike)
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        try:
            with pytest.raises(TimeLimit):
                decoder.decode("HANG.png", root=root)
        finally:
            timer.cancel()
            signal.signal(signal.SIGUSR1, previous)
        assert children() == []
        assert isinstance(outcome(decoder, "good.png", root), Decoded)
    assert children() == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_it_lives_on_when_the_thread_that_started_it_ends(root: Path) -> None:
    """The kernel's parent-death signal means the thread: asked for carelessly, it would look like a crash."""
    with careful() as decoder:
        thread = threading.Thread(target=decoder.decode, args=("good.png",), kwargs={"root": root})
        thread.start()
        thread.join()
        (child,) = children()
        assert isinstance(outcome(decoder, "good.png", root), Decoded)
        assert children() == [child]


def test_it_dies_with_its_worker(root: Path) -> None:
    """A worker killed with -9 cleans nothing up, and a hanging decoder would be left for ever."""
    script = (
        "import sys\nfrom pathlib import Path\nfrom worker.images.careful import CarefulDecoder\n"
        "from worker.images.limits import ImageLimits\n"
        "with CarefulDecoder(limits=ImageLimits(), decode_limit_s=600) as decoder:\n"
        "    decoder.decode('good.png', root=Path(sys.argv[1]))\n    print('ready', flush=True)\n"
        "    decoder.decode('HANG.png', root=Path(sys.argv[1]))\n"
    )
    command = [sys.executable, "-c", script, str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=REPOSITORY) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"ready\n"
        (child,) = psutil.Process(worker.pid).children()
        worker.kill()
        worker.wait()
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_a_process_that_cannot_start_blames_no_picture(root: Path) -> None:
    """A broken installation is the operator's business; the message says what is wrong with it."""
    (root.parent / "hook" / "PIL").mkdir()
    (root.parent / "hook" / "PIL" / "__init__.py").write_text("raise RuntimeError('half installed')")
    with careful() as decoder, pytest.raises(Transient, match="half installed") as caught:
        decoder.decode("good.png", root=root)
    assert caught.value.code == "decoder_start"
    assert children() == []
