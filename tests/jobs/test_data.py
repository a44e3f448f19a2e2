"""The data of jobs: mixes, rows held back, leaks, and what is shown before anything runs."""

from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import storage
from app.accounts.auth import Principal
from app.accounts.tables import Workspace
from app.datasets.rows import segments
from app.datasets.tables import DatasetMeasure, DatasetPin, DatasetVersion
from app.errors import Conflict, Invalid, NotFound
from app.jobs import data, estimates, leaks, runs, service
from app.jobs.schemas import JobCreate, JobForm
from app.jobs.spec import Hyperparameters, RunSpec
from app.jobs.states import switch
from app.jobs.tables import Job
from app.models.tables import Model
from tests.conftest import Client
from tests.factories import make_dataset, make_job, make_model, make_node, make_workspace
from tests.jobs.people import owner, principal
from tests.jobs.test_routes import RESULT, one, soup


@pytest.fixture
def workspace(db: Session) -> Workspace:
    return make_workspace(db)


@pytest.fixture
def who(db: Session, workspace: Workspace) -> Principal:
    return principal(db, workspace)


def chat(asked: str, answer: str = "yes") -> dict[str, Any]:
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return {"messages": turns}


def stored(
    db: Session, workspace: Workspace | None, tmp_path: Any, rows: list[dict[str, Any]], **more: Any
) -> DatasetVersion:
    """A published dataset with rows that can be read."""
    directory = tmp_path / f"rows-{len(list(tmp_path.iterdir()))}"
    directory.mkdir()
    written = segments.write(({"id": f"r.{i}"} | row for i, row in enumerate(rows)), directory)
    storage.put(directory, written.artefact)
    parts = [{"artefact": written.artefact, "rows": len(rows)}]
    return make_dataset(db, workspace, rows=len(rows), segments=parts, **more)


def body(db: Session, **more: Any) -> JobCreate:
    return JobCreate.model_validate({"model": make_model(db).id} | more)


# -- choosing ----------------------------------------------------------------------------


def test_a_mix_is_pinned_run_and_remembered(
    db: Session, workspace: Workspace, who: Principal
) -> None:
    node = make_node(db)
    main, zh = make_dataset(db, workspace, name="mine"), make_dataset(db, None, name="chat-zh")
    other = make_dataset(db, workspace)
    mix = [
        {"dataset": main.dataset_id, "multiplier": 2},
        {"dataset": zh.id, "share": 25},
        {"dataset": other.dataset_id, "version": 1, "multiplier": 0.5},
    ]
    asked = body(db, datasets=mix, validation={"split": 0.2, "most": 5}, drop_leaks=True)
    job = service.create(db, who, asked)
    assert (job.dataset_version_id, job.validation_version_id) == (main.id, None)
    assert set(db.scalars(select(DatasetPin.version_id))) == {main.id, zh.id, other.id}
    assert job.mix == {
        "datasets": [
            {"version": main.id, "multiplier": 2},
            {"version": zh.id, "share": 25},
            {"version": other.id, "multiplier": 0.5},
        ],
        "split": {"split": 0.2, "seed": 42, "most": 5},
        "drop_leaks": True,
    }
    for version in (main, zh, other):
        assert service.list_jobs(db, workspace.id, version_id=version.id)[0] == [job]
    # the same again, from its own settings
    again = service.create(db, who, JobCreate.model_validate(service.settings_of(job)))
    assert again.mix == job.mix
    # what the node is told
    assert runs.grant(db, job.id, node.id)
    facts = runs.start_facts(db, job.id, job.fence)
    assert facts is not None
    assert facts.train == []
    assert [part["name"] for part in facts.mix] == [
        "mine v1",
        "chat-zh v1",
        other.dataset.name + " v1",
    ]
    assert facts.mix[1] == {
        "dataset": zh.id, "name": "chat-zh v1", "rows": ["segments/" + "0" * 64], "share": 25,
    }  # fmt: skip
    spec = RunSpec(
        job_id=job.id, fence=1, stage="sft", method="lora", base="/b", mix=facts.mix,
        split=facts.split, drop_leaks=facts.drop_leaks,
    )  # fmt: skip
    assert spec.split is not None
    assert spec.split.most == 5
    # and what the model remembers
    runs.mark_started(db, job.id, job.fence, 4711, 1.5)
    assert runs.end(db, job.id, job.fence, outcome="succeeded", result=RESULT)
    made = db.get_one(Model, job.result_model_id)
    assert made.lineage["dataset"]["version_id"] == main.id
    assert [part["version_id"] for part in made.lineage["datasets"]] == [main.id, zh.id, other.id]
    assert made.lineage["datasets"][1]["share"] == 25
    assert made.lineage["split"]["split"] == 0.2
    assert set(db.scalars(select(DatasetPin.owner_id))) == {again.id}


def test_one_dataset_is_as_before(db: Session, workspace: Workspace, who: Principal) -> None:
    made = make_dataset(db, workspace)
    job = service.create(db, who, body(db, dataset=made.id))
    assert job.mix == {}
    settings = service.settings_of(job)
    assert (settings["dataset"], settings["validation"]) == (made.id, None)
    assert not {"datasets", "drop_leaks"} & set(settings)
    alone = service.create(db, who, body(db, datasets=[{"dataset": made.id}], validation="auto"))
    assert alone.mix == {"split": {"split": 0.1, "seed": 42, "most": 1000}}
    switch(db, alone, "cancelled")


@pytest.mark.parametrize(
    ("asked", "error", "field"),
    [
        ({}, Invalid, "dataset"),
        ({"dataset": "MAIN", "datasets": [{"dataset": "MAIN"}]}, Invalid, "dataset"),
        ({"datasets": [{"dataset": "MAIN", "share": 50}]}, Invalid, "datasets.0.share"),
        ({"datasets": [{"dataset": "MAIN"}, {"dataset": "MAIN"}]}, Invalid, "datasets.1.dataset"),
        ({"datasets": [{"dataset": "MAIN"}, {"dataset": "ds_x"}]}, NotFound, "datasets.1.dataset"),
        (
            {"datasets": [{"dataset": "MAIN"}, {"dataset": "OTHER", "multiplier": 1, "share": 5}]},
            Invalid,
            "datasets.1.share",
        ),
        ({"datasets": [{"dataset": "MAIN"}, {"dataset": "OTHER", "share": 95}]}, Invalid,
         "datasets.1.share"),
        ({"datasets": [{"dataset": "MAIN"}, {"dataset": "PAIRS"}]}, Invalid, "datasets.1.dataset"),
        ({"datasets": [{"dataset": "MAIN"}, {"dataset": "DRAFT"}]}, Conflict, "datasets.1.dataset"),
        ({"dataset": "PAIRS"}, Invalid, "dataset"),
        ({"dataset": "MAIN", "validation": "PAIRS"}, Invalid, "validation"),
        ({"dataset": "TINY", "validation": "auto"}, Invalid, "validation"),
    ],
)  # fmt: skip
def test_what_cannot_be_mixed_is_named(
    db: Session, workspace: Workspace, who: Principal, asked: Any, error: Any, field: str
) -> None:
    named = {
        "MAIN": make_dataset(db, workspace).dataset_id,
        "OTHER": make_dataset(db, workspace).dataset_id,
        "PAIRS": make_dataset(db, workspace, kind="preference").dataset_id,
        "DRAFT": make_dataset(db, workspace, status="draft").dataset_id,
        "TINY": make_dataset(db, workspace, rows=1).dataset_id,
    }

    def filled(value: Any) -> Any:
        if isinstance(value, list):
            return [filled(one) for one in value]
        if isinstance(value, dict):
            return {name: filled(one) for name, one in value.items()}
        return named.get(value, value)

    with pytest.raises(error) as refusal:
        service.create(db, who, body(db, **filled(asked)))
    assert refusal.value.field == field
    assert db.scalar(select(Job.id)) is None


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"datasets": []}, "datasets"),
        ({"datasets": [{"dataset": "d", "multiplier": 11}]}, "datasets.0.multiplier"),
        ({"datasets": [{"dataset": "d", "multiplier": 0.001}]}, "datasets.0.multiplier"),
        ({"datasets": [{"dataset": "d", "share": 100}]}, "datasets.0.share"),
        ({"datasets": [{"dataset": "d", "colour": 1}]}, "datasets.0.colour"),
        ({"validation": {"split": 1.5}}, "validation.Split.split"),
    ],
)
def test_numbers_out_of_range_are_named(
    db: Session, api: Client, change: dict[str, Any], field: str
) -> None:
    answer = api.post("/api/v1/jobs", json={"model": "m"} | change)
    assert answer.status_code == 422
    assert field in [error["field"] for error in answer.json()["errors"]]


# -- before anything runs ----------------------------------------------------------------


def test_the_preview_counts_rows_and_tokens(
    db: Session, workspace: Workspace, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(db)
    main = stored(db, workspace, tmp_path, [chat(f"{i:036}", "yes.") for i in range(200)])
    more = stored(db, workspace, tmp_path, [chat(f"other {i}") for i in range(100)])
    monkeypatch.setattr("app.datasets.measures.service.digest", lambda _: "words")
    key = estimates.measures.key(more, model)
    result = {"kind": "sft", "tokens": 900, "rows": 100, "trained": 300, "untrained": {"count": 0}}
    pack = estimates.statistics.histograms.pack
    result |= {name: pack({9: 100}) for name in ("lengths", "texts", "first", "trained_at")}
    db.add(
        DatasetMeasure(version_id=more.id, key=key, model_id=model.id, state="done", result=result)
    )
    db.flush()
    asked = body(
        db,
        datasets=[{"dataset": main.id, "multiplier": 1.5}, {"dataset": more.id, "multiplier": 0.5}],
        validation="auto",
    )
    chosen = service.choose_data(db, workspace.id, asked)
    found = estimates.preview(db, workspace.id, model.id, chosen, Hyperparameters())
    assert [(part.rows, part.effective) for part in found.parts] == [(180, 270), (100, 50)]
    assert [(part.tokens, part.measured) for part in found.parts] == [
        # a role, 36 digits, another role and the answer: 4 + 36 + 9 + 4 bytes a row
        (270 * (53 // 4), False),
        (450, True),
    ]
    assert (found.rows, found.validation_rows, found.measured) == (320, 20, False)
    assert found.estimate.steps == 3 * 20


def test_the_look_finds_what_the_run_would(
    db: Session, workspace: Workspace, tmp_path: Any
) -> None:
    main = stored(db, workspace, tmp_path, [chat(f"question {i}") for i in range(300)])
    own = [chat("question 7"), chat("question 8", "no"), chat("something else")]
    held = stored(db, workspace, tmp_path, own)
    chosen = data.Data([data.Item(main)], validation=held)
    found = leaks.look(chosen, 42, seconds=30)
    assert (found.complete, found.validation_rows, found.leaks, found.whole) == (True, 3, 2, 1)
    assert [(one.number, one.kind, one.text) for one in found.examples] == [
        (0, "row", "question 7"),
        (1, "prompt", "question 8"),
    ]
    assert leaks.look(chosen, 42, seconds=0) is found  # kept
    split = data.Data([data.Item(main)], split=data.Split(split=0.1))
    found = leaks.look(split, 42, seconds=30)
    assert (found.complete, found.validation_rows, found.leaks) == (True, 30, 0)
    copy = stored(db, workspace, tmp_path, [chat(f"question {i}") for i in range(300)])
    mixed = data.Data([data.Item(main), data.Item(copy, 0.5)], split=data.Split(split=0.1))
    found = leaks.look(mixed, 42, seconds=30)
    assert 5 < found.leaks < 25
    assert found.whole == found.leaks


def test_a_look_goes_on_where_it_was(db: Session, workspace: Workspace, tmp_path: Any) -> None:
    main = stored(db, workspace, tmp_path, [chat(f"question {i}") for i in range(2000)])
    look = leaks.Look(data.Data([data.Item(main)], split=data.Split()), 42)
    seen = []
    while not look.stretch(1e-9).complete:
        seen.append(look.found.read)
    assert len(seen) > 5
    assert seen == sorted(seen)
    assert look.found.read == look.found.total == 4000
    gone = make_dataset(db, workspace)
    found = leaks.look(data.Data([data.Item(gone)], split=data.Split()), 42)
    assert found.complete
    assert isinstance(found.error, NotFound)


def test_the_preview_from_code(db: Session, api: Client, tmp_path: Any) -> None:
    main = stored(db, api.workspace, tmp_path, [chat(f"question {i}") for i in range(100)])
    held = stored(db, api.workspace, tmp_path, [chat("question 1"), chat("new")])
    asked = {"model": make_model(db).id, "datasets": [{"dataset": main.id, "multiplier": 3}]}
    db.commit()
    answer = api.post("/api/v1/jobs/preview", json=asked | {"validation": held.dataset_id})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["datasets"][0]["effective_rows"] == told["rows"] == 300
    assert (told["validation_rows"], told["tokens_measured"]) == (2, False)
    assert (told["leaks"]["leaks"], told["leaks"]["complete"]) == (1, True)
    assert told["leaks"]["examples"] == [{"number": 0, "kind": "row", "text": "question 1"}]
    assert db.scalar(select(Job.id)) is None
    job = api.post("/api/v1/jobs", json=asked | {"validation": "auto"})
    assert job.status_code == 201, job.text
    assert job.json()["datasets"] == [{"dataset": main.id, "multiplier": 3}]
    assert job.json()["validation"] == {"split": 0.1, "seed": 42, "most": 1000}


# -- pages -------------------------------------------------------------------------------


def test_the_form_mixes(db: Session, client: Client, tmp_path: Any) -> None:
    main = stored(db, client.workspace, tmp_path, [chat(f"question {i}") for i in range(100)])
    more = stored(db, None, tmp_path, [chat(f"talk {i}") for i in range(100)])
    pairs = make_dataset(db, client.workspace, kind="preference")
    model = make_model(db)
    db.commit()
    page = soup(client.get(f"/jobs/new?model={model.id}&dataset={main.id}"))
    assert one(page, "[data-testid=job-validation] option[selected]")["value"] == "auto"
    assert not page.select("[data-testid=job-mix-line]")
    offered = [option["value"] for option in page.select("[data-testid=job-dataset] option")]
    assert more.id in offered
    assert pairs.id not in offered
    line = client.get(f"/jobs/new/dataset?model={model.id}&more-1={more.id}&more-3=")
    assert "<html" not in line.text
    assert one(soup(line), "select[data-testid=job-more-4]")["name"] == "more-4"
    plain = soup(client.get(f"/jobs/new?dataset={main.id}&more-3={more.id}&add=1"))
    lines = plain.select("[data-testid=job-mix-line]")
    assert len(lines) == 2  # without script, a page with a line more
    assert one(lines[0], "[name=more-1] option[selected]")["value"] == more.id
    form = {"model": model.id, "dataset": main.id, "method": "lora", "multiplier": "2"}
    form |= {"more-2": more.id, "amount-2": "25", "by-2": "share", "more-5": "", "amount-5": "1"}
    form |= {"validation": "auto", "split": "20", "drop_leaks": "true"}
    panel = soup(client.get("/jobs/estimate", params=form))
    assert one(panel, "[data-testid=estimate-rows]").text == "213"  # 160 of 3/4, and 53
    assert one(panel, "[data-testid=estimate-validation]").text == "20"
    assert one(panel, "[data-testid=estimate-tokens]").text.startswith("≈")
    assert [each.text for each in panel.select("[data-testid=job-mix-rows] .tabular span")] == [
        "80 × 2", "= 160", "100 → 25 %", "= 53",
    ]  # fmt: skip
    assert one(panel, "#job-leaks")["hx-get"] == "/jobs/leaks"
    answer = client.post("/jobs", data=form)
    assert answer.status_code == 303, answer.text
    job = db.scalars(select(Job)).one()
    assert job.mix["datasets"] == [
        {"version": main.id, "multiplier": 2},
        {"version": more.id, "share": 25},
    ]
    assert job.mix["split"] == {"split": 0.2, "seed": 42, "most": 1000}
    page = soup(client.get(f"/jobs/{job.id}?tab=settings", headers={"accept-language": "en"}))
    said = [each.text for each in page.select("[data-testid=job-data] td")]
    assert said[0].endswith("100 rows × 2")
    assert said[1].endswith("25 % of the epoch")
    assert "20 % of the dataset's rows" in one(page, "[data-testid=job-held]").text
    again = soup(client.get(f"/jobs/new?again={job.id}"))
    assert one(again, "[name=multiplier]")["value"] == "2.0"
    assert one(again, "[name=amount-1]")["value"] == "25.0"
    assert one(again, "[name=by-1] option[selected]")["value"] == "share"
    assert one(again, "[name=split]")["value"] == "20.0"
    assert one(again, "[name=drop_leaks]").has_attr("checked")


def test_the_form_says_which_line_is_wrong(db: Session, client: Client) -> None:
    main, more = make_dataset(db, client.workspace), make_dataset(db, client.workspace)
    form = {"model": make_model(db).id, "dataset": main.id, "method": "lora"}
    db.commit()
    wrong = form | {"multiplier": "0", "more-2": more.id, "amount-2": "x", "by-2": "multiplier"}
    page = soup(client.post("/jobs", data=wrong))
    assert one(page, "#e-datasets\\.0\\.multiplier").text
    (line,) = page.select("[data-testid=job-mix-line]")
    assert one(line, ".invalid-feedback").text
    assert one(line, "[name=amount-1]")["value"] == "x"
    twice = soup(client.post("/jobs", data=form | {"more-1": main.id, "amount-1": "1"}))
    assert one(twice, "[data-testid=job-mix-line] .invalid-feedback").text
    panel = client.get("/jobs/estimate", params=form | {"more-1": main.id})
    assert one(soup(panel), "[data-testid=job-problem]").text
    assert db.scalar(select(Job.id)) is None


def test_the_panel_looks_for_leaks(db: Session, client: Client, tmp_path: Any) -> None:
    main = stored(db, client.workspace, tmp_path, [chat(f"<b>q {i}</b>") for i in range(50)])
    held = stored(db, client.workspace, tmp_path, [chat("<b>q 3</b>"), chat("new")])
    db.commit()
    form = {"model": "m", "dataset": main.id, "validation": held.id}
    answer = client.get("/jobs/leaks", params=form)
    assert "1 of 2 validation rows" in answer.text
    assert "&lt;b&gt;q 3&lt;/b&gt;" in answer.text
    found = one(soup(answer), "[data-testid=job-leaks]")
    assert found["data-complete"] == "true"
    assert not found.has_attr("hx-get")
    dropping = client.get("/jobs/leaks", params=form | {"drop_leaks": "true"})
    assert "They will be left out." in dropping.text
    clean = client.get("/jobs/leaks", params=form | {"validation": "auto"})
    assert "None of the 5 validation rows" in clean.text
    assert client.get("/jobs/leaks?model=m").status_code == 200
    foreign = make_dataset(db, make_workspace(db))
    db.commit()
    hidden = client.get("/jobs/leaks", params=form | {"validation": foreign.id})
    assert "validation rows" not in hidden.text


def test_fields_of_the_form_that_are_not_there(db: Session, workspace: Workspace) -> None:
    form = JobForm.model_validate({"model": "m", "dataset": "d", "more-1": "e", "by-1": "x"})
    asked = form.job()
    assert [(item.dataset, item.multiplier) for item in asked.datasets or []] == [
        ("d", 1),
        ("e", 1),
    ]
    assert asked.dataset is None
    job = make_job(db, workspace, owner(db, workspace), mix={"drop_leaks": True})
    assert data.items_of(job) == [{"dataset": job.dataset_version_id, "multiplier": 1.0}]
