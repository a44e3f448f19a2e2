from datetime import timedelta

import pytest

from app.accounts import platform
from app.cluster import service as cluster
from app.db import now
from app.errors import Invalid
from tests import factories as make
from tests.conftest import sign_in
from workers import sweep


def begin(db, **values):
    found = platform.change(db, None, maintenance={"on": True, **values})
    db.commit()
    return found.maintenance


def test_when_it_lasts(db):
    hour = timedelta(hours=1)
    assert begin(db).active
    assert not begin(db, since=(now() + hour).isoformat()).active
    assert begin(db).ahead
    assert begin(db, since=(now() - hour).isoformat(), until=(now() + hour).isoformat()).active
    assert platform.read(db).maintenance.retry_after == pytest.approx(3600, abs=5)
    over = begin(db, since=(now() - 2 * hour).isoformat(), until=(now() - hour).isoformat())
    assert not over.active
    with pytest.raises(Invalid, match="end comes before"):
        begin(db, since=now().isoformat(), until=(now() - hour).isoformat())


def test_changes_wait_and_reading_goes_on(db, api):
    begin(db, text_en="New disks.", text_zh="更换硬盘。")
    refused = api.post("/api/v1/keys", json={"name": "x", "scopes": ["jobs:read"]})
    assert refused.status_code == 503
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.headers["retry-after"] == "300"
    assert refused.json()["code"] == "maintenance"
    assert refused.json()["detail"].endswith("New disks.")
    zh = api.delete("/api/v1/keys/key_x", headers={"accept-language": "zh"})
    assert zh.json()["detail"].endswith("更换硬盘。")
    assert api.get("/api/v1/keys").status_code == 200
    assert api.post("/v1/files").json()["error"]["code"] == "maintenance"
    assert api.get("/readyz").status_code == 200


def test_inference_goes_on(db, api):
    begin(db)
    for path in ("/v1/chat/completions", "/v1/embeddings", "/api/v1/conversations"):
        assert api.post(path, json={"model": "none", "messages": []}).status_code in (404, 422, 400)


def test_people_are_told_and_come_and_go(db, client):
    begin(db, text_en="New disks.")
    page = client.get("/jobs", headers={"accept-language": "en"})
    assert 'data-testid="maintenance"' in page.text
    assert "New disks." in page.text
    assert client.post("/logout").status_code == 303
    form = {"email": client.user.email, "password": make.PASSWORD}
    assert client.post("/login", data=form).status_code == 303


def test_what_is_announced_is_shown_and_stops_nothing(db, client):
    begin(db, since=(now() + timedelta(hours=2)).isoformat())
    assert 'data-testid="maintenance"' in client.get("/jobs").text
    made = client.post("/api/v1/keys", json={"name": "x", "scopes": ["jobs:read"]})
    assert made.status_code == 201


def test_platform_admins_go_on(db, anonymous):
    sign_in(db, anonymous, make.make_user(db, is_platform_admin=True))
    begin(db)
    done = anonymous.post("/admin/settings/maintenance", data={"text_en": "Soon over"})
    assert done.status_code == 303
    db.expire_all()
    found = platform.read(db).maintenance
    assert (found.on, found.text_en) == (False, "Soon over")


def test_a_form_with_times_is_kept_as_typed(db, anonymous):
    sign_in(db, anonymous, make.make_user(db, is_platform_admin=True))
    form = {"on": "true", "since": "2031-02-03T04:05", "until": "2031-02-03T03:05"}
    page = anonymous.post("/admin/settings/maintenance", data=form)
    assert page.status_code == 422
    assert 'value="2031-02-03T04:05"' in page.text
    assert (
        anonymous.post("/admin/settings/maintenance", data=form | {"until": ""}).status_code == 303
    )
    db.expire_all()
    kept = platform.read(db).maintenance.since
    assert kept.astimezone().strftime("%Y-%m-%dT%H:%M") == "2031-02-03T04:05"


def test_nothing_new_is_scheduled(db):
    workspace = make.make_workspace(db)
    job = make.make_job(db, workspace, make.make_user(db))
    make.make_node(db)
    cluster.ask(db, owner_kind="job", owner_id=job.id, workspace_id=workspace.id, devices=1)
    begin(db)
    sweep.decide(db)
    (request,) = db.scalars(cluster.select(cluster.Request))
    assert (request.granted_at, request.reason) == (None, "maintenance")
    platform.change(db, None, maintenance={"on": False})
    sweep.decide(db)
    db.refresh(request)
    assert request.granted_at
