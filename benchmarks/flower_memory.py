"""How much memory Flower takes, and that it stays there: `python -m benchmarks.flower_memory`.

Sends the events of so many chunks, as workers do, through a Redis of its own to a Flower of its own, and reads the
process's resident memory. Each chunk is three events: received, started, succeeded.
"""

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

import psutil

from tests.support.flower import FlowerSeen, flower_running, received, send_events
from tests.support.redis_server import RedisServer, find_redis
from tests.support.waiting import wait_until

STEPS = (0, 1_000, 5_000, 20_000, 50_000, 100_000)
AT_ONCE = 500


def main() -> None:
    """Measure with the bound that the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--max-tasks", type=int, default=1_000, help="AUDIT_FLOWER_MAX_TASKS")
    bound: int = parser.parse_args().max_tasks
    executable = find_redis()
    if executable is None:
        raise SystemExit("this needs a redis-server")
    redis = RedisServer(executable)
    redis.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            environ = {"AUDIT_HOME": folder, "REDIS_URL": redis.url, "AUDIT_FLOWER_MAX_TASKS": str(bound)}
            with flower_running(environ, Path(folder)) as flower:
                _measure(flower, redis.url, bound)
    finally:
        redis.close()


def _measure(flower: FlowerSeen, redis_url: str, bound: int) -> None:
    process = _listener(flower.port)
    wait_until(lambda: _heard(flower, redis_url, 0), timeout_s=30, what="Flower to hear")
    sent = 0
    print(f"bound {bound:,} chunks")
    for step in STEPS:
        began = time.monotonic()
        while sent < step:
            numbers = range(sent, min(sent + AT_ONCE, step))
            send_events(redis_url, *(event for number in numbers for event in _events(number)), worker="w@h")
            sent = numbers.stop
            wait_until(partial(_heard, flower, redis_url, sent), timeout_s=120, what="Flower to keep up")
        took_s = time.monotonic() - began
        print(f"after {step:>6,} chunks: {process.memory_info().rss / 1e6:6.1f} MB, {took_s:.0f} s", flush=True)


def _events(number: int) -> list[dict[str, object]]:
    uuid = f"chunk-{number}"
    text = f"batch 7, chunk {number}, 256 pairs"
    done = {"type": "task-succeeded", "uuid": uuid, "result": "'done'", "runtime": 8.5}
    return [received(uuid, kwargs=text), {"type": "task-started", "uuid": uuid}, done]


def _heard(flower: FlowerSeen, redis_url: str, number: int) -> bool:
    mark = f"mark-{number}"
    send_events(redis_url, received(mark))
    return flower.ask(f"/api/task/info/{mark}")[0] == 200


def _listener(port: int) -> psutil.Process:
    children = psutil.Process().children()
    return next(one for one in children if any(seen.laddr.port == port for seen in one.net_connections("tcp")))


if __name__ == "__main__":
    main()
