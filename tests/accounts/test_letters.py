"""One-time links are mailed as well, where there is a mail server; and who acted is told truly."""
# ruff: noqa: F811

import pytest
from bs4 import BeautifulSoup
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts import letters, platform
from app.accounts.tables import AuditEntry
from tests import factories as make
from tests.alerts.conftest import post  # noqa: F401 - a fixture
from tests.alerts.receivers import Post
from tests.conftest import Client


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What leaves for the worker, which is not there: the test is it."""
    from app.queue import celery

    kept: list[str] = []

    def keep(task: str, args: tuple[str, ...] = (), **_: object) -> None:
        if task == letters.TASK:
            kept.append(args[0])

    monkeypatch.setattr(celery, "send_task", keep)
    return kept


def test_an_invitation_is_mailed(db: Session, api: Client, post: Post, sent: list[str]) -> None:
    answer = api.post(
        f"/api/v1/workspaces/{api.workspace.id}/invitations",
        json={"email": "guest@example.com", "role": "member"},
        headers={"accept-language": "zh"},
    )
    assert answer.status_code == 201, answer.text
    assert answer.json()["mailed"] is True
    url = answer.json()["url"]
    (sealed,) = sent
    assert url not in sealed
    letters.deliver(sealed)
    ((to, message),) = post.mails
    assert to == ["guest@example.com"]
    assert "邀请" in str(message["subject"])
    assert api.workspace.name in str(message["subject"])
    assert url in message.get_content()


def test_a_link_for_a_password_is_mailed_to_whose_it_is(
    db: Session, client: Client, post: Post, sent: list[str]
) -> None:
    client.user.is_platform_admin = True
    user = make.make_user(db, email="lin@example.com")
    db.commit()
    page = client.post(f"/admin/people/{user.id}/reset-link", headers={"accept-language": "en"})
    assert "on its way" in page.text
    letters.deliver(sent[0])
    ((to, message),) = post.mails
    assert to == ["lin@example.com"]
    assert "/reset/" in message.get_content()


def test_a_server_that_refuses_breaks_nothing(
    db: Session, api: Client, post: Post, sent: list[str]
) -> None:
    post.refuse = "550 no"
    url = f"/api/v1/workspaces/{api.workspace.id}/invitations"
    assert api.post(url, json={"email": "a@example.com", "role": "viewer"}).status_code == 201
    letters.deliver(sent[0])
    assert post.mails == []


def test_without_a_server_nothing_is_mailed(db: Session, api: Client, sent: list[str]) -> None:
    url = f"/api/v1/workspaces/{api.workspace.id}/invitations"
    answer = api.post(url, json={"email": "a@example.com", "role": "viewer"})
    assert answer.json()["mailed"] is False
    assert sent == []


@pytest.mark.parametrize("known", [True, False])
def test_the_invitation_has_the_button_of_single_sign_on(
    db: Session, api: Client, anonymous: Client, known: bool
) -> None:
    values = {"enabled": True, "issuer": "https://id.example.com", "client_id": "x", "label": "Lab"}
    platform.change(db, None, oidc=values)
    if known:
        make.make_user(db, email="b@example.com")
    db.commit()
    url = f"/api/v1/workspaces/{api.workspace.id}/invitations"
    link = api.post(url, json={"email": "b@example.com", "role": "viewer"}).json()["url"]
    path = "/invitations/" + link.rpartition("/")[2]
    button = BeautifulSoup(anonymous.get(path).text, "lxml").select_one("[data-testid=oidc]")
    assert button
    back = str(button["href"]).partition("next=")[2]
    assert back == (path if known else "/")


def test_a_service_account_is_told_as_one(db: Session, api: Client) -> None:
    program = make.make_user(
        db, email="usr_x@service.invalid", name="nightly", is_service=True, password_hash=None
    )
    make.make_membership(db, api.workspace, program, "admin")
    key = make.make_key(db, api.workspace, program)
    db.commit()
    answer = api.post(
        "/api/v1/alerts/rules",
        json={"name": "x", "kinds": ["job_failed"], "addresses": ["a@example.com"]},
        headers={"authorization": f"Bearer {key}"},
    )
    assert answer.status_code == 201, answer.text
    entry = db.scalars(select(AuditEntry).where(AuditEntry.noun == "alert_rule")).one()
    assert (entry.actor, entry.user_name) == ("service", "nightly")
    assert entry.api_key_id
    found = api.get("/api/v1/workspace/audit", params={"actor": "service"}).json()["data"]
    assert [one["actor"] for one in found] == ["service"]


def test_what_is_done_to_nodes_is_told_with_before_and_after(db: Session, api: Client) -> None:
    api.user.is_platform_admin = True
    make.make_node(db, id="gpu-1")
    db.commit()
    api.post("/api/v1/nodes/gpu-1/cordon")
    api.patch("/api/v1/nodes/gpu-1", json={"labels": {"room": "b"}})
    api.post("/api/v1/nodes/gpu-1/drain", json={"seconds": 60})
    api.post("/api/v1/nodes/gpu-1/uncordon")
    told = db.scalars(
        select(AuditEntry)
        .where(AuditEntry.noun == "node", AuditEntry.actor == "key")
        .order_by(AuditEntry.at)
    ).all()
    assert {one.noun_id for one in told} == {"gpu-1"}
    changes = [(one.before, one.after) for one in told if one.action == "update"]
    assert changes[0] == ({"cordoned": False}, {"cordoned": True})
    assert changes[1][1] == {"labels": {"room": "b"}}
    assert "drain_until" in changes[2][1]
    assert changes[3][1]["cordoned"] is False
