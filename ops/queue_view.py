"""`caption-audit queue`: the ledger's queue beside what lies in Redis, and what to do when they do not fit."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from audit.errors import BrokerRefused, BrokerUnavailable, UsageError
from audit.message import Lane, queue_name
from ops.hints import typed, typed_for
from ops.looking import Look
from ops.queue_messages import Messages, messages
from ops.text import counted, duration, one_line, plain
from ops.worker_view import models_held

if TYPE_CHECKING:
    from audit.settings import Settings
    from db.engine import Database
    from db.queue import Waiting

EX_UNAVAILABLE = 69
COUNTS = ("pending", "sent", "running", "parked", "pairs_left")


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneSeen:
    """One lane of one model: the ledger's lines of all tenants, and Redis's messages (None when Redis is away)."""

    model: str
    lane: Lane
    tenants: "tuple[Waiting, ...]"
    in_redis: Messages | None

    def total(self, count: str) -> int:
        """A count of all tenants together."""
        return sum(int(getattr(tenant, count)) for tenant in self.tenants)

    @property
    def oldest_waiting_s(self) -> float | None:
        """Of all tenants."""
        ages = [tenant.oldest_waiting_s for tenant in self.tenants if tenant.oldest_waiting_s is not None]
        return max(ages, default=None)


def look_at_queue(settings: "Settings", database: "Database") -> Look:
    """One look; when Redis is away it is said so, with exit status 69 (2 for a wrong password). Raises Unavailable."""
    from db.queue import waiting
    from db.workers import seen

    lines, slots = waiting(database), seen(database)
    models = sorted({line.model for line in lines} | {settings.model_name})
    queues = {queue_name(lane, model): (model, lane) for model in models for lane in Lane}
    found: Mapping[str, Messages] = {}
    trouble: BrokerUnavailable | UsageError | None = None
    try:
        found = messages(settings.broker_url, queues)
    except (BrokerUnavailable, UsageError) as error:
        trouble = error
    lanes = [
        LaneSeen(
            model=model,
            lane=lane,
            tenants=tuple(line for line in lines if (line.model, line.lane) == (model, lane)),
            in_redis=found.get(queue),
        )
        for queue, (model, lane) in queues.items()
    ]
    shown = [one for one in lanes if one.tenants or (one.in_redis and (one.in_redis.waiting or one.in_redis.taken))]
    advice = [*_trouble(trouble), *_advice(shown, models_held(slots, settings), settings)]
    return Look(
        value={
            "redis": {"answers": trouble is None, "error": trouble.detail if trouble else None},
            "lanes": [_json(one) for one in shown],
            "advice": advice,
        },
        table=_table(shown) if shown else None,
        lines=[] if shown and not advice else [one_line(line) for line in advice or ["the queue is empty"]],
        status=_status(trouble),
    )


def _status(trouble: BrokerUnavailable | UsageError | None) -> int:
    if trouble is None:
        return 0
    return trouble.exit_status if isinstance(trouble, BrokerRefused | UsageError) else EX_UNAVAILABLE


def _trouble(trouble: BrokerUnavailable | UsageError | None) -> list[str]:
    return [] if trouble is None else [f"{trouble.detail}; shown is what the ledger knows, and it keeps everything"]


def _advice(lanes: Sequence[LaneSeen], held: set[str], settings: "Settings") -> list[str]:
    said: list[str] = []
    for model in sorted({lane.model for lane in lanes} - held):
        chunks = sum(lane.total("pending") + lane.total("sent") for lane in lanes if lane.model == model)
        messages_left = sum(lane.in_redis.waiting for lane in lanes if lane.model == model and lane.in_redis)
        if chunks or messages_left:
            what = f"{counted(chunks, 'chunk')} wait{'s' * (chunks == 1)}" if chunks else "messages wait"
            up = typed_for("up", model, settings)
            said.append(f"{what}, but no worker holds the model {model}: start one ({up})")
    parked = sum(lane.total("parked") for lane in lanes)
    if parked:
        cure = typed("sweep --parked", settings)
        said.append(f"{parked:,} parked: see the worker's log, mend the cause, then: {cure}")
    return said


def _json(seen: LaneSeen) -> dict[str, Any]:
    return {
        "model": seen.model,
        "lane": seen.lane.value,
        "in_redis": None if seen.in_redis is None else seen.in_redis.waiting,
        "taken": None if seen.in_redis is None else seen.in_redis.taken,
        **{count: seen.total(count) for count in COUNTS},
        "oldest_waiting_s": _rounded(seen.oldest_waiting_s),
        "tenants": [_tenant_json(tenant) for tenant in seen.tenants],
    }


def _tenant_json(tenant: "Waiting") -> dict[str, Any]:
    told = {name: value for name, value in asdict(tenant).items() if name not in ("model", "lane")}
    return told | {"oldest_waiting_s": _rounded(tenant.oldest_waiting_s)}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def _table(lanes: Iterable[LaneSeen]) -> Any:
    from ops.show import add_row, table

    names = ("in Redis", "taken", "pending", "sent", "running", "parked", "pairs left", "oldest")
    shown = table("model", "lane", *names, "tenants", numeric=names)
    for seen in lanes:
        there = seen.in_redis
        redis = ("?", "?") if there is None else (f"{there.waiting:,}", f"{there.taken:,}")
        oldest = "" if seen.oldest_waiting_s is None else duration(seen.oldest_waiting_s)
        counts = [f"{seen.total(count):,}" for count in COUNTS]
        tenants = ", ".join(f"{plain(tenant.tenant)} {tenant.pairs_left:,}" for tenant in seen.tenants)
        add_row(shown, seen.model, seen.lane.value, *redis, *counts, oldest, tenants)
    return shown
