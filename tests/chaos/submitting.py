"""The producer: submits each manifest at its time, is killed in the middle where the plan says so, and tries again."""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from audit.errors import LedgerUnavailable
from tests.chaos.plan import Plan, PlannedBatch
from tests.chaos.stage import Stage
from tests.chaos.truth import Acknowledged, Expected, Truth, write_manifest
from tests.support.running import ROOT, variables

COMMAND_LIMIT_S = 120.0
CANCEL_FROM = 0.15
"""Part of a doomed batch that is to be judged before it is cancelled."""
REGISTERING = "SELECT state FROM batches WHERE name = :name"
JUDGED = "SELECT coalesce(sum(yes + no + maybe + failed), 0) AS judged FROM chunks WHERE batch = :batch"


def caption_audit(stage: Stage, *arguments: str) -> "subprocess.Popen[str]":
    """The command line, as a person runs it."""
    return subprocess.Popen(
        [sys.executable, "-m", "ops.cli", *arguments],
        cwd=ROOT,
        env={**os.environ, **variables(stage.settings)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(stage: Stage, *arguments: str, limit_s: float = COMMAND_LIMIT_S) -> tuple[int, str, str]:
    """Status, stdout and stderr; status 124 when it had to be killed."""
    process = caption_audit(stage, *arguments)
    try:
        out, error = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        out, error = process.communicate()
        return 124, out, error
    return process.returncode, out, error


@dataclass(slots=True, kw_only=True)
class Producer:
    """A thread. `problems` are commands that never succeeded."""

    stage: Stage
    plan: Plan
    truth: Truth
    expected: dict[str, Expected]
    pictures: Path
    began: float
    stopped: threading.Event = field(default_factory=threading.Event)
    problems: list[str] = field(default_factory=list)
    killed: int = 0
    repeated: int = 0
    doomed: list[tuple[Acknowledged, float]] = field(default_factory=list)

    def start(self) -> threading.Thread:
        """Begin; the thread ends when everything is submitted and what is doomed is cancelled."""
        thread = threading.Thread(target=self._run, name="producer", daemon=True)
        thread.start()
        return thread

    def _run(self) -> None:
        waiting = sorted(self.plan.batches, key=lambda batch: batch.at_s)
        while (waiting or self.doomed) and not self.stopped.wait(0.2):
            while waiting and time.monotonic() - self.began >= waiting[0].at_s and not self.stopped.is_set():
                self._submit(waiting.pop(0))
            self._cancel_what_is_due()

    def _submit(self, batch: PlannedBatch) -> None:
        manifest = write_manifest(self.pictures, batch)
        arguments = ("submit", str(manifest), "--name", batch.name, "--lane", batch.lane, "--tenant", batch.tenant)
        if batch.fate == "interrupted":
            self._break_off(batch, *arguments)
        for _ in range(60):
            status, out, error = run(self.stage, *arguments, "--json")
            if out.strip() and status in (0, 69, 75):  # registered, though Redis may not have taken the messages
                break
            self.repeated += 1
            if self.stopped.wait(1.0):
                return
        else:
            self.problems.append(f"batch {batch.name} was never acknowledged: {error[-300:]}")
            return
        told = json.loads(out)
        owed = {pair.id: self.expected[pair.id] for pair in batch.pairs}
        acknowledged = Acknowledged(batch=told["batch"], name=batch.name, expected=owed)
        if told["pairs"] != len(owed):
            self.problems.append(f"batch {batch.name} of {len(owed)} pairs was acknowledged with {told['pairs']}")
        self.truth.acknowledged.append(acknowledged)
        if batch.fate == "cancelled":
            part = Random(f"cancel {self.plan.seed}").uniform(CANCEL_FROM, 0.6)
            self.doomed.append((acknowledged, part))

    def _break_off(self, batch: PlannedBatch, *arguments: str) -> None:
        """SIGKILL while the batch is being registered; a machine that is quicker than we look is killed a bit later."""
        process = caption_audit(self.stage, *arguments)
        try:
            while process.poll() is None and not self._is_registering(batch):
                time.sleep(0.01)
            if process.poll() is None:
                process.kill()
                self.killed += 1
        finally:
            process.communicate(timeout=COMMAND_LIMIT_S)

    def _is_registering(self, batch: PlannedBatch) -> bool:
        try:
            return bool(self.stage.query(REGISTERING, name=batch.name))
        except LedgerUnavailable:
            return False

    def _cancel_what_is_due(self) -> None:
        for entry in [*self.doomed]:
            batch, part = entry
            try:
                judged = self.stage.query(JUDGED, batch=batch.batch)[0]["judged"]
            except LedgerUnavailable:
                continue
            if judged < part * len(batch.expected):
                continue
            status, _, error = run(self.stage, "cancel", str(batch.batch), "--json")
            if status == 0:
                batch.cancelled = True
                self.doomed.remove(entry)
            elif status not in (69, 75, 124):
                self.problems.append(f"batch {batch.name} could not be cancelled ({status}): {error[-300:]}")
                self.doomed.remove(entry)
