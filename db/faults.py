"""What an error of the database means: run the transaction again, wait for the server, or tell a person what to change.

PostgreSQL gives a refused connection no error code, only a text (libpq hides the code), so those are told by their
English words; a text that nobody here knows counts as an outage and is shown as it is.
"""

import re
import sqlite3

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from audit.errors import LedgerRefused, LedgerUnavailable, UsageError

CONFLICTS = frozenset({"40001", "40P01", "55P03"})
"""PostgreSQL's serialization failure, deadlock and lock timeout: the whole transaction can simply run again."""
READ_ONLY = "25006"
NO_PRIVILEGE = "42501"
NO_TABLE = "42P01"
DISK_FULL = "53100"
SQLITE_DISK_FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE})
"""The second one: the file that readers and writers share in memory cannot grow."""
LONGEST_REASON = 300
WRONG_STATEMENT = (IntegrityError, DataError, ProgrammingError)

REFUSED = (
    (
        r'database "(.*)" does not exist|no such database: (.*)',
        "no_database",
        "there is no database {}: create it (createdb {}), or mend the name in DATABASE_URL",
    ),
    (
        r'password authentication failed for user "(.*)"',
        "wrong_password",
        "PostgreSQL refuses the user {} or its password: mend DATABASE_URL or AUDIT_DATABASE_PASSWORD",
    ),
    (
        r"no password supplied",
        "wrong_password",
        "PostgreSQL wants a password: write it in DATABASE_URL, or set AUDIT_DATABASE_PASSWORD",
    ),
    (
        r'role "(.*)" does not exist',
        "no_role",
        "PostgreSQL knows no role {}: create it, or mend the user in DATABASE_URL",
    ),
    (
        r'permission denied for database "(.*)"',
        "no_privilege",
        "the role may not connect to the database {}: GRANT CONNECT ON DATABASE {} to it",
    ),
    (
        r"no pg_hba\.conf entry for (.*)",
        "not_admitted",
        "the server's pg_hba.conf does not admit {}: add a line for it",
    ),
    (
        r"SSL was required|certificate verify failed|root certificate file|certificate .* does not match|sslmode",
        "tls_refused",
        "TLS as DATABASE_URL asks for it is not possible: {reason}",
    ),
)
"""Text of a refused connection, code, and the line for a person; {} is what the text names."""
FULL = re.compile(r"too many clients|too many connections|remaining connection slots|no more connections allowed")
UNKNOWN_HOST = re.compile(r"failed to resolve host '(.*?)'|could not translate host name \"(.*?)\"")


def is_conflict(error: DBAPIError) -> bool:
    """Whether another writer was in the way, and nothing else."""
    if isinstance(error.orig, sqlite3.OperationalError):
        return (error.orig.sqlite_errorcode & 0xFF) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    return getattr(error.orig, "sqlstate", None) in CONFLICTS


def translate(error: DBAPIError | PoolTimeout) -> Exception:
    """LedgerUnavailable (away), LedgerRefused (a person must change something), or the error itself when we are wrong.

    A failover leaves a database that is read-only for a while, a shutdown ends sessions: those pass.
    """
    if isinstance(error, PoolTimeout):
        return LedgerUnavailable("ledger_unavailable", "the ledger's connections are all waiting for it")
    state, reason = getattr(error.orig, "sqlstate", None), _reason(error.orig)
    if state is None:
        return _without_code(error, reason)
    if state == NO_PRIVILEGE:
        cure = "grant it, or use the role that owns the ledger"
        return LedgerRefused("no_privilege", f"DATABASE_URL's role lacks a privilege ({reason}): {cure}")
    if state == NO_TABLE:
        return LedgerRefused("schema_missing", f"the ledger lacks a table ({reason}): run `caption-audit db upgrade`")
    return error if isinstance(error, WRONG_STATEMENT) else _outage(state, reason)


def _outage(state: str, reason: str) -> LedgerUnavailable:
    """An error of PostgreSQL that passes."""
    if state == READ_ONLY:
        cure = "DATABASE_URL must lead to the primary"
        return LedgerUnavailable("ledger_unavailable", f"the ledger is read-only, a standby or in a failover: {cure}")
    return _disk_full(reason) if state == DISK_FULL else _away(reason)


def _without_code(error: DBAPIError, reason: str) -> Exception:
    """An error of SQLite, or of a connection to PostgreSQL that was not made."""
    if not isinstance(error.orig, sqlite3.Error):
        if isinstance(error, ProgrammingError):
            return UsageError("bad_setting", f"DATABASE_URL is not understood: {reason}")
        return _refusal(reason)
    if error.orig.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
        cure = "this user must be able to write it and its folder; see AUDIT_HOME or DATABASE_URL"
        return LedgerRefused("ledger_file", f"the ledger's file does not open for writing ({reason}): {cure}")
    if error.orig.sqlite_errorcode in SQLITE_DISK_FULL:
        return _disk_full(reason)
    if error.orig.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
        return LedgerRefused(
            "not_a_ledger", "the ledger's file is not a database that SQLite can read: set AUDIT_HOME or DATABASE_URL"
        )
    return error if isinstance(error, WRONG_STATEMENT) else _away(reason)


def _refusal(reason: str) -> Exception:
    """What a connection that was not made tells."""
    for pattern, code, line in REFUSED:
        found = re.search(pattern, reason)
        if found:
            name = next((group for group in found.groups() if group), "")
            return LedgerRefused(code, line.format(name, name, reason=reason))
    host = UNKNOWN_HOST.search(reason)
    if host:
        name = host[1] or host[2]
        return LedgerUnavailable("ledger_unavailable", f"the ledger's host {name} has no address: see DATABASE_URL")
    if FULL.search(reason):
        cure = "raise max_connections, run fewer slots, or put PgBouncer between"
        return LedgerUnavailable("ledger_full", f"PostgreSQL has no connection left ({reason}): {cure}")
    return _away(reason)


def locked_by(process: str) -> LedgerUnavailable:
    """The ledger's file was locked for longer than a transaction waits, by a process that can be named."""
    return LedgerUnavailable("ledger_unavailable", f"the ledger's file is locked by {process}")


def _disk_full(reason: str) -> LedgerUnavailable:
    cure = "make room; nothing is lost, and work goes on by itself"
    return LedgerUnavailable("ledger_disk_full", f"the ledger's disk is full ({reason}): {cure}")


def _away(reason: str) -> LedgerUnavailable:
    return LedgerUnavailable("ledger_unavailable", f"the ledger does not answer: {reason}")


def _reason(error: BaseException | None) -> str:
    """The first line that says something, without psycopg's and libpq's preamble. It never holds a password."""
    line = next((line for line in str(error).strip().splitlines() if line.strip()), type(error).__name__)
    where = re.search(r'server (?:at "(.*?)", port (\d+)|on socket "(.*?)") failed: (.*)', line)
    if where:
        line = f"{where[4]} ({where[3] or f'{where[1]}:{where[2]}'})"
    return line.replace("FATAL:  ", "").replace("ERROR:  ", "").strip()[:LONGEST_REASON]
