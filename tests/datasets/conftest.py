"""What several tests of datasets share."""

from collections.abc import Iterator

import pytest
from sqlalchemy.orm import Session

from app import pulling
from app.accounts.auth import Principal
from app.config import settings
from tests.datasets.files import many
from tests.factories import make_principal, make_user, make_workspace
from tests.stand_in_hub import Hub, serving


@pytest.fixture
def who(db: Session) -> Principal:
    """The owner of a workspace."""
    user = make_user(db, name="Ada")
    workspace = make_workspace(db, owner=user)
    db.commit()
    return make_principal(user, workspace)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Both hubs, and a server of files that the settings allow."""
    with serving() as hub:
        monkeypatch.setattr(settings, "fetch_allow", f"127.0.0.1:{hub.port}")
        monkeypatch.setattr(settings, "hf_endpoint", hub.url)
        monkeypatch.setattr(settings, "modelscope_endpoint", hub.url)
        monkeypatch.setattr(pulling, "BEAT", 0.05)
        hub.files = {
            "README.md": b"# Reviews",
            ".gitattributes": b"*.jsonl filter=lfs",
            "data/train.jsonl": many(30),
            "data/test.jsonl": many(4),
            "extra.json": many(2),
        }
        yield hub
