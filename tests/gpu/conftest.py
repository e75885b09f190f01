"""Tests that need a CUDA device; elsewhere each is skipped with the reason.

The device is looked for in a process of its own: the one that runs the tests must be able to fork workers.
"""

import os

import pytest

from audit.errors import AuditError
from audit.settings import Settings
from worker.devices import check_devices
from worker.slots import plan_slots


@pytest.fixture(scope="session")
def gpu() -> str:
    """AUDIT_DEVICES' name of a CUDA device that computes."""
    slots = plan_slots(Settings.model_validate({}), os.environ)
    if slots[0].device == "cpu":
        pytest.skip("there is no CUDA device: neither NVIDIA's driver nor CUDA_VISIBLE_DEVICES names one")
    try:
        check_devices(slots[:1], os.environ)
    except AuditError as error:
        pytest.skip(f"the CUDA device cannot be used: {error}")
    return slots[0].device
