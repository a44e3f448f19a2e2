"""`danlu admin nodes`: the machines: what they have and say, and taking them out of use."""

from typing import Annotated

import typer

from app.cli import complete
from app.cli.client import Row, connect
from app.cli.output import Json, Yes, bytes_of, day, say, show, show_table, sure
from app.cli.text import _

app = typer.Typer(
    invoke_without_command=True, help=_("The machines: look at them, take them out of use.")
)
Node = Annotated[str, typer.Argument(help=_("Its name."), autocompletion=complete.node)]


@app.callback()
def nodes(context: typer.Context, as_json: Json = False) -> None:
    if context.invoked_subcommand:
        return
    columns = {
        _("Node"): lambda row: row["id"],
        _("State"): lambda row: row["state"],
        _("Devices"): lambda row: ", ".join(row["devices"]),
        _("Labels"): lambda row: ", ".join(labels_of(row)),
        _("Driver"): lambda row: row["facts"].get("driver", ""),
        _("Seen"): lambda row: day(row["seen_at"]),
    }
    show(
        connect().get("/api/v1/nodes"),
        as_json,
        lambda found: show_table(found["data"], columns, _("No machine.")),
    )


@app.command("show", help=_("One machine, with what its devices do."))
def show_node(node: Node, as_json: Json = False) -> None:
    api = connect()
    found = api.get(f"/api/v1/nodes/{node}")
    devices = [one for one in api.get("/api/v1/devices")["data"] if one["node"] == node]
    columns = {
        _("Device"): lambda row: row["name"],
        _("Use"): lambda row: reading(row, "use", "%"),
        _("Memory"): lambda row: f"{memory(row)} / {bytes_of(row['memory'])}",
        _("Temperature"): lambda row: reading(row, "temperature", "°C"),
        _("Power"): lambda row: reading(row, "power", "W"),
        _("State"): lambda row: row["state"] if row["healthy"] else "unhealthy",
        _("Problems"): lambda row: "; ".join(
            one["message"] % one["params"] for one in row["problems"]
        ),
    }

    def told(found: Row) -> None:
        told_node(found)
        say(", ".join(labels_of(found)))
        show_table(found["devices"], columns, _("No device."))

    show(found | {"devices": devices}, as_json, told)


def reading(row: Row, name: str, unit: str) -> str:
    value = row["stats"][name]
    return "" if value is None else f"{value:.0f} {unit}"


def memory(row: Row) -> str:
    used = row["stats"]["memory"]
    return "?" if used is None else bytes_of(used)


@app.command(help=_("Give a machine nothing new; what runs there goes on."))
def cordon(node: Node, as_json: Json = False) -> None:
    show(connect().post(f"/api/v1/nodes/{node}/cordon"), as_json, told_node)


@app.command(help=_("Let a machine have work again; a drain is called off."))
def uncordon(node: Node, as_json: Json = False) -> None:
    show(connect().post(f"/api/v1/nodes/{node}/uncordon"), as_json, told_node)


@app.command(help=_("Empty a machine: jobs save and wait again, replicas go elsewhere first."))
def drain(
    node: Node,
    minutes: Annotated[
        int, typer.Option(min=0, max=1440, help=_("How long replicas may wait for a place."))
    ] = 30,
    as_json: Json = False,
) -> None:
    found = connect().post(f"/api/v1/nodes/{node}/drain", {"seconds": minutes * 60})
    show(found, as_json, told_node)


@app.command(help=_("Set labels, as gpu=h200; gpu= takes one away. Without any, show them."))
def label(
    node: Node,
    labels: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE")] = None,
    as_json: Json = False,
) -> None:
    api = connect()
    found = api.get(f"/api/v1/nodes/{node}")
    if labels:
        wanted = dict(found["labels"])
        for part in labels:
            key, equals, value = part.partition("=")
            if not equals:
                raise typer.BadParameter(_("key=value"), param_hint="KEY=VALUE")
            wanted[key] = value
        kept = {key: value for key, value in wanted.items() if value}
        found = api.patch(f"/api/v1/nodes/{node}", {"labels": kept})
    show(found, as_json, lambda found: say("\n".join(labels_of(found))))


@app.command(help=_("A token with which one machine may join as a node, once."))
def token(
    name: Annotated[str, typer.Option(help=_("The only name it is good for."))] = "",
    minutes: Annotated[int, typer.Option(min=1, help=_("For how long it is good."))] = 60,
    as_json: Json = False,
) -> None:
    made = connect().post("/api/v1/nodes/tokens", {"node": name, "minutes": minutes})
    show(made, as_json, lambda found: say(found["command"]))


@app.command(help=_("Its access ends at once; what ran there goes on elsewhere."))
def remove(node: Node, yes: Yes = False) -> None:
    sure(_("Remove %(name)s?", name=node), yes)
    connect().delete(f"/api/v1/nodes/{node}")


def labels_of(found: Row) -> list[str]:
    return [f"{key}={value}" for key, value in found["labels"].items()]


def told_node(found: Row) -> None:
    say(f"{found['id']}: {found['state']}")
