"""What can be tuned how: the table, its page, the form and the refusals."""

from typing import Any

import pytest
from bs4 import BeautifulSoup
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.accounts.tables import Workspace
from app.cluster import service as cluster
from app.config import ROOT
from app.deployments import plans
from app.errors import Invalid
from app.jobs import methods, service
from app.jobs.data import parts_of
from app.jobs.schemas import JobCreate
from app.jobs.spec import Hyperparameters
from app.jobs.tables import Job
from tests.conftest import Client
from tests.factories import make_dataset, make_model, make_node, make_workspace
from tests.jobs.people import principal


@pytest.fixture
def workspace(db: Session) -> Workspace:
    return make_workspace(db)


@pytest.fixture
def who(db: Session, workspace: Workspace) -> Principal:
    return principal(db, workspace)


def soup(response: Any) -> BeautifulSoup:
    return BeautifulSoup(response.text, "lxml")


# -- the table ---------------------------------------------------------------------------


def test_the_page_has_the_table_as_it_is() -> None:
    assert methods.table() in (ROOT / "docs/methods.md").read_text()


def test_every_stage_and_method_has_words() -> None:
    for words in (methods.STAGES, methods.ABOUT_STAGE, methods.KINDS, methods.RATES):
        assert words.keys() == methods.RUNS.keys()
    assert methods.METHODS.keys() == methods.ABOUT_METHOD.keys()
    fields = Hyperparameters.model_fields.keys()
    assert methods.FOR_METHOD.keys() | methods.FOR_STAGE.keys() <= fields


def test_only_what_can_run_is_offered() -> None:
    everything = methods.offered({"cpu"})
    assert everything["sft"] == ["lora", "qlora", "freeze", "full"]
    assert everything["reward"] == ["lora", "freeze", "full"]
    assert methods.offered(set()) == {}


@pytest.mark.parametrize(
    ("stage", "method", "expected"),
    [
        ("sft", "lora", {"learning_rate": 2e-4, "epochs": 3}),
        ("sft", "freeze", {"learning_rate": 1e-5, "epochs": 3}),
        ("dpo", "qlora", {"learning_rate": 1e-5, "epochs": 1, "beta": 0.1}),
        ("dpo", "full", {"learning_rate": 1e-6}),
        ("orpo", "lora", {"learning_rate": 5e-5}),
        ("reward", "lora", {"learning_rate": 1e-4}),
    ],
)
def test_defaults_suit_stage_and_method(stage: str, method: str, expected: dict[str, Any]) -> None:
    found = methods.complete(method, {}, stage=stage).model_dump()
    assert {name: found[name] for name in expected} == expected
    assert methods.complete(method, {"epochs": 7}, stage=stage).epochs == 7


def test_simpo_has_a_beta_of_its_own() -> None:
    assert methods.complete("lora", {"dpo_loss": "simpo"}, stage="dpo").beta == 2
    assert methods.complete("lora", {"dpo_loss": "simpo", "beta": 1}, stage="dpo").beta == 1


def test_the_schema_says_what_belongs_where(db: Session, api: Client) -> None:
    model = make_model(db, context_length=512)
    db.commit()

    def schema(query: str) -> dict[str, Any]:
        answer = api.get(f"/api/v1/jobs/schema{query}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()["properties"]
        return found

    plain = schema("")
    assert plain["learning_rate"]["default"] == 2e-4
    assert {"lora_rank", "chain"} <= plain.keys()
    assert not {"freeze_layers", "quantization_bits", "beta"} & plain.keys()
    full = schema(f"?stage=dpo&method=full&model={model.id}")
    assert (full["learning_rate"]["default"], full["max_length"]["default"]) == (1e-6, 512)
    assert "beta" in full
    assert "lora_rank" not in full
    assert schema("?method=freeze")["freeze_layers"]["minimum"] == 1
    assert api.get("/api/v1/jobs/schema?stage=magic").status_code == 422
    assert api.get("/api/v1/jobs/schema?model=none").status_code == 404


# -- refusals ----------------------------------------------------------------------------


def body(db: Session, workspace: Workspace, **more: Any) -> JobCreate:
    kind = methods.KINDS[more.get("stage", "sft")]
    values = {"model": make_model(db).id, "dataset": make_dataset(db, workspace, kind=kind).id}
    return JobCreate.model_validate(values | more)


@pytest.mark.parametrize("stage", list(methods.RUNS))
def test_each_stage_takes_its_rows_and_no_others(
    db: Session, workspace: Workspace, who: Principal, stage: str
) -> None:
    make_node(db)
    job = service.create(db, who, body(db, workspace, stage=stage))
    assert (job.stage, len(parts_of(job))) == (stage, 1)
    other = "kto" if stage != "kto" else "sft"
    wrong = make_dataset(db, workspace, kind=other).id
    with pytest.raises(Invalid) as refusal:
        service.create(db, who, body(db, workspace, stage=stage, dataset=wrong))
    assert (refusal.value.code, refusal.value.field) == ("wrong_kind", "dataset")


def test_pretraining_takes_conversations_as_text(
    db: Session, workspace: Workspace, who: Principal
) -> None:
    make_node(db)
    talk = make_dataset(db, workspace).id
    assert service.create(db, who, body(db, workspace, stage="pretrain", dataset=talk))


@pytest.mark.parametrize(
    ("stage", "method", "given", "field"),
    [
        ("reward", "qlora", {}, "method"),
        ("sft", "qlora", {"lora_init": "pissa"}, "hyperparameters.lora_init"),
        ("sft", "lora", {"lora_init": "pissa", "use_dora": True}, "hyperparameters.use_dora"),
        ("sft", "lora", {"chain": "stack", "use_dora": True}, "hyperparameters.use_dora"),
        ("sft", "qlora", {"chain": "stack"}, "hyperparameters.chain"),
        (
            "dpo",
            "lora",
            {"dpo_loss": "ipo", "label_smoothing": 0.1},
            "hyperparameters.label_smoothing",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(
    db: Session,
    workspace: Workspace,
    who: Principal,
    stage: str,
    method: str,
    given: dict[str, Any],
    field: str,
) -> None:
    make_node(db)
    adapter = make_model(db, workspace, kind="adapter", base_id=make_model(db).id)
    asked = body(db, workspace, stage=stage, method=method, model=adapter.id, hyperparameters=given)
    with pytest.raises(Invalid) as refusal:
        service.create(db, who, asked)
    assert refusal.value.field == field
    assert db.scalar(select(Job.id)) is None


def test_a_whole_model_can_be_tuned_from_an_adapter(
    db: Session, workspace: Workspace, who: Principal
) -> None:
    make_node(db)
    adapter = make_model(db, workspace, kind="adapter", base_id=make_model(db).id)
    job = service.create(db, who, body(db, workspace, model=adapter.id, method="full"))
    request = cluster.waiting(db, "job", job.id)
    assert request is not None
    assert (job.model_id, request.kind) == (adapter.id, None)


def test_a_reward_model_scores_and_does_nothing_else(
    db: Session, workspace: Workspace, who: Principal, client: Client
) -> None:
    make_node(db)
    judge = make_model(
        db, client.workspace, kind="merged", architecture="Qwen3ForSequenceClassification"
    )
    asked = body(db, client.workspace, model=judge.id)
    owner = principal(db, client.workspace)
    with pytest.raises(Invalid, match="reward model"):
        service.create(db, owner, asked)
    with pytest.raises(Invalid, match="cannot be deployed"):
        plans.plan(db, client.workspace.id, judge.id)
    db.commit()
    page = soup(client.get(f"/models/{judge.id}"))
    assert page.select("[data-testid=model-reward]")
    assert not page.select("[data-testid=model-deploy], [data-testid=model-chat]")


# -- the form ----------------------------------------------------------------------------


def names(page: BeautifulSoup) -> set[str]:
    return {str(one["name"]) for one in page.select("[data-testid=job-form] [name]")}


def test_the_form_shows_what_belongs_to_stage_and_method(db: Session, client: Client) -> None:
    make_node(db)
    model = make_model(db)
    talk = make_dataset(db, client.workspace)
    liked = make_dataset(db, client.workspace, kind="preference")
    db.commit()
    plain = soup(client.get("/jobs/new"))
    assert [one["value"] for one in plain.select("[data-testid=job-stage] option")] == list(
        methods.RUNS
    )
    assert {"lora_rank", "neftune_alpha"} <= names(plain)
    assert not {"beta", "freeze_layers", "quantization_bits"} & names(plain)
    whole = soup(client.get("/jobs/new?stage=dpo&method=full&learning_rate=5"))
    assert "beta" in names(whole)
    assert not {"lora_rank", "label_weight"} & names(whole)
    rate = whole.select_one("[data-testid=hp-learning_rate]")
    assert rate is not None
    assert (rate["value"], rate["placeholder"]) == ("5", "1e-06")
    offered = {one["value"] for one in whole.select("[data-testid=job-dataset] option")}
    assert offered == {"", liked.id}
    assert not soup(client.get("/jobs/new?stage=reward")).select("[data-testid=job-method-qlora]")
    for version, stage in ((talk, "sft"), (liked, "dpo")):
        page = soup(client.get(f"/jobs/new?dataset={version.dataset_id}&model={model.id}"))
        (chosen,) = page.select("[data-testid=job-stage] option[selected]")
        assert chosen["value"] == stage
        (data,) = page.select("[data-testid=job-dataset] option[selected]")
        assert data["value"] == version.id


def test_a_job_of_another_stage_from_the_form(db: Session, client: Client) -> None:
    make_node(db)
    model, liked = make_model(db), make_dataset(db, client.workspace, kind="preference")
    db.commit()
    form = {"model": model.id, "dataset": liked.id, "stage": "dpo", "method": "qlora"}
    refused = client.post("/jobs", data=form | {"lora_init": "pissa"})
    assert refused.status_code == 422
    assert soup(refused).select("#e-lora_init")
    answer = client.post("/jobs", data=form | {"quantization_bits": "8"}, follow_redirects=False)
    assert answer.status_code == 303, answer.text
    job = db.scalars(select(Job)).one()
    assert (job.stage, job.method, job.spec["quantization_bits"]) == ("dpo", "qlora", 8)
    assert (job.spec["learning_rate"], job.spec["epochs"]) == (1e-5, 1)
    again = soup(client.get(f"/jobs/new?again={job.id}"))
    assert again.select("[data-testid=job-method-qlora][checked]")
    (bits,) = again.select("[data-testid=hp-quantization_bits] option[selected]")
    assert bits.text == "8"


def test_several_devices_from_the_form(db: Session, client: Client) -> None:
    make_node(db, devices=2)
    model, talks = make_model(db), make_dataset(db, client.workspace)
    liked = make_dataset(db, client.workspace, kind="preference")
    db.commit()
    (field,) = soup(client.get("/jobs/new?stage=sft")).select("[data-testid=job-devices]")
    assert (field["max"], field["value"]) == ("2", "1")
    assert soup(client.get("/jobs/new?stage=dpo")).select("[data-testid=job-devices]")
    form = {"model": model.id, "method": "lora", "devices": "2"}
    for more in ({"dataset": liked.id, "stage": "dpo"}, {"dataset": talks.id, "stage": "sft"}):
        answer = client.post("/jobs", data=form | more, follow_redirects=False)
        assert answer.status_code == 303, answer.text
        job = db.scalars(select(Job).where(Job.stage == more["stage"])).one()
        assert job.devices == 2
    (again,) = soup(client.get(f"/jobs/new?again={job.id}")).select("#f-devices")
    assert again["value"] == "2"
