"""What stands beside a URL or in it: passwords of any characters, that never show, and TLS that proves something."""

from ssl import CERT_NONE, CERT_REQUIRED

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.utils.url import parse_url
from sqlalchemy.engine import make_url

from audit.errors import UsageError
from audit.settings import read_settings
from audit.urls import redact

SERVERS = {"DATABASE_URL": "postgresql://audit@postgres:5432/audit", "REDIS_URL": "redis://redis:6379/0"}


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_a_password_arrives_as_it_is(password: str) -> None:
    """In a URL of one's own an @, a / or a # of a good password ends the server's name, or the URL."""
    settings = read_settings({**SERVERS, "AUDIT_DATABASE_PASSWORD": password, "AUDIT_REDIS_PASSWORD": password})
    ledger, broker = make_url(settings.ledger_url), parse_url(settings.broker_url)
    assert (ledger.username, ledger.password, ledger.host, ledger.database) == ("audit", password, "postgres", "audit")
    assert (broker["userid"] or "", broker["password"], broker["hostname"], broker["virtual_host"]) == (
        "",
        password,
        "redis",
        "0",
    )


def test_a_password_does_not_show() -> None:
    """Settings and URLs are put into messages and logs."""
    settings = read_settings({**SERVERS, "AUDIT_DATABASE_PASSWORD": "hush@/", "AUDIT_REDIS_PASSWORD": "hush@/"})
    assert "hush" not in repr(settings) + redact(settings.ledger_url) + redact(settings.broker_url)


@pytest.mark.parametrize("name", ["DATABASE", "REDIS"])
@pytest.mark.parametrize("url", ["", "redis://me:other@server/0", "unix:///run/x.sock"])
def test_a_password_without_a_place_is_refused(name: str, url: str) -> None:
    """One of two passwords would win silently, or none would be used at all."""
    with pytest.raises(UsageError, match=f"AUDIT_{name}_PASSWORD is set, but {name}_URL"):
        read_settings({f"{name}_URL": url, f"AUDIT_{name}_PASSWORD": "hush"})


@pytest.mark.parametrize(
    "url",
    [
        "redis://:se#cret@h:6379/0",
        "redis://:se/cret@h:6379/0",
        "redis://:12/se@h:6379/0",
        "redis://:12#se@h:6379/0",
        "redis://:12?se@h:6379/0",
        "redis+socket://:se#cret@/run/redis.sock",
        "redis://[se:cret@h/0",
        "redis://:secret@h:99999/0",
        "amqp://me:secret@h/0",
        "secret@h:6379",
    ],
)
def test_a_redis_url_that_a_password_has_broken_is_refused_without_showing_it(url: str) -> None:
    """Celery would end with what it took for the port: a piece of the password."""
    with pytest.raises(UsageError, match="bad_setting: REDIS_URL: must be redis://") as caught:
        read_settings({"REDIS_URL": url})
    assert not any(piece in caught.value.detail for piece in ("'se", "12", "secret", "cret@"))


@pytest.mark.parametrize(
    "url",
    [
        "redis://h", "redis://h:6379", "redis://h:6379/", "redis://me:p%23@h:6379/3", "rediss://h/0?ssl_cert_reqs=none",
        "redis://[::1]:6379/0", "redis+socket:///run/redis.sock", "redis+socket://%2Frun%2Fredis.sock",
    ],
)  # fmt: skip
def test_every_url_that_celery_understands_is_taken(url: str) -> None:
    """A check that is stricter than what it guards would stop systems that run."""
    assert read_settings({"REDIS_URL": url}).broker_url == url
    assert parse_url(url)["transport"]


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("rediss://:p@h:6380/0", "rediss://:p@h:6380/0?ssl_cert_reqs=required"),
        ("rediss://h/0?ssl_ca_certs=/ca.pem", "rediss://h/0?ssl_ca_certs=/ca.pem&ssl_cert_reqs=required"),
        ("rediss://h/0?ssl_cert_reqs=none", "rediss://h/0?ssl_cert_reqs=none"),
    ],
)
def test_tls_to_redis_wants_a_good_certificate_unless_told_otherwise(url: str, asked: str) -> None:
    """Left to itself, Celery accepts any certificate, and hands the password to whoever stands in between."""
    assert read_settings({"REDIS_URL": url}).broker_url == asked
    assert parse_url(asked)["ssl"]["ssl_cert_reqs"] == (CERT_NONE if "none" in url else CERT_REQUIRED)
