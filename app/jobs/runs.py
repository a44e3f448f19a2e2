"""What a node and the sweep do with jobs. Each call names a fence; a stale one changes nothing."""

from dataclasses import dataclass, field
from importlib.metadata import version as version_of
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from app.cluster import service as cluster
from app.datasets.tables import DatasetVersion
from app.errors import N_, Invalid
from app.jobs import benchmarks, data, exports, history, outcomes, resuming
from app.jobs.service import STREAMED, ask
from app.jobs.states import ACTIVE, DRAINED, switch
from app.jobs.tables import Job
from app.models import service as models
from app.models.tables import Model
from app.queue import node_queue, send

START = "workers.start_run"
RETRIES = 3
PREEMPTED = "preempted"  # why it is pausing: it makes room, and waits again
VERSION = f"danlu {version_of('danlu')}"
Outcome = Literal["succeeded", "failed", "stopped", "died"]


@dataclass(frozen=True)
class RunFacts:
    """All that the node needs to write `spec.json`. Artefacts are ids, to be fetched."""

    job_id: str
    fence: int
    stage: str
    method: str
    base: str
    adapter: str | None
    train: list[str]  # segments of the one dataset; empty where there is a mix
    mix: list[dict[str, Any]]  # {dataset (version id), name, rows (segments), multiplier | share}
    validation: list[str]
    split: dict[str, Any] | None
    drop_leaks: bool
    hyperparameters: dict[str, Any]
    format: str | None  # of an export
    benchmark: dict[str, Any] | None  # of an evaluation: tasks, fewshot, limit, chat
    devices: list[str]  # cpu:0, cuda:3
    report_to: list[str]
    report_as: dict[str, Any]
    earlier: list[int]  # fences of earlier attempts, newest first: their checkpoints may serve
    stored: tuple[str, int] | None = None  # (artefact, step) of the one in the store
    save_at: list[int] = field(default_factory=list)  # steps whose checkpoints are to be evaluated


# -- starting ----------------------------------------------------------------------------


def grant(db: Session, job_id: str, node_id: str) -> bool:
    """The scheduler gave `job_id` devices on `node_id`: queued → scheduled, under a new fence.

    In the transaction of `cluster.decide`. A job that no longer waits gives them back.
    """
    job = locked(db, job_id)
    if job is None or job.state != "queued":
        cluster.release(db, "job", job_id)
        return False
    job.fence += 1
    job.node_id = node_id
    job.pid = job.pid_started = None
    job.phase = ""
    switch(db, job, "scheduled")
    send(db, START, job.id, job.fence, queue=node_queue(node_id))
    return True


def start_facts(db: Session, job_id: str, fence: int) -> RunFacts | None:
    """None if there is nothing to start: another fence, no longer wanted, or started already."""
    job = db.get(Job, job_id, populate_existing=True)
    if job is None or job.fence != fence or job.state != "scheduled" or job.pid is not None:
        return None
    model = db.get_one(Model, job.model_id)
    base = db.get_one(Model, model.base_id) if model.kind == "adapter" else model
    return RunFacts(
        job_id=job.id,
        fence=fence,
        stage=job.stage,
        method=job.method,
        base=base.artefact,
        adapter=model.artefact if model.kind == "adapter" else None,
        train=[] if "datasets" in job.mix else segments(db, job.dataset_version_id),
        mix=mix_of(db, job),
        validation=segments(db, job.validation_version_id),
        split=job.mix.get("split"),
        drop_leaks=bool(job.mix.get("drop_leaks")),
        hyperparameters={} if job.stage in ("export", "evaluate") else job.spec,
        format=job.spec.get("format"),
        benchmark=benchmarks.asked(job) if job.stage == "evaluate" else None,
        devices=[lease.device.name for lease in cluster.leases_of(db, "job", job.id)],
        report_to=job.report_to,
        report_as=job.report_as,
        earlier=list(range(fence - 1, 0, -1)),
        stored=resuming.stored(db, job.id),
        save_at=(job.evaluation or {}).get("checkpoints", []),
    )


def segments(db: Session, version_id: str | None) -> list[str]:
    if version_id is None:
        return []
    return [part["artefact"] for part in db.get_one(DatasetVersion, version_id).segments]


def mix_of(db: Session, job: Job) -> list[dict[str, Any]]:
    """Empty for one dataset as it is."""
    found = []
    for part in job.mix.get("datasets", ()):
        known = data_of(db, part["version"])
        assert known
        found.append(
            {
                "dataset": part["version"],
                "name": f"{known['name']} v{known['version']}",
                "rows": segments(db, part["version"]),
            }
            | data.without_version(part)
        )
    return found


def mark_started(db: Session, job_id: str, fence: int, pid: int, pid_started: float) -> bool:
    """The process is there. False when fenced out: stop it. A job that was asked to stop
    meanwhile keeps its state, so that the node stops it in the ordinary way.
    """
    job = held(db, job_id, fence)
    if job is None:
        return False
    job.pid, job.pid_started = pid, pid_started
    if job.state == "scheduled":
        switch(db, job, "running")
    return True


def make_way(db: Session, job_id: str, *, late: bool) -> None:
    """Its node is to be empty: save a checkpoint, stop, and wait again. What has no checkpoints (a
    merge, an export) may finish, unless it is `late`. Twice is once.
    """
    job = locked(db, job_id)
    if job is None or job.state not in ("scheduled", "running"):
        return
    if late or job.stage not in STREAMED:
        message = N_(
            "Node %(node)s is being emptied: the job saves a checkpoint and goes on later."
        )
        switch(db, job, "pausing", reason=DRAINED, message=message)


# -- while it runs -----------------------------------------------------------------------


def ship(
    db: Session,
    job_id: str,
    fence: int,
    *,
    log: tuple[int, bytes] | None = None,
    metrics: list[dict[str, Any]] | None = None,
    events: list[dict[str, Any]] | None = None,
    status: dict[str, Any] | None = None,
) -> bool:
    """Store what a run directory has new. Shipping the same twice stores it once.

    `log` is (offset of its first byte, bytes). False when fenced out.
    """
    job = held(db, job_id, fence)
    if job is None:
        return False
    if log and log[1]:
        history.store_log(db, job_id, fence, *log)
    if metrics:
        history.store_metrics(db, job_id, fence, metrics)
    if events:
        history.store_events(db, job_id, fence, events)
    if status:
        job.phase = str(status.get("phase") or "")[:40]
        job.step = int(status.get("step") or 0)
        job.total = int(status.get("total") or 0)
    db.flush()
    return True


# -- the end -----------------------------------------------------------------------------


def end(
    db: Session,
    job_id: str,
    fence: int,
    *,
    outcome: Outcome,
    error: dict[str, Any] | None = None,
    result: dict[str, Any] | None = None,
) -> bool:
    """The processes are gone: say what came of it, and give the devices back.

    `error` is {code, message, params}. `result`, of a success, is the stage's result.json with
    {kind (adapter or merged), artefact (in the store already), facts (of `models.inspect`)}. A death nobody
    asked for is tried again, three times; a stop nobody asked for (the node is being taken
    down) queues the job again at no cost. False when fenced out.
    """
    cluster.lock(db)
    job = held(db, job_id, fence)
    if job is None:
        return False
    place = place_of(db, job)
    cluster.release(db, "job", job.id)
    outcomes.record_tokens(db, job, result)
    job.pid = job.pid_started = None
    if job.state == "cancelling":
        switch(db, job, "cancelled")
    elif outcome == "succeeded":
        if job.stage == "export":
            exports.done(db, job, result or {})
        elif job.stage != "evaluate":
            register(db, job, result or {})
        job.step = int((result or {}).get("steps") or job.total)  # fewer where it stopped early
        job.tensorboard = (result or {}).get("tensorboard")
        job.outcome = outcomes.measured(db, job, result or {}) | (result or {}).get("benchmark", {})
        switch(db, job, "succeeded")
    elif outcome == "failed":
        fail(db, job, error or SILENT)
    elif job.state == "pausing" and job.reason not in (PREEMPTED, DRAINED):
        switch(db, job, "paused")
    elif outcome == "died" and job.state != "pausing" and job.retries >= RETRIES:
        fail(db, job, error or DIED)
    else:
        again(db, job, job.reason if job.state == "pausing" else outcome, place)
    return True


def place_of(db: Session, job: Job) -> cluster.Place | None:
    """In the queue, if it must wait again."""
    request = cluster.waiting(db, "job", job.id)
    if request is None:
        return None
    return cluster.Place(
        request.created_at,
        request.preemptions + (job.state == "pausing" and job.reason == PREEMPTED),
    )


DIED = {
    "code": "died",
    "message": N_(
        "The training process ended without a word, %(times)s times. Most often the machine ran "
        "out of memory: use a smaller batch, fewer tokens in a batch, or gradient checkpointing."
    ),
    "params": {"times": RETRIES + 1},
}

SILENT = {
    "code": "failed",
    "message": N_("The run failed without saying why. Its log may tell more."),
    "params": {},
}


def fail(db: Session, job: Job, error: dict[str, Any]) -> None:
    job.error = history.storable(error)
    switch(db, job, "failed", reason=str(error.get("code") or ""))


AGAIN = {
    "died": N_("The process died. The job is queued again and goes on from its last checkpoint."),
    "drained": N_("The node was taken down. The job is queued again, with its checkpoint."),
    PREEMPTED: N_("It has made room, and waits again at its old place, with its checkpoint."),
}


def again(db: Session, job: Job, why: str, place: cluster.Place | None) -> None:
    """It waits anew, where it stood before."""
    reason = why if why in AGAIN else "drained"
    job.retries += reason == "died"
    switch(db, job, "queued", reason=reason, message=AGAIN[reason])
    ask_or_fail(db, job, place)


def ask_or_fail(db: Session, job: Job, place: cluster.Place | None = None) -> None:
    try:
        ask(db, job, place)
    except Invalid as refusal:  # the quota or the nodes shrank meanwhile
        fail(
            db,
            job,
            {"code": refusal.code, "message": refusal.message, "params": refusal.params},
        )


def register(db: Session, job: Job, result: dict[str, Any]) -> None:
    """The job's result as a model of the registry."""
    job.result_model_id = model_of(db, job, result, job.name).id


MEASURED = ("loss", "eval_loss", "steps", "step", "tokens", "seconds", "peak_memory")


def model_of(db: Session, job: Job, result: dict[str, Any], name: str) -> Model:
    """What a job has made, in the registry, with what it was made from."""
    parent = db.get_one(Model, job.model_id)
    base = db.get_one(Model, parent.base_id) if parent.kind == "adapter" else parent
    return models.register(
        db,
        workspace_id=job.workspace_id,
        name=name,
        kind="adapter" if result["kind"] == "adapter" else "merged",  # a whole model of ours
        artefact=result["artefact"],
        base_id=base.id,
        parent_id=parent.id,
        job_id=job.id,
        created_by=job.created_by,
        lineage={
            "base": {"id": base.id, "name": base.name},
            "parent": {"id": parent.id, "name": parent.name},
            "dataset": data_of(db, job.dataset_version_id),
            "validation": data_of(db, job.validation_version_id),
            **mixed(db, job),
            "stage": job.stage,
            "method": job.method,
            "spec": job.spec,
            "code": VERSION,
            "libraries": result.get("libraries") or {},
            "measured": {key: result[key] for key in MEASURED if result.get(key) is not None},
        },
        facts=result.get("facts") or {},
    )


def mixed(db: Session, job: Job) -> dict[str, Any]:
    """What lineage keeps of a mix and of rows held back; nothing where there are none."""
    found = {name: value for name, value in job.mix.items() if name != "datasets"}
    if "datasets" in job.mix:
        found["datasets"] = [
            (data_of(db, part["version"]) or {}) | data.without_version(part)
            for part in job.mix["datasets"]
        ]
    return found


def data_of(db: Session, version_id: str | None) -> dict[str, Any] | None:
    """What lineage keeps of a dataset version: enough to recognise it once it is deleted."""
    if version_id is None:
        return None
    version = db.get_one(
        DatasetVersion,
        version_id,
        options=[joinedload(DatasetVersion.dataset)],
        populate_existing=True,
    )
    return {
        "id": version.dataset_id,
        "name": version.dataset.name,
        "version_id": version.id,
        "version": version.number,
        "hash": version.content_hash,
        "rows": version.rows,
    }


# -- finding -----------------------------------------------------------------------------


def locked(db: Session, job_id: str) -> Job | None:
    return db.scalar(
        select(Job)
        .where(Job.id == job_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )


def held(db: Session, job_id: str, fence: int) -> Job | None:
    """The job, locked, if `fence` may still write to it."""
    job = locked(db, job_id)
    if job is None or job.fence != fence or job.state not in ACTIVE:
        return None
    return job


def active_on(db: Session, node_id: str) -> list[Job]:
    """The jobs of which this node may have, or must start, processes."""
    return list(
        db.scalars(
            select(Job).where(Job.node_id == node_id, Job.state.in_(ACTIVE)).order_by(Job.id)
        )
    )


def resend(db: Session) -> None:
    """Nudge the node of each job that has devices and no process: its message may be lost."""
    for job in db.scalars(select(Job).where(Job.state == "scheduled", Job.pid.is_(None))):
        if job.node_id:
            send(db, START, job.id, job.fence, queue=node_queue(job.node_id))
