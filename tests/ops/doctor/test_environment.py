"""What the environment says, and what it says past the settings."""

import pytest

from audit.errors import UsageError
from audit.settings import read_settings
from ops.doctor.environment import celery_lines, secrets_of, settings_line, unknown_lines
from ops.doctor.lines import State
from tests.ops.doctor.conftest import Named


def test_settings_are_named_and_their_values_are_not(named: Named) -> None:
    """Names tell what was set; values may be passwords."""
    line = named(
        settings_line({"AUDIT_FLOWER_PASSWORD": "hunter2222", "AUDIT_LEASE_S": "", "HOME": "/root"}), "settings"
    )
    assert (line.state, line.found) == (State.OK, "understood; given: AUDIT_FLOWER_PASSWORD")
    refused = named(settings_line({"AUDIT_LEASE_S": "soon"}), "settings")
    assert (refused.state, refused.found.partition(":")[0]) == (State.WRONG, "AUDIT_LEASE_S")


def test_the_engine_that_answers_without_looking_is_told(named: Named) -> None:
    """Its verdicts are made up, and stand in the same tables."""
    assert named(settings_line({"AUDIT_ENGINE": "stub"}), "engine").state is State.WARNING
    assert [line.name for line in settings_line({})] == ["settings"]


def test_a_setting_that_does_not_exist_is_told_with_the_one_that_is_meant(named: Named) -> None:
    """It is set, read by nobody, and blamed last."""
    line = named(unknown_lines({"AUDIT_MICROBATCH": "8"}), "AUDIT_MICROBATCH")
    assert (line.state, line.cure) == (State.WARNING, "is AUDIT_MICRO_BATCH meant?")
    assert list(unknown_lines({"AUDIT_MICRO_BATCH": "8", "AUDIT_IMAGE_TAG": "cpu"})) == []


@pytest.mark.parametrize(
    ("name", "value", "state"),
    [
        ("CELERY_BROKER_URL", "redis://elsewhere/0", State.WRONG),
        ("CELERY_BROKER_READ_URL", "redis://elsewhere/0", State.WRONG),
        ("CELERY_BROKER_WRITE_URL", "redis://elsewhere/0", State.WRONG),
        ("CELERY_BROKER_WRITE_URL", "redis://here/0", State.OK),
        ("CELERY_RESULT_BACKEND", "redis://here/1", State.WRONG),
        ("CELERY_CONFIG_MODULE", "somebody.elses", State.WRONG),
        ("CELERY_WORKER_REVOKES_MAX", "5", State.WARNING),
    ],
)
def test_what_celery_reads_by_itself_is_told(named: Named, name: str, value: str, state: State) -> None:
    """It wins over the code's configuration, silently."""
    environ = {"REDIS_URL": "redis://here/0", name: value}
    assert named(celery_lines(environ), name).state is state


def test_without_celerys_variables_all_is_well(named: Named) -> None:
    """The usual case, and an empty variable is none."""
    assert named(celery_lines({"CELERY_BROKER_URL": ""}), "CELERY_*").state is State.OK


@pytest.mark.parametrize("name", ["CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL"])
def test_a_worker_refuses_what_would_lead_its_messages_elsewhere(name: str) -> None:
    """Celery prefers these two even to CELERY_BROKER_URL."""
    with pytest.raises(UsageError, match=name):
        read_settings({"REDIS_URL": "redis://here/0", name: "redis://elsewhere/0"})
    assert read_settings({"REDIS_URL": "redis://here/0", name: "redis://here/0"})


def test_every_password_of_the_environment_is_known() -> None:
    """What is not known cannot be kept out of an error's text."""
    environ = {
        "AUDIT_REDIS_PASSWORD": "one",
        "DATABASE_URL": "postgresql://me:t%2Fwo@host/x",
        "HTTPS_PROXY": "http://me:three@proxy:1",
        "MAIL": "me@host",
        "BROKEN": "http://[me:four@",
    }
    assert secrets_of(environ) == ["one", "t%2Fwo", "t/wo", "three"]
