"""What a person does with jobs: start, look, pause, resume, cancel. Runs are in `app.jobs.runs`."""

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app import paging
from app.accounts.auth import Principal
from app.cluster import budgets
from app.cluster import service as cluster
from app.cluster.tables import Device
from app.datasets import service as datasets
from app.db import new_id
from app.errors import N_, Conflict, Invalid, NotFound
from app.jobs import data, evaluating, forecast, methods, priorities, resuming, starts, webhook
from app.jobs.schemas import NAME, JobCreate
from app.jobs.states import FINAL, MESSAGES, note, switch
from app.jobs.tables import Job
from app.models import service as models
from app.models.tables import Model
from app.queue import send
from app.quotas.kinds import HOUR

SWEEP = "workers.sweep"
STREAMED = ("merge", "export")  # a share of a device, for a short time
MERGE_OVERHEAD = 256 * 2**20  # bytes: the interpreter
STOPPING = N_("This job is %(state)s: wait until it has stopped.")
WHOLE = ("merge", "export", "evaluate")  # stages without steps
OVER = N_("This job is over (%(state)s), so there is nothing to do.")


# -- starting ----------------------------------------------------------------------------


def create(db: Session, who: Principal, body: JobCreate) -> Job:
    """Queue a tuning run: the job, its event, its pins and its request in one transaction.

    Raises NotFound (model or dataset; `field` says which), Conflict (dataset not published,
    checkpoint out of reach),
    Invalid (model and method or data do not fit, or no such device will ever be free).
    """
    start = starts.find(db, who.workspace_id, body.model)
    model = start.model
    methods.check(body.stage, body.method, body.hyperparameters, kinds(db), adapter=start.adapter)
    if start.scores and body.stage != "reward":
        raise Invalid(
            N_("%(name)s is a reward model: it scores answers, and writes none."),
            code="reward_model",
            field="model",
            name=start.name,
        )
    chosen = choose_data(db, who.workspace_id, body)
    later = body.evaluation
    evaluation = evaluating.kept(db, who.workspace_id, later, body.stage) if later else None
    expected = forecast.of(db, who.workspace_id, model, chosen, body)
    if expected.refusal:
        raise expected.refusal
    job = Job(
        id=new_id("job"),
        workspace_id=who.workspace_id,
        created_by=who.user_id,
        name=body.name or default_name(db, who.workspace_id, start.name),
        stage=body.stage,
        method=body.method,
        model_id=model.id,
        start=start.waits,
        dataset_version_id=chosen.main.id,
        validation_version_id=chosen.validation.id if chosen.validation else None,
        mix=chosen.stored(),
        spec=body.hyperparameters.model_dump(),
        devices=body.devices,
        device_model=body.device_model or None,
        labels=body.labels,
        priority=priorities.check(db, who, body.priority),
        report_to=list(body.report_to),
        deploy=body.deploy,
        evaluation=evaluation,
        estimate=expected.stored,
    )
    enqueue(db, job)
    if body.webhook:
        webhook.add(db, job, body.webhook)
    for version_id in sorted(data.versions_of(job)):
        datasets.pin(db, version_id, "job", job.id)
    return job


def create_merge(
    db: Session,
    *,
    workspace_id: str,
    user_id: str,
    adapter_id: str,
    name: str | None = None,
    priority: int = cluster.NORMAL,
) -> Job:
    """Queue the merge of an adapter into its base: a small share of one device, not a whole one.

    Raises NotFound, and Invalid if the model is no adapter.
    """
    adapter = models.get(db, workspace_id, adapter_id)
    if adapter.kind != "adapter":
        raise Invalid(
            N_("%(name)s is a whole model already: only adapters are merged."), name=adapter.name
        )
    job = Job(
        id=new_id("job"),
        workspace_id=workspace_id,
        created_by=user_id,
        name=(name or f"{adapter.name[: NAME - 7]}-merged").strip(),
        stage="merge",
        method="",
        model_id=adapter.id,
        spec={},
        devices=1,
        priority=priority,
    )
    enqueue(db, job)
    return job


def kinds(db: Session) -> set[str]:
    """Of the devices that nodes have; empty while none has said."""
    return set(db.scalars(select(Device.kind).where(Device.healthy).distinct()))


def most_devices(db: Session) -> int:
    """Of the largest node: what one job can have at most."""
    each = select(func.count()).where(Device.healthy).group_by(Device.node_id)
    return max(db.scalars(each), default=1)


def choose_data(db: Session, workspace_id: str, body: JobCreate) -> data.Data:
    """The versions that the job would read. Raises NotFound, Conflict and Invalid, with a field."""
    return data.choose(
        db,
        workspace_id,
        stage=body.stage,
        dataset=body.dataset,
        items=body.datasets,
        validation=body.validation,
        drop_leaks=body.drop_leaks,
    )


def default_name(db: Session, workspace_id: str, made_from: str) -> str:
    """`danlu-starter-tuned`, then `-tuned-2`: what no job of the workspace is called yet."""
    stem = f"{made_from[: NAME - 12]}-tuned"
    taken = set(
        db.scalars(
            select(Job.name).where(
                Job.workspace_id == workspace_id, Job.name.startswith(stem, autoescape=True)
            )
        )
    )
    number, name = 1, stem
    while name in taken:
        number += 1
        name = f"{stem}-{number}"
    return name


def enqueue(db: Session, job: Job) -> None:
    job.state = "queued"
    db.add(job)
    db.flush()
    reserve(db, job)
    models.pin(db, job.model_id, "job", job.id, job.name)
    note(db, job, "state", MESSAGES["queued"], {"old": "", "new": "queued", "reason": ""})
    ask(db, job)


def reserve(db: Session, job: Job) -> None:
    """Hold its place in the queue and, by its estimate, the device time that it has yet to take.
    Raises Invalid where a budget has less left.
    """
    hours = float((job.estimate or {}).get("device_hours") or 0)
    if job.total:
        hours *= max(0.0, 1 - job.step / job.total)
    model = db.get_one(Model, job.model_id)
    budgets.reserve(
        db,
        owner_id=job.id,
        workspace_id=job.workspace_id,
        user_id=job.created_by,
        devices=job.devices,
        device_ms=round(hours * HOUR),
        model_id=model.id,
        base_id=model.base_id or "",
    )


def ask(db: Session, job: Job, place: cluster.Place | None = None) -> None:
    """Request the job's devices, at its former `place` in the queue if it had one. One that has
    checkpoints goes back to the node that has them, as long as that node may be expected to work and
    the newest is not in the store.
    One that waits for a checkpoint has no use for devices yet. Raises Invalid, and what `starts.ready` raises.
    """
    if not starts.ready(db, job):
        return
    home, memory = home_of(db, job), None
    if job.stage in STREAMED:
        model = db.get_one(Model, job.model_id)
        base = db.get_one(Model, model.base_id) if model.kind == "adapter" else model
        memory = MERGE_OVERHEAD + base.size  # three times its largest tensor, of which it has many
    cluster.ask(
        db,
        owner_kind="job",
        owner_id=job.id,
        workspace_id=job.workspace_id,
        user_id=job.created_by,
        devices=job.devices,
        memory=memory,
        kind=methods.device_kind(job.stage, job.method),
        model=job.device_model,
        node_id=home,
        labels={} if home else job.labels,  # it was placed by them before
        priority=job.priority,
        preemptible=job.stage not in STREAMED,
        seconds=left(job),
        place=place,
    )
    send(db, SWEEP)


def home_of(db: Session, job: Job) -> str | None:
    """The node on which it has to run: that of its checkpoints, or of a benchmark's files."""
    if job.step and cluster.usable(db, job.node_id) and not resuming.is_free(db, job.id):
        return job.node_id
    return job.spec.get("node") if job.stage == "evaluate" else None


SHORT, LONG = 600.0, 24 * 3600.0  # seconds that a merge, and a run without an estimate, may take


def left(job: Job) -> float:
    """Seconds that it will still hold its devices, by its estimate."""
    whole = (job.estimate or {}).get("seconds") or (SHORT if job.stage in STREAMED else LONG)
    return float(whole) * (1 - min(1.0, job.step / job.total) if job.total else 1.0)


# -- looking -----------------------------------------------------------------------------


def get(db: Session, workspace_id: str, job_id: str) -> Job:
    job = db.get(Job, job_id)
    if job is None or job.workspace_id != workspace_id:
        raise NotFound(N_("There is no such job."))
    return job


def list_jobs(
    db: Session,
    workspace_id: str,
    *,
    state: str | None = None,
    version_id: str | None = None,
    after: str = "",
    offset: int = 0,
    limit: int = 50,
) -> tuple[list[Job], bool]:
    """Newest first, from behind the job `after` on, and whether there are more. `version_id` keeps
    those that read that data.
    """
    query = here = select(Job).where(Job.workspace_id == workspace_id)
    if state:
        query = query.where(Job.state == state)
    if version_id:
        query = query.where(
            (Job.dataset_version_id == version_id)
            | (Job.validation_version_id == version_id)
            | Job.mix.contains({"datasets": [{"version": version_id}]})
        )
    query = paging.behind(db, query, here, [Job.created_at.desc()], Job.id, after)
    found = list(db.scalars(query.offset(offset).limit(limit + 1)))
    return found[:limit], len(found) > limit


# -- stopping and going on ---------------------------------------------------------------


def locked(db: Session, workspace_id: str, job_id: str) -> Job:
    """The job for a change of state, its row locked; the cluster's lock comes first."""
    get(db, workspace_id, job_id)
    cluster.lock(db)
    return db.get_one(Job, job_id, with_for_update=True, populate_existing=True)


def cancel(db: Session, workspace_id: str, job_id: str) -> Job:
    """Stop for good. What waits is cancelled at once; what runs, when its processes are gone."""
    job = locked(db, workspace_id, job_id)
    if job.state in ("cancelling", "cancelled"):
        return job
    if job.state in FINAL:
        raise Conflict(OVER, state=job.state)
    if job.state in ("queued", "paused"):
        cluster.withdraw(db, "job", job.id)
        switch(db, job, "cancelled")
    else:
        switch(db, job, "cancelling")
    return job


def pause(db: Session, workspace_id: str, job_id: str) -> Job:
    """Save a checkpoint, stop, and give the devices back."""
    job = locked(db, workspace_id, job_id)
    if job.state in ("pausing", "paused"):
        job.reason = ""  # if it was making room, or leaving its node: it stays paused then
        return job
    if job.state in FINAL:
        raise Conflict(OVER, state=job.state)
    if job.stage in STREAMED:
        raise Conflict(N_("A merge or an export is short and cannot be paused. Cancel it instead."))
    if job.state == "cancelling":
        raise Conflict(STOPPING, state=job.state)
    if job.state == "queued":
        cluster.withdraw(db, "job", job.id)
        switch(db, job, "paused")
    else:
        switch(db, job, "pausing")
    return job


def finish(db: Session, workspace_id: str, job_id: str) -> Job:
    """Stop at the next step and keep what was learnt, as if those were all the steps.

    A paused job goes on for as long as that takes. Raises Conflict before the first step.
    """
    job = locked(db, workspace_id, job_id)
    if job.state in FINAL or job.state == "cancelling":
        raise Conflict(OVER, state=job.state)
    if job.stage in WHOLE:
        raise Conflict(N_("This has no steps to stop between. Cancel it instead."))
    if not job.step:
        raise Conflict(N_("No step has been taken yet, so there is nothing to keep. Cancel it."))
    if job.state == "pausing":
        raise Conflict(STOPPING, state=job.state)
    if not job.finishing:
        job.finishing = True
        note(db, job, "finish", N_("Asked to stop at the next step and keep the result."), {})
    if job.state == "paused":
        reserve(db, job)
        switch(db, job, "queued")
        ask(db, job)
    return job


def resume(db: Session, workspace_id: str, job_id: str) -> Job:
    """Queue a paused job again; it goes on from its last checkpoint."""
    job = locked(db, workspace_id, job_id)
    if job.state == "paused":
        reserve(db, job)
        switch(db, job, "queued")
        ask(db, job)
        return job
    if job.state == "pausing":
        raise Conflict(STOPPING, state=job.state)
    if job.state in FINAL or job.state == "cancelling":
        raise Conflict(OVER, state=job.state)
    return job  # it runs, or waits to


def change_priority(db: Session, who: Principal, job_id: str, priority: str) -> Job:
    """While it waits, or is paused. Raises NotFound, Forbidden and Conflict."""
    job = locked(db, who.workspace_id, job_id)
    number = priorities.check(db, who, priority)
    if job.state not in ("queued", "paused"):
        raise Conflict(N_("Only a job that waits can be given another priority."))
    if number == job.priority:
        return job
    old, job.priority = priorities.PRIORITIES[job.priority], number
    cluster.prioritise(db, "job", job.id, number)
    note(db, job, "priority", priorities.NOW[priority], {"old": old, "new": priority})
    send(db, SWEEP)
    return job


def settings_of(job: Job) -> dict[str, Any]:
    """The job as the body of `POST /api/v1/jobs`, to start it again."""
    return {
        "name": job.name,
        "model": job.start or job.model_id,
        **data.settings_of(job),
        "stage": job.stage,
        "method": job.method,
        "devices": job.devices,
        "priority": priorities.PRIORITIES[job.priority],
        **({"device_model": job.device_model} if job.device_model else {}),
        "hyperparameters": job.spec,
        **({"labels": job.labels} if job.labels else {}),
        **({"report_to": job.report_to} if job.report_to else {}),
        **({"evaluation": job.evaluation} if job.evaluation else {}),
    }
