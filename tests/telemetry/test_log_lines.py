"""Log lines: one event a line whatever stands in it, with what it belongs to, and without what is nobody's business."""

import io
import json
import logging
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as how
from hypothesis import strategies as st

from audit.errors import BadCaption, EngineFault
from audit.settings import Settings
from telemetry.log_text import CAPTION, HIDDEN, LONGEST, Cleaner, secrets_of, withholding
from telemetry.logs import configure_logs, logger
from telemetry.stages import about, stage

TEXT = re.compile(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}\] \[[A-Z]+\] \[\w+\] .*")
HOSTILE = st.one_of(
    st.text(),
    st.text(alphabet=st.sampled_from("\n\r\x0b\x0c\x1b\x85\x9b\u2028\u2029\u202e\u200b\ud800\0[31m]ab=\"'")),
    st.sampled_from(
        ["\n[2026-06-15 14:23:01,205] [CRITICAL] [queue] forged", '"}\n{"event": "forged"}', "\x1b[2J\x1b]0;x\x07"]
    ),
)
CAPTION_TEXT = "A Red circle, upon the blue square of Mr. Wiśniewski"


class Stderr(io.StringIO):
    """What a process wrote; not a terminal unless it is told to be one."""

    terminal = False

    def __init__(self, home: Path, patch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self._home, self._patch = home, patch

    def configure(self, **fields: object) -> None:
        """Log to here, as these settings say."""
        self._patch.setattr("sys.stderr", self)  # not earlier: pytest puts its own one there as the test begins
        configure_logs(Settings.model_validate({"home": self._home, **fields}))

    def isatty(self) -> bool:
        return self.terminal

    def take(self) -> str:
        text = self.getvalue()
        self.seek(0)
        self.truncate()
        return text


@pytest.fixture
def stderr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stderr]:
    """Instead of the real one; the root logger is as before afterwards."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield Stderr(tmp_path, monkeypatch)
    root.handlers[:], root.level = before, level


def only(text: str) -> dict[str, Any]:
    """The one JSON line."""
    assert text.count("\n") == 1, text
    line: dict[str, Any] = json.loads(text)
    return line


def test_a_line_for_people(stderr: Stderr) -> None:
    """Time, level and stage in front, where the eye finds them; then what happened, to whom, and how."""
    stderr.configure(log_format="text")
    with about(batch=7, chunk=3, attempt=1), stage("preprocess"):
        logger("worker.judging").warning("picture shrunk", reason="it has too many pixels", kept=0.5, pair=12)
    line = stderr.take()
    assert TEXT.fullmatch(line.rstrip("\n"))
    told = line.partition("] [WARNING] [preprocess] ")[2]
    assert re.fullmatch(
        'picture shrunk batch=7 chunk=3 pair=12 attempt=1 reason="it has too many pixels" kept=0.5 '
        r"trace_id=[0-9a-f]{32} span_id=[0-9a-f]{16}\n",
        told,
    ), told


def test_a_line_in_json(stderr: Stderr) -> None:
    """Machines find each field by its name, the time in UTC, and the trace that the line belongs to."""
    stderr.configure()
    with about(batch=7, chunk=3), stage("ledger", "claim"):
        logger("worker.tasks").info("chunk claimed", pairs=256, took_s=0.25, left=float("nan"))
    line = only(stderr.take())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line.pop("timestamp"))
    assert (len(line.pop("trace_id")), len(line.pop("span_id"))) == (32, 16)
    assert line == {
        "level": "info",
        "stage": "ledger",
        "event": "chunk claimed",
        "logger": "worker.tasks",
        "batch": 7,
        "chunk": 3,
        "pairs": 256,
        "took_s": 0.25,
        "left": "nan",
    }


def test_the_format_is_text_on_a_terminal_and_json_elsewhere(stderr: Stderr) -> None:
    """A person and a collector each get theirs without setting anything; whoever sets it gets what he sets."""
    seen = []
    for terminal, log_format in ((True, "auto"), (False, "auto"), (True, "json"), (False, "text")):
        stderr.terminal = terminal
        stderr.configure(log_format=log_format)
        logger("worker.tasks").info("said")
        seen.append(stderr.take()[0])
    assert seen == ["[", "{", "{", "["]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("celery.worker.consumer.consumer", "queue"),
        ("worker.lifecycle", "queue"),
        ("worker.model_pool", "model_loading"),
        ("worker.engines.ofa", "model_loading"),
        ("worker.images.decode", "preprocess"),
        ("worker.judging", "inference"),
        ("worker.office", "ledger"),
        ("sqlalchemy.pool.impl", "ledger"),
        ("", "queue"),
    ],
)
def test_every_line_has_a_stage(stderr: Stderr, name: str, expected: str) -> None:
    """Also lines outside of any work, and those of libraries: a panel by stage must not lack any."""
    stderr.configure()
    logging.getLogger(name or None).warning("said")
    assert only(stderr.take())["stage"] == expected
    with stage("postprocess"):
        logging.getLogger(name or None).error("said inside")
        logging.getLogger(name or None).error("said by itself", extra={"told": {"stage": "ledger"}})
    inside, by_itself = map(json.loads, stderr.take().splitlines())
    assert (inside["stage"], by_itself["stage"]) == ("postprocess", "ledger")


@how(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(text=HOSTILE, name=HOSTILE, log_format=st.sampled_from(["text", "json"]))
def test_whatever_comes_from_outside_is_one_line(stderr: Stderr, text: str, name: str, log_format: str) -> None:
    """A caption's author, a file's name or a server's answer must not write log lines, nor speak to a terminal."""
    stderr.configure(log_format=log_format)
    try:
        raise ValueError(text)
    except ValueError as error:
        told = {"reason": text, "deep": [{name: (text, {1: text})}], "object": error, name: 1}
        logging.getLogger("worker.tasks").error("said", extra={"told": told})
        logging.getLogger("celery.worker").error("it said %s", text)
        logging.getLogger("celery.worker").critical(text, exc_info=error, extra={"data": {name: text}})
    lines = stderr.take().split("\n")
    assert lines.pop() == ""
    for line in lines:
        assert not [char for char in line if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")], ascii(line)
    if log_format == "json":
        assert [json.loads(line)["level"] for line in lines] == ["error", "error", "critical"]
        assert not [char for line in lines for char in str(list(map(str, json.loads(line).values()))) if char < " "]
    else:
        own = [line for line in lines if not line.startswith("    | ")]
        assert len(own) == 3
        assert all(TEXT.fullmatch(line) for line in own)


def test_an_error_shows_its_stack_and_its_cause(stderr: Stderr) -> None:
    """Three in the morning: what failed, where, and why, in one place."""

    def reads() -> None:
        raise OSError(28, "No space left on device")

    def works() -> None:
        try:
            reads()
        except OSError as error:
            raise RuntimeError("not written\n[2026-06-15] forged") from error

    for log_format in ("json", "text"):
        stderr.configure(log_format=log_format)
        try:
            works()
        except RuntimeError:
            logger("worker.lifecycle").exception("worker not started")
        text = stderr.take()
        if log_format == "json":
            stack = only(text)["exception"].split("\n")
        else:
            first, *rest = text.splitlines()
            assert first.endswith("worker not started")
            assert all(line.startswith("    | ") for line in rest)
            stack = [line.removeprefix("    | ") for line in rest]
        assert stack[0] == "Traceback (most recent call last):"
        assert [line.partition(", in ")[2] for line in stack if ", in " in line] == [
            "works",
            "reads",
            "test_an_error_shows_its_stack_and_its_cause",
            "works",
        ]
        assert "OSError: [Errno 28] No space left on device" in stack
        assert "The above exception was the direct cause of the following exception:" in stack
        assert stack[-1] == r"RuntimeError: not written\n[2026-06-15] forged"


def test_a_stack_of_any_depth_is_bearable(stderr: Stderr) -> None:
    """A recursion of a thousand calls, errors that cause each other in a ring, an error that cannot be shown."""

    class Odd(Exception):
        def __str__(self) -> str:
            raise ValueError("no words")

    def deeper(left: int) -> None:
        if not left:
            raise Odd
        deeper(left - 1)

    stderr.configure()
    try:
        deeper(300)
    except Odd as error:
        other = RuntimeError("x" * 100_000)
        other.__cause__, error.__cause__ = error, other
        logger("worker.tasks").error("chunk failed", exc_info=error)
    line = only(stderr.take())
    assert len(line["exception"]) < 20_000
    assert line["exception"].endswith("Odd: Odd that cannot be shown (ValueError)")


def test_long_values_are_cut(stderr: Stderr) -> None:
    """A gigabyte in one field must not become a gigabyte in the log; numbers stay numbers."""
    stderr.configure()
    long = {"text": "x" * 10_000_000, "list": list(range(1_000)), "number": 10**10_000, "some": 2**60}
    logger("worker.tasks").warning("said", **long)
    text = stderr.take()
    line = only(text)
    assert (len(line["text"]), line["text"][-1], len(line["list"]), line["some"]) == (LONGEST, "…", 64, 2**60)
    assert len(text) < 5_000


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no redis://:hunter2@host:6379/0 there", "no redis://***@host:6379/0 there"),
        ("postgresql://me:hun/ter2@host/name", "postgresql://***@host/name"),
        ("'redis://hunter2@host'", "'redis://***@host'"),
        ("s3://bucket/a.png?X-Amz-Signature=hunter2&b=1 gone", "s3://bucket/a.png?*** gone"),
        ("https://host/a@b:c", "https://host/a@b:c"),
        ("http://127.0.0.1:9464/metrics", "http://127.0.0.1:9464/metrics"),
        ("wrong password: hunter2", "wrong password: ***"),
        ("a%2Fbc is a%2Fbc, or a/bc", "*** is ***, or ***"),
        ("://" * 3, "://" * 3),
    ],
)
def test_secrets_are_masked_wherever_they_turn_up(text: str, shown: str) -> None:
    """An error of a library quotes the URL that it was given; a log is read by more people than a password."""
    secrets = secrets_of("redis://:hunter2@host", "postgresql://me:a%2Fbc@host/name", None, "abc")
    assert Cleaner(secrets).text(text) == shown


def test_a_secret_at_the_cut_is_not_half_shown() -> None:
    """A value is cut before it is searched, or a hostile one would cost seconds."""
    for before in range(2 * LONGEST - 60, 2 * LONGEST + 10):
        shrinks = "http://host/?" + "x" * (before - 30) + " "
        text = (shrinks + "x " * LONGEST)[:before] + "redis://:hunter2@host " + "y" * 100
        assert "hun" not in Cleaner().text(text)


def test_passwords_of_the_settings_are_secrets(stderr: Stderr) -> None:
    """In whatever form: in a URL, or alone."""
    stderr.configure(redis_url="redis://:hunter2@host/0", flower_password="swordfish1")
    logger("worker.redis_side").warning("said", reason="AUTH hunter2 failed", other=["swordfish1"])
    text = stderr.take()
    assert "hunter2" not in text
    assert only(text)["other"] == [HIDDEN]


def test_no_error_of_a_pair_quotes_its_caption(stderr: Stderr) -> None:
    """A tokenizer's KeyError, a decoder's ValueError, our own refusal: captions are the users' and not the operator's.

    Safeguard: with a chunk in hand a foreign error's own words are left out, and captions in hand are blotted out.
    """
    stderr.configure()
    foreign = [
        ValueError(f"cannot encode {CAPTION_TEXT!r}"),
        KeyError(CAPTION_TEXT.lower()[10:30]),
        OSError(2, "No such file or directory", f"/pictures/{CAPTION_TEXT}.png"),
        ExceptionGroup(CAPTION_TEXT, [ValueError(CAPTION_TEXT)]),
    ]
    ours = [
        BadCaption("caption_empty", f"nothing in it: {CAPTION_TEXT.upper()}"),
        EngineFault("engine_failed", f"failed on {CAPTION_TEXT[:40]}"),
    ]
    with about(batch=1, chunk=2), withholding([CAPTION_TEXT, None, ""]):
        for error in (*foreign, *ours):
            try:
                raise RuntimeError(CAPTION_TEXT) from error
            except RuntimeError:
                logger("worker.tasks").exception("chunk failed", reason=str(error))
    text = stderr.take()
    for piece in ("circle", "wiśniewski", "wi\\u015bniewski", "square"):
        assert piece not in text.lower(), text
    assert text.count(CAPTION) >= 6
    assert "EngineFault: engine_failed: failed on <caption>" in text
    assert "FileNotFoundError: 2 No such file or directory" in text


def test_outside_of_chunks_errors_keep_their_words(stderr: Stderr) -> None:
    """Whoever mends a worker that does not start needs them."""
    stderr.configure()
    try:
        raise ValueError("libcudart.so.12: cannot open shared object file")
    except ValueError:
        logger("worker.child").exception("model not loaded")
    assert "cannot open shared object file" in stderr.take()


def test_errors_are_counted_by_stage(stderr: Stderr) -> None:
    """An alarm needs a number, also while a storm is summed up."""
    from telemetry.metrics import meters

    counter = meters().errors.labels("ledger")
    before = counter._value.get()
    stderr.configure()
    for _ in range(100):
        logger("worker.office").error("lost")
    logger("worker.office").critical("worse")
    logger("worker.office").warning("odd")
    assert counter._value.get() - before == 101
    assert len(stderr.take().splitlines()) == 22


def test_debug_lines_cost_nothing_when_nobody_wants_them(stderr: Stderr) -> None:
    """Four lines a pair at ten thousand pairs a second: they must end before anything is put together."""

    class Costly:
        def __str__(self) -> str:
            raise AssertionError

    stderr.configure()
    logger("worker.judging").debug("said", what=Costly())
    assert stderr.take() == ""
