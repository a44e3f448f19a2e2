"""Calls of tuned models that nobody has deployed: who may, what is loaded, what is started."""

import asyncio

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.accounts.tables import Workspace
from app.config import settings
from app.deployments import carrying, service
from app.deployments.tables import Deployment
from app.errors import Conflict, NotFound, Unavailable
from app.gateway import routing, waking
from app.gateway.tuning import calls
from app.models.tables import Model
from app.queue import transaction
from app.quotas import service as quotas
from tests.conftest import Client
from tests.deployments.acts import body, run, sweep
from tests.deployments.speakers import make_base, make_tuned
from tests.factories import make_node, make_user, make_workspace
from tests.gateway.engines import Engine, running, until, whole
from tests.jobs.people import principal


@pytest.fixture
def workspace(db: Session) -> Workspace:
    return make_workspace(db, owner=make_user(db))


@pytest.fixture
def who(db: Session, workspace: Workspace) -> Principal:
    return principal(db, workspace)


@pytest.fixture
def base(db: Session) -> Model:
    make_node(db, id="node-1", devices=4)
    return make_base(db, name="plain")


@pytest.fixture
def tuned(db: Session, workspace: Workspace, base: Model) -> Model:
    made = make_tuned(db, workspace, base)
    db.commit()
    return made


def name_of(model: Model) -> str:
    return f"ft:plain:team:mood:{model.id.partition('_')[2]}"


def serve(workspace: Workspace, who: Principal, model: Model) -> None:
    calls.serve(workspace.id, who.user_id, name_of(model))


def deployed(db: Session, model: Model) -> list[Deployment]:
    db.expire_all()
    return list(db.scalars(select(Deployment).where(Deployment.model_id == model.id)))


def load() -> None:
    """What the node does."""
    with transaction() as db:
        for one in carrying.to_do(db, "node-1"):
            for guest in one.load:
                carrying.mark_loaded(db, one.replica_id, one.fence, guest.id, seconds=0.1)


def test_it_is_loaded_onto_an_engine_that_runs_and_the_callers_wait(
    db: Session, workspace: Workspace, who: Principal, base: Model, tuned: Model
) -> None:
    host = service.create(db, who, body(base, name="host"))
    replica = run(db, host)
    db.commit()

    asked: set[str] = set()

    async def test() -> None:
        async with Engine() as engine:
            replica.address = engine.address
            db.commit()
            asking = [
                asyncio.create_task(whole(workspace, name_of(tuned), user=who.user_id))
                for _ in range(20)
            ]
            await asyncio.sleep(0)  # they begin, and read the session's rows, before a thread does
            await until(lambda: len(deployed(db, tuned)) == 1)
            await until(lambda: sum(one.waiting for one in waking.watches.values()) == 20)
            await asyncio.to_thread(load)
            exchanges = await asyncio.gather(*asking)
            assert {one.status for one in exchanges} == {200}
            asked.update(one["model"] for one in engine.asked)

    running(test)
    (made,) = deployed(db, tuned)  # by twenty calls at once
    assert asked == {made.name}
    assert (made.host_id, made.state, made.idle_minutes) == (host.id, "ready", calls.IDLE_MINUTES)
    assert made.created_by == who.user_id
    assert made.name in [one.name for one in service.names(db, workspace.id)]


def test_nothing_runs_that_could_carry_it(
    db: Session, workspace: Workspace, who: Principal, tuned: Model
) -> None:
    with pytest.raises(Conflict) as caught:
        serve(workspace, who, tuned)
    assert caught.value.code == "model_not_deployed"
    assert deployed(db, tuned) == []


def test_an_engine_is_started_where_the_workspace_says_so(
    db: Session, workspace: Workspace, who: Principal, tuned: Model
) -> None:
    calls.change(db, workspace.id, "start")
    db.commit()
    serve(workspace, who, tuned)
    serve(workspace, who, tuned)  # twice is once
    (made,) = deployed(db, tuned)
    assert (made.host_id, made.mode, made.state) == (None, "adapter", "pending")
    found = service.route(db, workspace.id, made.name)
    assert found
    assert found.asleep  # so that who calls waits for it
    sweep(db)
    assert made.state == "starting"


def test_a_workspace_may_forbid_it(
    db: Session, workspace: Workspace, who: Principal, base: Model, tuned: Model
) -> None:
    run(db, service.create(db, who, body(base, name="host")))
    calls.change(db, workspace.id, "off")
    db.commit()
    with pytest.raises(Conflict) as caught:
        serve(workspace, who, tuned)
    assert caught.value.code == "model_not_deployed"
    mine = service.create(db, who, body(tuned, name="mine"))  # what somebody has deployed answers
    db.commit()
    assert calls.deployment(db, workspace.id, name_of(tuned)) == mine.name


def test_without_quota_it_waits_and_says_so(
    db: Session,
    workspace: Workspace,
    who: Principal,
    tuned: Model,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What could never be is refused at once; what waits for others is a 503 with a reason."""
    calls.change(db, workspace.id, "start")
    quotas.put(db, workspace.id, 1)
    db.commit()
    other = service.create(db, who, body(make_base(db, name="other"), name="other", exclusive=True))
    run(db, other)
    db.commit()
    serve(workspace, who, tuned)
    for _ in range(2):  # the first decides, the second tells the deployment
        sweep(db)
    db.commit()
    monkeypatch.setattr(settings, "wake_seconds", 5)

    async def ask() -> None:
        await routing.routes(workspace.id, name_of(tuned), user_id=who.user_id)

    with pytest.raises(Unavailable) as caught:
        asyncio.run(ask())
    assert caught.value.code == "deployment_waits"
    assert "quota" in str(caught.value.params["why"]["message"])


def test_another_workspaces_model_is_not_there(db: Session, who: Principal, tuned: Model) -> None:
    stranger = make_workspace(db, owner=make_user(db))
    db.commit()
    for name in (name_of(tuned), "ft:nothing", "ft:a:b::" + "z" * 20):
        with pytest.raises(NotFound):
            calls.deployment(db, stranger.id, name)


def test_what_a_person_stopped_stays_stopped(
    db: Session, workspace: Workspace, who: Principal, base: Model, tuned: Model
) -> None:
    run(db, service.create(db, who, body(base, name="host")))
    mine = service.create(db, who, body(tuned, name="mine"))
    service.stop(db, workspace.id, mine.id)
    db.commit()

    async def ask() -> None:
        await routing.routes(workspace.id, name_of(tuned), user_id=who.user_id)

    with pytest.raises(Unavailable) as caught:
        asyncio.run(ask())
    assert caught.value.code in ("deployment_stopped", "deployment_not_ready")
    assert len(deployed(db, tuned)) == 1


# -- the setting -------------------------------------------------------------------------


def test_admins_set_it_and_everybody_sees_it(db: Session, client: Client) -> None:
    assert client.get("/api/v1/tuned-calls").json() == {"mode": "load"}
    page = client.get("/tuned-calls").text
    assert 'value="load" checked' in page
    done = client.post("/tuned-calls", data={"mode": "off"})
    assert (done.status_code, done.headers["location"]) == (303, "/deployments")
    assert client.get("/api/v1/tuned-calls").json() == {"mode": "off"}
    assert client.put("/api/v1/tuned-calls", json={"mode": "start"}).json() == {"mode": "start"}
    assert client.put("/api/v1/tuned-calls", json={"mode": "all"}).status_code == 422
    assert 'hx-get="/tuned-calls"' in client.get("/deployments").text
