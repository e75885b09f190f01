"""Which looks there are."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

from audit.settings import Settings
from ops.doctor import (
    clock,
    devices,
    disk,
    environment,
    memory,
    model,
    permissions,
    ports,
    proxy,
    python,
    redis,
    sql,
    torch,
)
from ops.doctor.lines import Line, Probe, Topic

LOADING = 24
"""Importing torch takes seconds on a warm disk, a minute on a cold one: two minutes, as a worker waits for it, too."""


NEED_SETTINGS = (Topic.TORCH, Topic.DEVICES, Topic.MODEL, Topic.DISK, Topic.REDIS, Topic.SQL, Topic.CLOCK)


def probes(environ: Mapping[str, str], *, limit_s: float) -> Iterator[Probe]:
    """Every look at this environment, in the order in which it is shown."""
    settings, refused = environment.readable_settings(environ)
    yield _probe(Topic.ENVIRONMENT, "settings", limit_s, environment.settings_line, environ)
    yield _probe(Topic.ENVIRONMENT, "AUDIT_*", limit_s, environment.unknown_lines, environ)
    yield _probe(Topic.ENVIRONMENT, "CELERY_*", limit_s, environment.celery_lines, environ)
    yield _probe(Topic.PYTHON, "python", limit_s, python.version_line)
    # A hundred small files each: on a cold disk, beside other work, that takes its time.
    yield _probe(Topic.PYTHON, "pins", LOADING * limit_s, python.pin_lines)
    yield _probe(Topic.PYTHON, "packages", limit_s, python.name_lines)
    if settings is not None:
        yield from _of_torch(settings, environ, limit_s)
        yield from _of_services(settings, limit_s)
    else:
        for topic in NEED_SETTINGS:
            yield _probe(topic, "settings", limit_s, environment.unlooked_line, refused)
    yield _probe(Topic.NETWORK, "proxy", limit_s, proxy.proxy_lines, environ)


def _of_torch(settings: Settings, environ: Mapping[str, str], limit_s: float) -> Iterator[Probe]:
    loading_s = limit_s * LOADING
    inside_s = loading_s * 0.9  # so that a process that hangs is ended, and says which it was
    wanted = devices.cuda_devices(settings, environ)
    yield _probe(Topic.TORCH, "torch", loading_s, torch.torch_lines, environ, wanted, limit_s=inside_s)
    yield _probe(Topic.DEVICES, "slots", loading_s, devices.device_lines, settings, environ, limit_s=inside_s)
    yield _probe(Topic.DEVICES, "memory", limit_s, memory.memory_lines, settings, environ, now=time.time())
    yield _probe(Topic.MODEL, "folder", limit_s, model.folder_lines, settings)
    yield _probe(Topic.MODEL, "files", limit_s + model.reading_s(settings), model.checksum_lines, settings)
    yield _probe(Topic.MODEL, "state_dict", loading_s, model.shape_lines, settings, environ, limit_s=inside_s)


def _of_services(settings: Settings, limit_s: float) -> Iterator[Probe]:
    yield _probe(Topic.DISK, "AUDIT_HOME", limit_s, permissions.home_lines, settings)
    yield _probe(Topic.DISK, "secrets", limit_s, permissions.secret_lines, settings)
    yield _probe(Topic.DISK, "files", limit_s, permissions.file_lines, settings)
    yield _probe(Topic.DISK, "room", limit_s, disk.room_lines, settings)
    yield _probe(Topic.DISK, "mounts", limit_s, disk.mount_lines, settings)
    yield _probe(Topic.DISK, "shared memory", limit_s, disk.shared_memory_lines)
    inside_s = limit_s * 0.9  # so that the client tells what it waited for
    yield _probe(Topic.REDIS, "reachable", limit_s, redis.redis_lines, settings, limit_s=inside_s)
    yield _probe(Topic.SQL, "reachable", limit_s, sql.ledger_lines, settings, limit_s=inside_s)
    yield _probe(Topic.SQL, "lock", limit_s, sql.lock_lines, settings)
    yield _probe(Topic.CLOCK, "Redis", limit_s, clock.redis_lines, settings, limit_s=inside_s)
    yield _probe(Topic.CLOCK, "SQL", limit_s, clock.sql_lines, settings, limit_s=inside_s)
    yield _probe(Topic.NETWORK, "ports", limit_s, ports.port_lines, settings)


def _probe(
    topic: Topic, name: str, within_s: float, look: Callable[..., Iterable[Line]], *values: object, **named: object
) -> Probe:
    return Probe(topic=topic, name=name, look=partial(look, *values, **named), limit_s=within_s)
