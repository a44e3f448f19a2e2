"""`danlu jobs`: tune a model, watch it, stop it."""

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli import complete, curves, datasets, gates, models
from app.cli.client import Api, Failed, Row, connect
from app.cli.output import Json, day, say, show, show_json, show_table
from app.cli.text import _

app = typer.Typer(no_args_is_help=True, help=_("Tuning: create, watch, cancel."))
BASE = "/api/v1/jobs"
STILL = ("succeeded", "failed", "cancelled", "paused")
Job = Annotated[str, typer.Argument(help=_("Its id."), autocompletion=complete.job)]


@app.command("list", help=_("The workspace's jobs, newest first."))
def index(
    state: Annotated[str, typer.Option(help=_("Only those in this state."))] = "",
    limit: Annotated[int, typer.Option(min=1)] = 20,
    as_json: Json = False,
) -> None:
    columns = {
        "ID": lambda row: row["id"],
        _("Name"): lambda row: row["name"],
        _("Stage"): lambda row: f"{row['stage']} {row['method']}".strip(),
        _("State"): lambda row: " ".join(filter(None, (row["state"], row["reason"]))),
        _("Step"): lambda row: f"{row['step']}/{row['total']}" if row["total"] else "",
        _("Created"): lambda row: day(row["created_at"]),
    }
    show(
        connect().all(BASE, limit, state=state),
        as_json,
        lambda found: show_table(
            found["data"], columns, _("No job yet: `danlu jobs create --help`.")
        ),
    )


@app.command(help=_("Tune a model on a dataset."))
def create(
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", help=_("Name or id of the base."), autocompletion=complete.model
        ),
    ],
    dataset: Annotated[
        str,
        typer.Option(
            "--dataset",
            "-d",
            help=_("Name or id of a published dataset."),
            autocompletion=complete.dataset,
        ),
    ],
    name: Annotated[str, typer.Option("--name", "-n", help=_("Also the tuned model's."))] = "",
    stage: Annotated[str, typer.Option(help="sft, pretrain, dpo, kto, orpo, reward.")] = "sft",
    method: Annotated[str, typer.Option(help="lora, qlora, freeze, full.")] = "lora",
    validation: Annotated[str, typer.Option(help=_("A dataset's name or id, or auto."))] = "",
    devices: Annotated[int, typer.Option(min=1)] = 1,
    priority: Annotated[str, typer.Option(help=_("low, normal, high or urgent."))] = "normal",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="NAME=VALUE", help=_("A hyperparameter; repeatable.")),
    ] = None,
    deploy: Annotated[str, typer.Option(help=_("Deploy the result at once under this name."))] = "",
    evaluate: Annotated[
        str,
        typer.Option(help=_("Evaluate the result on this published dataset: its name or id.")),
    ] = "",
    scorer: Annotated[
        list[str] | None,
        typer.Option(help=_("Of the evaluation; repeatable. The first decides.")),
    ] = None,
    evaluate_at: Annotated[
        list[int] | None,
        typer.Option(min=1, help=_("Also the checkpoint of this step; repeatable.")),
    ] = None,
    evaluate_rows: Annotated[
        int | None, typer.Option(min=1, help=_("So many rows, drawn at random."))
    ] = None,
    serve_as: Annotated[
        str, typer.Option(help=_("Serve it under this name, if it is better than what does now."))
    ] = "",
    not_worse: Annotated[
        bool, typer.Option(help=_("Also where no difference is certain."))
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help=_("Only say what it would do."))
    ] = False,
    follow: Annotated[bool, typer.Option("--watch", "-w", help=_("Watch it."))] = False,
    as_json: Json = False,
) -> None:
    api = connect()
    body: Row = {
        "name": name,
        "model": model,
        "dataset": datasets.id_of(api, dataset),
        "stage": stage,
        "method": method,
        "devices": devices,
        "priority": priority,
        "deploy": deploy,
        "hyperparameters": dict(setting(text) for text in set_ or []),
    }
    if validation:
        body["validation"] = datasets.id_of(api, validation)
    if evaluate:
        body["evaluation"] = gates.asked(
            api, evaluate, scorer or [], evaluate_at or [], evaluate_rows, serve_as,
            not_worse=not_worse,
        )  # fmt: skip
    elif scorer or evaluate_at or evaluate_rows or serve_as or not_worse:
        raise typer.BadParameter(_("Name the rows to evaluate on: --evaluate DATASET."))
    if dry_run:
        return show(api.post(f"{BASE}/estimate", body), as_json, expected)
    job = api.post(BASE, body)
    if follow:
        return end(watched(api, job["id"]), as_json)
    return show(job, as_json, models.begun_job)


def setting(text: str) -> tuple[str, Any]:
    """`learning_rate=2e-4`. A value is JSON where it can be read so, else a word."""
    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(_("%(text)s is not NAME=VALUE", text=text))
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def expected(found: Row) -> None:
    """An estimate: every figure with how it was got."""
    columns = {
        _("Figure"): lambda row: row["name"],
        _("Value"): lambda row: (
            "–" if row["value"] is None else f"{row['value']:,.4g} {row['unit']}"
        ),
        _("How"): lambda row: row["calculation"],
    }
    show_table(found["figures"], columns, "")
    say(found["fit"]["message"])
    if found["refused"]:
        raise Failed(found["refused"]["message"])


@app.command("show", help=_("How far a job is, and what came of it."))
def detail(job: Job, as_json: Json = False) -> None:
    api = connect()
    found = api.get(f"{BASE}/{job}")
    show(found, as_json, describe)
    if found["evaluation"] and not as_json:
        gates.told(gates.of(api, job))


@app.command(help=_("The evaluation at a job's end: figures, verdicts, the gate."))
def evaluation(job: Job, as_json: Json = False) -> None:
    show(gates.of(connect(), job), as_json, gates.told)


@app.command(help=_("Give a job that waits another priority: low, normal, high or urgent."))
def priority(
    job: Job, to: Annotated[str, typer.Argument(metavar="PRIORITY")], as_json: Json = False
) -> None:
    show(connect().patch(f"{BASE}/{job}", {"priority": to}), as_json, describe)


def queue_of(job: Row) -> str:
    """Where it stands, and when it should start."""
    waiting = job["waiting"] or {}
    found = f"{waiting['position']}/{waiting['queue']}" if waiting.get("position") else ""
    if waiting.get("starts_at"):
        found += "  " + _("starts at about %(at)s (an estimate)", at=waiting["starts_at"])
    return found.strip()


def describe(job: Row) -> None:
    say(f"{job['id']}  {curves.status(job, [])}")
    for title, value in (
        (_("Model"), job["model"]),
        (_("Dataset"), job["dataset"]),
        (_("Method"), f"{job['stage']} {job['method']}"),
        (_("Priority"), job["priority"]),
        (_("Queue"), queue_of(job)),
        (_("Created"), day(job["created_at"])),
        (_("Finished"), day(job["finished_at"])),
        (_("Result"), job["result_model"]),
        (_("Error"), (job["error"] or {}).get("message")),
    ):
        if value:
            say(f"  {title}: {value}")


# -- watching ----------------------------------------------------------------------------


@app.command(help=_("Progress and the loss until the job is over. Ctrl-C leaves it running."))
def watch(job: Job, as_json: Json = False) -> None:
    end(watched(connect(), job), as_json)


def watched(api: Api, job_id: str) -> Row:
    """Show the job until it is over or paused: drawn in a terminal, else a line for each change."""
    with curves.shown() as draw:
        while True:
            job: Row = api.get(f"{BASE}/{job_id}")
            draw(job, api.get(f"{BASE}/{job_id}/metrics")["data"])
            if job["state"] in STILL:
                return job
            time.sleep(1)


def end(job: Row, as_json: bool) -> None:
    """The last word about a job; exit status 1 unless it went well."""
    if as_json:
        show_json(job)
    if job["state"] == "succeeded":
        if not as_json:
            made = job["result_model"]
            say(
                _("%(name)s is a model now: %(id)s", name=job["name"], id=made)
                if made
                else job["name"]
            )
        return None
    error = job["error"] or {}
    said = " ".join(filter(None, (error.get("message"), error.get("advice"))))
    if job["state"] == "paused":
        again = _(
            "%(name)s is paused. Go on: danlu jobs resume %(id)s", name=job["name"], id=job["id"]
        )
        return None if as_json else say(again)
    raise Failed(f"{job['name']}: {job['state']}. {said}".rstrip())


@app.command(help=_("What the run wrote."))
def logs(
    job: Job,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help=_("Until the job is over."))
    ] = False,
) -> None:
    api = connect()
    offset = 0
    while True:
        over = not follow or api.get(f"{BASE}/{job}")["state"] in STILL
        more = True
        while more:
            answer = api.send("GET", f"{BASE}/{job}/log", params={"offset": offset})
            sys.stdout.write(answer.text)
            sys.stdout.flush()
            offset = int(answer.headers["x-next-offset"])
            more = answer.headers["x-more"] == "true"
        if over:
            return
        time.sleep(1)


@app.command(help=_("The loss curve; with --json every step."))
def metrics(job: Job, as_json: Json = False) -> None:
    show(
        connect().get(f"{BASE}/{job}/metrics"),
        as_json,
        lambda found: say(curves.curve(found["data"]) or _("No step yet.")),
    )


@app.command(help=_("The job as a script that runs without Danlu."))
def script(
    job: Job, output: Annotated[Path, typer.Option("--output", "-o")] = Path("train.py")
) -> None:
    text = connect().send("GET", f"{BASE}/{job}/train.py").text
    output.write_text(text, "utf-8")
    say(str(output))


@app.command(help=_("The checkpoints that are kept, the newest first."))
def checkpoints(job: Job, as_json: Json = False) -> None:
    columns = {
        _("Step"): lambda row: row["step"],
        _("Loss"): lambda row: row["loss"],
        _("Validation loss"): lambda row: row["eval_loss"],
        _("State"): lambda row: row["state"],
        _("Model"): lambda row: row["model"],
    }
    show(
        connect().get(f"{BASE}/{job}/checkpoints"),
        as_json,
        lambda found: show_table(found["data"], columns, _("No checkpoint.")),
    )


@app.command(help=_("What the job made: the tuned model, or the file of an export."))
def download(job: Job, output: models.Output = None) -> None:
    api = connect()
    found = api.get(f"{BASE}/{job}")
    if found["stage"] == "export":
        path = f"{BASE}/{job}/download"
    elif found["result_model"]:
        path = f"{models.BASE}/{found['result_model']}/download"
    else:
        raise Failed(_("%(name)s has made nothing yet.", name=found["name"]))
    say(str(models.fetch(api, path, output or Path(Path(found["name"]).name or job))))


# -- acts --------------------------------------------------------------------------------


def act(job: str, verb: str, as_json: bool) -> None:
    show(
        connect().post(f"{BASE}/{job}/{verb}"),
        as_json,
        lambda found: say(f"{found['name']}: {found['state']}"),
    )


@app.command(help=_("Stop for good."))
def cancel(job: Job, as_json: Json = False) -> None:
    act(job, "cancel", as_json)


@app.command(help=_("Save a checkpoint, stop, and give the devices back."))
def pause(job: Job, as_json: Json = False) -> None:
    act(job, "pause", as_json)


@app.command(help=_("Queue a paused job again."))
def resume(job: Job, as_json: Json = False) -> None:
    act(job, "resume", as_json)


@app.command(help=_("Nothing of it is cleared away by itself; with --no, not any more."))
def keep(
    job: Job,
    no: Annotated[bool, typer.Option("--no", help=_("Take it away."))] = False,
    as_json: Json = False,
) -> None:
    found = connect().put(f"/api/v1/jobs/{job}/keep", {"keep": not no})
    show(found, as_json, lambda one: say(_("kept") if one["keep"] else _("not kept")))


@app.command(help=_("Stop at the next step and keep what was learned."))
def finish(job: Job, as_json: Json = False) -> None:
    act(job, "finish", as_json)
