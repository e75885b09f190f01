"""TLS to PostgreSQL: what DATABASE_URL asks for is passed through, and what cannot be had is said."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from sqlalchemy import text

from audit.errors import LedgerRefused
from db.engine import open_database
from db.schema import current_revision
from tests.support.postgres_server import PostgresServer
from tests.support.sql_sessions import as_admin, driver_url
from tests.support.waiting import wait_until


def certify(folder: Path, name: str) -> Path:
    """A certificate for that host name, signed by itself, and its key, as PostgreSQL wants them."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    now = datetime.now(UTC)
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    signed = builder.sign(key, hashes.SHA256())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    owner = folder.stat()
    for file, content in (
        ("server.crt", signed.public_bytes(serialization.Encoding.PEM)),
        ("server.key", private),
    ):
        (folder / file).write_bytes(content)
        (folder / file).chmod(0o600)
        os.chown(folder / file, owner.st_uid, owner.st_gid)
    return folder / "server.crt"


def test_tls_is_what_the_url_asks_for(own_postgres: PostgresServer, tmp_path: Path) -> None:
    """Verdicts travel across a data centre: who asks for a proved server gets one, or a line that says why not."""
    authority = tmp_path / "ca.pem"
    authority.write_bytes(certify(own_postgres.folder / "data", "localhost").read_bytes())
    admin = own_postgres.url("postgres")
    as_admin(admin, "ALTER SYSTEM SET ssl = on")
    as_admin(admin, "SELECT pg_reload_conf()")
    asks = f"?sslmode=verify-full&sslrootcert={authority}"
    proved = open_database(driver_url(own_postgres.url("ledger").replace("127.0.0.1", "localhost")) + asks)

    def encrypted() -> bool:
        try:
            with proved.reading() as connection:
                return bool(connection.scalar(text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")))
        except LedgerRefused:  # the server has not read its configuration yet
            return False

    assert wait_until(encrypted, timeout_s=20, what="the server to speak TLS")
    proved.close()
    another_name = open_database(driver_url(own_postgres.url("ledger")) + asks)
    with pytest.raises(LedgerRefused, match="does not match host name") as caught:
        current_revision(another_name)
    assert (caught.value.code, caught.value.exit_status) == ("tls_refused", 2)
    assert own_postgres.password not in str(caught.value)
    another_name.close()
