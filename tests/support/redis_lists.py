"""What waits in Redis: a queue is a list a rank, and tests rarely care which."""

from redis import Redis

from audit.redis_lists import lists_of


def waiting_in(client: "Redis", queue: str) -> list[bytes]:
    """The raw messages of a queue, whatever their rank; each list's next one last."""
    return [raw for name in lists_of(queue) for raw in client.lrange(name, 0, -1)]  # type: ignore[union-attr]  # redis-py's types speak of its asyncio client too


def remove(client: "Redis", queue: str) -> None:
    """Lose every message of a queue."""
    client.delete(*lists_of(queue))
