import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import text
from sqlalchemy.orm import Session

import app.queue
from app.config import settings
from app.db import engine
from app.nodework import asking
from tests import factories as make
from tests.conftest import Client, filled, sign_in
from tests.nodework.servers import Servers, networked


@pytest.fixture(scope="module")
def over_tcp() -> Iterator[Servers]:
    """This process is a platform on servers that other machines reach."""
    home = Path(tempfile.mkdtemp(prefix="danlu-tcp-", dir="/tmp"))
    home.chmod(0o711)
    with networked(home) as found, pytest.MonkeyPatch.context() as patch:
        forget()
        patch.setattr(settings, "database_url", found.database_url)
        patch.setattr(settings, "redis_url", found.redis_url)
        patch.setattr(settings, "store", str(home / "store"))
        patch.setattr(app.queue, "flush", lambda _: None)  # Celery knows the other broker
        command.upgrade(Config(toml_file="pyproject.toml"), "head")
        yield found
        forget()


def forget() -> None:
    """Connections to other servers."""
    if engine.cache_info().currsize:
        engine().dispose()
    engine.cache_clear()
    app.queue.redis.cache_clear()


@pytest.fixture
def db(over_tcp: Servers) -> Iterator[Session]:
    if names := ", ".join(f'"{name}"' for name in filled()):
        with engine().begin() as connection:
            connection.execute(text(f"TRUNCATE {names} RESTART IDENTITY CASCADE"))
    with Session(engine(), expire_on_commit=False) as session:
        yield session


@pytest.fixture
def admin(db: Session) -> Iterator[Client]:
    """The platform's admin, signed in."""
    from app.main import app as web

    with Client(web, base_url=settings.url, follow_redirects=False) as client:
        client.headers["origin"] = settings.url
        sign_in(db, client, make.make_user(db, is_platform_admin=True))
        yield client


@pytest.fixture
def joined(admin: Client) -> dict[str, str]:
    """The environment of a node that has joined as `gpu-1`."""
    return join(admin, "gpu-1")


def invite(admin: Client, **body: object) -> str:
    made = admin.post("/api/v1/nodes/tokens", json=body)
    assert made.status_code == 201, made.text
    return str(made.json()["token"])


def join(admin: Client, name: str, **body: object) -> dict[str, str]:
    token = invite(admin, **body)
    answer = admin.post("/api/v1/node/join", json={"token": token, "node": name})
    assert answer.status_code == 200, answer.text
    return dict(answer.json()["environment"])


@pytest.fixture
def as_node(
    admin: Client, joined: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """`do` asks the platform from here on, as the node does."""
    from app.main import app as web

    monkeypatch.setattr(settings, "server", settings.url)
    monkeypatch.setattr(settings, "node", joined["DANLU_NODE"])

    def client() -> httpx.Client:
        found = Client(web, base_url=settings.url)
        found.headers["authorization"] = f"Bearer {joined['DANLU_NODE_KEY']}"
        return found

    monkeypatch.setattr(asking, "client", client)
    return joined


__all__ = ["make"]
