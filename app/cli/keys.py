"""`danlu keys`: API keys of the workspace."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from app.cli.client import Json, connect, day, say, show_json, show_table

app = typer.Typer(no_args_is_help=True, help="API keys: list, create, revoke.")


@app.command("list")
def index(as_json: Json = False) -> None:
    """Your keys of this workspace; an admin sees everybody's."""
    found = connect().get("/api/v1/keys")
    if as_json:
        return show_json(found)
    columns = {
        "ID": lambda row: row["id"],
        "NAME": lambda row: row["name"],
        "KEY": lambda row: f"{row['prefix']}…",
        "SCOPES": lambda row: " ".join(row["scopes"]),
        "OWNER": lambda row: row["user"]["email"],
        "USED": lambda row: day(row["used_at"]) or "never",
        "EXPIRES": lambda row: day(row["expires_at"]) or "never",
    }
    return show_table(found["data"], columns, "No key.")


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    scope: Annotated[list[str], typer.Option("--scope", "-s", help="Repeatable.")],
    days: Annotated[int | None, typer.Option(min=1, help="Until it expires.")] = None,
    as_json: Json = False,
) -> None:
    """A new key. It is shown this once."""
    expires = (datetime.now(UTC) + timedelta(days=days)).isoformat() if days else None
    body = {"name": name, "scopes": scope, "expires_at": expires}
    made = connect().post("/api/v1/keys", body)
    if as_json:
        return show_json(made)
    return say(made["secret"])


@app.command()
def revoke(key: Annotated[str, typer.Argument(help="Its id.")]) -> None:
    """The key stops working at once."""
    connect().delete(f"/api/v1/keys/{key}")
