"""`danlu deploy` and `danlu deployments`: models that answer."""

import sys
import time
from typing import Annotated, Any

import typer

from app.cli import complete
from app.cli.client import Api, Failed, Row, connect, until
from app.cli.output import Json, Yes, bytes_of, day, say, show, show_table, sure, tell
from app.cli.text import _

app = typer.Typer(no_args_is_help=True, help=_("Models that answer: create, stop, start, logs."))
BASE = "/api/v1/deployments"
Deployment = Annotated[
    str, typer.Argument(help=_("Its id or name."), autocompletion=complete.deployment)
]
Wait = Annotated[bool, typer.Option(help=_("Until it answers."))]


@app.command("create", help=_("Serve a model."))
def deploy(
    model: Annotated[
        str, typer.Argument(help=_("Name or id of the model."), autocompletion=complete.model)
    ],
    name: Annotated[
        str,
        typer.Option("--name", "-n", help=_("The model's name at /v1; made from it if left out.")),
    ] = "",
    replicas: Annotated[int, typer.Option(min=1)] = 1,
    devices: Annotated[int, typer.Option(min=1, help=_("Per replica."))] = 1,
    engine: Annotated[str, typer.Option(help=_("auto, vllm or transformers."))] = "auto",
    max_model_len: Annotated[int | None, typer.Option(help=_("Tokens of context."))] = None,
    quantization: Annotated[str, typer.Option(help=_("As vLLM calls it."))] = "",
    idle_minutes: Annotated[
        int | None, typer.Option(min=1, help=_("Sleep after so long without a request."))
    ] = None,
    priority: Annotated[str, typer.Option(help=_("low, normal, high or urgent."))] = "normal",
    wait: Wait = True,
    as_json: Json = False,
) -> None:
    api = connect()
    body: Row = {
        "name": name or called(api.get(f"/api/v1/models/{model}")["name"]),
        "model": model,
        "replicas": replicas,
        "devices": devices,
        "engine": engine,
        "quantization": quantization,
        "priority": priority,
    }
    chosen = {"max_model_len": max_model_len, "idle_minutes": idle_minutes}
    body |= {field: value for field, value in chosen.items() if value is not None}
    made = api.post(BASE, body)
    if wait:
        made = ready(api, made["id"])
    show(made, as_json, told)


def called(model: str) -> str:
    """A model's name as one that /v1 takes."""
    name = "".join(
        char if (char.isascii() and char.isalnum()) or char in "._-" else "-" for char in model
    )
    return name.lower().strip("._-")[:63] or "model"


def told(found: Row) -> None:
    say(f"{found['name']} ({found['id']}): {found['state']}, {found['url']}")


def ready(api: Api, deployment: str) -> Row:
    """Wait, telling each phase on stderr. Raises Failed if it does not start."""
    said = ""

    def look() -> Row:
        nonlocal said
        found: Row = api.get(f"{BASE}/{deployment}")
        phases = [replica["phase"] for replica in found["replicas"]]
        text = " ".join(filter(None, [found["name"], found["state"], found["reason"], *phases]))
        if text != said:
            tell(text)
        said = text
        return found

    found = until(look, ("ready", "error", "stopped", "idle"))
    if found["state"] == "error":
        error = found["error"] or {}
        raise Failed(" ".join(filter(None, (error.get("message"), error.get("advice")))))
    return found


def path_of(api: Api, id_or_name: str) -> str:
    """Raises Failed if there is none."""
    if id_or_name.startswith("dep_"):
        return f"{BASE}/{id_or_name}"
    for one in api.all(BASE)["data"]:
        if id_or_name == one["name"]:
            return f"{BASE}/{one['id']}"
    raise Failed(_("There is no deployment %(name)s.", name=id_or_name))


@app.command("list", help=_("The workspace's deployments, newest first."))
def index(limit: Annotated[int, typer.Option(min=1)] = 50, as_json: Json = False) -> None:
    columns = {
        "ID": lambda row: row["id"],
        _("Name"): lambda row: row["name"],
        _("State"): lambda row: " ".join(filter(None, (row["state"], row["reason"]))),
        _("Replicas"): lambda row: len(row["replicas"]),
        _("Created"): lambda row: day(row["created_at"]),
    }
    show(
        connect().all(BASE, limit),
        as_json,
        lambda found: show_table(
            found["data"], columns, _("Nothing is deployed: `danlu deploy MODEL`.")
        ),
    )


@app.command("show", help=_("One deployment and its replicas."))
def detail(deployment: Deployment, as_json: Json = False) -> None:
    api = connect()
    show(api.get(path_of(api, deployment)), as_json, describe)


def describe(found: Row) -> None:
    told(found)
    if found["error"]:
        say(f"  {found['error']['message']}")
    columns: dict[str, Any] = {
        _("Replica"): lambda row: row["id"],
        _("State"): lambda row: " ".join(filter(None, (row["state"], row["reason"]))),
        _("Phase"): lambda row: row["phase"],
        _("Engine"): lambda row: row["engine"],
        _("Node"): lambda row: row["node"],
        _("Memory"): lambda row: bytes_of(row["memory"]),
    }
    show_table(found["replicas"], columns, _("No replica."))


def act(deployment: str, verb: str, as_json: bool, *, wait: bool = False, **body: Any) -> None:
    api = connect()
    found = api.post(f"{path_of(api, deployment)}/{verb}", body)
    if wait:
        found = ready(api, found["id"])
    show(found, as_json, told)


@app.command(help=_("Stop its engines; the settings stay."))
def stop(deployment: Deployment, as_json: Json = False) -> None:
    act(deployment, "stop", as_json)


@app.command(help=_("Start it again."))
def start(deployment: Deployment, wait: Wait = True, as_json: Json = False) -> None:
    act(deployment, "start", as_json, wait=wait)


@app.command(help=_("Stop its engines until the next request."))
def sleep(deployment: Deployment, as_json: Json = False) -> None:
    act(deployment, "sleep", as_json)


@app.command(help=_("More replicas, or fewer."))
def scale(
    deployment: Deployment,
    replicas: Annotated[int, typer.Argument(min=1, help=_("How many there shall be."))],
    as_json: Json = False,
) -> None:
    act(deployment, "scale", as_json, replicas=replicas)


@app.command(help=_("Give it another priority: low, normal, high or urgent."))
def priority(
    deployment: Deployment,
    to: Annotated[str, typer.Argument(help=_("low, normal, high or urgent."))],
    as_json: Json = False,
) -> None:
    api = connect()
    show(api.patch(path_of(api, deployment), {"priority": to}), as_json, told)


@app.command(help=_("Stop its engines and free its name."))
def delete(deployment: Deployment, yes: Yes = False) -> None:
    api = connect()
    path = path_of(api, deployment)
    sure(_("Delete %(name)s?", name=deployment), yes)
    api.delete(path)


@app.command(help=_("What an engine wrote since it last started."))
def logs(
    deployment: Deployment,
    replica: Annotated[int, typer.Option(min=0)] = 0,
    follow: Annotated[bool, typer.Option("--follow", "-f", help=_("Until Ctrl-C."))] = False,
) -> None:
    api = connect()
    path = f"{path_of(api, deployment)}/log"
    began, offset = "", 0
    while True:
        params = {"replica": replica, "offset": offset} | ({"start": began} if began else {})
        answer = api.send("GET", path, params=params)
        sys.stdout.write(answer.text)
        sys.stdout.flush()
        before, offset = offset, int(answer.headers["x-next-offset"])
        began = answer.headers["x-start"]
        if offset == before:
            if not follow:
                return
            time.sleep(1)
