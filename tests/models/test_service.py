"""Who sees a model, what keeps it, how the starter comes in."""

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import storage
from app.errors import Conflict, Forbidden, NotFound
from app.models import service
from app.models.tables import Model
from tests.factories import make_model, make_workspace
from tests.models.files import write_model


def registered(db: Session, workspace_id: str, name: str = "tuned", **overrides: Any) -> Model:
    values: dict[str, Any] = {
        "workspace_id": workspace_id, "name": name, "kind": "adapter", "artefact": "models/x", "base_id": None,
        "parent_id": None, "job_id": None, "created_by": None, "lineage": {}, "facts": {"parameters": 5, "size": 7},
    }  # fmt: skip
    return service.register(db, **values | overrides)


def test_own_and_shared_are_found_by_id_and_name(db: Session) -> None:
    mine, other = make_workspace(db), make_workspace(db)
    own, shared, foreign = make_model(db, mine), make_model(db), make_model(db, other)
    for model in (own, shared):
        assert service.get(db, mine.id, model.id) is model
        assert service.get(db, mine.id, model.name) is model
    for hidden in (foreign.id, foreign.name, "mdl_none", ""):
        with pytest.raises(NotFound, match="There is no model"):
            service.get(db, mine.id, hidden)


def test_a_name_means_ones_own_before_the_shared(db: Session) -> None:
    mine = make_workspace(db)
    make_model(db, name="same")
    own = make_model(db, mine, name="same")
    make_model(db, name="same")
    assert service.get(db, mine.id, "same") is own


def test_the_list_filters_and_pages(db: Session) -> None:
    mine, other = make_workspace(db), make_workspace(db)
    shared = make_model(db, name="base_1")
    own = [make_model(db, mine, name=f"tuned-{i}", kind="adapter") for i in range(3)]
    merged = make_model(db, mine, name="100% merged", kind="merged")
    make_model(db, other, name="foreign")
    assert service.visible(db, mine.id) == [merged, *reversed(own), shared]
    assert service.visible(db, mine.id, "base") == [shared]
    assert service.visible(db, mine.id, "tuned") == [merged, *reversed(own)]
    assert service.visible(db, mine.id, q="%") == [merged]  # no wildcard
    assert service.visible(db, mine.id, q="TUNED-1") == [own[1]]
    assert service.visible(db, mine.id, offset=1, limit=2) == [own[2], own[1]]


def test_a_taken_name_gets_a_number(db: Session) -> None:
    mine, other = make_workspace(db), make_workspace(db)
    names = [registered(db, mine.id).name for _ in range(3)]
    assert names == ["tuned", "tuned-2", "tuned-3"]
    assert registered(db, other.id).name == "tuned"


def test_an_adapter_takes_what_it_does_not_say_from_its_base(db: Session) -> None:
    mine, base = make_workspace(db), make_model(db, licence="Apache-2.0")
    adapter = registered(db, mine.id, base_id=base.id, parent_id=base.id)
    assert (adapter.architecture, adapter.context_length) == ("Qwen3ForCausalLM", 2048)
    assert (adapter.parameters, adapter.size, adapter.licence) == (5, 7, "Apache-2.0")


def test_what_is_pinned_or_built_on_stays(db: Session) -> None:
    mine = make_workspace(db)
    base = make_model(db, mine)
    adapter = registered(db, mine.id, base_id=base.id, parent_id=base.id)
    merged = registered(db, mine.id, "merged", kind="merged", base_id=base.id, parent_id=adapter.id)
    service.pin(db, merged.id, "deployment", "dep_1")
    service.pin(db, merged.id, "deployment", "dep_1")
    with pytest.raises(Conflict, match=r"in use by dep_1\."):
        service.delete(db, mine.id, merged.id)
    service.unpin(db, merged.id, "deployment", "dep_1")
    service.unpin(db, merged.id, "deployment", "dep_1")
    with pytest.raises(Conflict, match="base of the adapter “tuned”"):
        service.delete(db, mine.id, base.id)
    service.delete(db, mine.id, adapter.id)
    assert service.ancestors(db, mine.id, merged) == [base, adapter]  # the deleted still tell
    service.delete(db, mine.id, merged.id)
    service.delete(db, mine.id, base.id)
    assert service.visible(db, mine.id) == []
    with pytest.raises(NotFound):
        service.pin(db, merged.id, "job", "job_1")


def test_a_shared_or_foreign_model_cannot_be_deleted(db: Session) -> None:
    mine, other = make_workspace(db), make_workspace(db)
    with pytest.raises(Forbidden, match="shared"):
        service.delete(db, mine.id, make_model(db).id)
    with pytest.raises(NotFound):
        service.delete(db, mine.id, make_model(db, other).id)


def test_lineage_ends_on_a_loop_and_shows_children(db: Session) -> None:
    mine = make_workspace(db)
    base = make_model(db)
    one = registered(db, mine.id, "one", base_id=base.id, parent_id=base.id)
    two = registered(db, mine.id, "two", base_id=base.id, parent_id=one.id)
    other = make_workspace(db)
    registered(db, other.id, "foreign", base_id=base.id, parent_id=base.id)
    assert service.made_from(db, mine.id, base) == [one]
    assert service.made_from(db, mine.id, one) == [two]
    one.parent_id = two.id
    db.flush()
    assert {model.name for model in service.ancestors(db, mine.id, two)} == {"one", "two"}


def test_the_starter_comes_in_once(db: Session, tmp_path: Path) -> None:
    files = write_model(tmp_path / "v1")
    first = service.ensure_starter(db, files)
    assert service.ensure_starter(db, files) is first
    assert (first.name, first.workspace_id, first.kind, first.parameters) == (
        "danlu-starter",
        None,
        "base",
        6,
    )
    assert (storage.fetch(first.artefact) / "config.json").is_file()


def test_a_new_version_of_the_starter_replaces_an_unused_one(db: Session, tmp_path: Path) -> None:
    first = service.ensure_starter(db, write_model(tmp_path / "v1"))
    second = service.ensure_starter(db, write_model(tmp_path / "v2", v=2))
    assert first.deleted_at is not None
    service.pin(db, second.id, "job", "job_1")
    third = service.ensure_starter(db, write_model(tmp_path / "v3", v=3))
    assert second.deleted_at is None
    assert [third.name, second.name] == ["danlu-starter", second.artefact.removeprefix("models/")]
    assert (
        db.scalar(select(Model.id).where(Model.name == "danlu-starter", Model.deleted_at.is_(None)))
        == third.id
    )


def test_the_shipped_starter_is_sound_and_small(db: Session) -> None:
    model = service.ensure_starter(db)
    assert model.architecture == "Qwen3ForCausalLM"
    assert 1_000_000 < model.parameters < 20_000_000
    assert model.context_length == 2048
    assert model.size <= 20_000_000
    config = json.loads((service.STARTER_FILES / "tokenizer_config.json").read_text())
    assert (config["eos_token"], config["pad_token"]) == ("<|im_end|>", "<|endoftext|>")
    assert "<|im_start|>" in service.chat_template(model)
