"""Alerts and rules on pages and by JSON."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts import platform
from app.alerts import rules
from app.alerts.tables import AlertRule
from app.queue import transaction
from tests import factories as make
from tests.alerts.acts import deliver, fire
from tests.alerts.receivers import Hook, Post
from tests.conftest import Client, sign_in

# -- pages and JSON ----------------------------------------------------------------------


def test_a_rule_by_its_page(db: Session, client: Client, hook: Hook) -> None:
    form = {"name": "群", "kinds": ["job_failed", "quota_near"], "how": "feishu", "url": hook.url,
            "enabled": "true", "repeat_minutes": "60", "language": "zh"}  # fmt: skip
    assert client.post("/alerts/rules", data=form).status_code == 303
    page = client.get("/alerts").text
    assert "群" in page
    assert "127.0.0.1" in page
    assert "t0p" not in page
    (made,) = db.scalars(select(AlertRule))
    assert (made.kinds, made.enabled) == (["job_failed", "quota_near"], True)
    detail = client.get(f"/alerts/rules/{made.id}").text
    assert "t0p" not in detail
    kept = {**form, "url": "", "name": "大群"}
    assert client.post(f"/alerts/rules/{made.id}", data=kept).status_code == 303
    db.expire_all()
    assert (made.name, made.url) == ("大群", hook.url)
    assert client.post(f"/alerts/rules/{made.id}/test").status_code == 303
    assert [one.state for one in deliver(db)] == ["delivered"]
    assert "测试" in hook.got[0][2].decode()
    assert client.post(f"/alerts/rules/{made.id}/delete").status_code == 303
    assert db.scalars(select(AlertRule)).all() == []


def test_a_wrong_form_keeps_what_was_typed(client: Client) -> None:
    form = {"name": "ops", "kinds": "job_failed", "how": "mail", "addresses": "nobody"}
    refused = client.post("/alerts/rules", data=form, headers={"accept-language": "en"})
    assert refused.status_code == 422
    assert "Give mail addresses" in refused.text
    assert "nobody" in refused.text
    none = client.post("/alerts/rules", data={"name": "x", "how": "mail", "addresses": "a@b.c"})
    assert none.status_code == 422


def test_by_the_api(db: Session, api: Client, hook: Hook) -> None:
    body = {"name": "hook", "kinds": ["job_failed"], "how": "webhook", "url": hook.url}
    made = api.post("/api/v1/alerts/rules", json=body)
    assert made.status_code == 201, made.text
    assert made.json()["secret"].startswith("whsec_")
    path = f"/api/v1/alerts/rules/{made.json()['id']}"
    assert api.get(path).json()["secret"] is None
    changed = api.put(path, json={**body, "url": "", "enabled": False})
    assert changed.json()["enabled"] is False
    fire(db, api)
    listed = api.get("/api/v1/alerts").json()
    assert [one["message"] for one in listed["data"]] == ["Job tone failed."]
    tested = api.post(f"{path}/test")
    assert tested.status_code == 202
    deliver(db)
    told = api.get("/api/v1/alerts/deliveries").json()["data"]
    assert [(one["event"], one["state"]) for one in told] == [("test", "delivered")]
    for _ in range(rules.TESTS):
        last = api.post(f"{path}/test")
    assert last.status_code == 429
    assert api.delete(path).status_code == 204
    assert api.get(path).status_code == 404


def test_what_fires_stands_on_both_pages(db: Session, client: Client) -> None:
    fire(db, client, "deployment_unhealthy", "dep_x")
    assert "tone" in client.get("/alerts").text
    assert client.get("/admin/alerts").status_code == 403
    client.user.is_platform_admin = True
    db.commit()
    assert "tone" in client.get("/admin/alerts").text
    elsewhere = make.make_workspace(db, owner=client.user)
    sign_in(db, client, client.user, elsewhere)
    assert "tone" not in client.get("/alerts").text


def test_a_test_mail_from_the_page(db: Session, client: Client, post: Post) -> None:
    client.user.is_platform_admin = True
    db.commit()
    assert client.post("/admin/alerts/mail").status_code == 200
    assert [to for to, _ in post.mails] == [[client.user.email]]
    with transaction() as other:
        platform.change(other, None, mail={"password": "wrong"})
    page = client.post("/admin/alerts/mail", headers={"accept-language": "en"})
    assert "refuses the sign-in" in page.text
    assert "wrong" not in page.text
