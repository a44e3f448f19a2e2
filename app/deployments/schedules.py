"""Up in the morning, down at night: times in cron's notation at which a deployment starts and
stops. Between them a person may start and stop it as they like.
"""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db import now
from app.deployments.states import note
from app.deployments.tables import Deployment
from app.deployments.wanted import advance, lock, stop_all
from app.errors import N_, Invalid

MOST = 8  # windows


def check(timezone: str, windows: list[dict[str, str]]) -> dict[str, Any]:
    """The schedule as it is stored. Raises Invalid, naming the field."""
    if timezone not in available_timezones():
        raise Invalid(
            N_("There is no time zone called %(name)s. One is Asia/Shanghai."),
            field="timezone",
            name=timezone[:60],
        )
    if not windows:
        raise Invalid(N_("Say at least once when it starts or stops."), field="windows")
    found = []
    for index, window in enumerate(windows[:MOST]):
        kept = {way: " ".join(window[way].split()) for way in ("up", "down") if window.get(way)}
        for way, words in kept.items():
            check_cron(words, timezone, f"windows.{index}.{way}")
        if not kept:
            raise Invalid(N_("Say when it starts or when it stops."), field=f"windows.{index}.up")
        if len(kept) == 2 and kept["up"] == kept["down"]:
            raise Invalid(
                N_("It cannot start and stop at the same time."), field=f"windows.{index}.down"
            )
        found.append(kept)
    return {"timezone": timezone, "windows": found}


def check_cron(words: str, timezone: str, field: str) -> None:
    try:
        edges(words, timezone, now())
    except (CronSimError, StopIteration):
        raise Invalid(
            N_(
                "“%(words)s” is no time in cron's notation: minute, hour, day, month, weekday."
                " 0 8 * * 1-5 is eight o'clock on working days."
            ),
            field=field,
            words=words[:60],
        ) from None
    if len(words.split()) != 5:  # six would be seconds, which the sweep does not keep
        raise Invalid(N_("A time has five parts: minute, hour, day, month, weekday."), field=field)


def edges(words: str, timezone: str, at: datetime, *, back: bool = False) -> datetime:
    """The first time after `at`, or with `back` the last before it."""
    local = at.astimezone(ZoneInfo(timezone))
    return next(CronSim(words, local, reverse=back)).astimezone(UTC)


def following(schedule: dict[str, Any], at: datetime) -> tuple[datetime, str] | None:
    """When it next goes, after `at`, and which way: up or down."""
    found = []
    for window in schedule["windows"]:
        for way, words in window.items():
            try:
                found.append((edges(words, schedule["timezone"], at), way))
            except StopIteration:  # a date that does not come within fifty years
                continue
    return min(found, default=None)


def latest(schedule: dict[str, Any], at: datetime) -> str | None:
    """The way it went last, at `at` or before: what has been missed counts for its end only."""
    found = []
    after = at.replace(microsecond=0) + timedelta(seconds=1)
    for window in schedule["windows"]:
        for way, words in window.items():
            try:
                past = edges(words, schedule["timezone"], after, back=True)
            except StopIteration:
                continue
            found.append((past, way))
    return max(found, default=(None, None))[1]


def put(db: Session, deployment: Deployment, schedule: dict[str, Any] | None) -> None:
    """Follow `schedule` (of `check`) from its next time on; None ends it."""
    deployment.schedule = schedule
    ahead = following(schedule, now()) if schedule else None
    deployment.schedule_next = ahead[0] if ahead else None
    message = N_("It follows a schedule now.") if schedule else N_("Its schedule has ended.")
    note(db, deployment, "schedule", message, {})


def carry_out(db: Session) -> None:
    """Start and stop what is due. Part of the sweep."""
    due = db.scalars(
        select(Deployment.id).where(
            Deployment.schedule_next <= now(), Deployment.deleted_at.is_(None)
        )
    ).all()
    for deployment_id in due:
        deployment = lock(db, deployment_id)
        if not deployment.schedule or deployment.deleted_at:
            deployment.schedule_next = None
            continue
        way = latest(deployment.schedule, now())
        ahead = following(deployment.schedule, now())
        deployment.schedule_next = ahead[0] if ahead else None
        if way == "down" and deployment.desired != "stopped":
            note(db, deployment, "schedule", N_("The schedule stops it."), {})
            stop_all(db, deployment)
        elif way == "up" and deployment.desired == "stopped":
            note(db, deployment, "schedule", N_("The schedule starts it."), {})
            deployment.desired = "running"
            advance(db, deployment)
