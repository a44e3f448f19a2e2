"""Benchmarks from the page and the API: what is ready, what is asked, what came of it."""

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup
from sqlalchemy.orm import Session

from app import storage
from app.cluster import service as cluster
from app.config import settings
from app.errors import Invalid
from app.jobs import benchmarks, runs, service
from app.jobs.benchmarks import BenchmarkCreate
from app.models.tables import Model
from tests.conftest import Client
from tests.factories import make_model, make_node
from tests.jobs.people import principal
from tests.workers import exams
from workers.stages import layouts

SCORE = {"metrics": {"acc": {"value": 0.5, "error": 0.2}}, "questions": 2, "version": 1.0, "fewshot": 0}  # fmt: skip
RESULT: dict[str, Any] = {
    "kind": "benchmark",
    "steps": 2,
    "benchmark": {
        "scores": {
            "mmlu_anatomy": SCORE | {"benchmark": "mmlu"},
            "mmlu_virology": SCORE | {"benchmark": "mmlu", "questions": 1},
        },
        "summary": {"mmlu": {"questions": 3.0, "acc": 0.5}},
        "libraries": {"lm-eval": "0.4.13"},
    },
}
ORIGIN = {"origin": settings.url}


@pytest.fixture
def model(db: Session, client: Client, tmp_path: Path) -> Model:
    told = layouts.ready(exams.write(tmp_path / "exams"))
    make_node(db, id="local", facts={"benchmarks": told})
    make_node(db, id="other", facts={"benchmarks": [one for one in told if one["name"] == "gsm8k"]})
    found = make_model(db, client.workspace, name="mood")
    db.commit()
    return found


def test_from_the_page_to_the_table(client: Client, db: Session, model: Model, tmp_path: Path):
    page = BeautifulSoup(client.get("/benchmarks").text, "lxml")
    assert page.select_one("[data-testid=benchmark-mmlu]")["data-ready"] == "true"
    lacking = page.select_one("[data-testid=benchmark-piqa]")
    assert lacking["data-ready"] == "false"
    assert "piqa/ (baber/piqa)" in lacking.text
    form = {"model": model.id, "tasks": "mmlu", "limit": "2"}
    asked = client.post("/benchmarks", data=form, headers=ORIGIN)
    job = service.get(db, client.workspace.id, asked.headers["location"].rpartition("/")[2])
    assert (job.stage, job.name) == ("evaluate", "mood mmlu")
    (grant,) = cluster.decide(db)
    assert grant.node_id == "local"  # the other has no MMLU
    runs.grant(db, grant.owner_id, grant.node_id)
    facts = runs.start_facts(db, job.id, job.fence)
    assert facts is not None
    assert facts.benchmark == {"tasks": ["mmlu"], "fewshot": None, "limit": 2, "chat": False}
    assert facts.hyperparameters == {}
    db.commit()
    assert client.get(f"/api/v1/jobs/{job.id}/samples.tar").status_code == 409
    (tmp_path / "benchmark").mkdir()
    (tmp_path / "benchmark/mmlu_anatomy.jsonl").write_text("{}\n")
    storage.put(tmp_path / "benchmark", benchmarks.artefact(job))
    runs.end(db, job.id, job.fence, outcome="succeeded", result=RESULT)
    db.commit()
    assert job.result_model_id is None
    page = BeautifulSoup(client.get("/benchmarks").text, "lxml")
    row = page.select_one("[data-testid=benchmark-results] tbody tr").text
    assert "mood" in row
    assert "50.0 %" in row
    shown = BeautifulSoup(client.get(f"/jobs/{job.id}").text, "lxml")
    assert "50.0 %" in shown.select_one("[data-testid=score-mmlu]").text
    got = client.get(str(shown.select_one("[data-testid=job-samples]")["href"]))
    with tarfile.open(fileobj=io.BytesIO(got.content)) as tar:
        assert "mood-mmlu/mmlu_anatomy.jsonl" in tar.getnames()
    (listed,) = client.get("/api/v1/benchmarks/results", params={"model": "mood"}).json()["data"]
    assert (listed["benchmark"], listed["value"], listed["questions"]) == ("mmlu", 0.5, 3)
    assert (listed["versions"], listed["limit"]) == (["1.0"], 2)


def test_what_is_ready_and_what_is_not(client: Client, model: Model) -> None:
    found = {one["name"]: one for one in client.get("/api/v1/benchmarks").json()["data"]}
    assert found["gsm8k"]["nodes"] == ["local", "other"]
    assert (found["mmlu"]["questions"], found["mmlu"]["subjects"]) == (3, 2)
    assert not found["winogrande"]["ready"]


def test_what_no_node_can_ask_is_refused(client: Client, db: Session, model: Model) -> None:
    who = principal(db, client.workspace)
    with pytest.raises(Invalid, match="piqa is on no node"):
        benchmarks.create(db, who, BenchmarkCreate(model="mood", tasks=["mmlu", "piqa"]))
    there = [{"name": "piqa", "title": "piqa", "where": "", "subjects": 1, "questions": None, "problem": ""}]  # fmt: skip
    make_node(db, id="third", facts={"benchmarks": there})
    with pytest.raises(Invalid, match="all of these"):
        benchmarks.create(db, who, BenchmarkCreate(model="mood", tasks=["mmlu", "piqa"]))
    asked = client.post("/benchmarks", data={"model": model.id}, headers=ORIGIN)
    assert asked.status_code == 422
    assert "benchmark-form" in asked.text


def test_files_that_cannot_be_read_are_told_and_not_offered(
    client: Client, db: Session, tmp_path: Path
) -> None:
    exams.put(tmp_path / "gsm8k/test.jsonl", "no JSON\n")
    make_node(db, id="local", facts={"benchmarks": layouts.ready(tmp_path)})
    db.commit()
    page = BeautifulSoup(client.get("/benchmarks").text, "lxml")
    assert "test.jsonl, line 1" in page.select_one("[data-testid=benchmark-gsm8k]").text
    assert page.select_one("[data-testid=benchmarks-none]") is not None
