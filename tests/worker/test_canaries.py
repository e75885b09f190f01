"""Known questions: when they are asked, what they cost, and what counts as wrong."""

import threading
from collections.abc import Sequence

import pytest

from audit.errors import EngineFault, OutOfDeviceMemory, PoisonedProcess
from audit.pair import Row
from audit.verdict import Label, Outcome, Scores, Verdict
from tests.support.waiting import wait_until
from worker.board import Board
from worker.canaries import TIMES, Canaries
from worker.engines.base import Question
from worker.engines.canary import Known, WrongAnswer, prove
from worker.engines.stub import StubEngine
from worker.written import Written


class Clock:
    """Moved by hand, and by an engine that takes its time."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Engine(StubEngine):
    """A fake that takes `took_s` a question, notes who was asked, and answers wrongly or fails when told to."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(wrong=lambda: self.wrong)
        self.clock = clock
        self.took_s = 0.0
        self.wrong = False
        self.fails: EngineFault | None = None
        self.asked: list[str] = []

    def judge(self, questions: Sequence[Question]) -> list[Scores]:
        self.clock.now += self.took_s
        self.asked += [question.caption for question in questions]
        if self.fails:
            raise self.fails
        return super().judge(questions)


class Asked:
    """A process with an engine that has proved itself."""

    def __init__(self, *, every_s: float = 30.0) -> None:
        self.clock = Clock()
        self.engine = Engine(self.clock)
        self.board, self.written = Board(), Written(clock=self.clock)
        self.board.started(0, 11)
        known = prove(self.engine)
        self.captions = [one.question.caption for one in known]
        self.engine.asked.clear()
        self.canaries = Canaries(
            self.engine, known, board=self.board, slot=0, every_s=every_s, written=self.written, clock=self.clock
        )

    def after(self, seconds: float) -> int:
        """How many questions were asked, once it is so much later."""
        self.clock.now += seconds
        before = len(self.engine.asked)
        self.canaries.ask_if_due()
        return len(self.engine.asked) - before


def test_questions_take_turns_and_come_no_more_often_than_allowed() -> None:
    """One at a time, so that none delays a pair for long; all of them in the end, so that each label is watched."""
    asked = Asked()
    assert len(asked.captions) == 4
    assert [asked.after(10) for _ in range(12)] == [0, 0, 1] * 4
    assert asked.engine.asked == asked.captions


def test_a_slow_model_spends_a_fiftieth_of_its_time_on_them() -> None:
    """OFA large takes 6 s a pair on a CPU; one that met a pause of the machine does not count."""
    asked = Asked(every_s=30)
    asked.engine.took_s = 6.0
    asked.after(30)
    assert (asked.canaries.every_s, asked.board.news(0).canary_every) == (TIMES * 6.0, TIMES * 6.0)
    assert [asked.after(100) for _ in range(4)] == [0, 0, 1, 0]
    asked.engine.took_s = 60.0
    asked.after(300)
    assert asked.canaries.every_s == TIMES * 6.0


def test_switched_off_or_stopping_nothing_is_asked() -> None:
    """A worker that stops has better things to do; an operator may not want them."""
    off = Asked(every_s=0)
    assert (off.after(10_000), off.canaries.every_s) == (0, 0.0)
    stopping = Asked()
    stopping.board.drain()
    assert stopping.after(10_000) == 0


def test_scores_that_move_are_wrong_though_the_label_stays() -> None:
    """Broken precision shows in the digits long before it turns a Yes into a No."""
    asked = Asked()
    known = prove(asked.engine)
    moved = Scores(p_yes=0.88, p_no=0.07, p_maybe=0.05)
    at_load = [Known(question=one.question, label=one.label, scores=moved) for one in known if one.label is Label.YES]
    canaries = Canaries(
        asked.engine, at_load, board=asked.board, slot=0, every_s=1, written=asked.written, clock=asked.clock
    )
    asked.clock.now += 2
    with pytest.raises(WrongAnswer, match=r"moved by 0\.02") as found:
        canaries.ask_if_due()
    assert (found.value.told["expected"][:10], found.value.told["got"][:10]) == ("Yes yes 0.", "Yes yes 0.")


def test_after_a_wrong_answer_nothing_more_is_asked_and_the_slot_remembers() -> None:
    """The ledger may be waited for while it is followed up; a finished chunk forgives deaths, not this."""
    asked = Asked()
    asked.engine.wrong = True
    with pytest.raises(WrongAnswer) as found:
        asked.after(31)
    asked.canaries.failed(found.value)
    assert asked.after(31) == 0
    assert asked.board.news(0).wrong
    asked.board.died(0)
    asked.board.healthy(0)
    assert (asked.board.deaths_in_a_row(0), asked.board.wrong_lately(0)) == (1, 1)


def test_scores_that_are_not_finite_are_a_wrong_answer_and_a_full_device_is_none() -> None:
    """Memory that a neighbour has just now says nothing of the weights; a poisoned process must leave."""
    asked = Asked()
    asked.engine.fails = EngineFault("scores_not_finite", "nan")
    with pytest.raises(WrongAnswer, match="scores_not_finite"):
        asked.after(31)
    asked.engine.fails = OutOfDeviceMemory("out_of_device_memory", "full")
    proved_at, releases = asked.board.news(0).proved_at, asked.engine.releases
    assert asked.after(31) == 1
    assert (asked.board.news(0).proved_at, asked.engine.releases) == (proved_at, releases + 1)
    asked.engine.fails = PoisonedProcess("device_error", "an illegal access")
    with pytest.raises(EngineFault) as found:
        asked.after(31)
    assert not isinstance(found.value, WrongAnswer | PoisonedProcess)


def test_the_thread_waits_while_a_chunk_is_in_hand() -> None:
    """An engine is for one thread at a time."""
    asked = Asked(every_s=0.01)
    asked.clock.now += 1
    faults: list[Exception] = []
    with asked.canaries.at_work():
        asked.canaries.ask_while_idle(faults.append)
        begun = [thread for thread in threading.enumerate() if thread.name == "canary"]
        assert begun
        begun[-1].join(timeout=0.5)
        assert asked.engine.asked == []
    wait_until(lambda: asked.engine.asked, timeout_s=60, what="a question of the thread")
    asked.canaries.close()
    assert faults == []


def test_too_many_keys_become_a_time() -> None:
    """Memory is bounded; what cannot be named one by one is dropped with its time."""
    written = Written(most_keys=2)
    scores = Scores(p_yes=1.0, p_no=0.0, p_maybe=0.0)
    outcomes = [
        Outcome(row=Row(n), result=Verdict(scores=scores), content_key=f"{n:064x}", cached=n == 1) for n in range(3)
    ]
    written.about_to(outcomes)
    written.recorded(outcomes)
    assert (written.keys, written.verdicts) == (frozenset({f"{0:064x}", f"{2:064x}"}), 2)
    written.trusted()
    assert written.verdicts == 0
    written.about_to(outcomes)
    assert written.keys is None
