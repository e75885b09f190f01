"""How many cores a process may use: those it is bound to, and no more than its container's share of time is worth."""

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def cores_allowed(cgroup: Path = CGROUP) -> int:
    """Whole cores, at least one.

    A container that is limited to two cores' time still sees all the host's: a thread for each of them would use up its
    time in a fraction of every 100 ms, and stand still for the rest.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(bound, _share(cgroup) or bound))


def _share(cgroup: Path) -> int | None:
    """Cores' worth of time a period, rounded down; None without a limit. Version 2 of cgroups, then version 1."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if not (quota.isdecimal() and period.isdecimal() and int(period)):  # `max` and -1 are no limit
        return None
    return max(1, int(quota) // int(period))
