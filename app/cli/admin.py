"""`danlu admin`: devices, users, quotas, prices. Most is for platform admins."""

from typing import Annotated

import typer

from app.cli import complete, nodes, operating, quotas
from app.cli.client import Row, connect
from app.cli.output import Json, Yes, bytes_of, day, say, show, show_table, sure, tell
from app.cli.text import _

app = typer.Typer(no_args_is_help=True, help=_("For admins: devices, users, quotas, prices."))
Workspace = Annotated[str, typer.Argument(help=_("Its id."), autocompletion=complete.workspace)]
User = Annotated[str, typer.Argument(help=_("Its id."), autocompletion=complete.user)]
app.add_typer(nodes.app, name="nodes")
app.add_typer(operating.storage, name="storage")
app.add_typer(operating.alerts, name="alerts")
app.add_typer(quotas.quotas, name="quotas")
Role = Annotated[str, typer.Option(help="viewer, member, admin, owner.")]


# -- machines ----------------------------------------------------------------------------


@app.command(help=_("What there is, and who holds it."))
def devices(as_json: Json = False) -> None:
    columns = {
        _("Node"): lambda row: row["node"],
        _("Device"): lambda row: row["name"],
        _("Model"): lambda row: row["model"],
        _("Use"): lambda row: "" if row["stats"]["use"] is None else f"{row['stats']['use']:.0f} %",
        _("Used"): lambda row: bytes_of(row["used"]),
        _("Memory"): lambda row: bytes_of(row["memory"]),
        _("State"): lambda row: row["state"] if row["healthy"] else "unhealthy",
        _("Held by"): lambda row: ", ".join(
            f"{one['owner_kind']} {one['owner_id']} ({one['workspace']})" for one in row["holders"]
        ),
    }
    show(
        connect().get("/api/v1/devices"),
        as_json,
        lambda found: show_table(found["data"], columns, _("No device.")),
    )


@app.command(help=_("What waits for devices, and why."))
def waiting(as_json: Json = False) -> None:
    columns = {
        _("Workspace"): lambda row: row["workspace"],
        _("Waiting"): lambda row: f"{row['owner_kind']} {row['owner_id']}",
        _("Devices"): lambda row: row["devices"],
        _("For"): lambda row: row["reason"],
        _("Since"): lambda row: day(row["since"]),
    }
    show(
        connect().get("/api/v1/devices/waiting"),
        as_json,
        lambda found: show_table(found["data"], columns, _("Nothing waits.")),
    )


# -- users -------------------------------------------------------------------------------


@app.command(help=_("Every account."))
def users(as_json: Json = False) -> None:
    columns = {
        "ID": lambda row: row["id"],
        _("E-mail"): lambda row: row["email"],
        _("Name"): lambda row: row["name"],
        _("Admin"): lambda row: _("yes") if row["is_platform_admin"] else "",
        _("Disabled"): lambda row: day(row["disabled_at"]),
    }
    show(
        connect().all("/api/v1/users"),
        as_json,
        lambda found: show_table(found["data"], columns, _("Nobody.")),
    )


@app.command("create-user", help=_("Open an account; its password is shown this once."))
def create_user(
    workspace: Workspace,
    email: str,
    role: Role = "member",
    name: str = "",
    admin: Annotated[bool, typer.Option("--admin", help=_("Of the whole platform."))] = False,
    as_json: Json = False,
) -> None:
    body = {
        "email": email,
        "name": name,
        "workspace_id": workspace,
        "role": role,
        "is_platform_admin": admin,
    }
    show(connect().post("/api/v1/users", body), as_json, told_user)


def told_user(found: Row) -> None:
    tell(found["email"])
    say(found["password"])


@app.command("reset-password", help=_("A one-time link to set a new password, shown this once."))
def reset_password(user: User, yes: Yes = False, as_json: Json = False) -> None:
    sure(_("Make a link that sets a new password for %(name)s?", name=user), yes)
    found = connect().post(f"/api/v1/users/{user}/reset-link")
    show(found, as_json, lambda one: say(one["url"]))


@app.command("disable-user", help=_("Sign-ins end and API keys stop working at once."))
def disable_user(user: User, yes: Yes = False, as_json: Json = False) -> None:
    sure(_("Disable %(name)s?", name=user), yes)
    found = connect().post(f"/api/v1/users/{user}/disable")
    show(found, as_json, lambda one: say(one["email"]))


@app.command("make-admin", help=_("Of the whole platform; with --no, not any more."))
def make_admin(
    user: User,
    no: Annotated[bool, typer.Option("--no", help=_("Take it away."))] = False,
    as_json: Json = False,
) -> None:
    path = f"/api/v1/users/{user}/admin"
    found = connect().send("DELETE", path).json() if no else connect().post(path)
    show(found, as_json, lambda one: say(one["email"]))


@app.command("invite", help=_("Invite an address to the platform; the link is shown this once."))
def invite(email: str, as_json: Json = False) -> None:
    found = connect().post("/api/v1/invitations", {"email": email})
    show(found, as_json, lambda one: say(one["url"]))


@app.command("enable-user", help=_("Let a disabled account in again."))
def enable_user(user: User, as_json: Json = False) -> None:
    found = connect().post(f"/api/v1/users/{user}/enable")
    show(found, as_json, lambda one: say(one["email"]))


# -- quotas and prices -------------------------------------------------------------------


@app.command(help=_("How many devices a workspace may hold at once; with --devices, set it."))
def quota(
    workspace: Workspace,
    devices: Annotated[
        str, typer.Option(help=_("So many held at once from now on, or `none` for no limit."))
    ] = "",
    as_json: Json = False,
) -> None:
    api, path = connect(), f"/api/v1/quotas/{workspace}"
    if devices and devices != "none" and not devices.isdecimal():
        raise typer.BadParameter(_("a number, or `none`"), param_hint="--devices")
    if devices:
        found = api.put(path, {"devices": None if devices == "none" else int(devices)})
    else:
        found = api.get(path)
    show(found, as_json, told_quota)


def told_quota(found: Row) -> None:
    limit = _("no limit") if found["devices"] is None else str(found["devices"])
    say(f"{found['name']}: {limit}")


app.command(
    help=_(
        "What an hour of each device costs, or 1,000 tokens of each model; with an amount, set it."
    )
)(quotas.prices)
app.command(help=_("Put money into a workspace's balance."))(quotas.topup)
app.command(help=_("What workspaces have left."))(quotas.balances)
