"""What may be done to a ledger, as hypothesis draws it; and how long things take there."""

from hypothesis import strategies as st

from audit.pair import Row
from audit.verdict import Failure, Outcome, Scores, Verdict
from tests.support.ledger_reference_values import Fall
from tests.support.staff import SEATS

LEASE_S, RESEND_S, MOMENT_S = 100_000, 105_000, 40_000
"""No sum of moments is near a lease's end, nor near 1, 2 or 4 times RESEND_S: a slow machine changes nothing."""
MAX_DEATHS = 3
MODELS = ("demo", "another")

lines = st.lists(
    st.tuples(st.sampled_from("abcdefghijklmnopqrst"), st.sampled_from("xxxxy"), st.sampled_from([False] * 9 + [True])),
    min_size=3,
    max_size=7,
)
sizes = st.integers(2, 4)
numbers = st.integers(0, 3)
picks = st.integers(0, 29)
"""Which of some claims or chunks: LedgerBench has those first that matter most."""
seats = st.sampled_from(SEATS)
labels = st.sampled_from(["Yes", "No", "Maybe", "image_empty", "image_empty"])
tolds = st.dictionaries(numbers, labels, min_size=1, max_size=2)
stages = st.sampled_from(["decode", "judge"])
deeds = st.lists(st.one_of(st.tuples(numbers, stages), tolds), max_size=3)
ends = st.sampled_from(["dies", "dies", "hangs", "works on"])

falls = st.builds(
    Fall,
    cause=st.sampled_from(["died", "stuck", "let_go"]),
    certain=st.booleans(),
    hand=st.sampled_from([None, (0, 1), (0, 6)]),
)
A_SLOT = """
    INSERT INTO workers (host, worker, slot, pid, boot, started, started_at, device, model, state, seen_at)
    VALUES ('h', 'here', {slot}, 1, 'b', 1, 1, 'cpu', 'demo', 'idle', 9e9)
"""
"""A slot that tells of itself, now and for ever."""


def outcome_of(row: int, told: str) -> Outcome:
    """The outcome that says so: a label, or a failure's code."""
    likely = {"Yes": (0.8, 0.1, 0.1), "No": (0.1, 0.8, 0.1), "Maybe": (0.1, 0.1, 0.8)}.get(told)
    if likely is None:
        return Outcome(row=Row(row), result=Failure(code=told, detail="zero bytes"))
    scores = dict(zip(("p_yes", "p_no", "p_maybe"), likely, strict=True))
    return Outcome(row=Row(row), result=Verdict(scores=Scores(**scores)))
