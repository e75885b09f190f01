"""The domain's words: what they refuse, and what they mean."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.errors import UsageError
from audit.holder import Holder, proved_dead, this_process
from audit.message import MAX_BATCH, MAX_CHUNK, BadMessage, ChunkMessage, Lane, decode, encode, model_slug, queue_name
from audit.pair import BatchId, ChunkNumber
from audit.policy import Policy
from audit.settings import read_settings
from audit.urls import redact
from audit.verdict import Label, Scores, Verdict
from tests.support.claims import dead_process

weights = st.floats(0.001, 1)


@given(weights, weights, weights)
def test_the_label_is_the_most_probable_one(yes: float, no: float, maybe: float) -> None:
    """Whatever the scores, the label is never a less probable answer."""
    total = yes + no + maybe
    scores = Scores(p_yes=yes / total, p_no=no / total, p_maybe=maybe / total)
    by_label = {Label.YES: scores.p_yes, Label.NO: scores.p_no, Label.MAYBE: scores.p_maybe}
    assert by_label[scores.label] == max(by_label.values())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.1, 1.2])
def test_scores_that_are_no_probabilities_are_refused(bad: float) -> None:
    """An error is never a label."""
    with pytest.raises(ValueError, match="scores"):
        Scores(p_yes=bad, p_no=0.5, p_maybe=0.5)


def test_a_tie_is_not_agreement() -> None:
    """Doubt is shown to a person, not counted as a match."""
    assert Scores(p_yes=0.4, p_no=0.4, p_maybe=0.2).label is Label.NO
    assert Scores(p_yes=0.4, p_no=0.2, p_maybe=0.4).label is Label.MAYBE


def test_the_policy_flags_by_label_or_by_threshold() -> None:
    """No is flagged by default; a threshold also finds what the label hides."""
    sure = Verdict(scores=Scores(p_yes=0.1, p_no=0.8, p_maybe=0.1))
    torn = Verdict(scores=Scores(p_yes=0.5, p_no=0.4, p_maybe=0.1))
    assert [Policy().flags(verdict) for verdict in (sure, torn)] == [True, False]
    wary = Policy(labels=frozenset(), p_no_at_least=0.4)
    assert [wary.flags(verdict) for verdict in (sure, torn)] == [True, True]
    assert Policy.from_json(wary.to_json()) == wary
    with pytest.raises(UsageError):
        Policy(p_no_at_least=1.5)


@given(st.integers(1, MAX_BATCH), st.integers(0, MAX_CHUNK))
def test_messages_survive_the_wire(batch: int, chunk: int) -> None:
    """What one version sends, the same version reads."""
    message = ChunkMessage(batch=BatchId(batch), chunk=ChunkNumber(chunk))
    assert decode(encode(message)) == message


@given(st.dictionaries(st.sampled_from(["batch", "chunk", "x"]), st.one_of(st.integers(), st.text(), st.booleans())))
def test_anybodys_message_is_parsed_or_refused(body: dict[str, object]) -> None:
    """Redis is not ours alone: nothing but two whole numbers gets in, and nothing else than BadMessage comes out."""
    try:
        message = decode(body)
    except BadMessage:
        return
    assert body == encode(message)


def test_queues_are_apart_by_lane_model_and_version() -> None:
    """A message rings only where somebody can act on it."""
    names = {queue_name(lane, model) for lane in Lane for model in ("demo", "/a/ofa", "/b/ofa")}
    assert len(names | {queue_name(Lane.BULK, "demo", wire_version=2)}) == 7
    assert model_slug("iic/ofa_visual-entailment_snli-ve_large_en").startswith("ofa-visual-entailment-snli-ve")


def test_a_process_is_dead_only_when_that_is_proved() -> None:
    """Doubt keeps the lease: another host, another boot, a living process."""
    alive = this_process()
    assert not proved_dead(alive)
    assert proved_dead(dead_process())
    assert proved_dead(Holder(host=alive.host, boot=alive.boot, pid=alive.pid, started=alive.started + 1))
    assert not proved_dead(Holder(host="elsewhere", boot=alive.boot, pid=2**22 + 1, started=1))
    assert not proved_dead(Holder(host=alive.host, boot="another boot", pid=2**22 + 1, started=1))


@pytest.mark.parametrize(
    ("environ", "names"),
    [
        ({"AUDIT_LEASE_S": "5"}, "AUDIT_LEASE_S"),
        ({"AUDIT_CHUNK_PAIRS": "many"}, "AUDIT_CHUNK_PAIRS"),
        ({"AUDIT_ENGINE": "clip"}, "AUDIT_ENGINE"),
        ({"AUDIT_SOFT_LIMIT_S": "9", "AUDIT_HARD_LIMIT_S": "8"}, "AUDIT_HARD_LIMIT_S"),
    ],
)
def test_a_wrong_setting_is_named(environ: dict[str, str], names: str) -> None:
    """One line, the variable, exit 2."""
    with pytest.raises(UsageError, match=names) as caught:
        read_settings(environ)
    assert caught.value.exit_status == 2


def test_secrets_do_not_show() -> None:
    """A password in a URL must not reach a log by way of a message or a repr."""
    settings = read_settings({"DATABASE_URL": "postgresql://me:hush@db/x", "REDIS_URL": "redis://:hush@r:1/0"})
    assert "hush" not in repr(settings) + redact(settings.ledger_url) + redact(settings.broker_url)
    assert settings.ledger_url == "postgresql+psycopg://me:hush@db/x"


def test_a_unix_url_is_what_celery_calls_a_redis_socket() -> None:
    """People paste what redis-cli and `caption-audit up` print."""
    assert read_settings({"REDIS_URL": "unix:///run/redis.sock"}).broker_url == "redis+socket:///run/redis.sock"


def test_a_home_too_deep_for_a_socket_gets_a_short_one() -> None:
    """Unix sockets have short names; a deep folder must not break the local Redis."""
    deep = read_settings({"AUDIT_HOME": "/" + "deep/" * 40})
    assert len(str(deep.redis_socket)) < 100
    assert deep.redis_socket != read_settings({"AUDIT_HOME": "/" + "deep/" * 41}).redis_socket
