"""`danlu workspaces`: yours, their members, who is invited."""

from typing import Annotated

import typer

from app.cli import complete
from app.cli.client import connect
from app.cli.output import Json, Yes, day, say, show, show_table, sure
from app.cli.text import _

app = typer.Typer(no_args_is_help=True, help=_("Workspaces, their members and invitations."))
Workspace = Annotated[str, typer.Argument(help=_("Its id."), autocompletion=complete.workspace)]
User = Annotated[str, typer.Argument(help=_("Its id."), autocompletion=complete.user)]
Role = Annotated[str, typer.Option(help="viewer, member, admin, owner.")]


@app.command("list", help=_("Yours; all of them for a platform admin."))
def index(as_json: Json = False) -> None:
    columns = {
        "ID": lambda row: row["id"],
        _("Name"): lambda row: row["name"],
        _("Role"): lambda row: row["role"],
        _("Created"): lambda row: day(row["created_at"]),
    }
    show(
        connect().all("/api/v1/workspaces"),
        as_json,
        lambda found: show_table(found["data"], columns, _("No workspace.")),
    )


@app.command(help=_("A new workspace."))
def create(
    name: str,
    owner: Annotated[str, typer.Option(help=_("E-mail of its owner; you, if left out."))] = "",
    as_json: Json = False,
) -> None:
    body = {"name": name, "owner": owner}
    show(connect().post("/api/v1/workspaces", body), as_json, lambda found: say(found["id"]))


@app.command(help=_("Who belongs to a workspace."))
def members(workspace: Workspace, as_json: Json = False) -> None:
    columns = {
        "ID": lambda row: row["id"],
        _("E-mail"): lambda row: row["email"],
        _("Name"): lambda row: row["name"],
        _("Role"): lambda row: row["role"],
    }
    show(
        connect().all(f"/api/v1/workspaces/{workspace}/members"),
        as_json,
        lambda found: show_table(found["data"], columns, _("Nobody.")),
    )


@app.command(
    "add-member", help=_("Add somebody; the password of a new account is shown this once.")
)
def add_member(
    workspace: Workspace,
    email: str,
    role: Role = "member",
    name: str = "",
    as_json: Json = False,
) -> None:
    body = {"email": email, "role": role, "name": name}
    made = connect().post(f"/api/v1/workspaces/{workspace}/members", body)
    show(
        made,
        as_json,
        lambda found: say(f"{found['email']}: {found['role']} {found['password'] or ''}".rstrip()),
    )


@app.command("set-role", help=_("Give a member another role."))
def set_role(workspace: Workspace, user: User, role: str, as_json: Json = False) -> None:
    path = f"/api/v1/workspaces/{workspace}/members/{user}"
    found = connect().send("PATCH", path, json={"role": role}).json()
    show(found, as_json, lambda one: say(f"{one['email']}: {one['role']}"))


@app.command("remove-member", help=_("Their API keys of this workspace stop working at once."))
def remove_member(workspace: Workspace, user: User, yes: Yes = False) -> None:
    sure(_("Remove %(name)s?", name=user), yes)
    connect().delete(f"/api/v1/workspaces/{workspace}/members/{user}")


@app.command(help=_("Another name; the short one stays."))
def rename(workspace: Workspace, name: str, as_json: Json = False) -> None:
    found = connect().send("PATCH", f"/api/v1/workspaces/{workspace}", json={"name": name}).json()
    show(found, as_json, lambda one: say(one["name"]))


@app.command(help=_("Your API keys of it stop working."))
def leave(workspace: Workspace, yes: Yes = False) -> None:
    sure(_("Leave %(name)s?", name=workspace), yes)
    connect().post(f"/api/v1/workspaces/{workspace}/leave")


@app.command("hand-over", help=_("Make another member the owner; you become an admin."))
def hand_over(workspace: Workspace, user: User, yes: Yes = False) -> None:
    sure(_("Hand %(name)s over?", name=workspace), yes)
    connect().post(f"/api/v1/workspaces/{workspace}/hand-over", {"user_id": user})


@app.command(help=_("Only an empty one."))
def delete(workspace: Workspace, yes: Yes = False) -> None:
    sure(_("Delete %(name)s?", name=workspace), yes)
    connect().delete(f"/api/v1/workspaces/{workspace}")


# -- invitations -------------------------------------------------------------------------


@app.command(help=_("Invite an address; the link is shown this once."))
def invite(workspace: Workspace, email: str, role: Role = "member", as_json: Json = False) -> None:
    body = {"email": email, "role": role}
    made = connect().post(f"/api/v1/workspaces/{workspace}/invitations", body)
    show(made, as_json, lambda found: say(found["url"]))


@app.command(help=_("Who is invited and not here yet."))
def invitations(workspace: Workspace, as_json: Json = False) -> None:
    columns = {
        "ID": lambda row: row["id"],
        _("E-mail"): lambda row: row["email"],
        _("Role"): lambda row: row["role"],
        _("Expires"): lambda row: day(row["expires_at"]),
    }
    show(
        connect().all(f"/api/v1/workspaces/{workspace}/invitations"),
        as_json,
        lambda found: show_table(found["data"], columns, _("Nobody.")),
    )


@app.command(help=_("Withdraw an invitation; its link stops working."))
def uninvite(workspace: Workspace, invitation: str) -> None:
    connect().delete(f"/api/v1/workspaces/{workspace}/invitations/{invitation}")


# -- service accounts --------------------------------------------------------------------


@app.command("services", help=_("Programs of a workspace."))
def services(workspace: Workspace, as_json: Json = False) -> None:
    columns = {
        "ID": lambda row: row["id"],
        _("Name"): lambda row: row["name"],
        _("Role"): lambda row: row["role"],
        _("Disabled"): lambda row: _("yes") if row["disabled"] else "",
    }
    show(
        connect().all(f"/api/v1/workspaces/{workspace}/service-accounts"),
        as_json,
        lambda found: show_table(found["data"], columns, _("None.")),
    )


@app.command("create-service", help=_("A program with a role: viewer, member or admin."))
def create_service(
    workspace: Workspace, name: str, role: Role = "member", as_json: Json = False
) -> None:
    body = {"name": name, "role": role}
    made = connect().post(f"/api/v1/workspaces/{workspace}/service-accounts", body)
    show(made, as_json, lambda found: say(found["id"]))


@app.command("service-key", help=_("A new key of a program. It is shown this once."))
def service_key(
    workspace: Workspace,
    account: str,
    name: str,
    scope: Annotated[
        list[str], typer.Option("--scope", "-s", help=_("What it may be used for; repeatable."))
    ],
    as_json: Json = False,
) -> None:
    path = f"/api/v1/workspaces/{workspace}/service-accounts/{account}/keys"
    made = connect().post(path, {"name": name, "scopes": scope})
    show(made, as_json, lambda found: say(found["secret"]))


@app.command("delete-service", help=_("Its API keys stop working for good."))
def delete_service(workspace: Workspace, account: str, yes: Yes = False) -> None:
    sure(_("Delete %(name)s?", name=account), yes)
    connect().delete(f"/api/v1/workspaces/{workspace}/service-accounts/{account}")
