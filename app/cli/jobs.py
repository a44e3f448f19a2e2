"""`danlu jobs`: tune a model, watch it, stop it."""

import json
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import plotille
import typer
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from app.cli.text import _
from app.cli.client import (
    Api,
    Failed,
    Json,
    Row,
    connect,
    day,
    out,
    plain,
    say,
    show_json,
    show_table,
)

app = typer.Typer(no_args_is_help=True, help=_("Tuning: create, watch, cancel."))
FINAL = ("succeeded", "failed", "cancelled")
STILL = (*FINAL, "paused")
HEIGHT = 12  # of the loss curve, in lines
Job = Annotated[str, typer.Argument(help=_("Its id."))]


@app.command("list", help=_("The workspace's jobs, newest first."))
def index(
    state: Annotated[str, typer.Option(help=_("Only those in this state."))] = "",
    limit: Annotated[int, typer.Option(min=1)] = 20,
    as_json: Json = False,
) -> None:
    found = connect().all("/api/v1/jobs", limit, state=state)
    if as_json:
        return show_json(found)
    columns = {
        "ID": lambda row: row["id"],
        "NAME": lambda row: row["name"],
        "STAGE": lambda row: f"{row['stage']} {row['method']}".strip(),
        "STATE": lambda row: " ".join(filter(None, (row["state"], row["reason"]))),
        "STEP": lambda row: f"{row['step']}/{row['total']}" if row["total"] else "",
        "CREATED": lambda row: day(row["created_at"]),
    }
    return show_table(found["data"], columns, "No job yet: `danlu jobs create --help`.")


@app.command(help=_("Tune a model on a dataset."))
def create(
    model: Annotated[str, typer.Option("--model", "-m", help=_("Name or id of the base."))],
    dataset: Annotated[str, typer.Option("--dataset", "-d", help=_("Id of a published dataset."))],
    name: Annotated[str, typer.Option("--name", "-n", help=_("Also the tuned model's."))] = "",
    stage: Annotated[str, typer.Option(help=_("sft, pretrain, dpo, kto, orpo or reward."))] = "sft",
    method: Annotated[str, typer.Option(help=_("lora, qlora, freeze or full."))] = "lora",
    validation: Annotated[str, typer.Option(help=_("A dataset's id, or auto."))] = "",
    devices: Annotated[int, typer.Option(min=1)] = 1,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="NAME=VALUE", help=_("A hyperparameter; repeatable.")),
    ] = None,
    dry_run: Annotated[bool, typer.Option(help=_("Only say what it would do."))] = False,
    follow: Annotated[bool, typer.Option("--watch", "-w", help=_("Watch it."))] = False,
    as_json: Json = False,
) -> None:
    api = connect()
    body: Row = {
        "name": name,
        "model": model,
        "dataset": dataset,
        "stage": stage,
        "method": method,
        "devices": devices,
        "hyperparameters": dict(setting(text) for text in set_ or []),
    }
    if validation:
        body["validation"] = validation
    if dry_run:
        return show_json(api.post("/api/v1/jobs/estimate", body))
    job = api.post("/api/v1/jobs", body)
    if follow:
        return end(watched(api, job["id"]))
    if as_json:
        return show_json(job)
    return say(
        f"{job['id']} ({job['name']}): {job['state']}. Watch it: danlu jobs watch {job['id']}"
    )


def setting(text: str) -> tuple[str, Any]:
    """`learning_rate=2e-4`. A value is JSON where it can be read so, else a word."""
    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text} is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


@app.command(help=_("One job, as JSON."))
def show(job: Job) -> None:
    show_json(connect().get(f"/api/v1/jobs/{job}"))


# -- watching ----------------------------------------------------------------------------


@app.command(help=_("Progress and the loss until the job is over. Ctrl-C leaves it running."))
def watch(job: Job) -> None:
    end(watched(connect(), job))


def watched(api: Api, job_id: str) -> Row:
    """Show the job until it is over or paused: drawn in a terminal, else a line for each change."""
    said = ""
    with Live(console=out, auto_refresh=False) if out.is_terminal else nullcontext() as live:
        while True:
            job: Row = api.get(f"/api/v1/jobs/{job_id}")
            rows = api.get(f"/api/v1/jobs/{job_id}/metrics")["data"]
            if live:
                live.update(drawn(job, rows), refresh=True)
            elif (line := status(job, rows)) != said:
                say(line)
                said = line
            if job["state"] in STILL:
                return job
            time.sleep(1)


def status(job: Row, rows: list[Row]) -> str:
    words = [job["name"], job["state"], job["reason"], job["phase"]]
    if job["total"]:
        words.append(f"{job['step']}/{job['total']}")
    losses = [row["loss"] for row in rows if row.get("loss") is not None]
    if losses:
        words.append(f"loss {losses[-1]:.4f}")
    return plain(" ".join(filter(None, words)))


def drawn(job: Row, rows: list[Row]) -> Group:
    """State, progress bar and curve."""
    parts: list[Any] = [Text(status(job, rows))]
    if job["total"]:
        width = min(out.width, 80)
        parts.append(ProgressBar(total=job["total"], completed=job["step"], width=width))
    return Group(*parts, Text(curve(rows, min(out.width, 100))))


def curve(rows: list[Row], width: int) -> str:
    """The loss over the steps, and the validation loss where there is one, in characters."""
    figure = plotille.Figure()
    figure.width, figure.height = max(width - 24, 20), HEIGHT
    figure.with_colors = False
    figure.x_label, figure.y_label = "step", "loss"
    drawn_any = False
    for name in ("loss", "eval_loss"):
        points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        if len(points) > 1:
            figure.plot(*map(list, zip(*points, strict=True)), label=name)
            drawn_any = True
    return str(figure.show(legend=False)) if drawn_any else ""


def end(job: Row) -> None:
    """The last word about a job; exit status 1 unless it went well."""
    if job["state"] == "succeeded":
        return say(f"{job['name']} is a model now: {job['result_model']}")
    error = job["error"] or {}
    said = " ".join(filter(None, (error.get("message"), error.get("advice"))))
    if job["state"] == "paused":
        return say(f"{job['name']} is paused. Go on: danlu jobs resume {job['id']}")
    raise Failed(f"{job['name']} is {job['state']}. {said}".rstrip())


@app.command(help=_("What the run wrote."))
def logs(
    job: Job,
    follow: Annotated[bool, typer.Option("--follow", "-f", help=_("Until the job is over."))] = False,
) -> None:
    api = connect()
    offset = 0
    while True:
        over = not follow or api.get(f"/api/v1/jobs/{job}")["state"] in STILL
        more = True
        while more:
            answer = api.send("GET", f"/api/v1/jobs/{job}/log", params={"offset": offset})
            sys.stdout.write(answer.text)
            sys.stdout.flush()
            offset = int(answer.headers["x-next-offset"])
            more = answer.headers["x-more"] == "true"
        if over:
            return
        time.sleep(1)


@app.command(help=_("Every step, as JSON."))
def metrics(job: Job) -> None:
    show_json(connect().get(f"/api/v1/jobs/{job}/metrics"))


@app.command(help=_("The job as a script that runs without Danlu."))
def script(
    job: Job, output: Annotated[Path, typer.Option("--output", "-o")] = Path("train.py")
) -> None:
    output.write_text(connect().send("GET", f"/api/v1/jobs/{job}/train.py").text, "utf-8")
    say(str(output))


# -- acts --------------------------------------------------------------------------------


def act(job: str, verb: str, as_json: bool) -> None:
    found = connect().post(f"/api/v1/jobs/{job}/{verb}")
    if as_json:
        return show_json(found)
    return say(f"{found['name']}: {found['state']}")


@app.command(help=_("Stop for good."))
def cancel(job: Job, as_json: Json = False) -> None:
    act(job, "cancel", as_json)


@app.command(help=_("Save a checkpoint, stop, and give the devices back."))
def pause(job: Job, as_json: Json = False) -> None:
    act(job, "pause", as_json)


@app.command(help=_("Queue a paused job again."))
def resume(job: Job, as_json: Json = False) -> None:
    act(job, "resume", as_json)


@app.command(help=_("Stop at the next step and keep what was learned."))
def finish(job: Job, as_json: Json = False) -> None:
    act(job, "finish", as_json)
