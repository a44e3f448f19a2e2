"""A job's result that is deployed by the same step that registers it."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.accounts.tables import Workspace
from app.deployments import results, service
from app.deployments.tables import Deployment
from app.jobs.tables import Job, JobEvent
from app.models.tables import Model
from tests.deployments.acts import body, run
from tests.deployments.speakers import make_base, make_tuned
from tests.factories import make_job, make_membership, make_node, make_user


def finished(db: Session, workspace: Workspace, who: Principal, model: Model, **more: Any) -> Job:
    values = {"state": "succeeded", "result_model_id": model.id, "deploy": "mood"}
    user = make_user(db)
    make_membership(db, workspace, user, "member")
    return make_job(db, workspace, user, **values | more)


def told(db: Session, job: Job) -> list[str]:
    return list(db.scalars(select(JobEvent.message).where(JobEvent.job_id == job.id)))


def test_the_result_is_served_at_once(db: Session, workspace: Workspace, who: Principal) -> None:
    make_node(db, id="node-1", devices=2)
    base = make_base(db)
    host = service.create(db, who, body(base, name="host"))
    run(db, host)
    job = finished(db, workspace, who, make_tuned(db, workspace, base))
    made = results.deploy(db, job.id)
    assert made
    assert (made.name, made.host_id, made.created_by) == ("mood", host.id, job.created_by)
    again = results.deploy(db, finished(db, workspace, who, make_tuned(db, workspace, base)).id)
    assert again
    assert again.name == "mood-2"
    assert told(db, job) == ["Deployed as %(name)s."]


def test_nothing_is_deployed_that_was_not_asked_for(
    db: Session, workspace: Workspace, who: Principal
) -> None:
    make_node(db, devices=1)
    model = make_tuned(db, workspace, make_base(db))
    for more in ({"deploy": ""}, {"state": "cancelled"}, {"result_model_id": None}):
        assert results.deploy(db, finished(db, workspace, who, model, **more).id) is None
    assert db.scalars(select(Deployment)).all() == []


def test_a_refusal_loses_no_model(db: Session, workspace: Workspace, who: Principal) -> None:
    model = make_tuned(db, workspace, make_base(db))
    model.architecture = "Qwen3ForSequenceClassification"
    job = finished(db, workspace, who, model)
    assert results.deploy(db, job.id) is None
    assert any("reward model" in message for message in told(db, job))
    assert db.scalars(select(Deployment)).all() == []


def test_who_has_left_deploys_nothing(db: Session, workspace: Workspace, who: Principal) -> None:
    model = make_tuned(db, workspace, make_base(db))
    job = make_job(
        db, workspace, make_user(db), state="succeeded", result_model_id=model.id, deploy="mood"
    )
    assert results.deploy(db, job.id) is None
    assert any("no member" in message for message in told(db, job))
