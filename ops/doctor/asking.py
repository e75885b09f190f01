"""All looks at once, each in a thread of its own: a slow one hides no other, and one that fails is a line."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from threading import Event, Thread

from audit.errors import AuditError
from ops.doctor.lines import Line, Probe, Topic, wrong

RAN_OUT = "the check itself did not end: what it asks hangs, or this machine is very busy"


@dataclass(slots=True, kw_only=True)
class _Asked:
    probe: Probe
    secrets: Sequence[str]
    lines: list[Line] = field(default_factory=list)
    ended: Event = field(default_factory=Event)

    def look(self) -> None:
        try:
            for line in self.probe.look():
                self.lines.append(line)
        except Exception as error:  # noqa: BLE001 - whatever a check meets, the others are shown
            self.lines.append(self._failed(error))
        finally:
            self.ended.set()

    def _failed(self, error: Exception) -> Line:
        text = error.detail if isinstance(error, AuditError) else str(error)
        if any(secret in text for secret in self.secrets):
            text = "its text holds a password and is not shown"
        return wrong(
            self.probe.name,
            f"this check failed ({type(error).__name__}: {text})",
            means="nothing is known of what it should have looked at",
            cure="look at it by hand; a fault of the check itself is worth a report",
        )


def ask(probes: Sequence[Probe], *, secrets: Sequence[str] = ()) -> Iterator[tuple[Topic, Line]]:
    """Every line, in the order of the probes; what a look found before its time ran out is kept.

    An error's text is shown without any of the `secrets` that may be in it.
    """
    began = time.monotonic()
    asked = [_Asked(probe=probe, secrets=[secret for secret in secrets if secret]) for probe in probes]
    for one in asked:
        # A thread that hangs in the kernel must not keep the command from ending.
        Thread(target=one.look, name=f"doctor-{one.probe.name}", daemon=True).start()
    for one in asked:
        in_time = one.ended.wait(max(0.0, began + one.probe.limit_s - time.monotonic()))
        for line in [*one.lines]:
            yield one.probe.topic, line
        if not in_time:
            yield one.probe.topic, _ran_out(one.probe)


def _ran_out(probe: Probe) -> Line:
    found = f"no answer within {probe.limit_s:.3g} s"
    return wrong(probe.name, found, means=RAN_OUT, cure="look at it by hand, or ask again with a longer --limit")
