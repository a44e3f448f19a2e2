"""`danlu admin`: devices, workspaces, quotas, prices. For platform admins."""

from typing import Annotated

import typer

from app.cli.text import _
from app.cli.client import Json, bytes_of, connect, day, say, show_json, show_table

app = typer.Typer(no_args_is_help=True, help=_("For admins: devices, workspaces, members, quotas."))
Workspace = Annotated[str, typer.Argument(help=_("Its id."))]


@app.command(help=_("What there is, and who holds it."))
def devices(as_json: Json = False) -> None:
    found = connect().get("/api/v1/devices")
    if as_json:
        return show_json(found)
    columns = {
        "NODE": lambda row: row["node"],
        "DEVICE": lambda row: row["name"],
        "MODEL": lambda row: row["model"],
        "MEMORY": lambda row: f"{bytes_of(row['used'])} of {bytes_of(row['memory'])}",
        "STATE": lambda row: row["state"] if row["healthy"] else "unhealthy",
        "HELD BY": lambda row: ", ".join(
            f"{one['owner_kind']} {one['owner_id']} ({one['workspace']})" for one in row["holders"]
        ),
    }
    return show_table(found["data"], columns, "No device.")


@app.command(help=_("Yours; all of them for a platform admin."))
def workspaces(as_json: Json = False) -> None:
    found = connect().get("/api/v1/workspaces")
    if as_json:
        return show_json(found)
    columns = {
        "ID": lambda row: row["id"],
        "NAME": lambda row: row["name"],
        "ROLE": lambda row: row["role"],
        "CREATED": lambda row: day(row["created_at"]),
    }
    return show_table(found["data"], columns, "No workspace.")


@app.command(help=_("Who belongs to a workspace."))
def members(workspace: Workspace, as_json: Json = False) -> None:
    found = connect().get(f"/api/v1/workspaces/{workspace}/members")
    if as_json:
        return show_json(found)
    columns = {
        "ID": lambda row: row["id"],
        "E-MAIL": lambda row: row["email"],
        "NAME": lambda row: row["name"],
        "ROLE": lambda row: row["role"],
    }
    return show_table(found["data"], columns, "Nobody.")


@app.command("add-member", help=_("Add somebody; the password of a new account is shown this once."))
def add_member(
    workspace: Workspace,
    email: str,
    role: Annotated[str, typer.Option(help=_("viewer, member, admin or owner."))] = "member",
    name: str = "",
    as_json: Json = False,
) -> None:
    body = {"email": email, "role": role, "name": name}
    made = connect().post(f"/api/v1/workspaces/{workspace}/members", body)
    if as_json:
        return show_json(made)
    return say(f"{made['email']}: {made['role']} {made['password'] or ''}".rstrip())


@app.command(help=_("How many devices a workspace may hold at once; with --devices, set it."))
def quota(
    workspace: Workspace,
    devices: Annotated[
        str, typer.Option(help=_("So many held at once from now on, or `none` for no limit."))
    ] = "",
    as_json: Json = False,
) -> None:
    api, path = connect(), f"/api/v1/quotas/{workspace}"
    if devices and devices != "none" and not devices.isdigit():
        raise typer.BadParameter("a number, or `none`", param_hint="--devices")
    if devices:
        body = {"devices": None if devices == "none" else int(devices)}
        found = api.send("PUT", path, json=body).json()
    else:
        found = api.get(path)
    if as_json:
        return show_json(found)
    limit = "no limit" if found["devices"] is None else f"{found['devices']} devices"
    return say(f"{found['name']}: {limit}")


@app.command(help=_("What things cost, as JSON."))
def prices() -> None:
    show_json(connect().get("/api/v1/prices"))
