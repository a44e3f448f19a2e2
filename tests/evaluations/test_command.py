"""`danlu jobs` and `danlu evaluations`, about a job's evaluation and what may serve."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from app.cli import client, evaluations, jobs
from app.cli.main import app
from app.evaluations import promoting
from app.evaluations.tables import Candidate, Evaluation, Promotion
from tests.factories import added, make_dataset, make_job, make_model


@pytest.fixture
def danlu(api, monkeypatch):
    """A command of this user, told to the application itself."""
    connection = client.Api("http://testserver", api.key)
    connection.http = api
    for module in (jobs, evaluations):
        monkeypatch.setattr(module, "connect", lambda: connection)

    def run(*words: Any, fails: bool = False) -> str:
        done = CliRunner().invoke(app, [str(word) for word in words])
        assert bool(done.exit_code) == fails, f"{done.output} {done.exception!r}"
        return f"{done.output}{done.exception or ''}"

    return run


def test_what_the_gate_said(db, api, danlu):
    version = make_dataset(db, api.workspace)
    result = make_model(db, api.workspace, name="result")
    gate = {"name": "tone", "needs": "better"}
    job = make_job(
        db, api.workspace, api.user, name="mood", state="succeeded", evaluated=True,
        evaluation={"dataset": version.id, "scorers": ["exact"], "checkpoints": [], "gate": gate},
    )  # fmt: skip
    one = added(
        db,
        Evaluation(
            workspace_id=api.workspace.id, created_by=api.user.id, name="mood", job_id=job.id,
            dataset_version_id=version.id, scorers=[{"kind": "exact", "key": "exact"}],
            scorer_set="x", settings={"system": None}, rows=40, state="succeeded",
        ),
    )  # fmt: skip
    figures = {"exact": {"value": 0.5, "low": 0.4, "high": 0.6, "rows": 40}}
    base, ours = (
        added(
            db,
            Candidate(
                evaluation_id=one.id, position=at, kind="model", target=result.id, label=label,
                model_id=result.id, figures=figures,
            ),
        )
        for at, label in enumerate(("base", "result"))
    )  # fmt: skip
    verdict = {"verdict": "worse", "difference": -0.2, "low": -0.3, "high": -0.1, "rows": 40}
    one.verdicts = {ours.id: {"exact": verdict}}
    params = {"name": "tone", "difference": "-20.0 %", "low": "-30.0 %", "high": "-10.0 %"}
    message = {"message": promoting.REFUSALS["worse"], "params": params}
    added(
        db,
        Promotion(
            workspace_id=api.workspace.id, created_by=api.user.id, evaluation_id=one.id,
            candidate_id=ours.id, rival_id=base.id, name="tone", state="refused",
            verdict=verdict, message=message,
        ),
    )  # fmt: skip
    db.commit()
    told = danlu("jobs", "show", job.id)
    assert "exact: worse -0.2000" in told
    assert "Best: result" in told
    assert "Gate: tone (better): not good enough" in told
    assert "it is worse than what serves there (-20.0 %" in told
    found = json.loads(danlu("jobs", "evaluation", job.id, "--json"))
    assert found["promotion"]["state"] == "refused"
    shown = json.loads(danlu("jobs", "show", job.id, "--json"))
    assert shown["evaluation"]["gate"]["name"] == "tone"
    assert "worse" in danlu("evaluations", "promotions", one.id)
    assert "exactly one" in danlu("evaluations", "promote", one.id, "nobody", "tone", fails=True)
    made = json.loads(danlu("evaluations", "promote", one.id, "result", "mine", "--json"))
    assert (made["name"], made["state"], made["needs"]) == ("mine", "starting", "better")


def test_a_job_asks_for_it(db, api, danlu, monkeypatch):
    version = make_dataset(db, api.workspace, name="rows")
    model = make_model(db, api.workspace)
    db.commit()
    asked: list[Any] = []
    post = client.Api.post

    def kept(self: client.Api, path: str, body: Any = None) -> Any:
        asked.append(body)
        return post(self, path, body)

    monkeypatch.setattr(client.Api, "post", kept)
    create = ("jobs", "create", "-m", model.id, "-d", "rows", "--dry-run")
    more = ("--evaluate", "rows", "--scorer", "exact", "--evaluate-at", 3, "--evaluate-rows", 4)
    danlu(*create, *more, "--serve-as", "tone", "--not-worse", "--json")
    assert asked[-1]["evaluation"] == {
        "dataset": version.dataset_id,
        "checkpoints": [3],
        "scorers": ["exact"],
        "limit": 4,
        "gate": {"name": "tone", "needs": "not_worse"},
    }
    danlu(*create, "--serve-as", "tone", fails=True)
    assert len(asked) == 1
