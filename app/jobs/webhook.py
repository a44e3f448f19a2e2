"""Telling another system that a job is over: one signed POST, tried again until it is answered.

The body is {type: "job.succeeded" | "job.failed" | "job.cancelled", at, job {id, name, state, ...}}.
The signature is that of https://www.standardwebhooks.com: HMAC-SHA256, with the workspace's key, of
"{webhook-id}.{webhook-timestamp}.{body}", so libraries exist that check it. The id stays the same
for all tries. Any 2xx is an answer; everything else is tried again, after 10 s, 1 min, 5 min ...
"""

from datetime import timedelta
from typing import Any

import orjson
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app import addresses, fetching
from app.config import settings
from app.db import now
from app.errors import N_, DomainError
from app.jobs.states import FINAL, note
from app.jobs.tables import Job, JobWebhook, WebhookKey
from app.queue import send, transaction
from app.signing import new_key, signature

TASK = "workers.deliver_webhook"
PAUSES = (10, 60, 300, 1800, 7200, 21600)  # seconds before the next try; then it is given up
SECONDS = 15.0  # that one try may take
CHANGING = timedelta(days=1)  # in which a replaced key still signs


def add(db: Session, job: Job, url: str) -> None:
    """Tell `url` when the job is over. Raises Refused for what can never be told."""
    try:
        addresses.parse(url)
    except DomainError as error:
        error.field = "webhook"
        raise
    key(db, job.workspace_id)
    db.add(JobWebhook(job_id=job.id, url=url))
    db.flush()


# -- the key -------------------------------------------------------------------------------


def key(db: Session, workspace_id: str) -> str:
    """What the workspace's webhooks are signed with; made when it is first needed."""
    return key_row(db, workspace_id).secret


def key_row(db: Session, workspace_id: str) -> WebhookKey:
    row = insert(WebhookKey).values(workspace_id=workspace_id, secret=new_key(), created_at=now())
    db.execute(row.on_conflict_do_nothing())
    return db.scalars(select(WebhookKey).where(WebhookKey.workspace_id == workspace_id)).one()


def replace_key(db: Session, workspace_id: str) -> str:
    """A new key. The one before it signs as well for a day, so that receivers can change over."""
    key(db, workspace_id)
    row = db.get_one(WebhookKey, workspace_id, with_for_update=True, populate_existing=True)
    row.former, row.secret, row.created_at = row.secret, new_key(), now()
    db.flush()
    return row.secret


def signatures(db: Session, workspace_id: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The newest key's first, with blanks between them."""
    row = key_row(db, workspace_id)
    known = [row.secret]
    if row.former and now() - row.created_at < CHANGING:
        known.append(row.former)
    return " ".join(signature(one, message_id, timestamp, body) for one in known)


# -- telling -------------------------------------------------------------------------------


def resend(db: Session) -> None:
    """For the sweep: nudge somebody to deliver what is due."""
    due = (
        select(JobWebhook.job_id)
        .join(Job, Job.id == JobWebhook.job_id)
        .where(JobWebhook.state == "waiting", JobWebhook.due_at <= now(), Job.state.in_(FINAL))
        .order_by(JobWebhook.due_at)
        .limit(100)
    )
    for job_id in db.scalars(due):
        send(db, TASK, job_id)


def deliver(job_id: str) -> None:
    """One try. Claimed first, so that a doubled nudge finds nothing to do; no session is held
    while the other side takes its time.
    """
    with transaction() as db:
        claimed = claim(db, job_id)
    if claimed is None:
        return
    url, attempts, headers, body = claimed
    answer: dict[str, Any]
    try:
        status = fetching.post(url, body, headers=headers, seconds=SECONDS)
        answer = {"status": status}
    except DomainError as error:
        answer = {"why": {"message": error.message, "params": error.params}}
    with transaction() as db:
        settle(db, job_id, attempts, answer)


def claim(db: Session, job_id: str) -> tuple[str, int, dict[str, str], bytes] | None:
    hook = db.scalar(
        select(JobWebhook).where(JobWebhook.job_id == job_id).with_for_update(skip_locked=True)
    )
    job = db.get(Job, job_id)
    if hook is None or job is None or job.state not in FINAL:
        return None
    if hook.state != "waiting" or hook.due_at > now():
        return None
    pause = PAUSES[min(hook.attempts, len(PAUSES) - 1)]
    hook.attempts += 1
    hook.due_at = now() + timedelta(seconds=SECONDS + pause)
    body = orjson.dumps(message(job))
    stamp = int(now().timestamp())
    headers = {
        "content-type": "application/json",
        "webhook-id": job.id,
        "webhook-timestamp": str(stamp),
        "webhook-signature": signatures(db, job.workspace_id, job.id, stamp, body),
    }
    return hook.url, hook.attempts, headers, body


def message(job: Job) -> dict[str, Any]:
    return {
        "type": f"job.{job.state}",
        "at": job.finished_at,
        "job": {
            "id": job.id,
            "name": job.name,
            "workspace": job.workspace_id,
            "state": job.state,
            "stage": job.stage,
            "method": job.method,
            "model": job.model_id,
            "result_model": job.result_model_id,
            "error": job.error and {"code": job.error.get("code")},
            "url": f"{settings.url}/jobs/{job.id}",
        },
    }


def settle(db: Session, job_id: str, attempts: int, answer: dict[str, Any]) -> None:
    """What came of a try, as an event of the job."""
    hook = db.get(JobWebhook, job_id, with_for_update=True, populate_existing=True)
    job = db.get_one(Job, job_id)
    if hook is None or hook.state != "waiting" or hook.attempts != attempts:
        return
    host = addresses.parse(hook.url).host
    status = answer.get("status", 0)
    if 200 <= status < 300:
        hook.state = "delivered"
        text = N_("The webhook at %(host)s was told; it answered %(status)s.")
        note(db, job, "webhook", text, {"host": host, "status": status})
        return
    why = answer.get("why") or {"message": STATUS, "params": {"status": status}}
    params = {"host": host, "why": why, "attempt": attempts, "most": len(PAUSES)}
    if attempts >= len(PAUSES):
        hook.state = "given up"
        note(db, job, "webhook", N_("The webhook at %(host)s was not told: %(why)s Given up after"
                                    " %(attempt)s tries."), params)  # fmt: skip
        return
    note(
        db,
        job,
        "webhook",
        N_("The webhook at %(host)s was not told (try %(attempt)s of %(most)s): %(why)s"),
        params,
    )


STATUS = N_("It answered with status %(status)s.")
