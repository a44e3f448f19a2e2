import csv
import io
from datetime import timedelta

import orjson
import pytest
from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import DBAPIError

from app.accounts import acting, audit, platform
from app.accounts.tables import ApiKey, AuditEntry
from app.config import ROOT
from app.db import Base, new_id, now
from tests import factories as make
from tests.conftest import sign_in


def log(db, **wanted):
    rows = db.scalars(select(AuditEntry).filter_by(**wanted).order_by(AuditEntry.at)).all()
    return list(rows)


def make_entry(db, **values):
    with acting.as_one(
        acting.Acting(kind=values.pop("actor", "system"), name=values.pop("by", ""))
    ):
        audit.note(
            db,
            values.pop("action", "update"),
            values.pop("noun", "job"),
            values.pop("noun_id", "job_x"),
            **values,
        )


@pytest.fixture
def admin(db, anonymous):
    sign_in(db, anonymous, make.make_user(db, is_platform_admin=True))
    return anonymous


# -- what is written -------------------------------------------------------------------------


def test_a_change_says_who_what_before_after_and_from_where(db, client):
    key = client.post("/api/v1/keys", json={"name": "nightly", "scopes": ["jobs:read"]}).json()
    client.patch(
        f"/api/v1/keys/{key['id']}",
        json={"name": "weekly", "rpm": 5},
        headers={"user-agent": "curl/8"},
    )
    client.delete(f"/api/v1/keys/{key['id']}")
    made, renamed, gone = log(db, noun="api_key", noun_id=key["id"])
    assert (made.action, renamed.action, gone.action) == ("create", "update", "revoke")
    assert made.after["scopes"] == ["jobs:read"]
    assert made.after["secret_hash"] == "•••"
    assert renamed.before == {"name": "nightly", "rpm": None}
    assert renamed.after == {"name": "weekly", "rpm": 5}
    assert (renamed.actor, renamed.user_id, renamed.user_name) == (
        "user",
        client.user.id,
        client.user.email,
    )
    assert (renamed.workspace_id, renamed.ip, renamed.agent) == (
        client.workspace.id,
        "testclient",
        "curl/8",
    )
    assert renamed.request_id.startswith("req-")


def test_a_key_is_told_from_its_user(db, api):
    api.patch("/api/v1/keys/" + db.scalar(select(ApiKey.id)), json={"name": "mine"})
    (entry,) = log(db, noun="api_key", action="update")
    assert entry.actor == "key"
    assert entry.api_key_id == entry.noun_id


def test_what_is_rolled_back_is_not_told(db, database):
    user = make.make_user(db)
    assert log(db, noun="user", noun_id=user.id)
    db.rollback()
    assert log(db) == []


def test_the_platform_acts_where_nobody_does(db):
    user = make.make_user(db)
    (entry,) = log(db, noun="user", noun_id=user.id)
    assert (entry.actor, entry.user_id, entry.name) == ("system", None, user.email)


def test_no_secret_and_no_long_text_is_told(db):
    user = make.make_user(db)
    user.password_hash = "argon2-something"
    workspace = make.make_workspace(db, owner=user)
    model = make.make_model(db, workspace, description="x" * 5000)
    platform.change(db, None, general={"name": "Lab"})
    db.flush()
    *_, changed = log(db, noun="user", noun_id=user.id)
    assert changed.before == changed.after == {"password_hash": "•••"}
    (made,) = log(db, noun="model", noun_id=model.id)
    assert len(made.after["description"]) < 320
    (set_,) = log(db, noun="platform_settings", action="update")
    assert set_.after["sections"]["general"]["name"] == "Lab"
    assert "argon2-something" not in " ".join(entry.words for entry in log(db))


def test_of_nested_values_only_what_differs(db):
    platform.change(db, None, general={"name": "One"})
    platform.change(db, None, general={"name": "Two"})
    entry = log(db, noun="platform_settings")[-1]
    assert entry.before == {"sections": {"general": {"name": "One"}}}
    assert entry.after == {"sections": {"general": {"name": "Two"}}}


def test_secret_names_are_hidden_wherever_they_stand():
    found = audit.told(
        "", {"a": {"password": "x", "api_key": "y", "max_tokens": 5, "hook": {"token": "z"}}}
    )
    assert found == {
        "a": {"password": "•••", "api_key": "•••", "max_tokens": 5, "hook": {"token": "•••"}}
    }


def test_progress_is_not_told_and_states_only_of_people(db):
    workspace = make.make_workspace(db)
    job = make.make_job(db, workspace, make.make_user(db))
    before = len(log(db))
    job.step, job.total, job.phase, job.state = 5, 10, "train", "running"
    db.flush()
    assert len(log(db)) == before
    with acting.as_one(acting.Acting(kind=acting.USER)):
        job.state, job.step = "cancelling", 6
        db.flush()
    assert log(db)[-1].after == {"state": "cancelling"}


def test_signing_in_and_failing_to_are_told(db, anonymous):
    user = make.make_user(db)
    make.make_workspace(db, owner=user)
    db.commit()
    anonymous.post("/login", data={"email": user.email, "password": "wrong"})
    anonymous.post("/login", data={"email": user.email, "password": make.PASSWORD})
    anonymous.post("/logout")
    failed, signed_in, out = log(db, noun="user", noun_id=user.id)[1:]
    assert (failed.action, failed.actor, failed.name) == ("sign_in_failed", "nobody", user.email)
    assert (signed_in.action, signed_in.actor, signed_in.user_id) == ("sign_in", "user", user.id)
    assert out.action == "sign_out"
    assert "wrong" not in failed.words


def test_who_is_removed_loses_keys_one_entry_each(db, client):
    user = make.make_user(db)
    make.make_membership(db, client.workspace, user, "member")
    make.make_key(db, client.workspace, user)
    db.commit()
    client.delete(f"/api/v1/workspaces/{client.workspace.id}/members/{user.id}")
    assert [entry.name for entry in log(db, noun="api_key", action="revoke")] == ["tests"]
    assert len(log(db, noun="membership", action="delete")) == 1


# -- it stays --------------------------------------------------------------------------------


@pytest.mark.parametrize("statement", [update(AuditEntry).values(name="x"), delete(AuditEntry)])
def test_entries_are_never_changed(db, statement):
    make_entry(db)
    with pytest.raises(DBAPIError, match="never changed"):
        db.execute(statement)


def test_retention_lets_the_old_go_in_pieces(db, monkeypatch):
    monkeypatch.setattr(audit, "PIECE", 2)
    platform.change(db, None, audit={"days": 30})
    for days in (29, 31, 32, 33):
        db.execute(
            insert(AuditEntry).values(
                id=new_id("aud"), at=now() - timedelta(days=days), actor="system", user_name="", ip="", agent="",
                request_id="", action="update", noun="old", noun_id=str(days), name="", before={}, after={}, words="",
            )
        )  # fmt: skip
    audit.clear(db)
    assert {entry.noun_id for entry in log(db, noun="old")} == {"29", "31"}
    audit.clear(db)
    assert {entry.noun_id for entry in log(db, noun="old")} == {"29"}
    with pytest.raises(DBAPIError, match="never changed"):
        db.execute(delete(AuditEntry))


# -- reading ---------------------------------------------------------------------------------


def test_a_workspace_sees_its_own_and_the_platform_all(db, api):
    other = make.make_workspace(db)
    make_entry(db, noun_id="job_mine", workspace_id=api.workspace.id)
    make_entry(db, noun_id="job_other", workspace_id=other.id)
    make_entry(db, noun_id="node_1", noun="node")
    db.commit()
    found = api.get("/api/v1/workspace/audit", params={"limit": 100}).json()["data"]
    assert {one["workspace_id"] for one in found} == {api.workspace.id}
    assert api.get("/api/v1/audit").status_code == 403
    asked = api.get("/api/v1/workspace/audit", params={"workspace": other.id}).json()
    assert asked["data"] == []
    api.user.is_platform_admin = True
    db.commit()
    whole = api.get("/api/v1/audit", params={"limit": 100}).json()["data"]
    assert {"job_mine", "job_other", "node_1"} <= {one["noun_id"] for one in whole}


def test_filters_and_pages(db, admin):
    for number in range(5):
        make_entry(
            db,
            noun_id=f"job_{number}",
            name=f"tone {number}",
            by="lin@example.com",
            actor="user",
            after={"rank": number},
        )
    make_entry(db, noun="deployment", action="delete", name="100%")
    db.commit()

    def ids(**params):
        return [one["noun_id"] for one in admin.get("/api/v1/audit", params=params).json()["data"]]

    assert ids(noun="job", q="TONE 3") == ["job_3"]
    assert ids(user="LIN@", limit=2) == ["job_4", "job_3"]
    assert ids(action="delete", q="100%") == ["job_x"]
    assert ids(noun="job", q="%") == []
    assert ids(noun="job", until=(now() - timedelta(hours=1)).isoformat()) == []
    first = admin.get("/api/v1/audit", params={"noun": "job", "limit": 3}).json()
    assert first["has_more"]
    rest = ids(noun="job", limit=3, after=first["data"][-1]["id"])
    assert rest == ["job_1", "job_0"]
    assert admin.get("/api/v1/audit", params={"after": "aud_none"}).status_code == 404


def test_the_page_shows_a_readable_difference(db, admin):
    make_entry(
        db,
        noun_id="job_1",
        name="<b>tone</b>",
        before={"a": {"rank": 8}},
        after={"a": {"rank": 16}},
    )
    db.commit()
    page = admin.get("/admin/audit", params={"noun": "job"}).text
    assert "<dt>a.rank</dt>" in page
    assert ">8</del> → <ins" in page
    assert "<b>tone" not in page
    assert admin.get("/admin/audit", params={"since": "nonsense", "limit": "x"}).status_code == 200
    assert "job_1" not in admin.get("/workspace/audit").text


def test_exports_are_streamed_whole_and_told(db, admin):
    from app.accounts import audit_list

    for number in range(7):
        make_entry(db, noun="price", noun_id=f"p{number}", name="=1+1", after={"hour": "1.5"})
    db.commit()
    audit_list.PIECE, kept = 3, audit_list.PIECE
    try:
        lines = admin.get("/api/v1/audit/export", params={"noun": "price"}).text.splitlines()
        table = admin.get("/api/v1/audit/export", params={"noun": "price", "format": "csv"})
    finally:
        audit_list.PIECE = kept
    assert [orjson.loads(line)["noun_id"] for line in lines] == [f"p{n}" for n in range(6, -1, -1)]
    rows = list(csv.DictReader(io.StringIO(table.content.decode("utf-8-sig"))))
    assert len(rows) == 7
    assert rows[0]["name"] == "'=1+1"
    assert orjson.loads(rows[0]["after"]) == {"hour": "1.5"}
    assert [entry.action for entry in log(db, noun="audit")] == ["export", "export"]


def test_each_noun_has_a_word_and_can_be_searched_for():
    words = (ROOT / "templates/audit/_words.html").read_text()
    audited = [one.class_ for one in Base.registry.mappers if hasattr(one.class_, "__audited__")]
    assert len(audited) > 30
    for name in map(audit.noun_of, audited):
        assert f'"{name}": _(' in words
        assert f'"{name}",' in words or f'"{name}"]' in words
