"""The model list, a model's page and `/api/v1/models`, asked for as a browser and a script do."""

import io
import json
import tarfile
from pathlib import Path

import httpx
import pytest
from bs4 import BeautifulSoup
from sqlalchemy.orm import Session

from app import storage
from app.config import settings
from app.models.tables import Model
from tests.conftest import Client, sign_in
from tests.factories import make_membership, make_model, make_user, make_workspace
from tests.models.files import write_adapter, write_model


def page(client: Client, path: str, status: int = 200) -> BeautifulSoup:
    answer = client.get(path)
    assert answer.status_code == status, answer.text[:500]
    return BeautifulSoup(answer.text, "lxml")


def delete(client: Client, model: Model, status: int) -> httpx.Response:
    answer = client.post(f"/models/{model.id}/delete", headers={"origin": settings.url})
    assert answer.status_code == status, answer.text[:500]
    return answer


@pytest.fixture
def family(db: Session, client: Client, tmp_path: Path) -> tuple[Model, Model, Model]:
    """A shared base, an adapter tuned on it, and the two merged, with files in the store."""
    base = make_model(
        db, name="starter", artefact=storage.put(write_model(tmp_path / "b"), "models/b")
    )
    adapter = make_model(
        db,
        client.workspace,
        name="情感 <b>",
        kind="adapter",
        base_id=base.id,
        parent_id=base.id,
        job_id="job_tune",
        artefact=storage.put(write_adapter(tmp_path / "a"), "models/a"),
        lineage={
            "base": {"id": base.id, "name": base.name},
            "dataset": {"id": "ds_1", "name": "评价", "version": 2, "hash": "ab", "rows": 3000},
            "stage": "sft",
            "spec": {"epochs": 3.0, "max_steps": None},
            "libraries": {"torch": "2.13.0"},
        },
    )
    merged = make_model(
        db, client.workspace, name="merged", kind="merged", base_id=base.id, parent_id=adapter.id,
        job_id="job_merge", lineage={"stage": "merge"}, artefact="models/b",
    )  # fmt: skip
    db.commit()
    return base, adapter, merged


def test_the_list_shows_cards_with_facts_and_actions(
    client: Client, family: tuple[Model, Model, Model]
) -> None:
    soup = page(client, "/models")
    cards = soup.select("[data-testid=model-card]")
    assert [card["data-model"] for card in cards] == ["merged", "情感 <b>", "starter"]
    assert "6M" in cards[2].text
    assert "2,048 tokens" in cards[2].text
    assert "11.4 MiB" in cards[2].text
    assert (
        cards[2].select_one("[data-testid=model-tune]")["href"] == f"/jobs/new?model={family[0].id}"
    )
    assert (
        cards[2].select_one("[data-testid=model-deploy]")["href"]
        == f"/deployments/new?model={family[0].id}"
    )


def test_the_list_filters(client: Client, family: tuple[Model, Model, Model]) -> None:
    def names(query: str) -> list[str]:
        return [
            str(card["data-model"])
            for card in page(client, f"/models?{query}").select("[data-testid=model-card]")
        ]

    assert names("kind=base") == ["starter"]
    assert names("kind=tuned") == ["merged", "情感 <b>"]
    assert names("q=情感") == ["情感 <b>"]
    assert "No model matches" in page(client, "/models?q=nothing&kind=bogus").text


def test_an_empty_list_says_what_belongs_there(client: Client) -> None:
    soup = page(client, "/models")
    assert "No models yet" in soup.text
    assert soup.select_one(".empty a[href='/jobs/new']")


def test_the_list_pages(client: Client, db: Session) -> None:
    for _ in range(25):
        make_model(db, client.workspace)
    db.commit()
    soup = page(client, "/models")
    assert len(soup.select("[data-testid=model-card]")) == 24
    follow = soup.select_one("a[rel=next]")
    assert follow is not None
    assert len(page(client, str(follow["href"])).select("[data-testid=model-card]")) == 1


def test_a_page_draws_the_lineage(client: Client, family: tuple[Model, Model, Model]) -> None:
    base, adapter, merged = family
    soup = page(client, f"/models/{merged.id}")
    links = [link["href"] for link in soup.select("[data-testid=model-lineage] a")]
    assert links == [
        f"/models/{base.id}",
        "/datasets/ds_1",
        "/jobs/job_tune",
        f"/models/{adapter.id}",
        "/jobs/job_merge",
    ]
    here = soup.select_one("[data-testid=model-lineage] [aria-current]")
    assert here is not None
    assert "merged" in here.text
    children = page(client, f"/models/{base.id}").select("[data-testid=model-children] a")
    assert [child["href"] for child in children] == [f"/models/{adapter.id}"]


def test_a_page_escapes_names_and_templates(
    client: Client, family: tuple[Model, Model, Model]
) -> None:
    answer = client.get(f"/models/{family[1].id}")
    assert "情感 <b>" not in answer.text
    assert "情感 &lt;b&gt;" in answer.text
    answer = client.get(f"/models/{family[0].id}")
    assert "<b>{{" not in answer.text
    assert "&lt;b&gt;{{ m.content }}" in answer.text
    assert "style=" not in answer.text.partition("<main")[2]


def test_a_deleted_parent_is_named_without_a_link(
    client: Client, db: Session, family: tuple[Model, Model, Model]
) -> None:
    _, adapter, merged = family
    assert delete(client, adapter, 303).headers["location"] == "/models"
    lineage = page(client, f"/models/{merged.id}").select_one("[data-testid=model-lineage]")
    assert lineage is not None
    assert "Adapter, deleted" in lineage.text
    assert page(client, f"/models/{adapter.id}", 404)


def test_only_an_adapter_offers_to_merge(
    client: Client, family: tuple[Model, Model, Model]
) -> None:
    base, adapter, merged = family
    form = page(client, f"/models/{adapter.id}").select_one("form[action='/jobs/merge']")
    assert form is not None
    assert form.select_one("input[name=model]")["value"] == adapter.id
    for other in (base, merged):
        assert not page(client, f"/models/{other.id}").select("[data-testid=model-merge]")


def test_a_shared_model_offers_no_delete(
    client: Client, family: tuple[Model, Model, Model]
) -> None:
    assert not page(client, f"/models/{family[0].id}").select("[data-testid=model-delete]")
    assert "shared" in delete(client, family[0], 403).text


def test_viewers_read_only(client: Client, db: Session, family: tuple[Model, Model, Model]) -> None:
    viewer = make_user(db)
    make_membership(db, client.workspace, viewer, "viewer")
    sign_in(db, client, viewer, client.workspace)
    soup = page(client, f"/models/{family[1].id}")
    assert soup.select("[data-testid=model-download]")
    assert not soup.select("[data-testid=model-deploy]")
    assert "role" in delete(client, family[1], 403).text


def test_json_list_and_detail(api: Client, db: Session) -> None:
    base = make_model(db)
    adapter = make_model(
        db, api.workspace, kind="adapter", base_id=base.id, lineage={"stage": "sft"}
    )
    foreign = make_model(db, make_workspace(db))
    db.commit()
    answer = api.get("/api/v1/models?limit=1").json()
    assert ([model["id"] for model in answer["data"]], answer["has_more"]) == ([adapter.id], True)
    answer = api.get("/api/v1/models?offset=1").json()
    assert ([model["id"] for model in answer["data"]], answer["has_more"]) == ([base.id], False)
    assert answer["data"][0]["shared"] is True
    answer = api.get(f"/api/v1/models/{adapter.id}").json()
    assert answer["ancestors"] == [
        {"id": base.id, "name": base.name, "kind": "base", "job_id": None, "lineage": {}}
    ]
    assert answer["lineage"] == {"stage": "sft"}
    for path in (foreign.id, f"{foreign.id}/download", "mdl_none"):
        answer = api.get(f"/api/v1/models/{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "model_not_found")
    assert api.delete(f"/api/v1/models/{foreign.id}").status_code == 404
    assert api.delete(f"/api/v1/models/{base.id}").status_code == 403
    assert api.delete(f"/api/v1/models/{adapter.id}").status_code == 204
    assert api.get(f"/api/v1/models/{adapter.id}").status_code == 404
    assert api.get("/api/v1/models?kind=bogus").status_code == 422


def test_download_is_a_tar_with_the_files_and_their_lineage(
    client: Client, family: tuple[Model, Model, Model]
) -> None:
    answer = client.get(f"/api/v1/models/{family[1].id}/download")
    assert answer.status_code == 200
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert 'filename="b.tar"' in answer.headers["content-disposition"]
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        names = sorted(tar.getnames())
        assert names == [
            f"b/{name}"
            for name in (
                "README.md",
                "adapter_config.json",
                "adapter_model.safetensors",
                "danlu.json",
            )
        ]
        card = json.load(tar.extractfile("b/danlu.json"))
        weights = tar.extractfile("b/adapter_model.safetensors").read()
    assert card["lineage"]["dataset"]["rows"] == 3000
    assert weights == (storage.fetch("models/a") / "adapter_model.safetensors").read_bytes()


def test_a_download_whose_files_are_gone_says_so(
    client: Client, db: Session, family: tuple[Model, Model, Model]
) -> None:
    storage.delete("models/a")
    answer = client.get(f"/api/v1/models/{family[1].id}/download")
    assert answer.status_code == 404
    assert "no longer in the store" in answer.text
    assert page(client, f"/models/{family[1].id}")
