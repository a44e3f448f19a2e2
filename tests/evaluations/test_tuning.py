"""The evaluation at a tuning job's end, and whether its result may serve."""

import asyncio

import pytest
from bs4 import BeautifulSoup
from sqlalchemy import select

from app.db import now
from app.deployments import aliases
from app.deployments.tables import Alias, Deployment
from app.evaluations import holding, promoting, tuning
from app.evaluations.tables import Candidate, Evaluation, Promotion
from app.jobs import service as jobs
from app.jobs.schemas import JobCreate, JobForm
from app.jobs.tables import Job, JobCheckpoint, JobEvent
from app.queue import transaction
from tests.evaluations.people import Mood, ended, published, reviews
from tests.factories import make_dataset, make_job, make_model, make_node, make_principal
from tests.gateway.engines import deploy

PLAN = {"scorers": ["accuracy"], "checkpoints": [], "limit": None, "max_tokens": 16, "gate": None}


@pytest.fixture
def who(client):
    return make_principal(client.user, client.workspace)


def tuned(db, client, version, **plan):
    """A job that has succeeded, what it started from, and what it made."""
    base = make_model(db, name="base")
    result = make_model(db, client.workspace, name="result")
    job = make_job(
        db,
        client.workspace,
        client.user,
        name="mood",
        model_id=base.id,
        result_model_id=result.id,
        state="succeeded",
        step=90,
        total=90,
        evaluation=PLAN | {"dataset": version.id} | plan,
    )
    db.commit()
    return job, base, result


def serve(db, client, engine, model, name):
    return deploy(
        db, client.workspace, engine, name=name, model_id=model.id, ready_at=now(), mode="base"
    )


def of(job) -> Evaluation:
    with transaction() as db:
        return db.scalars(select(Evaluation).where(Evaluation.job_id == job.id)).one()


def events(db, job) -> list[str]:
    query = select(JobEvent.message).where(JobEvent.job_id == job.id).order_by(JobEvent.id)
    return list(db.scalars(query))


def test_begun_once_and_the_job_says_which_is_best(db, client, who):
    version = published(who, reviews(40))
    job, base, result = tuned(db, client, version)

    async def test():
        async with Mood(set(range(0, 40, 2))) as before, Mood({3}) as after:
            serve(db, client, before, base, "before")
            serve(db, client, after, result, "after")
            await asyncio.gather(*(asyncio.to_thread(tuning.begin, job.id) for _ in range(3)))
            tuning.begin_due(db)
            done = await ended(of(job))
            assert done.state == "succeeded", done.error
            return done

    done = asyncio.run(test())
    first, second = holding.candidates(done.id)
    assert [(one.kind, one.model_id) for one in (first, second)] == [
        ("model", base.id),
        ("model", result.id),
    ]
    got = client.get(f"/api/v1/jobs/{job.id}/evaluation").json()
    assert got["best"] == second.id
    assert got["evaluation"]["verdicts"][second.id]["accuracy"]["verdict"] == "better"
    assert got["promotion"] is None
    page = BeautifulSoup(client.get(f"/evaluations/of-job/{job.id}").text, "html.parser")
    assert page.select_one("[data-testid=job-best]").parent.text.split()[0] == "result"
    assert page.select_one("[data-verdict=better]")
    assert "hx-get" not in page.select_one("[data-testid=job-evaluation]").attrs
    assert "/evaluations/of-job/" in client.get(f"/jobs/{job.id}").text
    assert tuning.BEGUN in events(db, job)


def gated(db, client, who, wrong_after: set[int], needs="better"):
    """A model serves as `tone`; the job's result is to serve there. How that ends."""
    version = published(who, reviews(40))
    gate = {"name": "tone", "needs": needs}
    job, base, result = tuned(db, client, version, gate=gate)
    serving = make_model(db, client.workspace, name="serving")

    async def test():
        bad = {1, 3, 5, 7, 9, 11, 13, 15, 17}
        async with Mood({1}) as before, Mood(bad) as now_there, Mood(wrong_after) as after:
            serve(db, client, before, base, "before")
            old = serve(db, client, now_there, serving, "tone")
            new = serve(db, client, after, result, "after")
            tuning.begin_due(db)
            promoting.go_on(db)
            assert promotion(job).state == "waiting"
            done = await ended(of(job))
            assert done.state == "succeeded", done.error
            promoting.go_on(db)  # the verdict
            promoting.go_on(db)  # the engine answers
            promoting.go_on(db)  # and nothing is left to do
            return old, new

    old, new = asyncio.run(test())
    return job, old, new


def promotion(job) -> Promotion:
    one = of(job)
    with transaction() as db:
        return db.scalars(select(Promotion).where(Promotion.evaluation_id == one.id)).one()


def test_the_gate_lets_the_better_one_serve(db, client, who):
    job, old, new = gated(db, client, who, {1})
    found = promotion(job)
    assert (found.state, found.deployment_id) == ("promoted", new.id)
    assert found.verdict["verdict"] == "better"
    assert found.verdict["difference"] == pytest.approx(8 / 40)
    (alias,) = db.scalars(select(Alias))
    assert alias.targets == [
        {"deployment": new.id, "weight": 1},
        {"deployment": old.id, "weight": 0},
    ]
    assert aliases.split(db, client.workspace.id, "tone") == [("after", 1)]
    assert promoting.BETTER in events(db, job)
    page = client.get(f"/evaluations/of-job/{job.id}").text
    assert "Serves as tone now: it is better than what served there (+20.0 points" in page
    labels = [one.label for one in holding.candidates(of(job).id)]
    assert labels == ["base", "/v1 · tone", "result"]


def test_the_gate_refuses_with_the_verdict(db, client, who):
    job, _, _ = gated(db, client, who, set(range(0, 40, 2)))
    found = promotion(job)
    assert (found.state, found.verdict["verdict"]) == ("refused", "worse")
    assert db.scalar(select(Alias.id)) is None
    got = client.get(f"/api/v1/jobs/{job.id}/evaluation").json()["promotion"]
    assert got["message"].startswith("Not deployed as tone: it is worse than what serves there (-")
    candidates = holding.candidates(of(job).id)
    again = client.post(
        f"/api/v1/evaluations/{of(job).id}/promotions",
        json={"candidate": candidates[-1].id, "name": "tone"},
    )
    assert (again.status_code, again.json()["code"]) == (409, "not_better")
    told = client.post(
        f"/evaluations/{of(job).id}/promotions",
        data={"candidate": candidates[-1].id, "name": "tone", "needs": "better"},
    )
    assert told.status_code == 422
    assert "it is worse than what serves there" in told.text
    better = client.post(
        f"/api/v1/evaluations/{of(job).id}/promotions",
        json={"candidate": candidates[0].id, "name": "tone"},
    )
    assert (better.status_code, better.json()["state"]) == (201, "starting"), better.text
    promoting.go_on(db)
    assert aliases.split(db, client.workspace.id, "tone") == [("before", 1)]
    data = client.get(f"/api/v1/evaluations/{of(job).id}/promotions").json()["data"]
    assert [one["state"] for one in data] == ["promoted", "refused"]


def test_no_difference_is_enough_where_that_is_asked(db, client, who):
    job, _, new = gated(db, client, who, {0, 2, 4, 6, 8, 10, 12, 14, 16}, needs="not_worse")
    assert promotion(job).verdict["verdict"] == "same"
    assert (promotion(job).state, promotion(job).deployment_id) == ("promoted", new.id)


def test_what_serves_by_then_must_have_been_compared(db, client, who):
    version = published(who, reviews(10))
    job, _, result = tuned(db, client, version, gate={"name": "tone", "needs": "better"})
    tuning.begin_due(db)
    one = of(job)
    other = make_model(db, client.workspace)

    async def test():
        async with Mood() as engine:
            serve(db, client, engine, other, "tone")
            with transaction() as session:
                session.get_one(Evaluation, one.id).state = "succeeded"
            promoting.go_on(db)

    asyncio.run(test())
    assert promotion(job).state == "refused"
    assert promotion(job).message["message"] == promoting.UNCOMPARED
    assert result.id == holding.candidates(one.id)[-1].model_id


def test_where_nothing_serves_a_deployment_of_that_name_is_made(db, client, who):
    make_node(db)
    version = published(who, reviews(10))
    job, _, result = tuned(db, client, version, gate={"name": "tone", "needs": "better"})
    tuning.begin_due(db)
    with transaction() as session:
        session.get_one(Evaluation, of(job).id).state = "succeeded"
    promoting.go_on(db)
    made = db.scalars(select(Deployment).where(Deployment.model_id == result.id)).one()
    assert (made.name, promotion(job).state) == ("tone", "starting")
    made.state = "error"
    made.error = {"code": "oom", "message": "No memory.", "params": {}}
    db.commit()
    promoting.go_on(db)
    assert promotion(job).state == "failed"
    assert "No memory." in events(db, job)


def test_an_evaluation_that_was_cancelled_promotes_nothing(db, client, who):
    version = published(who, reviews(10))
    job, _, _ = tuned(db, client, version, gate={"name": "tone", "needs": "better"})
    tuning.begin_due(db)
    assert client.post(f"/api/v1/evaluations/{of(job).id}/cancel").status_code == 200
    with transaction() as session:  # whoever works on it may have taken it up before
        session.get_one(Evaluation, of(job).id).state = "cancelled"
    promoting.go_on(db)
    assert promotion(job).state == "failed"
    assert client.delete(f"/api/v1/evaluations/{of(job).id}").status_code == 204
    assert db.scalar(select(Promotion.id)) is None


def test_checkpoints_are_kept_and_evaluated(db, client, who):
    node = make_node(db)
    version = published(who, reviews(10))
    job, _, result = tuned(db, client, version, checkpoints=[30, 50, 90])
    job.state, job.result_model_id = "running", None
    for step in (20, 30, 90):
        db.add(JobCheckpoint(job_id=job.id, step=step, fence=1, node_id=node.id, size=1))
    db.commit()
    with transaction() as session:
        tuning.keep(session)
    db.expire_all()
    rows = db.scalars(select(JobCheckpoint).order_by(JobCheckpoint.step)).all()
    assert [row.state for row in rows] == ["kept", "publishing", "kept"]
    job.state, job.result_model_id = "succeeded", result.id
    db.commit()
    tuning.begin_due(db)
    several = holding.candidates(of(job).id)
    assert [one.kind for one in several] == ["model", "checkpoint", "model"]
    assert several[1].target == f"{job.id}/checkpoint-30"
    assert tuning.NO_CHECKPOINT in events(db, job)


def test_the_best_is_the_result_where_none_is_better():
    one = Evaluation(scorers=[{"key": "accuracy", "kind": "accuracy"}])
    several = [
        Candidate(kind=kind, label=label, figures={"accuracy": {"value": value}})
        for kind, label, value in [
            ("model", "base", 0.9),
            ("checkpoint", "20", 0.7),
            ("checkpoint", "40", 0.8),
            ("model", "result", 0.8),
        ]
    ]
    assert tuning.best(one, several).label == "result"
    several[2].figures = {"accuracy": {"value": 0.81}}
    assert tuning.best(one, several).label == "40"


def test_why_a_job_was_not_evaluated(db, client, who):
    free = published(
        who,
        [
            {
                "messages": [
                    {"role": "user", "content": "x"},
                    {"role": "assistant", "content": f"{n}"},
                ]
            }
            for n in range(60)
        ],
        "free",
    )
    job, _, _ = tuned(db, client, free)
    tuning.begin_due(db)
    tuning.begin_due(db)
    assert events(db, job).count(tuning.NOT_BEGUN) == 1
    assert "Its events say why" in client.get(f"/evaluations/of-job/{job.id}").text
    other, _, _ = tuned(db, client, published(who, reviews(10)), limit=5)
    other.state = "failed"
    db.commit()
    tuning.begin_due(db)
    db.refresh(other)
    assert other.evaluated
    assert db.scalar(select(Evaluation.id)) is None


# -- asked for beforehand ----------------------------------------------------------------


def test_the_form_and_the_api_say_the_same(db, client, who):
    make_node(db)
    version = published(who, reviews(40))
    model = make_model(db, name="small")
    db.commit()
    form = {
        "model": model.id,
        "dataset": version.id,
        "evaluate": version.id,
        "evaluate_scorers": ["f1", "accuracy"],
        "evaluate_first": "accuracy",
        "evaluate_checkpoints": "40， 80",
        "evaluate_limit": "20",
        "gate": "tone",
    }
    asked = JobForm.model_validate(form).job().evaluation
    assert (asked.scorers, asked.checkpoints, asked.limit) == (["accuracy", "f1"], [40, 80], 20)
    assert (asked.gate.name, asked.gate.needs) == ("tone", "better")
    made = jobs.create(db, who, JobCreate(model=model.id, dataset=version.id, evaluation=asked))
    db.commit()
    assert made.evaluation["dataset"] == version.id
    again = client.get(f"/jobs/new?again={made.id}").text
    page = BeautifulSoup(again, "html.parser")
    assert page.select_one("[data-testid=job-evaluate] option[selected]")["value"] == version.id
    assert page.select_one("[data-testid=job-evaluate-checkpoints]")["value"] == "40, 80"
    assert page.select_one("[data-testid=job-gate]")["value"] == "tone"
    assert [one["value"] for one in page.select("[name=evaluate_scorers][checked]")] == [
        "accuracy",
        "f1",
    ]
    got = client.get(f"/api/v1/jobs/{made.id}").json()["evaluation"]
    assert got["gate"] == {"name": "tone", "needs": "better"}
    page = BeautifulSoup(client.get(f"/jobs/{made.id}").text, "html.parser")
    assert "serves as tone if better" in page.select_one("[data-testid=job-evaluated-on]").text
    assert "The result is evaluated" in client.get(f"/evaluations/of-job/{made.id}").text
    wrong = client.post("/jobs", data=form | {"evaluate": "ds_x"})
    page = BeautifulSoup(wrong.text, "html.parser")
    assert wrong.status_code == 422
    assert page.select_one("#e-evaluate").text == "There is no such dataset."
    assert page.select_one("#evaluating").has_attr("open")
    lost = BeautifulSoup(client.post("/jobs", data=form | {"evaluate": ""}).text, "html.parser")
    assert "on which rows" in lost.select_one("#evaluating[open] #e-gate").text


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"scorers": ["regex"]}, "evaluation.scorers.0"),
        ({"checkpoints": [1, 2, 3, 4, 5, 6]}, "evaluation.checkpoints"),
        ({"gate": {"name": "No"}}, "evaluation.gate.name"),
        ({"dataset": "ds_x"}, "evaluation.dataset"),
    ],
)
def test_what_cannot_be_asked_for(db, client, who, change, field):
    version = published(who, reviews(10))
    model = make_model(db)
    db.commit()
    body = {
        "model": model.id,
        "dataset": version.id,
        "evaluation": {"dataset": version.id} | change,
    }
    got = client.post("/api/v1/jobs", json=body)
    assert got.status_code in (404, 422)
    assert field in got.text


def test_plain_text_has_no_answers_to_compare(db, client):
    text = make_dataset(db, client.workspace, kind="pretrain")
    version = make_dataset(db, client.workspace)
    model = make_model(db)
    db.commit()
    body = {"model": model.id, "dataset": version.id, "evaluation": {"dataset": text.id}}
    got = client.post("/api/v1/jobs", json=body)
    assert (got.status_code, got.json()["code"]) == (422, "no_prompts")


def test_a_job_that_asks_for_none_has_none(db, client):
    base = make_model(db, name="base")
    job = make_job(
        db, client.workspace, client.user, model_id=base.id, state="succeeded", evaluation=None
    )
    db.commit()
    tuning.begin_due(db)
    db.refresh(job)
    assert not job.evaluated
    assert db.scalar(select(Job.id).where(Job.evaluation.is_not(None))) is None
