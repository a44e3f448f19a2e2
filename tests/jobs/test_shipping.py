"""What runs ship, and random job lives."""

# ruff: noqa: F811 - fixtures are imported by their names

import contextlib
import random
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts.tables import Workspace
from app.cluster import service as cluster
from app.jobs import history, runs, service
from app.jobs.schemas import JobCreate
from app.jobs.states import FINAL
from app.jobs.tables import Job, JobEvent
from tests.factories import make_dataset, make_job, make_model, make_node, make_workspace
from tests.jobs.people import owner, principal
from tests.jobs.test_runs import RESULT, job, start, workspace  # noqa: F401

# -- what is shipped ---------------------------------------------------------------------


def test_shipping_twice_stores_once(db: Session, job: Job) -> None:
    fence = start(db, job)
    shipment: dict[str, Any] = {
        "log": (0, b"one\ntwo\n"),
        "metrics": [{"step": 1, "loss": 2.0, "t": 10.0}, {"step": 1, "eval_loss": 3.0, "t": 11.0}],
        "events": [
            {"t": 10.25, "kind": "checkpoint", "message": "Saved %(n)s", "params": {"n": 1}}
        ],
    }
    for _ in range(2):
        assert runs.ship(db, job.id, fence, **shipment)
    assert history.log_from(db, job.id, 0, final=True) == ("one\ntwo\n", 8, False)
    assert history.metrics(db, job.id) == [{"step": 1, "loss": 2.0, "eval_loss": 3.0, "t": 10.0}]
    kinds = [event.kind for event in history.events(db, job.id)]
    assert kinds.count("checkpoint") == 1


def test_a_resumed_attempt_replaces_what_it_does_again(db: Session, job: Job) -> None:
    fence = start(db, job)
    old = [{"step": step, "loss": 9.0, "eval_loss": 9.0} for step in (1, 2, 3)]
    runs.ship(db, job.id, fence, metrics=old, log=(0, b"first\n"))
    runs.end(db, job.id, fence, outcome="died")
    fence = start(db, job)
    _, cursor = history.metrics_after(db, job.id, 0)
    runs.ship(db, job.id, fence, metrics=[{"step": 2, "loss": 1.0}], log=(0, b"again\n"))
    assert [row["loss"] for row in history.metrics(db, job.id)] == [9.0, 1.0, 9.0]
    assert history.metrics(db, job.id)[1] == {"step": 2, "loss": 1.0}
    assert history.metrics_after(db, job.id, cursor)[0] == [{"step": 2, "loss": 1.0}]
    assert history.log_from(db, job.id, 0, final=True)[0] == "first\nagain\n"


def test_what_postgres_refuses_is_made_storable(db: Session, job: Job) -> None:
    fence = start(db, job)
    runs.ship(
        db,
        job.id,
        fence,
        log=(0, b"\x00\xff\x1b[31mred\x1b[0m <script>\r\n"),
        metrics=[{"step": 1, "loss": float("nan"), "grad_norm": float("inf")}],
        events=[{"t": 1.0, "kind": "warning", "message": "a\0b", "params": {"x": "\0"}}],
    )
    assert history.metrics(db, job.id) == [{"step": 1, "loss": None, "grad_norm": None}]
    assert history.log_from(db, job.id, 0, final=True)[0] == "�red <script>\n"
    event = db.scalars(select(JobEvent).where(JobEvent.kind == "warning")).one()
    assert (event.message, event.params) == ("ab", {"x": ""})
    runs.end(
        db, job.id, fence, outcome="failed", error={"code": "x", "message": "\0", "params": {}}
    )
    db.flush()


@pytest.mark.parametrize("seed", range(4))
def test_a_log_read_in_pieces_is_the_log(
    db: Session, workspace: Workspace, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it was cut when it was shipped, and wherever readers start and stop."""
    chance = random.Random(seed)
    monkeypatch.setattr(history, "PIECE", 40)
    monkeypatch.setattr(history, "CHUNKS", 3)
    job = make_job(db, workspace, owner(db, workspace), state="running")
    whole = b""
    for fence in range(1, chance.randint(2, 4)):
        log = "".join(
            chance.choice(["损失 ", "loss ", "\n", "a longer stretch without a line", "é"])
            for _ in range(60)
        ).encode()
        at = 0
        while at < len(log):
            size = chance.randint(1, 25)
            history.store_log(db, job.id, fence, at, log[at : at + size])
            at += size
        whole += log
    text, offset, more, said = "", 0, True, ""
    while more:
        text, offset, more = history.log_from(db, job.id, offset, final=True)
        said += text
    assert (said, offset) == (whole.decode(), len(whole))
    place, said, more = (0, 0), "", True
    while more:
        piece = history.log_after(db, job.id, *place, final=True)
        place, said, more = (piece.fence, piece.offset), said + piece.text, piece.more
    assert said == whole.decode()
    start = chance.randrange(len(whole))
    at_start = history.locate(db, job.id, start)
    first = history.log_after(db, job.id, *at_start, final=True)
    assert history.log_from(db, job.id, start, final=True)[0] == first.text
    assert whole[start:].decode(errors="replace").startswith(first.text)


def test_half_a_line_waits_for_its_other_half(db: Session, job: Job) -> None:
    fence = start(db, job)
    runs.ship(db, job.id, fence, log=(0, b"step 1\nstep"))
    text, offset, _ = history.log_from(db, job.id, 0, final=False)
    assert (text, offset) == ("step 1\n", 7)
    runs.ship(db, job.id, fence, log=(11, b" 2\n"))
    assert history.log_from(db, job.id, offset, final=False)[0] == "step 2\n"


def test_the_pace_is_measured_over_the_last_steps(db: Session, job: Job) -> None:
    fence = start(db, job)
    lines = [{"step": n, "loss": 5.0 - n, "tokens": 100, "t": 1000 + n / 2} for n in (1, 2, 3)]
    assert history.pace(db, job.id) == history.Pace(None, None, None)
    runs.ship(db, job.id, fence, metrics=lines[:1])
    assert history.pace(db, job.id) == history.Pace(4.0, None, None)
    runs.ship(db, job.id, fence, metrics=lines[1:])
    assert history.pace(db, job.id) == history.Pace(2.0, 200.0, 0.5)


def test_a_long_history_is_thinned_for_the_page(db: Session, job: Job) -> None:
    fence = start(db, job)
    lines: list[dict[str, Any]] = [{"step": n, "loss": 1.0} for n in range(1, 1001)]
    lines[500]["eval_loss"] = 2.0
    runs.ship(db, job.id, fence, metrics=lines)
    thin, _ = history.metrics_after(db, job.id, 0, points=100)
    steps = [row["step"] for row in thin]
    assert 80 < len(steps) < 130
    assert {501, 1000} <= set(steps)
    assert len(history.metrics(db, job.id)) == 1000


# -- everything at once ------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_random_lives_keep_leases_and_states_together(db: Session, seed: int) -> None:
    """Whatever people, nodes and the sweep do in whatever order, a job holds devices exactly
    while a node may have processes of it, and waits exactly while it is queued."""
    chance = random.Random(seed)
    make_node(db, id="local", devices=2)
    team = make_workspace(db)
    model, data = make_model(db), make_dataset(db, team)
    who, jobs = principal(db, team), []
    for _ in range(120):
        act = chance.choice(
            ["create", "sweep", "start", "ship", "end", "cancel", "pause", "resume"]
        )
        job = chance.choice(jobs) if jobs else None
        if act == "create" and len(jobs) < 12:
            jobs.append(service.create(db, who, JobCreate(model=model.id, dataset=data.id)))
        elif act == "sweep":
            for grant in cluster.decide(db):
                runs.grant(db, grant.owner_id, grant.node_id)
        elif job is None:
            continue
        elif act in ("cancel", "pause", "resume"):
            with contextlib.suppress(service.Conflict):
                getattr(service, act)(db, team.id, job.id)
        else:
            fence = job.fence - (chance.random() < 0.2)
            if act == "start":
                runs.mark_started(db, job.id, fence, 1, 1.0)
            elif act == "ship":
                runs.ship(db, job.id, fence, status={"phase": "train", "step": 1, "total": 2})
            else:
                outcome: Any = chance.choice(["succeeded", "failed", "stopped", "died"])
                runs.end(db, job.id, fence, outcome=outcome, result=RESULT)
        for one in jobs:
            held = len(cluster.leases_of(db, "job", one.id))
            request = cluster.waiting(db, "job", one.id)
            assert held == (1 if one.state in runs.ACTIVE else 0)
            assert (request is not None) == (one.state in runs.ACTIVE or one.state == "queued")
            assert (one.finished_at is not None) == (one.state in FINAL)
