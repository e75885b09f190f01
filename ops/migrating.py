"""The commands about the ledger itself: db upgrade, db check, db current, db backup."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ops import backing_up
from ops.arguments import JsonOption, any_ledger, examples

if TYPE_CHECKING:
    from db.engine import Database

app = typer.Typer(
    help="The ledger: upgrade its schema, check it, back it up.", rich_markup_mode=None, no_args_is_help=True
)
LONGEST_WAIT_S = 3600.0


def register(parent: typer.Typer) -> None:
    """Add the group of commands."""
    app.command(epilog=examples(*backing_up.EXAMPLES))(backing_up.backup)
    parent.add_typer(app, name="db")


@app.command(
    epilog=examples(
        "caption-audit db upgrade",
        "DATABASE_URL=postgresql://owner:PASSWORD@db.internal/audit caption-audit db upgrade --wait 60",
    )
)
def upgrade(
    wait: Annotated[
        float,
        typer.Option(min=0, max=LONGEST_WAIT_S, metavar="SECONDS", help="Wait so long for a database to come up."),
    ] = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Create the ledger's tables, or bring them to the schema that this version needs; again, it changes nothing.

    Exit status 2 for what an operator must change (password, name, privilege), 69 when the database does not answer.
    """
    from db.schema import current_revision, patiently
    from ops.show import print_json

    before: list[str | None] = []
    with any_ledger(create=True) as (_, database):
        patiently(lambda: before.append(_upgraded(database)), wait_s=wait, waiting=_say_waiting)
        now, was = current_revision(database), before[-1]
    if as_json:
        print_json({"revision": now, "was": was, "changed": was != now})
    else:
        print(f"the ledger has schema {now}" + (f" (was {was or 'empty'})" if was != now else ", as before"))


@app.command(epilog=examples("caption-audit db check || caption-audit db upgrade", "caption-audit db check --json"))
def check(as_json: JsonOption = False) -> int:
    """Say whether the ledger has the schema that this version needs, or a newer one that still serves it.

    Exit status 0: it has; 1: another one, or no tables yet; 2: there is no ledger, or it lets nobody in; 69: it does
    not answer.
    """
    from db.schema import HEAD, served_revision
    from ops.show import print_json

    with any_ledger() as (_, database):
        revision, serves = served_revision(database)
    if as_json:
        print_json({"revision": revision, "needed": HEAD, "ok": serves})
    elif revision == HEAD:
        print(f"the ledger has schema {HEAD}, which this version needs")
    elif serves:
        print(f"the ledger has schema {revision}, which still serves this version ({HEAD})")
    elif revision is not None and revision > HEAD:
        print(f"the ledger has schema {revision}, this version knows {HEAD}: upgrade caption-audit")
    else:
        has = f"schema {revision}" if revision else "no tables yet"
        print(f"the ledger has {has}, this version needs schema {HEAD}: caption-audit db upgrade")
    return 0 if serves else 1


@app.command(epilog=examples("caption-audit db current", "caption-audit db current --json"))
def current(as_json: JsonOption = False) -> None:
    """Print the revision of the ledger's schema; `none` for a database that has no tables yet.

    Exit status 2 when there is no such database, 69 when it does not answer.
    """
    from db.schema import current_revision
    from ops.show import print_json

    with any_ledger() as (_, database):
        revision = current_revision(database)
    if as_json:
        print_json({"revision": revision})
    else:
        print(revision or "none")


def _upgraded(database: "Database") -> str | None:
    from db.schema import current_revision
    from db.schema import upgrade as upgrade_schema

    before = current_revision(database)
    upgrade_schema(database)
    return before


def _say_waiting(reason: str) -> None:
    print(f"waiting: {reason}", file=sys.stderr, flush=True)
