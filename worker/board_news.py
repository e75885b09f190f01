"""What the main process reads off the board of one slot."""

from dataclasses import dataclass

from worker.board_page import SlotState


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotNews:
    """What a slot's processes have said of themselves; times are monotonic, 0 or None for never."""

    pid: int
    ticks: int
    hand: tuple[int, int] | None
    proved: bool
    failed_loads: int
    batch: int
    chunk: int
    chunk_since: float
    proved_at: float
    deaths: int
    recycled: int
    device_bytes: int
    revision: str
    precision: str
    processes: int
    deaths_in_a_row: int
    canary_every: float
    wrong: bool


def news_of(state: SlotState) -> SlotNews:
    """As it is now."""
    return SlotNews(
        pid=int(state.pid),
        ticks=int(state.ticks),
        hand=(int(state.hand_first), int(state.hand_last)) if state.hand_first >= 0 else None,
        proved=bool(state.ready) and state.ready == state.pid,
        failed_loads=int(state.failed_loads),
        batch=int(state.batch),
        chunk=int(state.chunk),
        chunk_since=float(state.chunk_since),
        proved_at=float(state.proved_at),
        deaths=int(state.deaths),
        recycled=int(state.recycled),
        device_bytes=int(state.device_bytes),
        revision=bytes(state.revision).decode(errors="replace"),
        precision=bytes(state.precision).decode(errors="replace"),
        processes=int(state.processes),
        deaths_in_a_row=int(state.deaths_in_a_row),
        canary_every=float(state.canary_every),
        wrong=bool(state.wrong),
    )
