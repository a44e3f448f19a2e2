"""`danlu keys`: API keys of the workspace."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from app.cli import complete
from app.cli.client import connect
from app.cli.output import Json, Yes, day, say, show, show_table, sure, tell
from app.cli.text import _

app = typer.Typer(no_args_is_help=True, help=_("API keys: list, create, limit, revoke."))
Key = Annotated[str, typer.Argument(help=_("Its id."), autocompletion=complete.key)]
SCOPES = (
    "datasets:read datasets:write models:read models:write jobs:read jobs:write deployments:read"
    " deployments:write inference members:read members:write account admin"
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
    model: Annotated[
        list[str] | None,
        typer.Option(help=_("A model it may call, and no others; repeatable.")),
    ] = None,
    ip: Annotated[
        list[str] | None,
        typer.Option(help=_("An address or network it may be used from; repeatable.")),
    ] = None,
    rpm: Annotated[int | None, typer.Option(min=1, help=_("Requests a minute."))] = None,
    tpm: Annotated[int | None, typer.Option(min=1, help=_("Tokens a minute."))] = None,
    parallel: Annotated[
        int | None, typer.Option(min=1, help=_("Requests at the same time."))
    ] = None,
    daily_tokens: Annotated[int | None, typer.Option(min=1, help=_("Tokens a day."))] = None,
    total_tokens: Annotated[int | None, typer.Option(min=1, help=_("Tokens in all."))] = None,
    as_json: Json = False,
) -> None:
    expires = (datetime.now(UTC) + timedelta(days=days)).isoformat() if days else None
    body = {
        "name": name,
        "scopes": scope,
        "expires_at": expires,
        "models": model or [],
        "ips": ip or [],
        "rpm": rpm,
        "tpm": tpm,
        "parallel": parallel,
        "daily_tokens": daily_tokens,
        "total_tokens": total_tokens,
    }
    made = connect().post("/api/v1/keys", body)
    if not as_json:
        tell(_("Keep it: it is not shown again."))
    show(made, as_json, lambda found: say(found["secret"]))


@app.command(help=_("What is used of its limits."))
def usage(key: Key, as_json: Json = False) -> None:
    columns = {
        _("Limit"): lambda row: row["name"],
        _("Used"): lambda row: f"{row['used']:,}",
        _("Allowed"): lambda row: _("no limit") if row["limit"] is None else f"{row['limit']:,}",
    }
    show(
        connect().get(f"/api/v1/keys/{key}/usage"),
        as_json,
        lambda found: show_table(found["data"], columns, ""),
    )


@app.command(help=_("The key stops working at once."))
def revoke(
    key: Key,
    yes: Yes = False,
) -> None:
    sure(_("Revoke %(name)s?", name=key), yes)
    connect().delete(f"/api/v1/keys/{key}")
