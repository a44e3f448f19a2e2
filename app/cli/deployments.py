"""`danlu deploy` and `danlu deployments`: models that answer."""

import sys
import time
from typing import Annotated

import typer

from app.cli.client import (
    Api,
    Failed,
    Json,
    Row,
    connect,
    day,
    say,
    show_json,
    show_table,
    until,
)

app = typer.Typer(no_args_is_help=True, help="Models that answer: list, stop, start, logs.")
BASE = "/api/v1/deployments"
Deployment = Annotated[str, typer.Argument(help="Its id or name.")]


def deploy(
    model: Annotated[str, typer.Argument(help="Name or id of the model.")],
    name: Annotated[
        str, typer.Option("--name", "-n", help="The model's name at /v1; made from it if left out.")
    ] = "",
    replicas: Annotated[int, typer.Option(min=1)] = 1,
    devices: Annotated[int, typer.Option(min=1, help="Per replica.")] = 1,
    engine: Annotated[str, typer.Option(help="auto, vllm or transformers.")] = "auto",
    max_model_len: Annotated[int | None, typer.Option(help="Tokens of context.")] = None,
    wait: Annotated[bool, typer.Option(help="Until it answers.")] = True,
    as_json: Json = False,
) -> None:
    """Serve a model."""
    api = connect()
    body = {
        "name": name or called(api.get(f"/api/v1/models/{model}")["name"]),
        "model": model,
        "replicas": replicas,
        "devices": devices,
        "engine": engine,
    }
    if max_model_len:
        body["max_model_len"] = max_model_len
    made = api.post(BASE, body)
    if wait:
        made = ready(api, made["id"], quiet=as_json)
    if as_json:
        return show_json(made)
    return say(f"{made['name']} ({made['id']}): {made['state']}, at {made['url']}")


def called(model: str) -> str:
    """A model's name as one that /v1 takes."""
    name = "".join(
        char if (char.isascii() and char.isalnum()) or char in "._-" else "-" for char in model
    )
    return name.lower().strip("._-")[:63] or "model"


def ready(api: Api, deployment: str, *, quiet: bool) -> Row:
    """Wait, telling each phase. Raises Failed if it does not start."""
    said = ""

    def look() -> Row:
        nonlocal said
        found: Row = api.get(f"{BASE}/{deployment}")
        phases = [replica["phase"] for replica in found["replicas"]]
        text = " ".join(filter(None, [found["name"], found["state"], found["reason"], *phases]))
        if text != said and not quiet:
            say(text)
        said = text
        return found

    found = until(look, ("ready", "error", "stopped", "idle"))
    if found["state"] == "error":
        error = found["error"] or {}
        raise Failed(" ".join(filter(None, (error.get("message"), error.get("advice")))))
    return found


def find(api: Api, id_or_name: str) -> Row:
    """Raises Failed if there is none."""
    for one in api.all(BASE, 10_000)["data"]:
        if id_or_name in (one["id"], one["name"]):
            return dict(one)
    raise Failed(f"There is no deployment {id_or_name}.")


@app.command("list")
def index(limit: Annotated[int, typer.Option(min=1)] = 50, as_json: Json = False) -> None:
    """The workspace's deployments, newest first."""
    found = connect().all(BASE, limit)
    if as_json:
        return show_json(found)
    columns = {
        "ID": lambda row: row["id"],
        "NAME": lambda row: row["name"],
        "STATE": lambda row: " ".join(filter(None, (row["state"], row["reason"]))),
        "REPLICAS": lambda row: len(row["replicas"]),
        "CREATED": lambda row: day(row["created_at"]),
    }
    return show_table(found["data"], columns, "Nothing is deployed: `danlu deploy MODEL`.")


@app.command()
def show(deployment: Deployment) -> None:
    """One deployment, as JSON."""
    show_json(find(connect(), deployment))


@app.command()
def stop(deployment: Deployment) -> None:
    """Stop its engines; the settings stay."""
    api = connect()
    found = api.post(f"{BASE}/{find(api, deployment)['id']}/stop")
    say(f"{found['name']}: {found['state']}")


@app.command()
def start(deployment: Deployment) -> None:
    """Start it again, and wait until it answers."""
    api = connect()
    found = api.post(f"{BASE}/{find(api, deployment)['id']}/start")
    say(f"{ready(api, found['id'], quiet=False)['name']}: ready")


@app.command()
def delete(deployment: Deployment) -> None:
    """Stop its engines and free its name."""
    api = connect()
    api.delete(f"{BASE}/{find(api, deployment)['id']}")


@app.command()
def logs(
    deployment: Deployment,
    replica: Annotated[int, typer.Option(min=0)] = 0,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until Ctrl-C.")] = False,
) -> None:
    """What an engine wrote since it last started."""
    api = connect()
    path = f"{BASE}/{find(api, deployment)['id']}/log"
    start, offset = "", 0
    while True:
        params = {"replica": replica, "offset": offset} | ({"start": start} if start else {})
        answer = api.send("GET", path, params=params)
        sys.stdout.write(answer.text)
        sys.stdout.flush()
        start, before, offset = (
            answer.headers["x-start"],
            offset,
            int(answer.headers["x-next-offset"]),
        )
        if offset == before:
            if not follow:
                return
            time.sleep(1)
