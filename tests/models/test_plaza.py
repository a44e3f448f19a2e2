"""The model list with its filters, presets and what they need, imports and the trash as pages."""

import re
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.models import families, importing, presets
from app.models.tables import Model, ModelImport
from app.quotas import prices
from app.quotas import service as quotas
from tests.conftest import Client
from tests.factories import make_deployment, make_import, make_model, make_node
from tests.models.hub import files, finish
from tests.models.test_routes import page
from tests.stand_in_hub import Hub

B = 10**9


@pytest.fixture
def shelf(db: Session, client: Client) -> dict[str, Model]:
    """Shared and own models of several families and sizes."""
    base = make_model(db, name="qwen", family="Qwen3", parameters=8 * B, templated=True)
    made = [
        base,
        make_model(db, name="starter", family="Danlu", parameters=4_000_000),
        make_model(db, client.workspace, name="llama", family="Llama", parameters=70 * B),
        make_model(
            db, client.workspace, name="lora", kind="adapter", base_id=base.id,
            family="Qwen3", parameters=9_000_000, templated=False,
        ),
        make_model(
            db, client.workspace, name="mine", family="Qwen3", parameters=B // 2,
            lineage={"source": {"from": "huggingface", "repository": "lin/hidden", "commit": "c" * 40, "files": {}, "left_out": [], "notes": []}},
        ),
    ]  # fmt: skip
    db.commit()
    return {one.name: one for one in made}


def names(client: Client, query: str) -> list[str]:
    soup = page(client, f"/models?{query}")
    return sorted(str(card["data-model"]) for card in soup.select("[data-testid=model-card]"))


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", ["llama", "lora", "mine", "qwen", "starter"]),
        ("kind=imported", ["mine"]),
        ("kind=adapter", ["lora"]),
        ("family=Qwen3", ["lora", "mine", "qwen"]),
        ("family=other", ["starter"]),
        ("size=medium", ["lora", "qwen"]),  # an adapter is as large as what it runs on
        ("size=huge", ["llama"]),
        ("size=tiny", ["mine", "starter"]),
        ("scope=shared", ["qwen", "starter"]),
        ("scope=mine&family=Qwen3", ["lora", "mine"]),
        ("q=HIDDEN", ["mine"]),
        ("family=x&size=y&scope=z&sort=w&view=v", ["llama", "lora", "mine", "qwen", "starter"]),
    ],
)
def test_filters(client: Client, shelf: dict[str, Model], query: str, found: list[str]) -> None:
    assert names(client, query) == found
    assert names(client, f"{query}&view=table") == found
    bare = query.split("family=x", maxsplit=1)[0]
    answer = client.get(f"/api/v1/models?{bare}")
    assert sorted(one["name"] for one in answer.json()["data"]) == found


def test_orders(client: Client, shelf: dict[str, Model]) -> None:
    def order(sort: str) -> list[str]:
        found = client.get(f"/api/v1/models?sort={sort}").json()["data"]
        return [one["name"] for one in found]

    assert order("name") == ["llama", "lora", "mine", "qwen", "starter"]
    assert order("size")[:2] == ["llama", "qwen"]
    assert client.get("/api/v1/models?sort=x").status_code == 422


def test_a_card_says_all_there_is(client: Client, db: Session, shelf: dict[str, Model]) -> None:
    make_node(db)
    prices.put(db, "", Decimal("12.5"), "CNY")
    quotas.put(db, client.workspace.id, 3)
    db.commit()
    soup = page(client, "/models?q=qwen")
    card = soup.select_one("[data-testid=model-card]")
    assert card is not None
    text = re.sub(r"\s+", " ", card.get_text(" "))
    for words in (
        "Family Qwen3", "Parameters 8B", "Chat template yes", "Price 12.5 CNY per device hour",
        "Quota left 3 of 3 devices", "Shared",
    ):  # fmt: skip
        assert words in text, text
    code = card.select_one("[data-testid=model-code]")
    assert code is not None
    assert code["hx-get"] == f"/deployments/code/{shelf['qwen'].id}"
    assert soup.select_one("dialog#model-code #model-code-body")


def test_code_is_that_of_the_deployment(
    client: Client, db: Session, shelf: dict[str, Model]
) -> None:
    model = shelf["llama"]
    soup = page(client, f"/deployments/code/{model.id}")
    assert "No deployment serves this model yet" in soup.text
    assert 'model="llama"' in soup.text
    make_deployment(
        db, client.workspace, client.user, model_id=model.id, name="support", state="ready"
    )
    db.commit()
    soup = page(client, f"/deployments/code/{model.id}")
    assert "“support” serves this model" in soup.text
    for language in ("python", "java", "curl"):
        sample = soup.select_one(f"[data-testid=model-code-{language}]")
        assert sample is not None
        assert "support" in sample.text


# -- presets -------------------------------------------------------------------------------


def test_presets_are_of_the_size_that_their_names_say() -> None:
    """A slip of a digit in a shape would show here."""
    assert len({one.id for one in presets.every()}) == len(presets.every()) > 30
    assert {"Qwen3", "Llama", "GLM", "DeepSeek", "Gemma", "Mistral", "Phi"} <= set(
        presets.families()
    )
    loose = {"gemma-2-2b-it": 1.4, "Llama-3.2-1B-Instruct": 1.3, "DeepSeek-R1-Distill-Qwen-1.5B": 1.2}  # fmt: skip
    for one in presets.every():
        assert one.config["architectures"][0] in families.NATIVE
        if said := re.search(r"-(\d+(?:\.\d+)?)[Bb]\b", one.name):
            ratio = one.parameters / (float(said[1]) * B)
            assert 0.95 < ratio < loose.get(one.name, 1.1), (one.name, ratio)


def test_what_a_preset_needs_is_estimated_by_our_own_formulas(client: Client, db: Session) -> None:
    found = {one["id"]: one for one in client.get("/api/v1/presets").json()["data"]}
    qwen, llama = found["qwen3-8b"], found["llama-3.3-70b-instruct"]
    need = qwen["training"]
    assert need["qlora"] < need["lora"] < need["full"]
    assert need["full"] > 16 * qwen["parameters"]  # weights, gradients, two moments
    assert 2 * qwen["parameters"] < need["lora"]
    assert 2 * qwen["parameters"] < qwen["serving"] < 4 * qwen["parameters"]
    assert llama["serving"] > 140 * B
    make_node(db)
    db.commit()
    soup = page(client, "/deployments/needs?preset=qwen3-0.6b")
    assert soup.select_one("[data-testid=needs-lora]")
    assert "Estimates" in soup.text
    assert client.get("/deployments/needs?preset=none").status_code == 422


def test_a_preset_offers_its_import(client: Client, db: Session, hub: Hub, tmp_path: Path) -> None:
    def card() -> object:
        soup = page(client, "/models/presets?family=Qwen3")
        assert len(soup.select("[data-testid=preset-card]")) == 7
        return soup.select_one("[data-preset='qwen3-0.6b']")

    assert card().select_one("[data-testid=preset-import-huggingface]")  # type: ignore[attr-defined]
    hub.models["Qwen/Qwen3-0.6B"] = files(tmp_path, 6)
    made = client.post("/models/import", data={"preset": "qwen3-0.6b", "hub": "modelscope"})
    assert [made.status_code, made.headers["location"]] == [303, "/models/imports"]
    one = db.scalars(select(ModelImport)).one()
    assert finish(db, one.id).state == "succeeded"
    model = db.scalars(select(Model)).one()
    assert [model.name, model.family] == ["Qwen3-0.6B", "Qwen3"]
    shown = card()
    assert not shown.select("form")  # type: ignore[attr-defined]
    assert shown.select_one(f"a[href='/models/{model.id}']")  # type: ignore[attr-defined]
    soup = page(client, f"/models/{model.id}")
    assert "Qwen/Qwen3-0.6B" in soup.select_one("[data-testid=model-lineage]").text
    assert "pytorch_model.bin" in soup.select_one("[data-testid=model-source]").text


# -- imports as pages ----------------------------------------------------------------------


def test_the_ways_in(client: Client, db: Session) -> None:
    make_model(db, client.workspace, name="whole")
    db.commit()
    for way, control in (("hub", "import-repository"), ("directory", "import-path"), ("upload", "import-file")):  # fmt: skip
        soup = page(client, f"/models/new?way={way}")
        assert soup.select_one(f"[data-testid={control}]")
        assert "whole" in soup.select_one("[data-testid=import-base]").text
        assert not soup.select("[data-testid=import-shared]")
    bad = client.post("/models/import", data={"way": "directory", "path": "/etc", "name": "n"})
    assert bad.status_code == 422
    assert "DANLU_MODEL_DIRECTORIES" in bad.text
    assert 'value="n"' in bad.text
    bad = client.post("/models/import", data={"repository": "a/../b"})
    assert [bad.status_code, "owner/name" in bad.text] == [422, True]


def test_an_import_is_watched_stopped_and_tried_again(
    client: Client, db: Session, hub: Hub, tmp_path: Path
) -> None:
    assert "No imports" in page(client, "/models/imports").text
    hub.models["lin/qwen"] = files(tmp_path)
    hub.breaks = [900_000]
    client.post("/models/import", data={"hub": "huggingface", "repository": "lin/qwen"})
    one = db.scalars(select(ModelImport)).one()
    assert "1 model is on its way" in page(client, "/models").text
    importing.import_model(one.id)
    soup = page(client, "/models/imports")
    row = soup.select_one("[data-testid=import-row]")
    assert row is not None
    assert row["data-state"] == "importing"
    assert " of 1.5 MiB" in row.select_one("[data-testid=import-progress]").text
    assert "again" in row.select_one("[data-testid=import-waits]").text
    assert soup.select_one("#import-rows")["hx-get"] == "/models/imports/rows"
    for act, state in (("cancel", "cancelled"), ("retry", "importing")):
        assert client.post(f"/models/imports/{one.id}/{act}").status_code == 303
        soup = page(client, "/models/imports/rows")
        assert soup.select_one(f"[data-state={state}]")
    assert client.post(f"/models/imports/{one.id}/hide").status_code == 409
    assert finish(db, one.id).state == "succeeded"
    assert client.post(f"/models/imports/{one.id}/hide").status_code == 303
    assert "No imports" in page(client, "/models/imports").text


def test_a_failure_shows_its_sentence(client: Client, db: Session) -> None:
    error = {"code": "model.pickle", "message": "“%(file)s” is in a format that can run code. Convert the model to safetensors.", "params": {"file": "<b>x.bin"}}  # fmt: skip
    make_import(db, client.workspace, client.user, state="failed", error=error)
    db.commit()
    assert "“<b>x.bin” is in a format" in page(client, "/models/imports").text
    assert "<b>x.bin" not in client.get("/models/imports").text


def test_a_deleted_model_is_brought_back(client: Client, db: Session) -> None:
    assert "Nothing was deleted" in page(client, "/models/deleted").text
    model = make_model(db, client.workspace, name="mood")
    db.commit()
    client.post(f"/models/{model.id}/delete")
    soup = page(client, "/models/deleted")
    assert soup.select_one("[data-testid=deleted-model][data-model=mood]")
    back = client.post(f"/models/{model.id}/restore")
    assert [back.status_code, back.headers["location"]] == [303, f"/models/{model.id}"]
