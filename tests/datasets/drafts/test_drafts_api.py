"""Drafts as JSON."""

from sqlalchemy.orm import Session

from app.datasets.tables import DatasetVersion
from tests.conftest import Client
from tests.datasets.files import many, row
from tests.datasets.test_api import URL, upload


def test_api(api: Client, db: Session) -> None:
    made = upload(api, many(5)).json()
    base = f"{URL}/{made['id']}"
    first = api.get(f"{base}/rows/0").json()
    assert first["id"] == f"{made['version_id']}.1"
    body = {"row": row("question 0", "new"), "hash": first["hash"]}
    edited = api.patch(f"{base}/rows/{first['id']}", json=body)
    assert edited.status_code == 200
    told = edited.json()
    assert [told["act"]["what"], told["rows"], told["data"][0]["index"]] == ["edit", 5, 0]
    late = api.patch(f"{base}/rows/{first['id']}", json=body)
    assert [late.status_code, late.json()["code"]] == [409, "row_changed"]
    assert (
        api.patch(
            f"{base}/rows/0", json={"row": {"messages": []}, "hash": told["data"][0]["hash"]}
        ).status_code
        == 422
    )
    added = api.post(f"{base}/rows", json={"rows": [row("a", "b")], "after": first["id"]})
    assert [added.status_code, added.json()["data"][0]["index"]] == [201, 1]
    assert api.delete(f"{base}/rows/{added.json()['data'][0]['id']}").json()["rows"] == 5
    assert (
        api.post(f"{base}/rows/restore", json={"ids": [added.json()["data"][0]["id"]]}).status_code
        == 200
    )
    assert api.post(f"{base}/rows/delete", json={"filter": {"q": "answer 4"}}).json()["rows"] == 1
    assert api.post(f"{base}/undo").json()["state"] == "undone"
    assert api.post(f"{base}/redo", json={"version": "1"}).json()["state"] == "done"
    assert api.post(f"{base}/redo").json()["code"] == "nothing"
    listed = api.get(f"{base}/rows").json()
    assert [listed["total"], len(listed["data"]), listed["has_more"]] == [5, 5, False]
    past = api.get(f"{base}/history").json()["data"]
    assert [act["what"] for act in past] == ["delete", "restore", "delete", "add", "edit"]
    assert past[0]["user"] == api.user.name
    edits = api.get(f"{base}/history/{past[-1]['id']}").json()["data"]
    assert edits[0]["after"]["messages"][1]["content"] == "new"
    of_row = api.get(f"{base}/history", params={"row": first["id"]}).json()["data"]
    assert [act["what"] for act in of_row] == ["edit"]
    assert api.get(f"{base}/history/act_x").status_code == 404


def test_api_replace_and_versions(api: Client) -> None:
    made = upload(api, many(5)).json()
    base = f"{URL}/{made['id']}"
    body = {"find": "answer", "replace": "回答", "roles": ["assistant"]}
    preview = api.post(f"{base}/replace", json=body).json()
    assert [preview["rows"], preview["matches"], preview["has_more"]] == [5, 5, False]
    assert preview["examples"][0]["hits"][0]["put"] == "回答"
    done = api.post(f"{base}/replace", json=body | {"apply": True}).json()
    assert [done["what"], done["state"], done["rows"]] == ["replace", "done", 5]
    for wrong in (
        {"find": ""},
        {"find": "(", "regex": True},
        {"roles": ["x"], "find": "a"},
    ):
        assert api.post(f"{base}/replace", json=wrong).status_code == 422
    lone = b'{"find": "\\ud800"}'
    told = api.post(f"{base}/replace", content=lone, headers={"content-type": "application/json"})
    assert told.status_code == 422
    assert api.post(f"{base}/versions", json={"from": 1}).json()["code"] == "not_published"
    api.post(f"{base}/publish")
    draft = api.post(f"{base}/versions", json={"from": 1})
    assert [draft.status_code, draft.json()["version"], draft.json()["rows"]] == [201, 2, 5]
    assert api.post(f"{base}/versions", json={"from": 1}).json()["code"] == "open_draft"
    api.delete(f"{base}/rows/0?version=2")
    told = api.get(f"{base}/compare", params={"from": 1, "to": 2}).json()
    assert [told["state"], told["removed"], told["same"]] == ["done", 1, 4]
    assert told["data"][0]["old"]["index"] == 0
    assert told["data"][0]["new"] is None
    assert told["data"][0]["parts"][1]["fields"] == {"content": [["old", "回答 0"]]}
    assert api.delete(f"{base}/versions/1").json()["code"] == "published"
    assert api.delete(f"{base}/versions/2").status_code == 204
    assert api.get(base).json()["version"] == 1
    assert api.post(URL, json={"from": 1}).status_code == 422


def test_a_download_has_the_edits(api: Client, db: Session) -> None:
    made = upload(api, many(3)).json()
    base = f"{URL}/{made['id']}"
    api.delete(f"{base}/rows/1")
    assert db.get_one(DatasetVersion, made["version_id"]).rows == 2
    lines = api.get(f"{base}/download").content.splitlines()
    assert len(lines) == 2
