"""What a Redis must be to carry messages: told from its INFO, for the producer and for the worker alike.

Nothing of it costs a verdict, since the ledger sends again what Redis lost; it costs time, and people's trust.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from audit.errors import BrokerRefused, BrokerUnavailable

OLDEST_VERSION = 6
"""Redis 6.0 brought what redis-py and this project's tests rely on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weakness:
    """One thing about a Redis that an operator should change. `name`: eviction, persistence, role or version."""

    name: str
    means: str
    cure: str


class Client(Protocol):
    """As much of redis.Redis as is needed here."""

    def info(self) -> Any:
        """Every default section of INFO, as one mapping."""


def weaknesses(client: Client) -> list[str]:
    """One line for each thing about this Redis that an operator should change, with the cure.

    Empty for one that is as it should be, and for one whose user may not run INFO: then nobody can tell.
    """
    import redis

    try:
        info = client.info()
    except redis.exceptions.NoPermissionError:
        return []
    return [f"{weakness.means}: {weakness.cure}" for weakness in weaknesses_in(info)]


def weaknesses_in(info: Mapping[str, Any]) -> Iterator[Weakness]:
    """The same, of the answer to INFO."""
    policy = str(info.get("maxmemory_policy", ""))
    # volatile-* policies evict keys that expire; queues never do.
    if policy.startswith("allkeys-"):
        yield Weakness(
            name="eviction",
            means=f"a full Redis would drop messages silently (maxmemory-policy {policy}); the ledger sends them again,"
            " late",
            cure="set maxmemory-policy noeviction",
        )
    if info.get("aof_enabled") == 0:
        yield Weakness(
            name="persistence",
            means="Redis keeps no append-only file, so a restart forgets its messages; the ledger sends them again,"
            " late",
            cure="set appendonly yes",
        )
    elif info.get("aof_last_write_status", "ok") != "ok":
        yield Weakness(
            name="persistence",
            means="Redis cannot write its append-only file",
            cure="look at its disk and its log",
        )
    if info.get("role", "master") != "master":
        yield Weakness(
            name="role", means="REDIS_URL leads to a replica, which takes no messages", cure="name the primary"
        )
    version = str(info.get("redis_version", ""))
    major = version.partition(".")[0]
    if major.isdigit() and int(major) < OLDEST_VERSION:
        yield Weakness(name="version", means=f"Redis {version} is older than {OLDEST_VERSION}.0", cure="upgrade it")


def broker_error(error: BaseException) -> BrokerUnavailable:
    """BrokerRefused for a wrong password, which no waiting cures, BrokerUnavailable otherwise; one line, no secret."""
    import redis

    cause = error.__cause__ or error  # kombu wraps what redis-py raises
    reason = (f"{error}".strip() or type(error).__name__).splitlines()[0].rstrip(".")
    if isinstance(cause, redis.exceptions.AuthenticationError):
        return BrokerRefused("broker_refused", _refusal(reason))
    return BrokerUnavailable("broker_unavailable", f"Redis does not take messages: {reason}")


def _refusal(reason: str) -> str:
    if "required" in reason:
        return (
            "Redis wants a password: write it in REDIS_URL (redis://:PASSWORD@HOST:PORT/0), or set AUDIT_REDIS_PASSWORD"
        )
    if "without any password" in reason:
        return "a password is given, and this Redis has none: set `requirepass` in its configuration"
    return "Redis refuses the password, or the user: mend REDIS_URL or AUDIT_REDIS_PASSWORD"
