"""Those who claim: processes of this host that really live and really die, and some that nobody here can examine."""

import subprocess
from dataclasses import replace

from audit.holder import Holder, start_ticks, this_process

HERE = ("here:0", "here:1")
FAR = ("far:0", "rebooted:0")
KEPT = "here:0"
"""Its main process is this one, which lives and says how workers of this seat have died; the others have none."""
SEATS = (*HERE, *FAR)


class Staff:
    """One worker a seat at a time; who has died is followed by somebody new, with a new name and process number.

    `dead` are those who have died, by name."""

    def __init__(self) -> None:
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._numbers = dict.fromkeys(SEATS, 0)
        self.dead: dict[str, Holder] = {}

    def name(self, seat: str) -> str:
        """The present worker's name."""
        return f"{seat}#{self._numbers[seat]}"

    def holder(self, seat: str) -> Holder:
        """The present worker's process."""
        me = this_process()
        if seat == "far:0":
            return replace(me, host="another-host", started=self._numbers[seat])
        if seat == "rebooted:0":
            return replace(me, boot="yesterday", started=self._numbers[seat])
        if seat not in self._processes:
            self._processes[seat] = subprocess.Popen(["sleep", "86400"])
        pid = self._processes[seat].pid
        return replace(me, pid=pid, started=start_ticks(pid) or 0)

    def die(self, seat: str) -> str:
        """End the present worker, for good; returns its name."""
        name = self.name(seat)
        self.dead[name] = self.holder(seat)
        self._numbers[seat] += 1
        if seat in self._processes:
            self._end(self._processes.pop(seat))
        return name

    def close(self) -> None:
        """Send everybody home."""
        for process in self._processes.values():
            self._end(process)
        self._processes.clear()

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait(timeout=60)
