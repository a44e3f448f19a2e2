"""The job as a script for TRL: what is in it, and what it reads."""

import ast
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from app import storage
from app.datasets.rows import segments
from app.datasets.tables import DatasetVersion
from app.jobs import script
from app.jobs.spec import Hyperparameters, Part, RunSpec
from app.jobs.tables import Job
from tests.conftest import Client
from tests.factories import make_dataset, make_job, make_model, make_workspace
from tests.jobs.people import owner
from workers.stages.mixing import Data
from workers.stages.run import Run

EVIL = "'''\"\"\"\\\n}}\nimport os; os.system('x') {{ 7 * 7 }} {% raw %} \u2028 丹炉"


def job(db: Session, client: Client, **overrides: object) -> Job:
    spec = Hyperparameters().model_dump()
    return make_job(db, client.workspace, owner(db, client.workspace), **{"spec": spec} | overrides)


def tree(text: str) -> tuple[str, object]:
    """The code without the JOB, and the JOB."""
    module = ast.parse(text)
    place = next(
        number
        for number, node in enumerate(module.body)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "JOB"
    )
    job: Any = module.body.pop(place)
    value = ast.literal_eval(job.value)
    return ast.dump(module), value


@pytest.mark.parametrize("stage", ["sft", "pretrain", "dpo", "kto", "orpo", "reward"])
@pytest.mark.parametrize("method", ["lora", "full", "freeze", "qlora"])
def test_every_stage_and_method_makes_a_script(db, client, stage, method):
    base = make_model(db)
    adapter = make_model(db, client.workspace, kind="adapter", base_id=base.id)
    more = {"beta": 0.1, "lora_init": "pissa", "loraplus_ratio": 16.0, "dpo_loss": "simpo"}
    spec = Hyperparameters().model_dump() | more
    mixes = ({}, {"split": {"split": 0.1, "seed": 42, "most": 1000}})
    for model, mix in itertools.product((base, adapter), mixes):
        made = job(db, client, stage=stage, method=method, model_id=model.id, mix=mix, spec=spec)
        text = script.train_py(db, made)
        tree(text)
        assert ("validation.jsonl" in text) == bool(mix)
        assert ("ADAPTER" in text) == (model is adapter)
        assert "danlu" not in text.replace("'code': 'danlu 0.1.0'", "").split('"""', 2)[2].lower()


def test_names_cannot_become_code(db: Session, client: Client) -> None:
    tame = job(db, client, name="mood", model_id=make_model(db, name="starter").id)
    evil = job(
        db,
        client,
        name=EVIL,
        model_id=make_model(db, name=EVIL).id,
        dataset_version_id=make_dataset(db, client.workspace, name=EVIL).id,
        spec=tame.spec | {"lora_target": EVIL, "dpo_loss": EVIL},
    )
    code, _ = tree(script.train_py(db, tame))
    evil_code, facts = tree(script.train_py(db, evil))
    expected = code.replace("Constant(value='all-linear')", repr_of(EVIL))
    assert evil_code == expected
    assert isinstance(facts, dict)
    assert facts["name"] == facts["base"] == facts["data"][0]["name"] == EVIL


def repr_of(target: str) -> str:
    """As `target_modules` stands in the tree."""
    names = ", ".join(f"Constant(value={name.strip()!r})" for name in target.split(","))
    return f"List(elts=[{names}], ctx=Load())"


def test_the_route_gives_the_file(client: Client, db: Session) -> None:
    made = job(db, client, name="mood")
    merge = job(db, client, stage="merge", method="", spec={})
    elsewhere = make_workspace(db)
    theirs = make_job(db, elsewhere, owner(db, elsewhere))
    db.commit()
    got = client.get(f"/api/v1/jobs/{made.id}/train.py")
    assert got.headers["content-disposition"] == 'attachment; filename="train.py"'
    assert "from trl import SFTConfig, SFTTrainer" in got.text
    assert client.get(f"/api/v1/jobs/{merge.id}/train.py").status_code == 409
    assert client.get(f"/api/v1/jobs/{theirs.id}/train.py").status_code == 404


# -- the rows ------------------------------------------------------------------------------


def dataset(db: Session, client: Client, tmp_path: Path, name: str, count: int) -> DatasetVersion:
    directory = tmp_path / name
    directory.mkdir()
    rows = [
        {"id": f"{name}-{i}", "messages": [
            {"role": "user", "content": f"{name} {i}"}, {"role": "assistant", "content": "ok"}]}
        for i in range(count)
    ]  # fmt: skip
    written = segments.write(rows, directory)
    storage.put(directory, written.artefact)
    parts = [{"artefact": written.artefact, "rows": count}]
    return make_dataset(db, client.workspace, name=name, rows=count, segments=parts)


def test_the_rows_are_those_that_the_run_reads(client: Client, db: Session, tmp_path: Path) -> None:
    main = dataset(db, client, tmp_path, "main", 40)
    more = dataset(db, client, tmp_path, "more", 10)
    mix = {
        "datasets": [{"version": main.id, "multiplier": 0.5}, {"version": more.id, "share": 40.0}],
        "split": {"split": 0.1, "seed": 7, "most": 1000},
    }
    made = job(db, client, dataset_version_id=main.id, mix=mix)
    db.commit()
    (tmp_path / "run").mkdir()
    spec = RunSpec(
        job_id=made.id,
        fence=1,
        stage="sft",
        method="lora",
        base="/nowhere",
        mix=[
            Part(dataset=one.id, rows=[str(storage.fetch(one.segments[0]["artefact"]))], **amount)
            for one, amount in ((main, {"multiplier": 0.5}), (more, {"share": 40.0}))
        ],
        split=mix["split"],
        hyperparameters=Hyperparameters(),
    )
    read = Data(Run(tmp_path / "run"), spec)
    train = [row["id"] for row in read.training()]
    expected = sorted(
        name for name, times in zip(train, read.times, strict=True) for _ in range(times)
    )
    validation = [row["id"] for row in read.validating()]

    def ids(part: str) -> list[str]:
        got = client.get(f"/api/v1/jobs/{made.id}/rows?part={part}")
        assert got.status_code == 200
        return [json.loads(line)["id"] for line in got.text.splitlines()]

    assert sorted(ids("train")) == expected
    assert len(expected) == read.effective[0] + read.effective[1]
    assert ids("validation") == validation
    assert len(validation) == 4
