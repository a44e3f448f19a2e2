"""Webhooks: what arrives at a real server, how it is signed, and how often it is tried."""

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from bs4 import BeautifulSoup
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import signing
from app.config import settings
from app.db import now
from app.jobs import webhook
from app.jobs.tables import Job, JobEvent, JobWebhook, WebhookKey
from app.queue import transaction
from tests.conftest import Client
from tests.factories import make_dataset, make_job, make_model, make_node
from workers import sweep


class Receiver:
    """A server that answers with the statuses it is given, the last one for ever."""

    def __init__(self) -> None:
        self.statuses = [204]
        self.got: list[tuple[dict[str, str], bytes]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.got.append(({k.lower(): v for k, v in self.headers.items()}, body))
                status = outer.statuses.pop(0) if len(outer.statuses) > 1 else outer.statuses[0]
                self.send_response(status)
                if status == 302:
                    self.send_header("location", "http://169.254.169.254/")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    made = Receiver()
    threading.Thread(target=made.server.serve_forever, args=[0.05], daemon=True).start()
    monkeypatch.setattr(settings, "fetch_allow", f"127.0.0.1:{made.server.server_port}")
    yield made
    made.server.shutdown()
    made.server.server_close()


def over(db: Session, client: Client, url: str, **more: Any) -> Job:
    """A job that is over, and has somebody to tell."""
    job = make_job(db, client.workspace, client.user, state="succeeded", finished_at=now(), **more)
    webhook.add(db, job, url)
    db.commit()
    return job


def events(db: Session, job: Job) -> list[JobEvent]:
    db.expire_all()
    query = select(JobEvent).where(JobEvent.job_id == job.id, JobEvent.kind == "webhook")
    return list(db.scalars(query.order_by(JobEvent.id)))


def later(db: Session, job: Job) -> None:
    """As if the pause were over."""
    hook = db.get_one(JobWebhook, job.id, populate_existing=True)
    hook.due_at = now() - timedelta(seconds=1)
    db.commit()


def test_it_is_told_once_and_signed(db: Session, client: Client, receiver: Receiver) -> None:
    job = over(db, client, receiver.url, name="mood")
    with transaction() as session:
        webhook.resend(session)
        assert (webhook.TASK, (job.id,), "control") in session.info["outbox"]
    webhook.deliver(job.id)
    webhook.deliver(job.id)  # a doubled nudge
    ((headers, body),) = receiver.got
    told = json.loads(body)
    assert told["type"] == "job.succeeded"
    assert told["job"]["name"] == "mood"
    assert told["job"]["url"].endswith(f"/jobs/{job.id}")
    key = webhook.key(db, client.workspace.id)
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    secret = base64.b64decode(key.removeprefix("whsec_"))
    expected = base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert "cookie" not in headers
    (event,) = events(db, job)
    assert event.params["status"] == 204
    with transaction() as session:
        webhook.resend(session)
        assert not session.info.get("outbox")


def test_it_is_tried_again_and_given_up(db: Session, client: Client, receiver: Receiver) -> None:
    receiver.statuses = [500]
    job = over(db, client, receiver.url)
    for _ in webhook.PAUSES:
        webhook.deliver(job.id)
        assert db.get_one(JobWebhook, job.id, populate_existing=True).due_at > now()
        later(db, job)
    assert len(receiver.got) == len(webhook.PAUSES)
    assert db.get_one(JobWebhook, job.id, populate_existing=True).state == "given up"
    webhook.deliver(job.id)
    assert len(receiver.got) == len(webhook.PAUSES)
    page = client.get(f"/jobs/{job.id}?tab=events", headers={"accept-language": "en"}).text
    assert "It answered with status 500. Given up after 6 tries." in page
    assert {one[0]["webhook-id"] for one in receiver.got} == {job.id}


def test_a_later_answer_counts_and_redirects_are_not_followed(
    db: Session, client: Client, receiver: Receiver
) -> None:
    receiver.statuses = [302, 200]
    job = over(db, client, receiver.url)
    webhook.deliver(job.id)
    assert events(db, job)[-1].params["why"]["params"] == {"status": 302}
    later(db, job)
    webhook.deliver(job.id)
    assert db.get_one(JobWebhook, job.id, populate_existing=True).state == "delivered"


def test_what_is_not_public_is_never_asked(db: Session, client: Client, receiver: Receiver) -> None:
    settings.fetch_allow = ""
    job = over(db, client, receiver.url)
    webhook.deliver(job.id)
    assert receiver.got == []
    assert "not a public address" in events(db, job)[-1].params["why"]["message"]


def test_nobody_is_told_before_the_end(db: Session, client: Client, receiver: Receiver) -> None:
    job = make_job(db, client.workspace, client.user, state="running")
    webhook.add(db, job, receiver.url)
    db.commit()
    sweep.run(webhook.resend)
    webhook.deliver(job.id)
    assert receiver.got == []


def test_from_code_and_from_the_form(db: Session, api: Client) -> None:
    make_node(db)
    model, data = make_model(db), make_dataset(db, api.workspace)
    db.commit()
    body = {"model": model.id, "dataset": data.id, "webhook": "https://example.com/a?b=c"}
    made = api.post("/api/v1/jobs", json=body)
    assert made.status_code == 201, made.text
    assert db.get_one(JobWebhook, made.json()["id"]).url == body["webhook"]
    key = api.get("/api/v1/jobs/webhook-key").json()["key"]
    assert key == webhook.key(db, api.workspace.id)
    for wrong in ("ftp://example.com/", "https://user:pw@example.com/", "nowhere"):
        refused = api.post("/api/v1/jobs", json=body | {"webhook": wrong})
        assert refused.status_code == 422, wrong


def test_a_key_is_replaced(db: Session, client: Client, receiver: Receiver) -> None:
    job = over(db, client, receiver.url)
    before = webhook.key(db, client.workspace.id)
    db.commit()
    made = client.post("/api/v1/jobs/webhook-key").json()["key"]
    assert made != before
    assert client.get("/api/v1/jobs/webhook-key").json()["key"] == made
    webhook.deliver(job.id)
    (headers, body) = receiver.got[0]
    stamp = int(headers["webhook-timestamp"])
    both = [signing.signature(one, job.id, stamp, body) for one in (made, before)]
    assert headers["webhook-signature"].split() == both
    db.expire_all()
    db.get_one(WebhookKey, client.workspace.id).created_at = now() - webhook.CHANGING
    alone = webhook.signatures(db, client.workspace.id, job.id, stamp, body)
    assert alone == both[0]


def test_the_button_that_replaces_it(db: Session, client: Client, receiver: Receiver) -> None:
    job = over(db, client, receiver.url)
    before = webhook.key(db, client.workspace.id)
    db.commit()
    page = BeautifulSoup(client.get(f"/jobs/{job.id}?tab=settings").text, "lxml")
    action = str(page.select_one("form:has([data-testid=job-hook-key])")["action"])
    answer = client.post(action, headers={"origin": settings.url})
    assert answer.headers["location"].endswith(f"/jobs/{job.id}?tab=settings")
    db.expire_all()
    assert webhook.key(db, client.workspace.id) != before
