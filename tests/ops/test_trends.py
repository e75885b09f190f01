"""What a month's outcomes say together, counted once more in plain Python."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.trends import Tally, Times, Trend, changes

probabilities = st.floats(0.34, 1.0)
times = st.one_of(st.none(), st.floats(0, 1e7))
verdicts = st.builds(
    lambda label, p, cached, decode, model: {
        "model": "demo",
        "model_revision": "r1",
        "label": label,
        **{f"p_{name}": p if name == label.lower() else (1 - p) / 2 for name in ("yes", "no", "maybe")},
        "failure_code": None,
        "cached": cached,
        "decode_ms": decode,
        "model_ms": model,
    },
    st.sampled_from(["Yes", "No", "Maybe"]),
    probabilities,
    st.booleans(),
    times,
    times,
)
failures = st.builds(
    lambda code: {
        **dict.fromkeys(("label", "p_yes", "p_no", "p_maybe", "decode_ms", "model_ms")),
        "failure_code": code,
        "cached": False,
        "model": "demo",
        "model_revision": "r1",
    },
    st.sampled_from(["file_missing", "image_empty", "<b>"]),
)
facts = st.lists(st.one_of(verdicts, failures), max_size=80)
Fact = dict[str, Any]


def tally(given_facts: list[Fact]) -> Tally:
    made = Tally()
    for fact in given_facts:
        made.add(fact)
    return made


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=200), st.integers(1, 100))
def test_a_percentile_of_times_is_within_one_per_cent(measured: list[float], percent: int) -> None:
    """Ten million times cannot be kept; what is kept says what the exact percentile is, to 1 %."""
    counted = Times()
    for ms in measured:
        counted.add(ms)
    exact = sorted(measured)[max(1, -(-len(measured) * percent // 100)) - 1]
    assert counted.percentile(percent) == pytest.approx(exact, rel=0.0101, abs=1e-300)


def test_of_nothing_there_is_no_percentile() -> None:
    """0 ms would be a time that nobody measured."""
    assert Times().percentile(50) is None
    told = Tally().to_json()
    assert (told["outcomes"], told["shares"]["Yes"], told["confidence"]["mean"]) == (0, None, None)
    assert told["model_ms"] == {"p50": None, "p95": None}


@given(facts)
def test_figures_are_those_of_the_outcomes(given_facts: list[Fact]) -> None:
    """Labels, failures, the cache and the probability of the label that won; a failure has no latency."""
    told = tally(given_facts).to_json()
    with_label = [fact for fact in given_facts if fact["label"]]
    labels = Counter(fact["label"] for fact in with_label)
    assert told["labels"] == {label: labels[label] for label in ("Yes", "No", "Maybe")}
    assert told["failures"] == Counter(fact["failure_code"] for fact in given_facts if fact["failure_code"])
    assert told["outcomes"] == len(given_facts) == told["verdicts"] + told["failed"]
    assert told["cached"] == sum(fact["cached"] for fact in with_label)
    won = sorted(fact[f"p_{fact['label'].lower()}"] for fact in with_label)
    if won:
        assert told["confidence"]["mean"] == pytest.approx(sum(won) / len(won))
        assert sum(told["shares"].values()) == pytest.approx(1)
        for percent in (5, 50, 95):
            exact = won[max(1, -(-len(won) * percent // 100)) - 1]
            assert told["confidence"][f"p{percent}"] == pytest.approx(exact, abs=0.00051)


@given(facts, facts)
def test_days_put_together_are_the_month(first: list[Fact], second: list[Fact]) -> None:
    """Percentiles of a month are not those of its days' percentiles: the counts are merged, not the figures."""
    merged = tally(first)
    merged.merge(tally(second))
    whole = tally([*first, *second])
    assert merged.verdicts == whole.verdicts
    assert merged.probability == pytest.approx(whole.probability)
    merged.probability = whole.probability  # another order of the sum
    assert merged.to_json() == whole.to_json()


def test_a_trend_is_told_by_day_and_revision() -> None:
    """A new revision that answers differently must not hide in an average."""
    trend = Trend()
    one: Fact = {"model": "demo", "model_revision": "r1", "label": "Yes", "p_yes": 0.9, "cached": False}
    one |= {"decode_ms": 1.0, "model_ms": 20.0, "failure_code": None}
    trend.add("2025-10-02", one)
    trend.add("2025-10-01", {**one, "model_revision": "r2", "label": "No", "p_no": 0.8})
    trend.add("2025-10-02", {**one, "model_revision": "r2"})
    told = trend.to_json()
    assert [(day["day"], day["model_revision"], day["outcomes"]) for day in told["days"]] == [
        ("2025-10-01", "r2", 1),
        ("2025-10-02", "r1", 1),
        ("2025-10-02", "r2", 1),
    ]
    assert [(one["model_revision"], one["outcomes"]) for one in told["revisions"]] == [("r2", 2), ("r1", 1)]
    assert told["totals"]["labels"] == {"Yes": 2, "No": 1, "Maybe": 0}


def test_changes_say_what_was_and_what_is() -> None:
    """And nothing where there is nothing to compare."""
    before = Tally().to_json()
    now = tally([{"label": "Yes", "p_yes": 0.9, "cached": True, "decode_ms": 1.0, "model_ms": None}]).to_json()
    told = changes(before, now)
    assert told["outcomes"] == {"before": 0, "now": 1, "difference": 1}
    assert told["yes_share"] == {"before": None, "now": 1.0, "difference": None}
    assert told["model_ms_p50"] == {"before": None, "now": None, "difference": None}
