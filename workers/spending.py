"""Running out: a warning at 80 and 95 %, then checkpoint and pause. Never a kill.

Jobs are asked to pause, which saves a checkpoint; engines go to sleep after a while in which what
they answer ends; calls hear 402 or 429 at once. What was stopped so goes on by itself when there is
money or quota again.
"""

import time
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal

import structlog
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.accounts.tables import User, Workspace
from app.alerts import service as alerts
from app.alerts.service import Facts
from app.cluster import budgets
from app.cluster import service as cluster
from app.db import now
from app.deployments import idle
from app.deployments.states import note as note_deployment
from app.deployments.tables import Deployment
from app.deployments.wanted import lock as lock_deployment
from app.deployments.wanted import stop_all
from app.errors import N_, DomainError
from app.jobs import service as jobs
from app.jobs.states import note as note_job
from app.jobs.tables import Job
from app.quotas import limits, prices, spending
from app.quotas.charging import WHOLE
from app.quotas.kinds import ASKED
from app.quotas.money_tables import Account, Stopped
from app.quotas.prices import DEVICE
from app.quotas.spending import BALANCE, Measure
from app.quotas.tables import Quota, Usage

log = structlog.get_logger()
EVERY = 15.0  # seconds
GRACE = timedelta(minutes=5)  # for engines
BUDGETS = (budgets.DAY, budgets.MONTH, "tokens_month")
due = 0.0


def step(db: Session) -> None:
    """Of the sweep; looks every 15 s."""
    global due
    if time.monotonic() >= due:
        due = time.monotonic() + EVERY
        watch(db)


def watch(db: Session) -> None:
    """Say what came near its end, stop what is past it, and let go on what may again."""
    cluster.lock(db)
    over: set[tuple[str, str | None, str]] = set()
    measures = [*balances(db), *limited(db)]
    spending.forget(db, measures)
    for measure in measures:
        for level in spending.tell(db, measure):
            log.warning(
                "near its end",
                workspace=measure.workspace_id,
                user=measure.user_id,
                name=measure.name,
                percent=level,
            )
        if measure.level == 100:
            over.add((measure.workspace_id, measure.user_id, measure.name))
    for workspace_id, user_id, name in sorted(over, key=str):
        if name != "tokens_month":  # of which only calls take
            stop(db, workspace_id, user_id, name)
    go_on(db, over)
    alert(db, measures)


# -- how far -----------------------------------------------------------------------------


def balances(db: Session) -> Iterator[Measure]:
    """Of what was there after the last top-up; with what runs and is not in the ledger yet."""
    book = prices.book(db)
    for account in db.scalars(
        select(Account).where(Account.prepaid).execution_options(populate_existing=True)
    ):
        left = account.parts
        for live in budgets.live(db, account.workspace_id):
            price = book.at(DEVICE, [live.device.model], now())
            if price and price.amount and price.currency == account.currency:
                left -= price.amount * live.ms(live.since, now())
        yield Measure(
            account.workspace_id,
            None,
            BALANCE,
            f"{account.currency} {account.full.normalize():f}",
            min(account.full, account.full - left) / WHOLE if left > 0 else account.full / WHOLE,
            account.full / WHOLE,
        )


def limited(db: Session) -> Iterator[Measure]:
    """Of the hours and tokens of every workspace and member that has a limit of them."""
    at = now()
    named = select(Quota.workspace_id, Quota.user_id).where(Quota.name.in_(BUDGETS)).distinct()
    asked = {(space, user) for space, user in db.execute(named)}
    whose = {(space, user) for space, user in asked if space}
    if (None, None) in asked:
        spaces = set(db.scalars(select(Usage.workspace_id).distinct()))
        whose |= {(space, None) for space in spaces}
    for space, user in sorted(whose, key=str):
        for name in BUDGETS:
            found = dict(limits.caps(db, space, user, name))
            limit = found.get(user)
            if limit is None or limit.amount is None:
                continue
            period = budgets.Period.of(name, at)
            if name == "tokens_month":
                query = select(func.sum(Usage.prompt_tokens + Usage.completion_tokens)).where(
                    Usage.workspace_id == space,
                    Usage.kind == "tokens",
                    Usage.at >= period.start,
                    *([Usage.user_id == user] if user else []),
                )
                used = int(db.scalar(query) or 0)
            else:
                used = budgets.used(db, space, user, period)
            scale = ASKED[name].scale
            amounts = (Decimal(used) / scale, Decimal(limit.amount) / scale)
            yield Measure(space, user, name, spending.period_of(name, at), *amounts)


def alert(db: Session, measures: list[Measure]) -> None:
    """What is near its end or past it fires, each level by itself, for as long as it stays so."""
    reached = [(one, level) for one in measures for level in spending.LEVELS if level <= one.level]
    spaces = names(db, Workspace, {one.workspace_id for one, _ in reached})
    people = names(db, User, {one.user_id for one, _ in reached if one.user_id})
    found: dict[str, dict[str, Facts]] = {"quota_near": {}, "quota_used": {}}
    for one, level in reached:
        kind = "quota_used" if level == 100 else "quota_near"
        whose = spaces[one.workspace_id]
        if one.user_id:
            whose = f"{people.get(one.user_id, one.user_id)} ({whose})"
        subject = "/".join(filter(None, (one.workspace_id, one.user_id, one.name, str(level))))
        label = ASKED[one.name].label
        found[kind][subject] = Facts(
            N_("%(budget)s of %(whose)s: %(level)s %% are used (%(used)s of %(limit)s)."),
            {
                "budget": {"message": label, "params": {}},
                "whose": whose,
                "level": level,
                "used": f"{one.used:,.2f}".removesuffix(".00"),
                "limit": f"{one.limit:,.2f}".removesuffix(".00"),
            },
            workspace_id=one.workspace_id,
            link="/usage",
        )
    for kind, facts in found.items():
        alerts.keep(db, kind, facts)


def names(db: Session, table: type[Workspace] | type[User], ids: set[str]) -> dict[str, str]:
    rows = db.execute(select(table.id, table.name).where(table.id.in_(ids)))
    return {one.id: one.name for one in rows}


# -- stopping ----------------------------------------------------------------------------

PAUSED = {
    BALANCE: N_("The workspace's balance is used up: the job pauses, and goes on when it is topped up."),
    budgets.DAY: N_("The GPU-hours of the day are used up: the job pauses, and goes on tomorrow or with more quota."),
    budgets.MONTH: N_("The GPU-hours of the month are used up: the job pauses, and goes on next month or with more quota."),
}  # fmt: skip
ASLEEP = {
    BALANCE: N_("The workspace's balance is used up: it goes to sleep in a few minutes, until it is topped up."),
    budgets.DAY: N_("The GPU-hours of the day are used up: it goes to sleep in a few minutes."),
    budgets.MONTH: N_("The GPU-hours of the month are used up: it goes to sleep in a few minutes."),
}  # fmt: skip


def stop(db: Session, workspace_id: str, user_id: str | None, name: str) -> None:
    """Pause the jobs; put the engines to sleep once their time is over."""
    running = select(Job).where(
        Job.workspace_id == workspace_id,
        Job.state.in_(("queued", "scheduled", "running")),
        Job.stage.not_in(jobs.STREAMED),  # short, and cannot be paused
    )
    if user_id:
        running = running.where(Job.created_by == user_id)
    for job in db.scalars(running.order_by(Job.id)).all():
        remember(db, "job", job.id, workspace_id, user_id, name)
        note_job(db, job, "warning", PAUSED[name], {})
        jobs.pause(db, workspace_id, job.id)
    awake = select(Deployment.id).where(
        Deployment.workspace_id == workspace_id,
        Deployment.desired == "running",
        Deployment.deleted_at.is_(None),
        Deployment.host_id.is_(None),  # a guest sleeps with its host
    )
    if user_id:
        awake = awake.where(Deployment.created_by == user_id)
    for deployment_id in db.scalars(awake.order_by(Deployment.id)).all():
        deployment = lock_deployment(db, deployment_id)
        row = db.get(Stopped, ("deployment", deployment_id), populate_existing=True)
        if row is None:
            remember(db, "deployment", deployment_id, workspace_id, user_id, name)
            note_deployment(db, deployment, "warning", ASLEEP[name], {})
        elif row.at < now() - GRACE:
            stop_all(db, deployment, "idle")


def remember(
    db: Session, kind: str, owner_id: str, workspace_id: str, user_id: str | None, name: str
) -> None:
    db.merge(
        Stopped(
            owner_kind=kind,
            owner_id=owner_id,
            workspace_id=workspace_id,
            user_id=user_id,
            name=name,
            at=now(),
        )
    )
    db.flush()


# -- and going on ------------------------------------------------------------------------


def go_on(db: Session, over: set[tuple[str, str | None, str]]) -> None:
    """What was stopped for something that is not used up any more."""
    for row in spending.stopped(db):
        still = {
            name
            for space, user, name in over
            if space == row.workspace_id and user in (None, row.user_id)
        }
        if still & {BALANCE, budgets.DAY, budgets.MONTH}:
            continue
        if row.owner_kind == "deployment":
            idle.wake(db, row.owner_id)
            db.delete(row)
            continue
        job = db.get_one(Job, row.owner_id, populate_existing=True)
        if job.state == "pausing":
            continue
        if job.state == "paused":
            try:
                with db.begin_nested():
                    jobs.resume(db, row.workspace_id, job.id)
            except DomainError as refusal:
                log.info("it cannot go on yet", job=job.id, why=str(refusal))
                continue
        db.delete(row)
    db.flush()
