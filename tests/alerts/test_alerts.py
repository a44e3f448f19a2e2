"""Alerts fire once, are told by real mail and HTTP, resolve, and stay within their workspace."""

import base64
import hashlib
import hmac
import json
import time
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from app import mail
from app.alerts import delivering, rules
from app.alerts import service as alerts
from app.alerts.schemas import RuleIn
from app.alerts.tables import Alert, AlertRule
from app.config import settings
from app.db import now
from app.errors import Invalid
from app.jobs import states
from tests import factories as make
from tests.alerts.acts import deliver, fire, late, rule
from tests.alerts.receivers import Hook, Post
from tests.conftest import Client
from workers import sweep, watch

# -- telling -----------------------------------------------------------------------------


def test_a_webhook_is_signed_and_told_once(db: Session, client: Client, hook: Hook) -> None:
    made = rule(db, client, how="webhook", url=hook.url)
    fire(db, client)
    (one,) = deliver(db)
    assert one.state == "delivered"
    delivering.deliver(one.id)
    ((path, headers, body),) = hook.got
    assert path == "/hook?token=t0p"
    told = json.loads(body)
    assert (told["type"], told["text"]) == ("alert.firing", "Job tone failed.")
    assert told["alert"]["url"] == f"{settings.url}/jobs/job_x"
    assert told["alert"]["workspace"] == client.workspace.id
    assert made.secret
    key = base64.b64decode(made.secret.removeprefix("whsec_"))
    content = f"{one.id}.{headers['webhook-timestamp']}.".encode() + body
    sign = base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()
    assert headers["webhook-signature"] == f"v1,{sign}"


def test_bots_are_spoken_to_in_their_ways(db: Session, client: Client, hook: Hook) -> None:
    for how in ("feishu", "dingtalk", "wecom"):
        rule(db, client, name=how, how=how, url=hook.url, secret="SEC1", language="zh")
    fire(db, client)
    assert {one.state for one in deliver(db)} == {"delivered"}
    told = {}
    for path, _, body in hook.got:
        said = json.loads(body)
        told["feishu" if "msg_type" in said else "dingtalk" if "sign=" in path else "wecom"] = (
            path,
            said,
        )
    assert set(told) == {"feishu", "dingtalk", "wecom"}
    for _, said in told.values():
        words = (said.get("content") or said["text"]).popitem()[1]
        assert "tone" in words
        assert f"{settings.url}/jobs/job_x" in words
        assert "任务" in words
    said = told["feishu"][1]
    expected = hmac.digest(f"{said['timestamp']}\nSEC1".encode(), b"", hashlib.sha256)
    assert base64.b64decode(said["sign"]) == expected
    query = parse_qs(urlsplit(told["dingtalk"][0]).query)
    content = f"{query['timestamp'][0]}\nSEC1".encode()
    assert base64.b64decode(query["sign"][0]) == hmac.digest(b"SEC1", content, hashlib.sha256)
    assert query["token"] == ["t0p"]


def test_a_bot_that_refuses_with_status_200_is_tried_again(
    db: Session, client: Client, hook: Hook
) -> None:
    rule(db, client, how="wecom", url=hook.url)
    hook.answer = b'{"errcode": 93000, "errmsg": "invalid webhook url"}'
    fire(db, client)
    (one,) = deliver(db)
    assert (one.state, one.attempts) == ("waiting", 1)
    assert one.error
    assert one.error["params"] == {"why": "93000 invalid webhook url"}
    assert one.due_at > now()
    deliver(db)
    assert len(hook.got) == 1  # not before it is due
    hook.answer = b'{"errcode": 0}'
    late(db)
    (one,) = deliver(db)
    assert (one.state, one.attempts, one.error) == ("delivered", 2, None)


def test_tries_end(db: Session, client: Client, hook: Hook) -> None:
    rule(db, client, how="webhook", url=hook.url)
    hook.status = 500
    fire(db, client)
    for _ in range(10):
        late(db)
        deliver(db)
    (one,) = deliver(db)
    assert (one.state, one.attempts) == ("given up", len(hook.got))
    assert one.attempts == len(delivering.PAUSES) + 1


def test_private_addresses_are_not_told(db: Session, client: Client) -> None:
    rule(db, client, how="webhook", url="http://127.0.0.1:9/hook")
    fire(db, client)
    (one,) = deliver(db)
    assert one.error
    assert one.error["code"].startswith("address.")


def test_a_mail_arrives(db: Session, client: Client, post: Post) -> None:
    rule(db, client, how="mail", addresses=["a@example.com", "b@example.com"])
    fire(db, client)
    (one,) = deliver(db)
    assert one.state == "delivered", one.error
    ((to, message),) = post.mails
    assert to == ["a@example.com", "b@example.com"]
    assert message["from"] == "danlu@example.com"
    assert message["subject"] == f"[Danlu] · Alert · Job failed · {client.workspace.name}"
    assert "Job tone failed." in message.get_content()


def test_a_refused_mail_is_not_tried_again(db: Session, client: Client, post: Post) -> None:
    rule(db, client, how="mail", addresses=["a@example.com"])
    post.refuse = "550 No such user"
    fire(db, client)
    (one,) = deliver(db)
    assert one.state == "given up"
    assert one.error
    assert one.error["params"]["why"] == "550 No such user"


def test_a_wrong_password_is_said(post: Post) -> None:
    server = mail.Server("127.0.0.1", post.port, "none", "danlu@example.com", "danlu", "wrong")
    with pytest.raises(mail.Unsent, match="refuses the sign-in") as caught:
        mail.send(server, ["a@example.com"], "x", "y")
    assert caught.value.for_good


def test_a_server_without_tls_is_not_told_a_password(post: Post) -> None:
    server = mail.Server("127.0.0.1", post.port, "starttls", "d@example.com", "danlu", "s3cret")
    with pytest.raises(mail.Unsent):
        mail.send(server, ["a@example.com"], "x", "y")
    assert post.mails == []


def test_a_subject_holds_no_second_header(post: Post) -> None:
    server = mail.Server("127.0.0.1", post.port, "none", "d@example.com", "danlu", "s3cret")
    mail.send(server, ["a@example.com"], "one\r\nBcc: evil@example.com", "y")
    ((to, message),) = post.mails
    assert to == ["a@example.com"]
    assert message["bcc"] is None


def test_without_a_mail_server_the_reason_is_told(db: Session, client: Client) -> None:
    rule(db, client, how="mail", addresses=["a@example.com"])
    fire(db, client)
    (one,) = deliver(db)
    assert one.error
    assert one.error["message"] == delivering.NO_SERVER


# -- firing, resolved --------------------------------------------------------------------


def test_what_lasts_fires_once_and_resolves_once(db: Session, client: Client, hook: Hook) -> None:
    rule(db, client, how="webhook", url=hook.url, kinds=["deployment_unhealthy"])
    for _ in range(3):
        fire(db, client, "deployment_unhealthy", "dep_x")
    assert len(db.scalars(select(Alert)).all()) == 1
    for _ in range(2):
        alerts.resolve(db, "deployment_unhealthy", "dep_x")
        db.commit()
    fire(db, client, "deployment_unhealthy", "dep_x")
    deliver(db)
    assert [json.loads(body)["type"] for _, _, body in hook.got] == [
        "alert.firing",
        "alert.resolved",
        "alert.firing",
    ]


def test_it_is_told_again_while_it_lasts(db: Session, client: Client, hook: Hook) -> None:
    asked = {"how": "webhook", "url": hook.url, "kinds": ["deployment_unhealthy"]}
    rule(db, client, **asked, repeat_minutes=60)
    rule(db, client, **asked, name="once")
    fire(db, client, "deployment_unhealthy", "dep_x")
    alerts.repeat(db)
    db.commit()
    assert len(deliver(db)) == 2
    db.execute(text("UPDATE alert_deliveries SET created_at = now() - interval '61 minutes'"))
    for _ in range(2):
        alerts.repeat(db)
    db.commit()
    assert sorted(one.event for one in deliver(db)) == ["firing", "firing", "repeated"]


def test_each_hears_of_its_own(db: Session, client: Client, hook: Hook) -> None:
    other = make.make_workspace(db)
    rule(db, client, how="webhook", url=hook.url, name="mine")
    rule(db, client, how="webhook", url=hook.url, name="all", of_platform=True)
    rule(db, client, how="webhook", url=hook.url, name="off", enabled=False)
    who = make.make_principal(client.user, other)
    rules.save(
        db, who, other.id, RuleIn(name="theirs", kinds=["job_failed"], how="webhook", url=hook.url)
    )
    fire(db, client)
    names = {db.get_one(AlertRule, one.rule_id).name for one in deliver(db)}
    assert names == {"mine", "all"}


def test_a_workspace_is_told_nothing_of_machines(db: Session, client: Client) -> None:
    with pytest.raises(Invalid) as caught:
        rule(db, client, kinds=["node_lost"], addresses=["a@example.com"])
    assert caught.value.field == "kinds"


def test_a_failed_job_is_an_alert(db: Session, client: Client) -> None:
    job = make.make_job(db, client.workspace, client.user, state="running", name="tone")
    states.switch(db, job, "failed")
    db.commit()
    (alert,) = db.scalars(select(Alert))
    assert (alert.kind, alert.subject, alert.workspace_id) == (
        "job_failed",
        job.id,
        client.workspace.id,
    )
    assert alert.resolved_at


def test_the_sweep_sees_lost_nodes_and_sick_deployments(
    db: Session, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "STARTED", watch.STARTED - 1000)
    lost = make.make_node(db, seen_at=now() - timedelta(minutes=5))
    make.make_node(db)
    sick = make.make_deployment(db, client.workspace, client.user, state="unhealthy")
    make.make_deployment(db, client.workspace, client.user, state="ready")
    db.commit()
    for _ in range(2):
        sweep.run(watch.nodes)
        sweep.run(watch.deployments)
    found = {one.kind: one.subject for one in db.scalars(select(Alert))}
    assert found == {"node_lost": lost.id, "deployment_unhealthy": sick.id}
    lost.seen_at, sick.state = now(), "ready"
    db.commit()
    sweep.run(watch.nodes)
    sweep.run(watch.deployments)
    db.expire_all()
    assert all(one.resolved_at for one in db.scalars(select(Alert)))


def test_silence_while_nobody_looked_is_no_lost_node(
    db: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    make.make_node(db, seen_at=now() - timedelta(days=1))
    db.commit()
    monkeypatch.setattr(watch, "STARTED", time.monotonic())
    sweep.run(watch.nodes)
    assert db.scalars(select(Alert)).all() == []


def test_what_was_goes_in_the_end(db: Session, client: Client) -> None:
    fire(db, client)
    db.execute(text("UPDATE alerts SET resolved_at = now() - interval '91 days'"))
    fire(db, client, subject="job_y")
    alerts.clear(db)
    db.commit()
    assert [one.subject for one in db.scalars(select(Alert))] == ["job_y"]
