"""The careful process as a process: quick to start, without secrets, and never left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from shutil import which

import psutil
import pytest

from audit.errors import Transient
from tests.worker.images.crashing import careful, children, marked_root, outcome, wait_until
from tests.worker.images.pictures import encoded, flag
from worker.images.careful import without_secrets
from worker.images.decode import Decoded

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with marked pictures; the hook is on PYTHONPATH."""
    return marked_root(tmp_path, monkeypatch)


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
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20x",
    }  # fmt: skip
    assert without_secrets({**kept, **secrets}) == kept


def test_it_is_not_instrumented() -> None:
    """opentelemetry-instrument leaves a folder in PYTHONPATH by which every process below starts with its SDK."""
    instrumented = {"PYTHONPATH": "/venv/opentelemetry/instrumentation/auto_instrumentation:/code"}
    assert without_secrets(instrumented) == {"PYTHONPATH": "/code"}


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
