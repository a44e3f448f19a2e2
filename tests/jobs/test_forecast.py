"""What will happen: figures with their calculation, whether it fits, what is refused, and what
finished jobs teach."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import orjson
import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app import storage
from app.cluster import service as cluster
from app.datasets.measures import histograms
from app.datasets.measures import service as measures
from app.datasets.tables import DatasetMeasure
from app.db import now
from app.jobs import fitting, learning, memory, outcomes, runs
from app.jobs.spec import Hyperparameters
from app.jobs.tables import Job
from app.quotas import free, prices
from app.quotas import service as quotas
from app.quotas.tables import Price
from tests.conftest import Client
from tests.datasets.measures.measured import be_the_node, dataset, starter
from tests.factories import GIB, make_dataset, make_device, make_job, make_model, make_node
from tests.jobs.test_routes import RESULT, one, soup, started

QWEN_06B = {  # of a Qwen3 with 0.6 billion parameters
    "hidden_size": 1024, "num_hidden_layers": 28, "intermediate_size": 3072, "head_dim": 128,
    "num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 151936,
    "tie_word_embeddings": True, "max_position_embeddings": 40960,
}  # fmt: skip
SETTINGS = Hyperparameters().model_dump()


def chat(user: str, answer: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    return {"messages": messages}


def estimate(api: Client, **body: Any) -> dict[str, Any]:
    answer = api.post("/api/v1/jobs/estimate", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    found["values"] = {figure["name"]: figure["value"] for figure in found["figures"]}
    return found


# -- memory --------------------------------------------------------------------------------


def test_a_models_parameters_are_those_of_its_shape():
    shape = memory.shape(QWEN_06B, 0)
    assert shape.parameters == pytest.approx(596e6, rel=0.01)
    guessed = memory.shape({}, 7_000_000_000)
    blocks = guessed.layers * sum(a * b for a, b in guessed.linear)
    assert blocks == pytest.approx(7e9, rel=0.5)


def test_memory_by_method():
    shape = memory.shape(QWEN_06B, 596_000_000)

    def parts(method: str, kind: str = "cuda", **changes: Any) -> dict[str, int]:
        found = memory.parts(shape, method, SETTINGS | changes, kind=kind, longest=1024)
        return {part.name: part.bytes for part in found}

    full, lora, qlora = parts("full"), parts("lora"), parts("qlora")
    assert full["weights"] + full["training"] == 596_000_000 * 16
    assert parts("full", optimizer="sgd")["training"] == 596_000_000 * 4
    # rank 16 on all seven matrices of 28 layers
    trained = 16 * 28 * (1024 * 3 + 2048 * 2 + 1024 * 2 + 1024 + 3 * (1024 + 3072))
    trained = 16 * 28 * sum(a + b for a, b in shape.linear)
    assert lora["training"] == trained * 12
    assert lora["weights"] == 596_000_000 * 2 + trained * 4
    assert qlora["weights"] < lora["weights"]
    light = parts("lora", gradient_checkpointing=True)
    assert light["activations"] < lora["activations"] / 5
    half = parts("lora", batch_tokens=8192)
    assert half["activations"] == pytest.approx(lora["activations"] / 2)
    both = memory.parts(shape, "full", SETTINGS, kind="cuda", longest=1024, devices=4, sharded=True)
    assert both[0].bytes == full["weights"] // 4


# -- figures -------------------------------------------------------------------------------


def test_every_figure_has_its_calculation(db: Session, api: Client) -> None:
    make_node(db, facts={"cores": 4})
    prices.put(db, "", Decimal("12.5"), "CNY")
    model, data = starter(db), make_dataset(db, api.workspace, rows=100)
    db.commit()
    found = estimate(api, model=model.id, dataset=data.id, hyperparameters={"epochs": 2})
    values = found["values"]
    assert values["rows"] == 100
    assert values["steps"] == 14
    assert all(figure["calculation"] for figure in found["figures"])
    assert values["cost"] == pytest.approx(values["device_hours"] * 12.5, rel=0.01)
    assert values["device_hours"] == pytest.approx(values["seconds"] / 3600, rel=0.01)
    memory_line = next(one for one in found["figures"] if one["name"] == "peak_memory")
    assert sum(part["bytes"] for part in memory_line["parts"]) == memory_line["value"]
    assert found["fit"]["when"] == "now"
    assert found["measuring"] == 0  # it was not counted, so it is now
    assert db.scalars(select(DatasetMeasure.state)).one() == measures.QUEUED
    made = api.post("/api/v1/jobs", json={"model": model.id, "dataset": data.id}).json()
    assert made["estimate"]["rows"] == 100
    assert made["estimate"]["raw"]["peak_memory"] > 0
    page = api.get(f"/jobs/{made['id']}")
    assert "–" in one(soup(page), "[data-testid=figure-steps] td:last-child").text


def test_rows_are_counted_in_the_models_tokens(db: Session, api: Client) -> None:
    make_node(db, id="local")
    model = starter(db)
    rows = [chat("好吃吗", "好吃") for _ in range(30)] + [chat("好 " * 600, "是的")] * 2
    data = dataset(db, api.workspace, [*rows, {"messages": [{"role": "user", "content": "x"}]}])
    body = {"model": model.id, "dataset": data.id, "hyperparameters": {"max_length": 256}}
    assert estimate(api, **body)["measuring"] is not None
    be_the_node(90)
    found = estimate(api, **body)
    assert found["measuring"] is None
    assert found["values"]["dropped"] == 3  # one without an answer, two cut before it
    assert found["values"]["truncated"] == 0
    assert next(one["measured"] for one in found["figures"] if one["name"] == "tokens")
    short = body | {"hyperparameters": {"max_length": 8}}
    refused = estimate(api, **short)["refused"]
    assert refused["code"] == "nothing_to_train"
    answer = api.post("/api/v1/jobs", json=short)
    assert answer.status_code == 422
    assert answer.json()["code"] == "nothing_to_train"
    assert db.scalar(select(Job.id)) is None


def counted(db: Session, version: Any, model: Any, **result: Any) -> None:
    """As a measure left it behind."""
    lengths = histograms.pack({20: 10})
    plain = {
        "kind": "sft", "rows": 10, "tokens": 200, "trained": 50, "max": 20, "lengths": lengths,
        "texts": lengths, "first": histograms.pack({}), "trained_at": histograms.pack({}),
        "untrained": {"count": 10, "kinds": [], "refusals": []},
    }  # fmt: skip
    measure = measures.ask(db, version, model)
    measure.state, measure.result = measures.DONE, plain | result
    db.commit()


def test_what_cannot_succeed_is_refused(db: Session, api: Client) -> None:
    make_node(db)
    model, data = starter(db), make_dataset(db, api.workspace)
    counted(db, data, model)
    body = {"model": model.id, "dataset": data.id}
    found = estimate(api, **body)["refused"]
    assert found["code"] == "nothing_to_train"
    assert "No row of this data trains anything" in found["message"]
    pairs = make_dataset(db, api.workspace, kind="preference")
    db.commit()
    assert (
        api.post("/api/v1/jobs", json=body | {"dataset": pairs.id}).json()["code"] == "wrong_kind"
    )
    assert db.scalar(select(Job.id)) is None


def test_a_model_without_a_chat_template_is_refused(db: Session, api: Client) -> None:
    make_node(db)
    model, data = starter(db), make_dataset(db, api.workspace)
    words = storage.fetch(model.artefact)
    (words / "chat_template.jinja").unlink(missing_ok=True)
    config = orjson.loads((words / "tokenizer_config.json").read_bytes())
    config.pop("chat_template", None)
    (words / "tokenizer_config.json").write_bytes(orjson.dumps(config))
    db.commit()
    refused = api.post("/api/v1/jobs", json={"model": model.id, "dataset": data.id})
    assert (refused.status_code, refused.json()["code"]) == (422, "no_chat_template")


def test_a_model_that_is_too_large_is_refused_with_what_would_fit(db: Session, api: Client) -> None:
    node = make_node(db, devices=0)
    make_device(db, node, name="cuda:0", kind="cuda", model="NVIDIA L40S", memory=48 * GIB)
    model = make_model(db, parameters=8_000_000_000)
    data = make_dataset(db, api.workspace, rows=1000)
    db.commit()
    body = {"model": model.id, "dataset": data.id, "method": "full"}
    found = estimate(api, **body)
    assert found["fit"]["when"] == "never"
    assert found["refused"]["code"] == "memory"
    assert found["fit"]["fixes"][0]["changes"]["method"] == "lora"
    answer = api.post("/api/v1/jobs", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "memory")
    page = api.get(f"/jobs/estimate?model={model.id}&dataset={data.id}&method=full&name=")
    assert one(soup(page), "[data-testid=job-problem]").text
    assert "lora" in one(soup(page), "[data-testid=estimate-fixes]").text


def test_a_batch_that_is_too_large_says_which_setting_helps(db: Session, api: Client) -> None:
    node = make_node(db, devices=0)
    make_device(db, node, name="cuda:0", kind="cuda", model="NVIDIA A10", memory=24 * GIB)
    model = make_model(db, parameters=3_000_000_000, context_length=32768)
    data = make_dataset(db, api.workspace, rows=1000)
    db.commit()
    body = {"model": model.id, "dataset": data.id}
    found = estimate(api, **body, hyperparameters={"batch_tokens": 65536, "batch_size": 64})
    assert found["fit"]["when"] == "never"
    assert found["refused"] is None  # it may yet: activations are an estimate
    fixes = [fix["changes"] for fix in found["fit"]["fixes"]]
    assert fixes
    settings = {"batch_tokens": 65536, "batch_size": 64} | fixes[0]
    assert estimate(api, **body, hyperparameters=settings)["fit"]["when"] == "now"


def test_now_or_later(db: Session, api: Client) -> None:
    started(db, api)
    model, data = make_model(db), make_dataset(db, api.workspace)
    db.commit()
    body = {"model": model.id, "dataset": data.id}
    assert estimate(api, **body)["fit"]["when"] == "now"
    quotas.put(db, api.workspace.id, 1)
    db.commit()
    held = estimate(api, **body)["fit"]
    assert held["when"] == "later"
    assert "1 of the 1 devices" in held["message"]
    quotas.put(db, api.workspace.id, None)
    job = make_job(db, api.workspace, api.user)
    cluster.ask(db, owner_kind="job", owner_id=job.id, workspace_id=api.workspace.id, devices=1)
    cluster.decide(db)
    db.commit()
    assert "0 are free" in estimate(api, **body)["fit"]["message"]


def test_before_any_node_is_known(db: Session, api: Client) -> None:
    model, data = make_model(db), make_dataset(db, api.workspace)
    db.commit()
    assert estimate(api, model=model.id, dataset=data.id)["fit"]["when"] == fitting.UNKNOWN


# -- learning ------------------------------------------------------------------------------


def test_finished_jobs_correct_the_next_estimate(db: Session, api: Client) -> None:
    make_node(db, facts={"cores": 2})
    model, data = starter(db), make_dataset(db, api.workspace)
    untrained = {"count": 0, "kinds": [], "refusals": []}
    counted(db, data, model, untrained=untrained)
    body = {"model": model.id, "dataset": data.id}
    before = estimate(api, **body)["values"]
    for factor in (2.0, 3.0, 40.0):  # the last one is an outlier
        job = db.get_one(Job, api.post("/api/v1/jobs", json=body).json()["id"])
        assert job.estimate
        raw = job.estimate["raw"]
        job.state, job.finished_at = "succeeded", now()
        job.outcome = {
            "peak_memory": raw["peak_memory"] * factor,
            "tokens_per_second": raw["tokens_per_second"] / factor,
        }
        db.commit()
    after = estimate(api, **body)
    assert after["values"]["peak_memory"] == pytest.approx(before["peak_memory"] * 3, rel=0.01)
    assert after["values"]["tokens_per_second"] == pytest.approx(
        before["tokens_per_second"] / 3, rel=0.01
    )
    line = next(one for one in after["figures"] if one["name"] == "tokens_per_second")
    assert "3 finished jobs" in line["calculation"]
    full = estimate(api, **body, method="full")["figures"]  # alike in the kind of device alone
    line = next(one for one in full if one["name"] == "tokens_per_second")
    assert "this kind of device" in line["calculation"]
    like = {"base": "x", "method": "x", "device": "x", "kind": "cuda"}
    assert learning.corrections(db, like)["peak_memory"].ratio == 1


def test_what_is_trained_costs_and_what_is_free_does_not(db: Session, api: Client) -> None:
    make_node(db, facts={"cores": 4})
    prices.put(db, "", Decimal("12.5"), "CNY")
    model, data = starter(db), make_dataset(db, api.workspace, rows=100)
    prices.change(db, "trained", model.id, Decimal(3), "CNY")
    db.commit()
    asked = {"model": model.id, "dataset": data.id, "hyperparameters": {"epochs": 2}}
    values = estimate(api, **asked)["values"]
    trained = values["tokens"] * 3 / 1000
    assert values["cost"] == pytest.approx(values["device_hours"] * 12.5 + trained, rel=0.02)
    free.give(db, model.id, None, free.DEVICE, 10_000, now().date())
    db.commit()
    found = estimate(api, **asked)
    assert found["values"]["cost"] == pytest.approx(trained, rel=0.02)
    line = next(one for one in found["figures"] if one["name"] == "cost")
    assert "free" in line["calculation"]
    prices.change(db, "trained", model.id, Decimal("0.5"), "USD")
    db.commit()
    other = next(one for one in estimate(api, **asked)["figures"] if one["name"] == "cost")
    assert (other["value"], "0.5 USD" in other["calculation"]) == (0, True)


def test_the_outcome_stands_beside_the_estimate(db: Session, api: Client) -> None:
    prices.put(db, "", Decimal(10), "CNY")
    db.execute(update(Price).values(since=now() - timedelta(days=2)))  # a lease may cross midnight
    job = started(db, api, estimate={"tokens": 900, "steps": 10})
    (lease,) = cluster.leases_of(db, "job", job.id)
    lease.created_at = now() - timedelta(hours=2)
    result = RESULT | {
        "tokens": 1000, "steps": 9, "seconds": 50.0, "peak_memory": 2**30,
        "data": {"rows": 12, "samples": 10, "dropped": 2, "truncated": 1},
    }  # fmt: skip
    runs.end(db, job.id, 1, outcome="succeeded", result=result)
    db.commit()
    found = api.get(f"/api/v1/jobs/{job.id}").json()["outcome"]
    assert found["tokens_per_second"] == 20
    assert found["device_hours"] == pytest.approx(2, rel=0.01)
    assert found["cost"] == pytest.approx(20, rel=0.01)
    assert (found["dropped"], found["rows"], found["steps"]) == (2, 10, 9)
    page = soup(api.get(f"/jobs/{job.id}", headers={"accept-language": "en"}))
    cells = [cell.text for cell in page.select("[data-testid=figure-tokens] td")]
    assert cells == ["900", "1,000"]
    assert outcomes.measured(db, make_job(db, api.workspace, api.user), {}) == {}


def test_prices_are_set_by_platform_admins(db: Session, api: Client) -> None:
    assert api.get("/api/v1/prices").json()["data"] == []
    assert api.put("/api/v1/prices", json={"hour": "3"}).status_code == 403
    api.user.is_platform_admin = True
    db.add(api.user)
    db.commit()
    for body in ({"hour": "3"}, {"device": "NVIDIA L40S", "hour": "7.25", "currency": "USD"}):
        assert api.put("/api/v1/prices", json=body).status_code == 200
    assert api.get("/api/v1/prices").json()["data"][1]["hour"] == 7.25
    special, general = prices.of(db, "NVIDIA L40S"), prices.of(db, "other")
    assert special
    assert general
    assert (special.currency, general.hour) == ("USD", 3)
    api.put("/api/v1/prices", json={"hour": None})
    assert [one["device"] for one in api.get("/api/v1/prices").json()["data"]] == ["NVIDIA L40S"]
