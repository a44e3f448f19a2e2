"""`danlu admin storage` and `danlu admin alerts`: for platform admins."""

from typing import Annotated

import typer

from app.cli.client import Row, connect
from app.cli.output import Json, Yes, bytes_of, day, say, show, show_table, sure, tell
from app.cli.text import _

storage = typer.Typer(no_args_is_help=True, help=_("What takes the room, and what may go."))
alerts = typer.Typer(no_args_is_help=True, help=_("What fires, and who is told."))
CLEAN = "/api/v1/platform/storage/clean"
ALERTS = "/api/v1/platform/alerts"
Workspaced = Annotated[
    bool, typer.Option("--workspace", help=_("Of your workspace, not of the whole platform."))
]


@storage.command("show", help=_("Bytes by kind and by workspace, disks, and the largest things."))
def show_storage(as_json: Json = False) -> None:
    api = connect()
    found = api.get("/api/v1/platform/storage")
    found["disks"] = api.get("/api/v1/platform/disks")["data"]
    show(found, as_json, told_storage)


def told_storage(found: Row) -> None:
    def size(row: Row) -> str:
        return bytes_of(row["bytes"])

    kinds = {
        _("Kind"): lambda row: row["kind"],
        _("Number"): lambda row: row["count"],
        _("Size"): size,
    }
    spaces = {_("Workspace"): lambda row: row["name"] or _("shared"), _("Size"): size}
    things = {
        "ID": lambda row: row["id"],
        _("Kind"): lambda row: row["kind"],
        _("Name"): lambda row: row["name"],
        _("Size"): size,
    }
    disks = {
        _("Node"): lambda row: row["node"],
        _("Free"): lambda row: f"{bytes_of(row['free'])} / {bytes_of(row['total'])}",
        _("Floor"): lambda row: bytes_of(row["floor"]),
        _("State"): lambda row: _("below its floor") if row["low"] else "",
    }
    nothing = _("Nothing is stored yet.")
    for rows, columns in (
        (found["kinds"], kinds),
        (found["workspaces"], spaces),
        (found["largest"], things),
        (found["disks"], disks),
    ):
        show_table(rows, columns, nothing)
        say("")


@storage.command(
    "clean", help=_("Clear away now what may go by the settings; with --dry-run, list it.")
)
def clean(
    dry_run: Annotated[bool, typer.Option("--dry-run", help=_("Remove nothing."))] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    api = connect()
    due = api.get(CLEAN, limit=1)
    found = api.all(CLEAN) | {"bytes": due["bytes"], "count": due["count"]}
    if dry_run:
        show(found, as_json, told_due)
        return
    sure(_("Clear away %(size)s now?", size=bytes_of(due["bytes"])), yes)
    show(api.post(CLEAN), as_json, lambda one: say(bytes_of(one["bytes"])))


def told_due(found: Row) -> None:
    columns = {
        _("Kind"): lambda row: row["kind"],
        "ID": lambda row: row["of"],
        _("Name"): lambda row: row["name"],
        _("Node"): lambda row: row["node"],
        _("Since"): lambda row: day(row["since"]),
        _("Size"): lambda row: bytes_of(row["bytes"]),
    }
    show_table(found["data"], columns, _("Nothing has to go now."))
    tell(bytes_of(found["bytes"]))


@alerts.command("list", help=_("What fires now; with --all, what did as well."))
def list_alerts(
    everything: Annotated[bool, typer.Option("--all", help=_("Resolved ones too."))] = False,
    workspace: Workspaced = False,
    as_json: Json = False,
) -> None:
    columns = {
        _("Kind"): lambda row: row["kind"],
        _("Message"): lambda row: row["message"],
        _("Since"): lambda row: day(row["fired_at"]),
        _("Until"): lambda row: day(row["resolved_at"]),
    }
    path = "/api/v1/alerts" if workspace else ALERTS
    found = connect().all(path, most=500, state="" if everything else "firing")
    show(found, as_json, lambda one: show_table(one["data"], columns, _("Nothing fires.")))


@alerts.command("rules", help=_("Whom alerts are told to."))
def rules(workspace: Workspaced = False, as_json: Json = False) -> None:
    columns = {
        "ID": lambda row: row["id"],
        _("Name"): lambda row: row["name"],
        _("How"): lambda row: row["how"],
        _("Whom"): lambda row: ", ".join(row["addresses"]) or row["host"],
        _("Kinds"): lambda row: ", ".join(row["kinds"]),
    }
    path = "/api/v1/alerts/rules" if workspace else f"{ALERTS}/rules"
    found = connect().all(path)
    show(found, as_json, lambda one: show_table(one["data"], columns, _("Nobody is told.")))


@alerts.command("test", help=_("Send those whom a rule names a message that says it is a test."))
def send_test(
    rule: Annotated[str, typer.Argument(help=_("Its id."))],
    workspace: Workspaced = False,
    as_json: Json = False,
) -> None:
    path = "/api/v1/alerts/rules" if workspace else f"{ALERTS}/rules"
    show(connect().post(f"{path}/{rule}/test"), as_json, lambda one: say(one["state"]))
