"""Lists go on behind the last entry that one has, whatever comes and goes before it."""

from datetime import timedelta

import pytest

from app import paging
from app.db import now
from app.errors import NotFound
from tests import factories as make


def walk(api, path, **params):
    """The ids of a list, one page after the other."""
    found, after, more = [], "", True
    while more:
        page = api.get(f"/api/v1{path}", params=params | {"after": after, "limit": 2}).json()
        assert len(page["data"]) <= 2
        found += [row["id"] for row in page["data"]]
        assert len(found) == len(set(found))
        after, more = found[-1] if found else "", page["has_more"]
    return found


def several(db, workspace, user):
    """Five of everything that is listed, two of them made at the same moment."""
    for number in range(5):
        at = now() - timedelta(minutes=number // 2)
        version = make.make_dataset(db, workspace)
        version.dataset.created_at = at
        model = make.make_model(db, workspace, created_at=at, name=f"Model {number % 3}")
        make.make_model(db, created_at=at, parameters=number)
        make.make_job(db, workspace, user, model_id=model.id, created_at=at)
        make.make_deployment(
            db, workspace, user, model_id=model.id, served_model_id=model.id, created_at=at
        )
        make.make_key(db, workspace, user)
        make.make_membership(db, workspace, make.make_user(db), "viewer")
        make.make_import(db, workspace, user)
    db.commit()


LISTS = (
    ("/datasets", {}),
    ("/models", {}),
    ("/models", {"sort": "name"}),
    ("/models", {"sort": "size"}),
    ("/models", {"sort": "newest"}),
    ("/models/imports", {}),
    ("/jobs", {}),
    ("/deployments", {}),
    ("/keys", {}),
    ("/workspaces/{workspace}/members", {}),
)


def test_every_entry_comes_once_and_in_order(api, db):
    several(db, api.workspace, api.user)
    for address, params in LISTS:
        path = address.format(workspace=api.workspace.id)
        whole = api.get(f"/api/v1{path}", params=params | {"limit": 100}).json()
        ids = [row["id"] for row in whole["data"]]
        assert len(ids) >= 5
        assert not whole["has_more"]
        assert walk(api, path, **params) == ids, (path, params)


def test_a_page_stays_right_while_entries_come(api, db):
    several(db, api.workspace, api.user)
    first = api.get("/api/v1/jobs", params={"limit": 2}).json()["data"]
    make.make_job(db, api.workspace, api.user)
    db.commit()
    rest = api.get("/api/v1/jobs", params={"after": first[-1]["id"]}).json()["data"]
    assert len({row["id"] for row in first + rest}) == 5


def test_a_filter_that_lets_go_of_the_last_entry_does_not_lose_the_place(api, db):
    several(db, api.workspace, api.user)
    queued = api.get("/api/v1/jobs", params={"state": "queued", "limit": 1}).json()["data"]
    api.post(f"/api/v1/jobs/{queued[0]['id']}/cancel").raise_for_status()
    rest = api.get("/api/v1/jobs", params={"state": "queued", "after": queued[0]["id"]}).json()
    assert len(rest["data"]) == 4


def test_what_is_not_seen_is_no_place(api, db):
    elsewhere = make.make_workspace(db)
    foreign = make.make_job(db, elsewhere, make.make_user(db))
    model = make.make_model(db, elsewhere)
    db.commit()
    for path, after in (
        ("/jobs", foreign.id), ("/models", model.id), ("/datasets", "ds_x"), ("/keys", "key_x"),
    ):  # fmt: skip
        got = api.get(f"/api/v1{path}", params={"after": after})
        assert (got.status_code, got.json()["code"]) == (404, "not_found")
        assert got.json()["errors"][0]["field"] == "after"


def test_a_short_list():
    assert paging.page([1, 2, 3], "", 2, str) == ([1, 2], True)
    assert paging.page([1, 2, 3], "2", 2, str) == ([3], False)
    assert paging.page([], "", 2, str) == ([], False)
    with pytest.raises(NotFound):
        paging.page([1], "9", 2, str)
