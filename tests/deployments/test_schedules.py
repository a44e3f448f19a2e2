"""Up in the morning and down at night, in the right time zone."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from freezegun import freeze_time
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.accounts.tables import Workspace
from app.deployments import editing, schedules, service
from app.deployments.tables import Deployment
from app.errors import Invalid
from tests.deployments.acts import body, messages
from tests.factories import make_model, make_node

OFFICE = [{"up": "0 8 * * 1-5", "down": "0 20 * * 1-5"}]
FRIDAY = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)  # 11 o'clock in Shanghai


def check(**more: Any) -> dict[str, Any]:
    return schedules.check(**{"timezone": "Asia/Shanghai", "windows": OFFICE} | more)


def test_it_follows_the_clock_of_its_zone() -> None:
    assert schedules.following(check(), FRIDAY) == (
        datetime(2026, 11, 20, 12, 0, tzinfo=UTC),
        "down",
    )
    assert schedules.following(check(), FRIDAY + timedelta(hours=9)) == (
        datetime(2026, 11, 23, 0, 0, tzinfo=UTC),
        "up",
    )
    berlin = check(timezone="Europe/Berlin", windows=[{"up": "30 8 * * *"}])
    before, after = datetime(2026, 10, 24, 12, tzinfo=UTC), datetime(2026, 10, 25, 12, tzinfo=UTC)
    assert schedules.following(berlin, before - timedelta(days=1))[0].hour == 6  # summer time
    assert schedules.following(berlin, after)[0].astimezone(UTC).hour == 7


def test_the_last_of_what_was_missed_counts() -> None:
    night, noon = FRIDAY + timedelta(hours=12), FRIDAY + timedelta(days=3, hours=2)
    assert schedules.latest(check(), FRIDAY) == "up"
    assert schedules.latest(check(), night) == "down"
    assert schedules.latest(check(), noon) == "up"
    edge = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
    assert schedules.latest(check(), edge - timedelta(microseconds=1)) == "up"
    assert schedules.latest(check(), edge) == "down"


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"timezone": "Mars/Olympus"}, "timezone"),
        ({"timezone": "../../etc/passwd"}, "timezone"),
        ({"windows": []}, "windows"),
        ({"windows": [{}]}, "windows.0.up"),
        ({"windows": [*OFFICE, {"down": "61 * * * *"}]}, "windows.1.down"),
        ({"windows": [{"up": "* * * * * *"}]}, "windows.0.up"),
        ({"windows": [{"up": "0 8 31 2 *"}]}, "windows.0.up"),
        ({"windows": [{"up": "x" * 90}]}, "windows.0.up"),
        ({"windows": [{"up": "0 8 * * *", "down": "0  8 * * *"}]}, "windows.0.down"),
    ],
)
def test_what_is_no_schedule_is_refused(more: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as refusal:
        check(**more)
    assert refusal.value.field == field


@pytest.fixture
def deployment(db: Session, workspace: Workspace, who: Principal) -> Deployment:
    make_node(db)
    made = service.create(db, who, body(make_model(db)))
    with freeze_time(FRIDAY):
        editing.schedule(db, workspace.id, made.id, ("Asia/Shanghai", OFFICE))
    return made


def at(db: Session, **later: int) -> None:
    with freeze_time(FRIDAY + timedelta(**later)):
        schedules.carry_out(db)


def test_the_sweep_carries_it_out(
    db: Session, workspace: Workspace, deployment: Deployment
) -> None:
    assert deployment.schedule_next == datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
    at(db, hours=8)
    assert deployment.desired == "running"
    at(db, hours=9, seconds=3)
    assert (deployment.desired, deployment.state) == ("stopped", "stopped")
    assert deployment.schedule_next == datetime(2026, 11, 23, 0, 0, tzinfo=UTC)
    service.start(db, workspace.id, deployment.id)  # a person may, until its next time
    at(db, hours=10)
    assert deployment.desired == "running"
    service.stop(db, workspace.id, deployment.id)
    at(db, days=2, hours=21, minutes=1)
    assert deployment.desired == "running"
    assert [one for one in messages(db, deployment) if "schedule" in one] == [
        "It follows a schedule now.",
        "The schedule stops it.",
        "The schedule starts it.",
    ]


def test_after_a_long_absence(db: Session, deployment: Deployment) -> None:
    at(db, days=5, hours=14)  # Wednesday, in the night
    assert deployment.desired == "stopped"
    assert len([one for one in messages(db, deployment) if "schedule" in one]) == 2


def test_it_ends(db: Session, workspace: Workspace, deployment: Deployment) -> None:
    editing.schedule(db, workspace.id, deployment.id, None)
    assert (deployment.schedule, deployment.schedule_next) == (None, None)
    at(db, days=1)
    assert deployment.desired == "running"


def test_a_deleted_one_stays_down(
    db: Session, workspace: Workspace, deployment: Deployment
) -> None:
    service.delete(db, workspace.id, deployment.id)
    at(db, days=3)
    assert deployment.desired == "stopped"
