"""What the commands share: their common arguments, and the way from the environment to an open ledger."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from audit.errors import UsageError

if TYPE_CHECKING:
    from audit.settings import Settings
    from db.engine import Database


MOST = 2**63 - 1
"""What both databases can hold in a number."""


class ManifestFormat(StrEnum):
    """How a manifest is written; the names of producer.Format, which is too heavy to import for --help."""

    CSV = "csv"
    TSV = "tsv"
    JSONL = "jsonl"


class ExportFormat(StrEnum):
    """How outcomes are written for other programs."""

    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"


class FlaggedFormat(StrEnum):
    """How flagged pairs are shown."""

    TABLE = "table"
    CSV = "csv"
    JSONL = "jsonl"


def batch_id(text: str) -> int:
    """The number of `17`, `b17` or `#17`; raises UsageError."""
    digits = text.strip().removeprefix("#").removeprefix("b")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 19 and 0 < int(digits) <= MOST):
        raise UsageError("bad_batch", f"{text[:40]!r} is no batch number: `caption-audit status` lists the batches")
    return int(digits)


BatchArgument = Annotated[int, typer.Argument(parser=batch_id, metavar="BATCH", help="The batch's number.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON value on stdout, and nothing else.")]


def examples(*lines: str) -> str:
    """The end of a --help: commands to copy, kept line by line."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


@contextmanager
def ledger(*, create: bool = False) -> Iterator[tuple["Settings", "Database"]]:
    """Settings and the open ledger, at this version's schema.

    Without `create` a SQLite ledger must exist already: asking in the wrong folder must not leave an empty one there.
    Raises UsageError, LedgerUnavailable.
    """
    from db.schema import ensure_schema

    with any_ledger(create=create) as (settings, database):
        ensure_schema(database)
        yield settings, database


@contextmanager
def any_ledger(*, create: bool = False) -> Iterator[tuple["Settings", "Database"]]:
    """The same, whatever its schema."""
    from audit.settings import read_settings
    from db.engine import open_database

    settings = read_settings()
    if not create:
        _must_exist(settings)
    database = open_database(settings.ledger_url)
    try:
        yield settings, database
    finally:
        database.close()


def _must_exist(settings: "Settings") -> None:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(settings.ledger_url)
    except (ArgumentError, ValueError):
        return  # open_database says what is wrong with it
    if url.get_backend_name() == "sqlite" and url.database and not os.path.exists(url.database):
        where = os.path.abspath(url.database)
        raise UsageError("no_ledger", f"there is no ledger {where} yet: submit a batch, or set AUDIT_HOME")
