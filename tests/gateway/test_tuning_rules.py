"""What holds of tuning jobs at the gateway, without a run."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.orm import Session

from app.accounts.auth import principal_of
from app.accounts.tables import User, Workspace
from app.datasets.tables import Dataset, DatasetVersion
from app.db import now
from app.gateway.files.tables import File
from app.gateway.tuning import auto, names, preparing, results
from app.gateway.tuning.tables import TuningJob
from app.jobs import history
from app.jobs.states import switch
from app.jobs.tables import Job, JobCheckpoint
from tests import factories as make
from tests.conftest import Client
from tests.gateway.rows import chats, jsonl, pairs

JOBS = "/v1/fine_tuning/jobs"


@pytest.fixture
def model(db: Session) -> str:
    """A base model that no node needs to have."""
    made = make.make_model(db, name="base")
    make.make_node(db)
    db.commit()
    return str(made.name)


def upload(api: Client, content: bytes, name: str = "reviews.jsonl") -> str:
    form = {"files": {"file": (name, content)}, "data": {"purpose": "fine-tune"}}
    return str(api.post("/v1/files", **form).json()["id"])


def begin(api: Client, model: str, content: bytes | None = None, **more: Any) -> dict[str, Any]:
    body = {"model": model, "training_file": upload(api, content or chats(12))} | more
    made = api.post(JOBS, json=body)
    assert made.status_code == 200, made.text
    return dict(made.json())


def get(api: Client, job_id: str) -> dict[str, Any]:
    return dict(api.get(f"{JOBS}/{job_id}").json())


def made_of(db: Session, job_id: str) -> Job:
    db.expire_all()
    return db.get_one(Job, db.get_one(TuningJob, job_id).job_id)


# -- “auto” ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "epochs"), [(1, 25), (10, 10), (33, 3), (34, 3), (5000, 3), (10_000, 2), (30_000, 1)]
)
def test_epochs_are_those_of_openai(rows: int, epochs: int) -> None:
    assert auto.epochs(rows) == epochs


def test_auto_becomes_numbers_and_what_is_said_stays() -> None:
    asked = {"n_epochs": "auto", "batch_size": 4, "learning_rate_multiplier": 2.0, "beta": "auto"}
    found = auto.resolve(asked, "dpo", 200)
    assert found == {
        "n_epochs": 3,
        "batch_size": 4,
        "learning_rate_multiplier": 2.0,
        "beta": 0.1,
    }
    ours = auto.ours(found, "dpo", "lora")
    assert (ours["epochs"], ours["learning_rate"], ours["beta"]) == (3.0, 2e-5, 0.1)
    assert auto.with_checkpoints(ours, 200)["save_steps"] == 50
    assert auto.with_checkpoints({"save_steps": 7}, 200)["save_steps"] == 7


# -- from files to a job -----------------------------------------------------------------


def test_a_file_becomes_a_published_dataset_and_a_job_of_ours(
    db: Session, api: Client, model: str
) -> None:
    job = begin(api, model, suffix="my reviews", seed=5)
    assert job["status"] == "validating_files"
    preparing.prepare(job["id"])
    preparing.prepare(job["id"])  # doubled: nothing to do
    ours = made_of(db, job["id"])
    version = db.get_one(DatasetVersion, ours.dataset_version_id)
    assert (version.status, version.rows, ours.stage, ours.method) == (
        "published",
        12,
        "sft",
        "lora",
    )
    assert (ours.name, ours.spec["seed"], ours.spec["epochs"]) == ("my reviews", 5, 8.0)
    assert (ours.spec["save_steps"], ours.spec["keep_checkpoints"]) == (12, 2)
    shown = get(api, job["id"])
    assert (shown["status"], shown["hyperparameters"]["n_epochs"]) == ("queued", 8)
    again = api.post(JOBS, json={"model": model, "training_file": job["training_file"]}).json()
    preparing.prepare(again["id"])
    assert made_of(db, again["id"]).dataset_version_id == version.id  # the same dataset serves


def test_a_dataset_that_was_deleted_is_made_again(db: Session, api: Client, model: str) -> None:
    first = begin(api, model)
    preparing.prepare(first["id"])
    old = made_of(db, first["id"]).dataset_version_id
    dataset = db.get_one(DatasetVersion, old).dataset_id
    db.get_one(Dataset, dataset).deleted_at = now()
    db.commit()
    again = api.post(JOBS, json={"model": model, "training_file": first["training_file"]}).json()
    preparing.prepare(again["id"])
    assert made_of(db, again["id"]).dataset_version_id != old


def test_a_large_file_is_waited_for(
    db: Session, api: Client, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.datasets import work

    monkeypatch.setattr(work, "INLINE_BYTES", 10)
    job = begin(api, model)
    preparing.prepare(job["id"])
    row = db.get_one(TuningJob, job["id"])
    assert (row.state, row.claimed_at, row.attempts) == ("validating", None, 0)
    version = db.get_one(File, job["training_file"]).version_id
    assert version
    for _ in range(10):  # as the datasets' own tasks do it
        work.validate_version(version)
    preparing.prepare(job["id"])  # publishes
    work.publish_version(version)
    preparing.prepare(job["id"])
    assert get(api, job["id"])["status"] == "queued"


def test_lines_that_are_wrong_are_told_and_no_dataset_is_left(
    db: Session, api: Client, model: str
) -> None:
    job = begin(api, model, chats(10) + jsonl([{"messages": []}, {"messages": [{}]}]))
    preparing.prepare(job["id"])
    error = get(api, job["id"])["error"]
    assert (error["code"], error["param"]) == ("invalid_file_format", "training_file")
    assert error["message"].startswith("The job failed due to an invalid training file.")
    assert "Line 11: messages: " in error["message"]
    assert "line 12: messages[0].role: " in error["message"]
    assert db.query(Dataset).count() == 0
    file = api.get(f"/v1/files/{job['training_file']}").json()
    assert (file["status"], file["status_details"][:20]) == ("error", "Invalid file format.")
    told = api.get(f"{JOBS}/{job['id']}", headers={"accept-language": "zh-CN"}).json()["error"]
    assert told["code"] == "invalid_file_format"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (chats(9), "invalid_n_examples"),
        (pairs(12), "wrong_kind"),
        (jsonl([{"colour": "red"}] * 12), "invalid_file_format"),
        (jsonl([{"messages": 5}] * 12), "file.no_rows"),
    ],
)
def test_other_files_that_will_not_do(api: Client, model: str, content: bytes, code: str) -> None:
    job = begin(api, model, content)
    preparing.prepare(job["id"])
    shown = get(api, job["id"])
    assert (shown["status"], shown["error"]["code"]) == ("failed", code)
    assert shown["error"]["param"] == "training_file"
    assert shown["finished_at"] >= shown["created_at"]
    events = api.get(f"{JOBS}/{job['id']}/events").json()["data"]
    assert [one["level"] for one in events] == ["error", "info", "info"]


def test_a_file_that_went_and_a_person_who_left(db: Session, api: Client, model: str) -> None:
    gone, left = begin(api, model), begin(api, model)
    api.delete(f"/v1/files/{gone['training_file']}")
    preparing.prepare(gone["id"])
    error = get(api, gone["id"])["error"]
    assert (error["code"], error["param"]) == ("not_found", "training_file")
    db.get_one(User, api.user.id).disabled_at = now()
    db.commit()
    preparing.prepare(left["id"])
    db.expire_all()
    row = db.get_one(TuningJob, left["id"])
    assert (row.state, row.error["code"]) == ("failed", "forbidden")


def test_work_that_stops_again_and_again_is_given_up(
    db: Session, api: Client, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = begin(api, model)

    def crash(*_: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr(preparing, "ready", crash)
    for _ in range(preparing.ATTEMPTS):
        with pytest.raises(RuntimeError):
            preparing.prepare(job["id"])
        preparing.prepare(job["id"])  # claimed: nobody else is at it
        db.get_one(TuningJob, job["id"], populate_existing=True).claimed_at -= timedelta(hours=1)
        db.commit()
    preparing.resend(db)
    assert db.info["outbox"] == [("workers.prepare_tuning", (job["id"],), "control")]
    preparing.prepare(job["id"])
    assert get(api, job["id"])["error"]["code"] == "stopped"


# -- states ------------------------------------------------------------------------------


def test_states_are_those_that_openai_knows(db: Session, api: Client, model: str) -> None:
    job = begin(api, model)
    early = api.post(f"{JOBS}/{job['id']}/pause")
    assert (early.status_code, early.json()["error"]["code"]) == (400, "job_not_started")
    preparing.prepare(job["id"])
    assert api.post(f"{JOBS}/{job['id']}/pause").json()["status"] == "running"
    assert made_of(db, job["id"]).state == "paused"
    assert api.post(f"{JOBS}/{job['id']}/resume").json()["status"] == "queued"
    ours = made_of(db, job["id"])
    for state in ("scheduled", "running"):
        switch(db, ours, state)
        db.commit()
        assert get(api, job["id"])["status"] == "running"
    assert api.post(f"{JOBS}/{job['id']}/pause").json()["status"] == "running"
    cancelled = api.post(f"{JOBS}/{job['id']}/cancel").json()
    assert (cancelled["status"], made_of(db, job["id"]).state) == ("cancelled", "cancelling")


def test_cancelled_before_its_files_were_looked_at(api: Client, model: str) -> None:
    job = begin(api, model)
    assert api.post(f"{JOBS}/{job['id']}/cancel").json()["status"] == "cancelled"
    assert api.post(f"{JOBS}/{job['id']}/cancel").json()["status"] == "cancelled"
    preparing.prepare(job["id"])
    assert get(api, job["id"])["status"] == "cancelled"
    assert api.post(f"{JOBS}/{job['id']}/resume").status_code == 400
    told = api.get(f"{JOBS}/{job['id']}/events").json()["data"]
    assert told[0]["message"] == "Fine-tuning job cancelled"


def test_pages_and_metadata(api: Client, model: str) -> None:
    made = [begin(api, model, metadata={"n": str(n)})["id"] for n in range(3)]
    plain = begin(api, model)["id"]
    page = api.get(JOBS, params={"limit": 2}).json()
    assert ([one["id"] for one in page["data"]], page["has_more"]) == ([plain, made[2]], True)
    page = api.get(JOBS, params={"after": made[2]}).json()
    assert ([one["id"] for one in page["data"]], page["has_more"]) == ([made[1], made[0]], False)
    found = api.get(JOBS, params={"metadata[n]": "1"}).json()["data"]
    assert [(one["id"], one["metadata"]) for one in found] == [(made[1], {"n": "1"})]
    found = api.get(JOBS, params={"metadata": "null"}).json()["data"]
    assert [(one["id"], one["metadata"]) for one in found] == [(plain, None)]


# -- what it leaves ----------------------------------------------------------------------


@pytest.fixture
def succeeded(db: Session, api: Client, model: str) -> dict[str, Any]:
    """A job with three steps, a checkpoint and a model."""
    job = begin(api, model, suffix="tone: v2/x")
    preparing.prepare(job["id"])
    ours = made_of(db, job["id"])
    ours.total = 3
    history.store_metrics(
        db,
        ours.id,
        1,
        [
            {"step": 1, "loss": 2.0, "accuracy": 0.25, "t": now().timestamp()},
            {"step": 2, "loss": 1.5, "accuracy": 0.5, "t": now().timestamp() + 1},
            {"step": 2, "eval_loss": 1.75, "eval_accuracy": 0.375},
            {"step": 3, "loss": 1.0, "t": now().timestamp() + 2},
        ],
    )
    base = ours.model_id
    made = make.make_model(
        db, api.workspace, name="tone", kind="adapter", base_id=base, job_id=ours.id
    )
    node = make.make_node(db)
    make.added(
        db, JobCheckpoint(job_id=ours.id, step=2, fence=1, node_id=node.id, loss=1.5, size=1)
    )
    ours.result_model_id = made.id
    for state in ("scheduled", "running", "succeeded"):
        switch(db, ours, state)
    db.commit()
    return job


def test_the_curve_is_a_file(db: Session, api: Client, succeeded: dict[str, Any]) -> None:
    results.settle_all(db)
    db.commit()
    files = get(api, succeeded["id"])["result_files"]
    assert len(files) == 1
    assert get(api, succeeded["id"])["result_files"] == files
    assert api.get(f"/v1/files/{files[0]}/content").text.splitlines() == [
        "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy",
        "1,2.0,0.25,,",
        "2,1.5,0.5,1.75,0.375",
        "3,1.0,,,",
    ]


def test_names_of_models_and_checkpoints_find_them(
    db: Session, api: Client, succeeded: dict[str, Any]
) -> None:
    ours = made_of(db, succeeded["id"])
    slug = db.get_one(Workspace, api.workspace.id).slug
    name = get(api, succeeded["id"])["fine_tuned_model"]
    assert name == f"ft:base:{slug}:tone--v2-x:{ours.result_model_id[4:]}"
    kept = api.get(f"{JOBS}/{succeeded['id']}/checkpoints").json()
    assert kept["has_more"] is False
    last, before = kept["data"]
    assert (last["step_number"], last["metrics"]["train_loss"]) == (3, 1.0)
    assert last["fine_tuned_model_checkpoint"] == name
    assert (before["metrics"]["step"], before["metrics"]["train_loss"]) == (2, 1.5)
    checkpoint = before["fine_tuned_model_checkpoint"]
    assert checkpoint == f"ft:base:{slug}:tone--v2-x:{ours.id[4:]}:ckpt-step-2"
    row = db.get_one(TuningJob, succeeded["id"])
    who = principal_of(db, row.workspace_id, row.user_id)
    assert names.model(db, who, name).id == ours.result_model_id
    tuned = {"model": checkpoint, "training_file": succeeded["training_file"]}
    answer = api.post(JOBS, json=tuned)  # nobody has used it yet: it is made a model first
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "checkpoint_not_ready")
    assert answer.headers["retry-after"] == "5"
    row = db.get_one(JobCheckpoint, (ours.id, 2), populate_existing=True)
    assert row.state == "publishing"
    row.model_id = make.make_model(db, api.workspace, kind="adapter", base_id=ours.model_id).id
    db.commit()
    assert names.model(db, who, checkpoint).id == row.model_id


def test_models_are_listed_and_deleted_by_those_names(
    api: Client, succeeded: dict[str, Any]
) -> None:
    name = get(api, succeeded["id"])["fine_tuned_model"]
    assert [one["id"] for one in api.get("/v1/models").json()["data"]] == [name]
    assert api.get(f"/v1/models/{name}").json()["id"] == name
    assert api.delete("/v1/models/base").status_code == 404
    assert api.delete(f"/v1/models/{name}").json() == {
        "id": name,
        "object": "model",
        "deleted": True,
    }
    assert api.delete(f"/v1/models/{name}").status_code == 404
    assert api.get("/v1/models").json()["data"] == []
    assert get(api, succeeded["id"])["fine_tuned_model"] is None


def test_events_come_newest_first_and_each_once(api: Client, succeeded: dict[str, Any]) -> None:
    found, after = [], ""
    while True:
        url = f"{JOBS}/{succeeded['id']}/events"
        page = api.get(url, params={"limit": 2} | ({"after": after} if after else {})).json()
        found += page["data"]
        if not page["has_more"]:
            break
        after = page["data"][-1]["id"]
    assert len({one["id"] for one in found}) == len(found)
    times = [one["created_at"] for one in found]
    assert times == sorted(times, reverse=True)
    steps = [one["data"]["step"] for one in found if one["type"] == "metrics"]
    assert steps == [3, 2, 1]
    messages = [one["message"] for one in found]
    assert "Step 2/3: training loss=1.5000, validation loss=1.7500" in messages
    assert messages.index("The job has successfully completed") < messages.index(
        "Fine-tuning job started"
    )
    assert api.get(url, params={"after": "ftevent-m-999"}).status_code == 404


def test_a_console_job_has_a_name_too(db: Session, api: Client, model: str) -> None:
    base = make.make_model(db)
    job = make.make_job(db, api.workspace, api.user, model_id=base.id)
    made = make.make_model(
        db, api.workspace, name="评论 lora", kind="adapter", base_id=base.id, job_id=job.id
    )
    db.commit()
    slug = api.workspace.slug
    assert names.of(db, api.workspace.id, made.id) == (
        f"ft:{base.name}:{slug}:评论-lora:{made.id[4:]}"
    )
