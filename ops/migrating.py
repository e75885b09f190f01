"""The commands about the ledger's schema: db upgrade, db check, db current."""

import typer

from ops.arguments import any_ledger, examples

app = typer.Typer(help="The ledger's schema: upgrade it, check it.", rich_markup_mode=None, no_args_is_help=True)


def register(parent: typer.Typer) -> None:
    """Add the group of commands."""
    parent.add_typer(app, name="db")


@app.command(epilog=examples("caption-audit db upgrade"))
def upgrade() -> None:
    """Create the ledger's tables, or bring them to the schema that this version needs; again, it changes nothing."""
    from db.schema import HEAD, current_revision
    from db.schema import upgrade as upgrade_schema

    with any_ledger(create=True) as (_, database):
        before = current_revision(database)
        upgrade_schema(database)
    print(f"the ledger has schema {HEAD}" + (f" (was {before or 'empty'})" if before != HEAD else ", as before"))


@app.command(epilog=examples("caption-audit db check || caption-audit db upgrade"))
def check() -> int:
    """Say whether the ledger has the schema that this version needs; exit status 1 when it has another."""
    from db.schema import HEAD, current_revision

    with any_ledger() as (_, database):
        revision = current_revision(database)
    if revision == HEAD:
        print(f"the ledger has schema {HEAD}, which this version needs")
        return 0
    print(f"the ledger has schema {revision or 'none'}, this version needs {HEAD}: caption-audit db upgrade")
    return 1


@app.command(epilog=examples("caption-audit db current"))
def current() -> None:
    """Print the ledger's schema revision, or `none`."""
    from db.schema import current_revision

    with any_ledger() as (_, database):
        print(current_revision(database) or "none")
