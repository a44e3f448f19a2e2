"""Aliases: made, changed, deleted; what they keep; what they refuse."""

import pytest
from bs4 import BeautifulSoup
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.accounts.tables import Workspace
from app.db import now
from app.deployments import aliases, service
from app.deployments.aliases_schemas import AliasPut
from app.deployments.tables import AliasEvent, Deployment
from app.errors import Conflict, Invalid, NotFound
from tests.conftest import Client
from tests.deployments.acts import body
from tests.factories import make_deployment, make_model, make_user, make_workspace


def make(db: Session, workspace: Workspace, name: str, **more: object) -> Deployment:
    return make_deployment(db, workspace, make_user(db), name=name, **more)


def put(name: str, **weights: int) -> AliasPut:
    targets = [{"deployment": one, "weight": weight} for one, weight in weights.items()]
    return AliasPut.model_validate({"name": name, "targets": targets})


def test_made_changed_and_deleted(db: Session, workspace: Workspace, who: Principal) -> None:
    old, new = make(db, workspace, "old"), make(db, workspace, "new")
    alias = aliases.save(db, who, put("best", old=90, new=10))
    assert aliases.split(db, workspace.id, "best") == [("old", 90), ("new", 10)]
    assert aliases.save(db, who, put("best", old=90, new=10)).id == alias.id
    aliases.save(db, who, put("best", old=0, new=3))
    assert aliases.split(db, workspace.id, "best") == [("new", 3)]
    assert alias.targets[1] == {"deployment": old.id, "weight": 0}
    say = [one["message"] for one in aliases.history(db, alias, lambda text, **at: text % at)]
    assert say == ["It leads to new 100 %, old 0 %.", "It leads to old 90 %, new 10 %."]
    aliases.remove(db, who, "best")
    assert aliases.split(db, workspace.id, "best") == []
    assert db.query(AliasEvent).filter_by(alias_id=alias.id).count() == 3
    assert new.deleted_at is None


def test_what_cannot_be(db: Session, workspace: Workspace, who: Principal) -> None:
    one = make(db, workspace, "one")
    make(db, make_workspace(db), "foreign")
    gone = make(db, workspace, "gone", deleted_at=now())
    for wrong, error in [
        (put("a", one=0), Invalid),
        (put("a", foreign=1), NotFound),
        (put("a", **{gone.id: 1}), NotFound),
        (put("a", one=1, **{one.id: 1}), Invalid),
    ]:
        with pytest.raises(error):
            aliases.save(db, who, wrong)
    aliases.save(db, who, put("a", one=1))
    with pytest.raises(Conflict):
        aliases.save(db, who, put("a", one=2), new=True)


def test_what_an_alias_leads_to_is_not_deleted(
    db: Session, workspace: Workspace, who: Principal
) -> None:
    one = make(db, workspace, "one", desired="stopped", state="stopped")
    aliases.save(db, who, put("best", one=1))
    with pytest.raises(Conflict, match="best"):
        service.delete(db, workspace.id, one.id)
    aliases.remove(db, who, "best")
    service.delete(db, workspace.id, one.id)


def test_names(db: Session, workspace: Workspace, who: Principal) -> None:
    """An alias may take a deployment's name, not the other way round; it is listed once."""
    make(db, workspace, "mood", ready_at=now(), state="ready")
    make(db, workspace, "other")
    aliases.save(db, who, put("mood", mood=1))
    aliases.save(db, who, put("best", mood=1))
    aliases.save(db, who, put("later", other=1))
    assert [one.name for one in service.names(db, workspace.id)] == ["best", "mood"]
    with pytest.raises(Conflict, match="alias"):
        service.create(db, who, body(make_model(db), name="best"))


def test_by_api(db: Session, api: Client) -> None:
    one = make(db, api.workspace, "one")
    make(db, api.workspace, "two")
    db.commit()
    asked = {
        "name": "best",
        "targets": [{"deployment": "one", "weight": 9}, {"deployment": "two", "weight": 1}],
    }
    made = api.put("/api/v1/aliases", json=asked).json()
    assert [(target["name"], target["share"]) for target in made["targets"]] == [
        ("one", 0.9),
        ("two", 0.1),
    ]
    assert api.get("/api/v1/aliases").json() == {"data": [made], "has_more": False}
    for name in ("best", made["id"]):
        assert api.get(f"/api/v1/aliases/{name}").json() == made
    assert api.get("/api/v1/aliases/best/events").json()["data"][0]["by"] == api.user.name
    refused = api.delete(f"/api/v1/deployments/{one.id}")
    assert (refused.status_code, refused.json()["code"]) == (409, "in_use")
    for wrong in (
        asked | {"name": "No"},
        asked | {"targets": []},
        asked | {"targets": [{"deployment": "one", "weight": -1}]},
        asked | {"targets": [{"deployment": "one", "weight": 1}] * 9},
    ):
        assert api.put("/api/v1/aliases", json=wrong).status_code == 422
    assert api.delete("/api/v1/aliases/best").status_code == 204
    assert api.get("/api/v1/aliases/best").status_code == 404


def test_on_the_pages(db: Session, client: Client) -> None:
    one, two = make(db, client.workspace, "one"), make(db, client.workspace, "two")
    db.commit()
    assert 'data-testid="alias-new"' in client.get("/deployments/aliases").text
    assert "data-weight" in client.get("/deployments/aliases/new").text
    form = {"name": "best", f"weight.{one.id}": "90", f"weight.{two.id}": "10"}
    wrong = client.post("/deployments/aliases", data=form | {f"weight.{two.id}": "many"})
    assert (wrong.status_code, "whole number" in wrong.text) == (422, True)
    assert 'value="many"' in wrong.text
    nothing = client.post("/deployments/aliases", data={"name": "best"})
    assert nothing.status_code == 422
    page = client.post("/deployments/aliases", data=form).headers["location"]
    again = client.post("/deployments/aliases", data=form)
    assert (again.status_code, "already" in again.text) == (422, True)

    shown = BeautifulSoup(client.get(page).text, "lxml")
    weights = [field["value"] for field in shown.select('[data-testid="alias-weight"]')]
    assert sorted(weights) == ["10", "90"]
    assert "one 90 %, two 10 %" in shown.select_one('[data-testid="alias-history"]').text
    client.post(page, data={"name": "ignored", f"weight.{two.id}": "5"})
    row = BeautifulSoup(client.get("/deployments/aliases").text, "lxml")
    targets = row.select_one('[data-testid="alias-row"]').text.split()
    assert targets[:1] == ["best"]
    assert "two" in targets
    assert "one" not in targets
    assert client.post(f"/deployments/{two.id}/delete").status_code == 409
    assert client.post(f"{page}/delete").status_code == 303
    assert client.get(page).status_code == 404
