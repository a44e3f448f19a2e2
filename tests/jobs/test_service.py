"""What a person does with jobs."""

from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.accounts.tables import Workspace
from app.cluster import service as cluster
from app.cluster.tables import Request
from app.datasets.tables import DatasetPin
from app.errors import Conflict, Invalid, NotFound
from app.jobs import estimates, history, service, waiting
from app.jobs.schemas import JobCreate, JobForm
from app.jobs.spec import Hyperparameters
from app.jobs.states import FINAL, MOVES, switch
from app.jobs.tables import Job
from app.models.tables import ModelPin
from app.quotas import service as quotas
from tests.factories import GIB, make_dataset, make_job, make_model, make_node, make_workspace
from tests.jobs.people import owner, principal


@pytest.fixture
def workspace(db: Session) -> Workspace:
    return make_workspace(db)


@pytest.fixture
def who(db: Session, workspace: Workspace) -> Principal:
    return principal(db, workspace)


def body(db: Session, workspace: Workspace, **more: Any) -> JobCreate:
    values = {"model": make_model(db).id, "dataset": make_dataset(db, workspace).id}
    return JobCreate.model_validate(values | more)


def count(db: Session, table: Any) -> int:
    return db.scalar(select(func.count()).select_from(table)) or 0


def test_create_queues_pins_and_asks(db: Session, workspace: Workspace, who: Principal) -> None:
    make_node(db)
    data, held_out = make_dataset(db, workspace), make_dataset(db, workspace)
    asked = body(db, workspace, dataset=data.dataset_id, validation=held_out.id, name=" Mood ")
    job = service.create(db, who, asked)
    assert (job.state, job.name, job.dataset_version_id) == ("queued", "Mood", data.id)
    assert job.spec == Hyperparameters().model_dump()
    assert [event.message for event in history.events(db, job.id)] == ["Waiting for a device."]
    request = cluster.waiting(db, "job", job.id)
    assert request is not None
    assert (request.devices, request.memory, request.workspace_id) == (1, None, workspace.id)
    assert (request.user_id, request.preemptible) == (who.user_id, True)
    assert set(db.scalars(select(DatasetPin.version_id))) == {data.id, held_out.id}
    assert set(db.scalars(select(ModelPin.owner_id))) == {job.id}
    assert db.info["outbox"][-1][0] == "workers.sweep"


def test_names_are_made_and_numbered(db: Session, workspace: Workspace, who: Principal) -> None:
    model = make_model(db, name="danlu-starter")
    names = [service.create(db, who, body(db, workspace, model=model.name)).name for _ in range(3)]
    assert names == ["danlu-starter-tuned", "danlu-starter-tuned-2", "danlu-starter-tuned-3"]


def test_full_tuning_has_a_learning_rate_of_its_own(db: Session, workspace: Workspace) -> None:
    assert body(db, workspace, method="full").hyperparameters.learning_rate == 1e-5
    given = {"learning_rate": 3e-6}
    chosen = body(db, workspace, method="full", hyperparameters=given).hyperparameters
    assert (chosen.learning_rate, chosen.lora_rank) == (3e-6, 16)
    form = JobForm.model_validate({"model": "m", "dataset": "d", "method": "full", "epochs": "2"})
    assert (form.job().hyperparameters.learning_rate, form.job().hyperparameters.epochs) == (
        1e-5,
        2,
    )


def test_each_bad_hyperparameter_is_named(db: Session, workspace: Workspace) -> None:
    bad = {"learning_rate": -1, "lora_rank": 0, "epoch": 3}
    with pytest.raises(ValidationError) as refusal:
        body(db, workspace, hyperparameters=bad)
    assert {error["loc"] for error in refusal.value.errors()} == {
        ("hyperparameters", name) for name in bad
    }


@pytest.mark.parametrize("field", ["model", "dataset", "validation"])
def test_what_is_not_here_is_named(
    db: Session, workspace: Workspace, who: Principal, field: str
) -> None:
    other = make_workspace(db)
    foreign = make_model(db, other).id if field == "model" else make_dataset(db, other).id
    for unknown in (foreign, "none-such"):
        with pytest.raises(NotFound) as refusal:
            service.create(db, who, body(db, workspace, **{field: unknown}))
        assert refusal.value.field == field
    assert count(db, Job) == 0


def test_a_draft_cannot_be_trained_on(db: Session, workspace: Workspace, who: Principal) -> None:
    draft = make_dataset(db, workspace, status="draft")
    with pytest.raises(Conflict, match="not published") as refusal:
        service.create(db, who, body(db, workspace, dataset=draft.id))
    assert refusal.value.field == "dataset"


def test_a_merge_asks_for_a_small_share(db: Session, workspace: Workspace, who: Principal) -> None:
    make_node(db)
    base = make_model(db)
    adapter = make_model(db, workspace, kind="adapter", base_id=base.id, size=1000, name="mood")
    asked = {"workspace_id": workspace.id, "user_id": who.user_id}
    job = service.create_merge(db, adapter_id=adapter.id, **asked)
    request = cluster.waiting(db, "job", job.id)
    assert request is not None
    assert request.memory is not None
    assert base.size < request.memory < GIB
    assert (job.stage, job.name) == ("merge", "mood-merged")
    with pytest.raises(Conflict, match="merge"):
        service.pause(db, workspace.id, job.id)
    with pytest.raises(Invalid, match="whole model"):
        service.create_merge(db, adapter_id=base.id, **asked)


def test_a_quota_of_none_left_waits_and_says_so(
    db: Session, workspace: Workspace, who: Principal
) -> None:
    make_node(db)
    quotas.put(db, workspace.id, 1)
    first, second = (service.create(db, who, body(db, workspace)) for _ in range(2))
    assert [grant.owner_id for grant in cluster.decide(db)] == [first.id]
    reason = waiting.reasons(db, [first, second])
    assert reason == {first.id: "", second.id: "quota"}
    said = waiting.sentence(db, second, "quota")
    assert said is not None
    assert "holds 1 of the 1 devices" in said[0] % said[1]


def test_what_can_never_start_is_refused_and_leaves_nothing(
    db: Session, workspace: Workspace, who: Principal
) -> None:
    make_node(db)
    asked = body(db, workspace)
    quotas.put(db, workspace.id, 0)
    db.commit()
    with pytest.raises(Invalid, match="quota is 0"):
        service.create(db, who, asked)
    db.rollback()
    assert (count(db, Job), count(db, Request), count(db, DatasetPin)) == (0, 0, 0)


# -- stopping and going on ---------------------------------------------------------------


def test_what_waits_is_cancelled_at_once(db: Session, workspace: Workspace, who: Principal) -> None:
    job = service.create(db, who, body(db, workspace))
    assert service.cancel(db, workspace.id, job.id).state == "cancelled"
    assert job.finished_at
    assert (count(db, Request), count(db, DatasetPin), count(db, ModelPin)) == (0, 0, 0)
    assert service.cancel(db, workspace.id, job.id).state == "cancelled"


def test_a_queued_job_pauses_at_once_and_queues_again(
    db: Session, workspace: Workspace, who: Principal
) -> None:
    job = service.create(db, who, body(db, workspace))
    assert service.pause(db, workspace.id, job.id).state == "paused"
    assert cluster.waiting(db, "job", job.id) is None
    assert service.resume(db, workspace.id, job.id).state == "queued"
    assert cluster.waiting(db, "job", job.id) is not None
    assert service.resume(db, workspace.id, job.id).state == "queued"


@pytest.mark.parametrize(
    ("state", "act", "after"),
    [
        ("scheduled", service.pause, "pausing"),
        ("running", service.pause, "pausing"),
        ("pausing", service.pause, "pausing"),
        ("running", service.cancel, "cancelling"),
        ("scheduled", service.cancel, "cancelling"),
        ("pausing", service.cancel, "cancelling"),
        ("paused", service.cancel, "cancelled"),
        ("running", service.resume, "running"),
        ("cancelling", service.pause, Conflict),
        ("pausing", service.resume, Conflict),
        ("succeeded", service.pause, Conflict),
        ("succeeded", service.cancel, Conflict),
        ("failed", service.resume, Conflict),
    ],
)
def test_what_one_may_do_in_which_state(
    db: Session, workspace: Workspace, who: Principal, state: str, act: Any, after: Any
) -> None:
    user = owner(db, workspace)
    job = make_job(db, workspace, user, state=state)
    if isinstance(after, str):
        assert act(db, workspace.id, job.id).state == after
    else:
        with pytest.raises(after):
            act(db, workspace.id, job.id)


@pytest.mark.parametrize("act", [service.get, service.cancel, service.pause, service.resume])
def test_another_workspaces_job_is_not_here(db: Session, workspace: Workspace, act: Any) -> None:
    job = make_job(db, workspace, owner(db, workspace))
    with pytest.raises(NotFound):
        act(db, make_workspace(db).id, job.id)


def test_every_state_leads_to_an_end() -> None:
    for state in MOVES:
        seen, todo = set(), {state}
        while todo:
            seen |= todo
            todo = {after for before in todo for after in MOVES[before]} - seen
        assert seen & set(FINAL)


def test_a_move_that_is_not_in_the_table_is_refused(db: Session, workspace: Workspace) -> None:
    job = make_job(db, workspace, owner(db, workspace), state="succeeded")
    with pytest.raises(Conflict):
        switch(db, job, "running")
    assert job.state == "succeeded"


def test_the_list_is_newest_first_and_by_state(db: Session, workspace: Workspace) -> None:
    user = owner(db, workspace)
    jobs = [make_job(db, workspace, user) for _ in range(3)]
    make_job(db, make_workspace(db), user)
    jobs[1].state = "failed"
    db.flush()
    found, more = service.list_jobs(db, workspace.id, limit=2)
    assert ([job.id for job in found], more) == ([jobs[2].id, jobs[1].id], True)
    found, more = service.list_jobs(db, workspace.id, state="failed")
    assert ([job.id for job in found], more) == ([jobs[1].id], False)
    version = jobs[0].dataset_version_id
    assert service.list_jobs(db, workspace.id, version_id=version)[0] == [jobs[0]]


@pytest.mark.parametrize(
    ("chosen", "steps"),
    [
        ({}, 3 * 7),
        ({"epochs": 0.5}, 4),
        ({"batch_size": 4, "gradient_accumulation": 2}, 3 * 13),
        ({"max_steps": 5}, 5),
    ],
)
def test_the_estimate_counts_steps_as_the_trainer_does(
    db: Session, workspace: Workspace, chosen: dict[str, Any], steps: int
) -> None:
    version = make_dataset(db, workspace, rows=100)
    make_node(db)
    guess = estimates.estimate(db, version, Hyperparameters(**chosen))
    assert (guess.steps, guess.free, guess.devices) == (steps, 2, 2)
