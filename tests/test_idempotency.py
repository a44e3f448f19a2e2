"""`Idempotency-Key`: a POST to /api/v1 that is sent twice happens once."""

import threading
from datetime import timedelta

import pytest
from freezegun import freeze_time
from sqlalchemy import select

from app.accounts.tables import ApiKey, User
from app.db import now
from app.idempotency import service
from app.idempotency.tables import OnceRequest
from app.queue import transaction
from tests import factories as make

UPLOAD = {"file_name": "rows.jsonl", "size": 100}


def post(client, path, body, key="monday", **headers):
    return client.post(f"/api/v1{path}", json=body, headers={"idempotency-key": key, **headers})


def test_the_same_request_is_answered_the_same_and_happens_once(api):
    first = post(api, "/uploads", UPLOAD)
    again = post(api, "/uploads", UPLOAD)
    assert first.status_code == again.status_code == 201
    assert again.content == first.content
    assert again.headers["upload-offset"] == first.headers["upload-offset"] == "0"
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert len(api.get("/api/v1/uploads").json()["data"]) == 1
    assert post(api, "/uploads", UPLOAD, key="tuesday").json()["id"] != first.json()["id"]
    assert api.post("/api/v1/uploads", json=UPLOAD).json()["id"] != first.json()["id"]


def test_a_key_is_for_one_request(api):
    post(api, "/uploads", UPLOAD)
    other = post(api, "/uploads", UPLOAD | {"size": 101})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    elsewhere = post(api, "/jobs/preview", UPLOAD)
    assert elsewhere.json()["code"] == "idempotency_key_reused"
    assert elsewhere.headers["content-type"] == "application/problem+json"


def test_keys_of_other_people_and_workspaces_are_others(api, db):
    first = post(api, "/uploads", UPLOAD).json()
    someone = make.make_user(db)
    make.make_membership(db, api.workspace, someone, "member")
    theirs = make.make_key(db, api.workspace, someone)
    elsewhere = make.make_workspace(db, owner=api.user)
    mine_elsewhere = make.make_key(db, elsewhere, api.user)
    db.commit()
    for secret in (theirs, mine_elsewhere):
        got = post(api, "/uploads", UPLOAD, authorization=f"Bearer {secret}")
        assert got.status_code == 201
        assert got.json()["id"] != first["id"]


def test_what_was_refused_may_be_sent_again(api):
    assert post(api, "/uploads", UPLOAD | {"size": 0}).status_code == 422
    assert post(api, "/uploads", UPLOAD).status_code == 201
    assert post(api, "/jobs/nothing/cancel", {}, key="x").status_code == 404
    with transaction() as db:
        assert [row.key for row in db.scalars(select(OnceRequest))] == ["monday"]


def test_a_secret_is_not_kept(api):
    body = {"name": "nightly", "scopes": ["models:read"]}
    secret = post(api, "/keys", body).json()["secret"]
    again = post(api, "/keys", body)
    assert (again.status_code, again.json()["code"]) == (409, "idempotency_answer_not_kept")
    with transaction() as db:
        row = db.scalars(select(OnceRequest)).one()
        assert row.body is None
        assert secret not in str(row.headers)
        assert len(list(db.scalars(select(ApiKey).where(ApiKey.name == "nightly")))) == 1


def test_while_it_is_worked_on(api, monkeypatch):
    """The second of two at the same time is told to wait, and later gets the answer of the first."""
    from app.uploads import api as uploads

    inside, go_on = threading.Event(), threading.Event()
    through = uploads.service.begin

    def slowly(*args):
        inside.set()
        assert go_on.wait(20)
        return through(*args)

    monkeypatch.setattr(uploads.service, "begin", slowly)
    answers = []
    first = threading.Thread(target=lambda: answers.append(post(api, "/uploads", UPLOAD)))
    first.start()
    assert inside.wait(20)
    meanwhile = post(api, "/uploads", UPLOAD)
    go_on.set()
    first.join(20)
    assert (meanwhile.status_code, meanwhile.json()["code"]) == (409, "idempotency_in_progress")
    assert post(api, "/uploads", UPLOAD).content == answers[0].content


def test_after_a_day_a_key_is_new(api):
    first = post(api, "/uploads", UPLOAD).json()
    with freeze_time(now() + service.KEPT + timedelta(minutes=1)):
        assert post(api, "/uploads", UPLOAD).json()["id"] != first["id"]


def test_a_file_is_sent_once(api):
    """Of a form with files the length stands for the content."""
    row = (
        b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
    )

    def send(body):
        return api.post(
            "/api/v1/datasets",
            data={"name": "once"},
            files={"file": ("rows.jsonl", body)},
            headers={"idempotency-key": "file"},
        )

    first, again = send(row), send(row)
    assert first.status_code == again.status_code == 201
    assert first.json()["id"] == again.json()["id"]
    assert send(row * 2).json()["code"] == "idempotency_key_reused"


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_keys_that_are_none(api, key):
    got = post(api, "/uploads", UPLOAD, key=key)
    assert (got.status_code, got.json()["code"]) == (422, "idempotency_key_invalid")


def test_who_may_not_is_refused_as_ever(api, db):
    assert post(api, "/uploads", UPLOAD, authorization="Bearer dk-wrong").status_code == 401
    viewer = make.make_user(db)
    make.make_membership(db, api.workspace, viewer, "viewer")
    secret = make.make_key(db, api.workspace, viewer)
    db.commit()
    assert post(api, "/uploads", UPLOAD, authorization=f"Bearer {secret}").status_code == 403
    post(api, "/uploads", UPLOAD)
    db.get_one(User, api.user.id).disabled_at = now()
    db.commit()
    assert post(api, "/uploads", UPLOAD).status_code == 401, "no answer for who has lost the right"


def test_elsewhere_the_header_means_nothing(api):
    sent = {"idempotency-key": "v1"}
    for _ in range(2):
        made = api.post("/v1/uploads", json={"bytes": 5, "filename": "a.jsonl", "purpose": "fine-tune", "mime_type": "text/plain"}, headers=sent)  # fmt: skip
        assert made.status_code == 200
        assert "idempotent-replayed" not in made.headers
