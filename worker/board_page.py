"""The layout of the page of memory that worker/board.py reads and writes."""

import ctypes

MOST_SLOTS = 256
REASON_BYTES = 600
NAME_BYTES = 80


class SlotState(ctypes.Structure):
    """What a slot's processes have said of themselves."""

    _fields_ = (
        ("pid", ctypes.c_int64),
        ("ready", ctypes.c_int64),  # pid that judged the canary
        ("failed_loads", ctypes.c_int64),  # in a row
        ("processes", ctypes.c_int64),  # that have had this slot so far
        ("ticks", ctypes.c_int64),  # start time of `pid`, in clock ticks since boot
        ("working_since", ctypes.c_double),  # 0 between chunks; else when progress was last made
        ("hand_first", ctypes.c_int64),  # rows that a full-speed run has begun and not judged; -1 for none
        ("hand_last", ctypes.c_int64),
        ("asked_batch", ctypes.c_int64),  # the chunk that the main process wants back; 0 for none
        ("asked_chunk", ctypes.c_int64),
        ("deaths_in_a_row", ctypes.c_int64),  # that no pair explains, with no chunk finished between: worker/sick.py
        ("finished", ctypes.c_int64),  # chunks, and pairs judged alone: since the worker started, by any process
        ("explained", ctypes.c_int64),  # a pair's marker stands: should this process die, the pair did it
        ("asking_since", ctypes.c_double),  # a known question; 0 for none
        ("canary_every", ctypes.c_double),  # seconds between two known questions; 0 for none
        ("wrong", ctypes.c_int64),  # this process has answered a known question wrongly, and leaves
        ("wrong_answers", ctypes.c_int64),  # of any process of the slot, each within an hour of the one before
        ("wrong_at", ctypes.c_double),
        # What follows is for people: the main process tells it to the ledger, and nothing is decided by it.
        ("batch", ctypes.c_int64),  # in hand; 0 for none
        ("chunk", ctypes.c_int64),
        ("chunk_since", ctypes.c_double),
        ("proved_at", ctypes.c_double),  # of the canary's last right answer, by any process of the slot
        ("left_pid", ctypes.c_int64),  # of a process that left as it should: its successor follows no death
        ("deaths", ctypes.c_int64),
        ("recycled", ctypes.c_int64),
        ("device_bytes", ctypes.c_int64),
        ("revision", ctypes.c_char * NAME_BYTES),
        ("precision", ctypes.c_char * NAME_BYTES),
    )
    pid: int
    ready: int
    failed_loads: int
    processes: int
    ticks: int
    working_since: float
    hand_first: int
    hand_last: int
    asked_batch: int
    asked_chunk: int
    deaths_in_a_row: int
    finished: int
    explained: int
    asking_since: float
    canary_every: float
    wrong: int
    wrong_answers: int
    wrong_at: float
    batch: int
    chunk: int
    chunk_since: float
    proved_at: float
    left_pid: int
    deaths: int
    recycled: int
    device_bytes: int
    revision: bytes
    precision: bytes


class Page(ctypes.Structure):
    """All of it: what concerns the whole worker, and a place for each slot."""

    _fields_ = (
        ("draining", ctypes.c_int64),
        ("leave_now", ctypes.c_int64),
        ("exit_status", ctypes.c_int64),
        ("reason", ctypes.c_char * REASON_BYTES),
        ("slots", SlotState * MOST_SLOTS),
    )
