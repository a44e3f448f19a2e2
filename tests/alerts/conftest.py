"""A webhook's receiver, and a mail server that the platform's settings name."""

from collections.abc import Iterator

import pytest
from sqlalchemy.orm import Session

from app.accounts import platform
from app.config import settings
from tests.alerts.receivers import Hook, Post


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    made = Hook()
    monkeypatch.setattr(settings, "fetch_allow", f"127.0.0.1:{made.port}")
    yield made
    made.close()


@pytest.fixture
def post(db: Session) -> Iterator[Post]:
    """A mail server, and settings that name it."""
    made = Post()
    made.controller.start()
    values = {"host": "127.0.0.1", "port": made.port, "security": "none", "user": "danlu"}
    values |= {"password": "s3cret", "sender": "danlu@example.com"}
    platform.change(db, None, mail=values)
    db.commit()
    yield made
    made.controller.stop()
