"""Which models give embeddings, and how they are served."""

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.accounts.tables import Workspace
from app.config import settings
from app.deployments import runners, service
from app.deployments.plans import plan
from app.errors import Invalid
from app.models import sources
from app.models.tables import Model
from tests.deployments.acts import body, run
from tests.factories import make_model, make_node

LAYERS = ("Transformer", "Pooling", "Normalize")


def store(model: Model, name: str, content: Any) -> None:
    directory = Path(settings.store_url) / model.artefact
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(json.dumps(content))


def modules(*kinds: str) -> list[dict[str, str]]:
    return [{"type": f"sentence_transformers.models.{kind}", "path": ""} for kind in kinds]


@pytest.mark.parametrize(
    ("architecture", "listed", "runner"),
    [
        ("BertModel", (), "pooling"),
        ("XLMRobertaForMaskedLM", (), "pooling"),
        ("Qwen3ForCausalLM", LAYERS, "pooling"),
        ("Qwen3ForCausalLM", (), "generate"),
    ],
)
def test_a_models_files_say_what_it_does(
    db: Session, architecture: str, listed: tuple[str, ...], runner: str
) -> None:
    model = make_model(db, architecture=architecture)
    if listed:
        store(model, "modules.json", modules(*listed))
    assert runners.of(model) == runner


def test_it_is_deployed_so(db: Session, workspace: Workspace, who: Principal) -> None:
    make_node(db)
    model = make_model(db, architecture="XLMRobertaModel", context_length=514)
    store(model, "tokenizer_config.json", {"model_max_length": 1e30})
    made = service.create(db, who, body(model))
    assert (made.arguments, made.adapters) == ({"runner": "pooling"}, 0)
    assert made.max_model_len == 512  # its positions begin after the two of padding
    run(db, made)
    found = service.route(db, workspace.id, made.name)
    assert found
    assert found.embeds
    assert [one.embeds for one in service.names(db, workspace.id)] == [True]
    writer = make_model(db)
    assert plan(db, workspace.id, writer.id).settings.arguments == {}
    asked = plan(db, workspace.id, writer.id, arguments={"runner": "pooling"})
    assert asked.settings.arguments == {"runner": "pooling"}


def test_what_would_be_wrong_is_refused(db: Session, workspace: Workspace, who: Principal) -> None:
    make_node(db)
    model = make_model(db)
    store(model, "modules.json", modules(*LAYERS, "Dense"))
    with pytest.raises(Invalid) as caught:
        plan(db, workspace.id, model.id)
    assert (caught.value.code, caught.value.params["kind"]) == ("embeddings", "Dense")
    bert = make_model(db, architecture="BertModel")
    with pytest.raises(Invalid) as caught:
        plan(db, workspace.id, bert.id, engine="transformers")
    assert (caught.value.code, caught.value.field) == ("embeddings", "engine")


def test_an_import_keeps_how_vectors_are_pooled() -> None:
    paths = (
        "config.json", "model.safetensors", "modules.json", "1_Pooling/config.json",
        "onnx/config.json", "deep/1_Pooling/config.json",
    )  # fmt: skip
    files, left_out = sources.chosen([{"path": path, "size": 1} for path in paths])
    assert {one["name"] for one in files} == {
        "config.json", "model.safetensors", "modules.json", runners.kept_as("1_Pooling"),
    }  # fmt: skip
    assert left_out == ["deep/1_Pooling/config.json", "onnx/config.json"]
