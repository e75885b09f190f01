"""The stub engine obeys its orders: the fault tests of the whole system stand on it."""

import resource
import signal
import subprocess
import sys
import time

import psutil
import pytest
from PIL import Image

from audit.errors import BadCaption, EngineFault, OutOfDeviceMemory, PoisonedProcess
from audit.verdict import Label
from tests.support.waiting import wait_until
from worker.engines.base import Engine, Question
from worker.engines.stub import load_stub

PICTURE = Image.new("RGB", (30, 20), "red")
PROGRAM = """
import signal, sys
from tests.support.waiting import wait_until
from worker.engines.base import Question
from worker.engines.stub import load_stub
signal.signal(signal.SIGUSR1, lambda *_: print("handled", flush=True))
print("ready", flush=True)
load_stub().judge([Question(image=b"", caption=sys.argv[1])])
print("judged", flush=True)
"""


def judge(*captions: str) -> list[Label]:
    questions = [Question(image=PICTURE, caption=caption) for caption in captions]
    return [scores.label for scores in load_stub().judge(questions)]


def start(caption: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, caption], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_the_same_question_gets_the_same_scores() -> None:
    """Restarted chunks must come to the same verdicts."""
    engine: Engine = load_stub()
    question = Question(image=PICTURE, caption="a dog", premise="two dogs")
    prepared = Question(image=engine.prepare(PICTURE), caption="a dog", premise="two dogs")
    assert engine.judge([question]) == load_stub().judge([prepared])
    others = [
        Question(image=Image.new("RGB", (30, 20), "blue"), caption="a dog", premise="two dogs"),
        Question(image=PICTURE, caption="a cat", premise="two dogs"),
        Question(image=PICTURE, caption="a dog"),
    ]
    assert engine.judge([question])[0] not in engine.judge(others)


def test_forced_labels_are_in_order() -> None:
    """Tests of flags and counts need to know the verdicts beforehand."""
    assert judge("stub:yes", "a dog stub:no", "stub:maybe") == [Label.YES, Label.NO, Label.MAYBE]


@pytest.mark.parametrize(
    ("caption", "error"),
    [("stub:nan", EngineFault), ("stub:poison", PoisonedProcess), ("stub:oom>1", OutOfDeviceMemory)],
)
def test_faults_are_raised_on_order(caption: str, error: type[EngineFault]) -> None:
    """Each fault has a path of its own through the worker."""
    with pytest.raises(EngineFault) as fault:
        judge(caption, "a dog")
    assert type(fault.value) is error


def test_memory_suffices_for_small_batches() -> None:
    """Halving the micro-batch must help, or the retry could not be tested."""
    assert judge("stub:oom>1 stub:yes") == [Label.YES]


def test_time_is_taken_as_told() -> None:
    """Load and pair times are what queue benchmarks are about."""
    before = time.monotonic()
    load_stub(load_s=0.05, pair_s=0.05).judge([Question(image=PICTURE, caption="stub:sleep=0.05")] * 2)
    assert time.monotonic() - before >= 0.25


def test_text_flags_are_those_of_an_engine() -> None:
    """The stub stands in for the real engine, truncation and empty captions included."""
    assert load_stub().text_flags("a dog", None) == ()
    assert load_stub().text_flags("a " * 81, "a " * 81) == ("caption_truncated", "premise_truncated")
    with pytest.raises(BadCaption, match="caption_empty"):
        load_stub().text_flags("...", None)


def test_kill_and_exit_end_the_process() -> None:
    """A worker process that dies under a pair, by the kernel's hand and by its own."""
    assert start("stub:kill").wait(timeout=20) == -signal.SIGKILL
    assert start("stub:exit").wait(timeout=20) == 1


def test_crashes_of_native_code_are_real_signals() -> None:
    """What the kernel and the C library do to a process, not what Python would make of it."""
    assert start("stub:segv").wait(timeout=20) == -signal.SIGSEGV
    assert start("stub:abort").wait(timeout=20) == -signal.SIGABRT


def test_memory_is_really_used_and_given_back_or_refused() -> None:
    """The kernel counts pages that were touched; a limit of addresses is met as MemoryError, by the pair alone."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = psutil.Process().memory_info().rss
    assert judge("stub:eat=300 stub:yes") == [Label.YES]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > before + 250_000_000
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + 100_000_000, hard))
    try:
        with pytest.raises(MemoryError):
            judge("stub:eat=300")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_a_hang_is_deaf_to_signal_handlers() -> None:
    """The soft time limit is a Python signal handler: a hang in native code must outlast it, as real ones do."""
    asleep, hung = start("stub:sleep=1"), start("stub:hang")
    busy_s = psutil.Process(hung.pid).cpu_times().user
    wait_until(lambda: psutil.Process(hung.pid).cpu_times().user > busy_s + 0.1, timeout_s=20, what="the hang")
    for process in (asleep, hung):
        process.send_signal(signal.SIGUSR1)
    assert asleep.communicate(timeout=20)[0] == "handled\njudged\n"
    hung.kill()
    assert hung.communicate(timeout=20)[0] == ""
