"""`danlu keys`: API keys of the workspace."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from app.cli import complete
from app.cli.client import connect
from app.cli.output import Json, Yes, day, say, show, show_table, sure, tell
from app.cli.text import _

app = typer.Typer(no_args_is_help=True, help=_("API keys: list, create, revoke."))
SCOPES = (
    "datasets:read datasets:write models:read models:write jobs:read jobs:write deployments:read"
    " deployments:write inference account admin"
).split()


@app.command("list", help=_("Your keys of this workspace; an admin sees everybody's."))
def index(limit: Annotated[int, typer.Option(min=1)] = 100, as_json: Json = False) -> None:
    columns = {
        "ID": lambda row: row["id"],
        _("Name"): lambda row: row["name"],
        _("Key"): lambda row: f"{row['prefix']}…",
        _("Scopes"): lambda row: " ".join(row["scopes"]),
        _("Owner"): lambda row: row["user"]["email"],
        _("Last used"): lambda row: day(row["used_at"]) or _("never"),
        _("Expires"): lambda row: day(row["expires_at"]) or _("never"),
    }
    show(
        connect().all("/api/v1/keys", limit),
        as_json,
        lambda found: show_table(found["data"], columns, _("No key.")),
    )


@app.command(help=_("A new key. It is shown this once."))
def create(
    name: Annotated[str, typer.Argument(help=_("What it is for."))],
    scope: Annotated[
        list[str],
        typer.Option(
            "--scope",
            "-s",
            help=_("What it may be used for; repeatable."),
            autocompletion=lambda incomplete: [one for one in SCOPES if one.startswith(incomplete)],
        ),
    ],
    days: Annotated[int | None, typer.Option(min=1, max=3650, help=_("Until it expires."))] = None,
    as_json: Json = False,
) -> None:
    expires = (datetime.now(UTC) + timedelta(days=days)).isoformat() if days else None
    body = {"name": name, "scopes": scope, "expires_at": expires}
    made = connect().post("/api/v1/keys", body)
    if not as_json:
        tell(_("Keep it: it is not shown again."))
    show(made, as_json, lambda found: say(found["secret"]))


@app.command(help=_("The key stops working at once."))
def revoke(
    key: Annotated[str, typer.Argument(help=_("Its id."), autocompletion=complete.key)],
    yes: Yes = False,
) -> None:
    sure(_("Revoke %(name)s?", name=key), yes)
    connect().delete(f"/api/v1/keys/{key}")
