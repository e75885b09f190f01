"""Redis that forgets, repeats, reorders, or is full of rubbish: the ledger puts it right."""

import json
import random
from pathlib import Path

import pytest
from celery import Celery

from audit.message import Lane, queue_name
from audit.settings import Settings
from db.queries import progress
from producer import submit
from tests.support.manifests import small_manifest
from tests.support.recovery import recovery
from tests.support.redis_lists import remove, waiting_in
from tests.support.redis_server import RedisServer
from tests.support.running import (
    changed,
    check_promises,
    finished,
    ledger,
    results,
    running,
    submitted,
    told,
)
from tests.support.waiting import wait_until


@pytest.fixture
def fragile(sqlite_settings: Settings, own_redis: RedisServer) -> Settings:
    """A Redis of this test's own, and a feed that does not wait long."""
    return changed(
        sqlite_settings,
        redis_url=own_redis.url,
        devices="cpu",
        chunk_pairs=4,
        lease_s=3,
        pair_limit_s=2,
        feed_every_s=0.2,
        resend_s=1.5,
        stub_pair_s=0.02,
        cache=False,
    )


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Sixty pairs in fifteen chunks."""
    return small_manifest(tmp_path, pairs=60)


def test_redis_killed_and_wiped_loses_no_pair(fragile: Settings, own_redis: RedisServer, manifest: Path) -> None:
    """Everything that waited in Redis is gone for good; what has no outcome is sent again.

    Safeguard: a chunk that was sent, is not claimed and whose message lies in no list is sent again.
    """
    batch = submitted(fragile, manifest)
    with running(fragile, manifest.parent) as worker, ledger(fragile) as database:
        wait_until(lambda: progress(database, batch).judged, timeout_s=60, what="a first commit")
        own_redis.kill()
        own_redis.wipe()
        own_redis.start()
        before = progress(database, batch).judged
        with recovery(4, "Redis killed, its data wiped", within_s=60):
            wait_until(
                lambda: progress(database, batch).judged > before + 4, timeout_s=90, what="more than was in hand"
            )
        finished(fragile, batch, watch=worker)
    assert len(results(fragile, batch)) == 60
    check_promises(fragile, batch)


def test_redis_may_restart_again_and_again(fragile: Settings, own_redis: RedisServer, manifest: Path) -> None:
    """A worker that dies of a broker's restart, or is deaf after it, would stop the night's work.

    Redis is killed as soon as the worker takes chunks again, so some kills meet it in the middle of connecting.
    Safeguard: the pins of Celery and kombu, and the look for a deaf consumer, which connects anew.
    """
    slow = changed(fragile, stub_pair_s=0.05)
    batch = submitted(slow, manifest)
    with running(slow, manifest.parent) as worker, ledger(slow) as database:
        for kill in range(1, 5):
            wait_until(lambda: progress(database, batch).judged >= 8 * kill, timeout_s=90, what="more pairs")  # noqa: B023
            own_redis.kill()
            own_redis.start()
        finished(slow, batch, watch=worker)
        assert worker.process.poll() is None
    check_promises(slow, batch)


def test_queues_that_remote_control_has_cancelled_are_listened_to_again(
    fragile: Settings, own_redis: RedisServer, manifest: Path
) -> None:
    """Whoever reaches Redis can make a worker stop listening with one command, and nobody would see why it idles.

    Safeguard: connecting anew selects all of the worker's queues; Celery would leave out those that were cancelled.
    """
    with running(fragile, manifest.parent) as worker, Celery(broker=own_redis.url) as outsider:
        worker.wait_for("model proved")
        for lane in Lane:
            queue = queue_name(lane, fragile.model_name)
            (answer,) = outsider.control.cancel_consumer(queue, reply=True, limit=1, timeout=60)
            assert "no longer consuming" in str(answer)
        batch = submitted(fragile, manifest)
        finished(fragile, batch, watch=worker)
        assert worker.events("consumer is deaf, connecting anew")
    check_promises(fragile, batch)


def test_a_submission_without_redis_is_registered_and_judged_later(
    fragile: Settings, own_redis: RedisServer, manifest: Path
) -> None:
    """The producer's pairs are safe in SQL; whoever finds Redis again sends them."""
    own_redis.kill()
    batch = submitted(fragile, manifest)
    own_redis.start()
    with running(fragile, manifest.parent) as worker:
        finished(fragile, batch, watch=worker)
    check_promises(fragile, batch)


def test_messages_that_come_three_times_in_any_order_give_one_outcome_each(
    fragile: Settings, own_redis: RedisServer, manifest: Path
) -> None:
    """Delivery is at least once, in no order; outcomes are exactly once.

    Safeguard: a claim refuses what is running or done, so a repeat costs a look (faults 20 and 21: no pause is
    promised, none is noted).
    """
    batch = submitted(fragile, manifest)
    queue = queue_name(Lane.BULK, fragile.model_name)
    with own_redis.client() as client:
        messages = waiting_in(client, queue) * 3
        random.Random(7).shuffle(messages)
        remove(client, queue)
        client.lpush(queue, *messages)
    with running(changed(fragile, slots_per_device=3), manifest.parent) as worker:
        finished(fragile, batch, watch=worker)
        wait_until(lambda: not waiting_in(own_redis.client(), queue), timeout_s=60, what="the repeats to be drained")
    assert {row.attempt for row in told(fragile, batch).values()} == {1}
    assert len(results(fragile, batch)) == 60
    check_promises(fragile, batch)


def test_rubbish_from_anybody_is_survived(fragile: Settings, own_redis: RedisServer, manifest: Path) -> None:
    """A task for nobody, a pickle, wrong fields, an unknown batch: dropped, and ours are judged.

    Safeguard: JSON alone is accepted, and every field is parsed before it is used.
    """
    batch = submitted(fragile, manifest)
    queue = queue_name(Lane.BULK, fragile.model_name)
    with own_redis.client() as client:
        good = json.loads(waiting_in(client, queue)[0])
        unknown = good | {"headers": good["headers"] | {"task": "somebody.elses"}}
        pickled = good | {"content-type": "application/x-python-serialize"}
        wrong = {"body": "W1tdLCB7ImJhdGNoIjogIngifSwge31d"}  # [[], {"batch": "x"}, {}]
        for odd in (unknown, pickled, good | wrong):
            client.rpush(queue, json.dumps(odd))
    with running(fragile, manifest.parent) as worker:
        finished(fragile, batch, watch=worker)
        assert worker.process.poll() is None
        assert [event["reason"] for event in worker.events("message dropped")] == [
            "batch is not a whole number from 1 to 9223372036854775807"
        ]
    check_promises(fragile, batch)


def test_what_is_no_message_at_all_ends_a_worker_but_loses_nothing(
    fragile: Settings, own_redis: RedisServer, manifest: Path
) -> None:
    """Kombu cannot read `123` or `not json` and ends the worker; the next one, which `up` starts, judges on."""
    batch = submitted(fragile, manifest)
    queue = queue_name(Lane.BULK, fragile.model_name)
    with own_redis.client() as client:
        for rubbish in (b"123", b"not json", b"\x80\x04\x95pickle"):
            client.rpush(queue, rubbish)
    for _ in range(4):  # one worker for each piece of rubbish, and one that finds none
        with running(fragile, manifest.parent) as worker, ledger(fragile) as database:
            wait_until(
                lambda: worker.process.poll() is not None or progress(database, batch).finished,
                timeout_s=90,
                what="the worker to end or the batch to finish",
            )
    assert finished(fragile, batch).judged == 60
    check_promises(fragile, batch)


def test_a_worker_that_rubbish_ends_gives_back_what_it_has_in_hand(
    fragile: Settings, own_redis: RedisServer, manifest: Path
) -> None:
    """Celery ends by an error of its own and tells nobody; its children would judge their chunks to the end first.

    Safeguard: housekeeping sees that Celery has begun to end the worker, and drains it as SIGTERM does.
    """
    slow = changed(fragile, stub_pair_s=1, chunk_pairs=60, slots_per_device=2)  # one slot listens while the other works
    batch = submitted(slow, manifest)
    with running(slow, manifest.parent) as worker:
        with ledger(slow) as database:
            wait_until(lambda: progress(database, batch).judged, timeout_s=60, what="a first commit")
        with own_redis.client() as client:
            client.rpush(queue_name(Lane.BULK, slow.model_name), b"123")
        assert worker.process.wait(timeout=60) == 1
        assert [event["ending"] for event in worker.events("chunk ended")] == ["released"]
        assert worker.events("housekeeping failed") == []
    quick = changed(slow, stub_pair_s=0)
    with running(quick, manifest.parent) as worker, recovery(28, "rubbish in the middle of a chunk", within_s=30):
        finished(quick, batch, watch=worker)
    assert {row.attempt for row in told(quick, batch).values()} == {1}
    check_promises(quick, batch)


def test_a_message_of_another_wire_version_stays_in_its_own_queue(
    fragile: Settings, own_redis: RedisServer, manifest: Path
) -> None:
    """An old worker never sees, and never drops, a newer message.

    Safeguard: the wire version is part of the queue's name.
    """
    batch = submitted(fragile, manifest)
    newer = queue_name(Lane.BULK, fragile.model_name, wire_version=2)
    with own_redis.client() as client:
        client.lpush(newer, "from the future")
        with running(fragile, manifest.parent) as worker:
            finished(fragile, batch, watch=worker)
        assert client.lrange(newer, 0, -1) == [b"from the future"]


def test_redis_that_is_full_delays_but_loses_nothing(fragile: Settings, own_redis: RedisServer, manifest: Path) -> None:
    """The submission commits although no message can be written; it catches up when there is room."""
    with own_redis.client() as client:
        client.config_set("maxmemory", "1")
        batch = submitted(fragile, manifest)
        with ledger(fragile) as database:
            assert progress(database, batch).chunks == {"pending": 15}
        client.config_set("maxmemory", "0")
    with running(fragile, manifest.parent) as worker:
        finished(fragile, batch, watch=worker)
    check_promises(fragile, batch)


def test_what_could_not_be_rung_does_not_wait_for_its_turn_to_be_sent_again(
    fragile: Settings, own_redis: RedisServer, manifest: Path
) -> None:
    """Redis was away while a worker fed it: those chunks go out as soon as it is back, not after a backoff."""
    patient = changed(fragile, resend_s=3600)
    with running(patient, manifest.parent) as worker:
        finished(patient, submitted(patient, manifest), watch=worker)
        own_redis.kill()
        again = submit(manifest, settings=patient, again=True)
        assert not again.sent
        worker.wait_for("housekeeping waits")
        own_redis.start()
        finished(patient, again.batch, watch=worker)
        assert worker.events("housekeeping failed") == []
    check_promises(patient, again.batch)
