import pytest

from app.gateway import work
from app.gateway.batches import asking
from tests.factories import make_workspace
from tests.jobs.people import principal


@pytest.fixture
def workspace(db):
    made = make_workspace(db)
    db.commit()
    return made


@pytest.fixture
def who(db, workspace):
    return principal(db, workspace)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """What works on evaluations looks twenty times a second."""
    for name in ("LOOK_SECONDS", "BEAT_SECONDS"):
        monkeypatch.setattr(work, name, 0.05)
    for name in ("LOOK_SECONDS", "FIRST_PAUSE", "LONGEST_PAUSE"):
        monkeypatch.setattr(asking, name, 0.05)
