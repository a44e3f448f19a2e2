"""The request log: who chose it, what is kept, who sees it, what it becomes."""

import os
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from typing import Any

import orjson
import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.accounts.tables import ApiKey, Workspace
from app.config import ROOT, settings
from app.datasets.drafts import overlay
from app.db import now
from app.errors import Conflict, NotFound
from app.gateway import service as gateway
from app.gateway import streams
from app.gateway.requests import entries, making, service, spool
from app.gateway.requests.redact import redacted
from app.gateway.requests.schemas import ChoiceIn, DatasetFrom, Wanted
from app.gateway.requests.tables import LoggedRequest
from tests.factories import make_key, make_membership, make_principal, make_user, make_workspace
from tests.gateway import engines
from tests.gateway.engines import Engine, deploy, never, running
from tests.jobs.people import owner, principal


@pytest.fixture
def workspace(db: Session) -> Workspace:
    made = make_workspace(db)
    db.commit()
    return made


@pytest.fixture
def who(db: Session, workspace: Workspace) -> Principal:
    return principal(db, workspace)


@pytest.fixture
def key(db: Session, workspace: Workspace) -> ApiKey:
    make_key(db, workspace, owner(db, workspace))
    db.commit()
    return db.scalars(select(ApiKey).where(ApiKey.workspace_id == workspace.id)).one()


@pytest.fixture(autouse=True)
def forgotten(db: Session):
    yield
    spool.choices = {}


def choose(db: Session, who: Principal, key: ApiKey, log: str = "full", **more: Any) -> None:
    service.choose(db, who, key.id, ChoiceIn(log=log, **more))
    db.commit()
    spool.refresh()


async def ask(
    workspace: Workspace, key: ApiKey, content: str, *, stream: bool = False, **more: Any
) -> None:
    caller = replace(engines.caller(workspace), user_id=key.user_id, api_key_id=key.id)
    body = {"model": "mood", "messages": [{"role": "user", "content": content}], **more}
    if not stream:
        await gateway.whole(caller, "chat/completions", body, never)
        return
    events, _ = await streams.stream(caller, "chat/completions", body | {"stream": True}, never)
    assert events is not None
    async for _ in events:
        pass


def logged(db: Session) -> list[LoggedRequest]:
    spool.flush()
    db.expire_all()
    return list(db.scalars(select(LoggedRequest).order_by(LoggedRequest.at)))


def entry(key: ApiKey, content: str = "hi", **more: Any) -> LoggedRequest:
    """A row as a request leaves it."""
    answer = {
        "choices": [
            {"finish_reason": "stop", "message": {"role": "assistant", "content": f"re: {content}"}}
        ]
    }
    line = {
        "id": f"rq_{os.urandom(8).hex()}", "at": now().isoformat(), "workspace_id": key.workspace_id,
        "user_id": key.user_id, "api_key_id": key.id, "endpoint": "chat/completions",
        "model": "mood", "deployment_id": "dep_x", "status": 200, "completed": True,
        "streamed": False, "prompt_tokens": 5, "completion_tokens": 3, "first_token_ms": 1,
        "duration_ms": 2, "cut": False, "events": [], "answer": orjson.dumps(answer).decode(),
        "body": {"messages": [{"role": "user", "content": content}]},
    } | more  # fmt: skip
    return LoggedRequest(**entries.row(line, full=True, days=30, redact=True))


# -- keeping -----------------------------------------------------------------------------


def test_a_key_without_a_choice_leaves_nothing(db, workspace, key):
    async def test() -> None:
        async with Engine() as engine:
            deploy(db, workspace, engine)
            await ask(workspace, key, "secret")

    running(test)
    assert not list(settings.spool.glob("requests-*"))
    assert logged(db) == []


def test_whole_and_streamed_answers_are_kept_alike(db, workspace, who, key):
    choose(db, who, key, days=7)

    async def test() -> None:
        async with Engine() as engine:
            deploy(db, workspace, engine)
            await ask(workspace, key, "mail me: lin@example.com", temperature=0.5)
            await ask(workspace, key, "你好", stream=True)
            engine.how = 400
            await ask(workspace, key, "bad")

    running(test)
    one, two, bad = logged(db)
    assert one.asked["messages"] == [{"role": "user", "content": "mail me: <EMAIL>"}]
    assert (one.asked["temperature"], one.redacted, one.truncated) == (0.5, True, False)
    assert (one.question, one.reply) == ("mail me: <EMAIL>", "one two three ")
    assert (one.status, one.prompt_tokens, one.completion_tokens) == (200, 5, 3)
    assert one.expires_at == one.at + timedelta(days=7)
    message = {"role": "assistant", "content": "one two three "}
    for entry_ in (one, two):
        assert entry_.answer["choices"][0]["message"] == message
    assert (two.streamed, two.completed, two.question) == (True, True, "你好")
    assert (bad.status, bad.completed, bad.reply) == (400, False, "broken")


def test_figures_only_keep_no_text(db, workspace, who, key):
    choose(db, who, key, "metadata")

    async def test() -> None:
        async with Engine() as engine:
            deploy(db, workspace, engine)
            await ask(workspace, key, "private", temperature=0.5, stop=["private"])
            spooled = b"".join(path.read_bytes() for path in settings.spool.glob("requests-*"))
            assert spooled
            assert b"private" not in spooled

    running(test)
    (one,) = logged(db)
    assert one.asked == {"temperature": 0.5, "message_count": 1}
    assert (one.answer, one.words, one.prompt_tokens) == ({}, "", 5)


def test_who_changes_their_mind_before_it_is_stored_is_heard(db, workspace, who, key):
    choose(db, who, key)

    async def test() -> None:
        async with Engine() as engine:
            deploy(db, workspace, engine)
            await ask(workspace, key, "x")

    running(test)
    choose(db, who, key, "off")
    assert logged(db) == []
    assert service.choice(db, who, key.id) is None


def test_what_is_spooled_survives_a_kill(db, workspace, who, key):
    choose(db, who, key)
    script = """
import os, sys, time
from types import SimpleNamespace
from app.gateway.requests import spool
key, user, workspace = sys.argv[1:]
spool.choices = {key: spool.Choice(full=True, days=1, redact=False)}
record = spool.begin(key, "chat/completions", {"messages": [{"role": "user", "content": "hello"}]})
spool.append(record, SimpleNamespace(
    id="rq_killed", caller=SimpleNamespace(workspace_id=workspace, user_id=user, api_key_id=key),
    name="mood", route=SimpleNamespace(deployment_id="dep_x"), status=200, completed=True,
    answer=b"{}", prompt_tokens=1, completion_tokens=1, first_token_ms=1,
    started=time.perf_counter(), chunks=0,
))
os.kill(os.getpid(), 9)
"""
    subprocess.run(
        [sys.executable, "-c", script, key.id, key.user_id, workspace.id],
        cwd=ROOT,
        env=os.environ | {"DANLU_HOME": str(settings.home)},
        check=False,
    )
    assert [(one.id, one.question) for one in logged(db)] == [("rq_killed", "hello")]
    assert logged(db)[0].redacted is True  # as the key wants it when it is stored


def test_an_entry_is_bounded(db, key):
    huge = entry(key, "长" * 500_000)
    assert huge.truncated
    assert len(huge.words) <= entries.MOST * 2
    many = entry(key, body={"messages": [{"role": "user", "content": ""}] * 100_000})
    assert many.truncated
    assert len(orjson.dumps(many.asked)) < 10 * entries.MOST
    db.add_all([huge, many, entry(key, "a\0b\ud7ff")])
    db.commit()


# -- redaction ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("写信给 lin.wei@corp.example.cn，谢谢", "写信给 <EMAIL>，谢谢"),
        ("电话13812345678。", "电话<PHONE>。"),
        ("身份证 11010519491231002X", "身份证 <ID_CARD>"),
        ("卡号 4111 1111 1111 1111", "卡号 <BANK_CARD>"),
        ("key sk-abcdefghijklmnop1234 end", "key <SECRET> end"),
        ("dk-" + "a" * 43, "<SECRET>"),
        ("AKIAABCDEFGHIJKLMNOP", "<SECRET>"),
        ("ghp_" + "a" * 36, "<SECRET>"),
        ("Authorization: Bearer abc.def-123", "Authorization: Bearer <SECRET>"),
        ('{"api_key": "qwertyuiop"}', '{"api_key": "<SECRET>"}'),
        ("password=hunter2hunter2 ok", "password=<SECRET> ok"),
        ("密码是abc123456，别说", "密码是<SECRET>，别说"),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\nx",
            "<SECRET>\nx",
        ),
        ("max_tokens: 16 and a token", "max_tokens: 16 and a token"),
        ("the secret of life is 42", "the secret of life is 42"),
    ],
)
def test_personal_data_and_secrets_are_replaced(text, kept):
    assert redacted(text) == kept


# -- seeing ------------------------------------------------------------------------------


def test_owners_see_their_own_and_admins_all(db, workspace, who, key):
    someone = make_user(db)
    make_membership(db, workspace, someone, "member")
    make_key(db, workspace, someone)
    theirs = db.scalars(select(ApiKey).where(ApiKey.user_id == someone.id)).one()
    db.add_all([entry(key, "mine"), entry(theirs, "theirs")])
    db.commit()
    member = make_principal(someone, workspace, role="member")
    stranger = principal(db, make_workspace(db))

    def questions(one: Principal, **wanted: Any) -> list[str]:
        return [row.question for row in service.listed(db, one, Wanted(**wanted))[0]]

    assert questions(who) == ["theirs", "mine"]
    assert questions(member) == ["theirs"]
    assert questions(stranger) == []
    (hidden,) = service.listed(db, who, Wanted(q="mine"))[0]
    for one in (member, stranger):
        with pytest.raises(NotFound):
            service.get(db, one, hidden.id)
        with pytest.raises(NotFound):
            service.choose(db, one, key.id, ChoiceIn(log="full"))
    assert questions(replace(who, role="member")) == ["mine"]


def test_filters_narrow_and_pages_follow(db, who, key):
    rows = [entry(key, f"question {n}", status=200 if n % 2 else 400) for n in range(5)]
    rows[0].model, rows[1].at = "other", now() - timedelta(days=3)
    db.add_all(rows)
    db.commit()

    def count(**wanted: Any) -> int:
        return service.page(db, who, Wanted(**wanted))[1]

    assert count() == 5
    assert count(model="other") == 1
    assert count(status="ok") == 2
    assert count(status="error") == 3
    assert count(days=1) == 4
    assert count(q="QUESTION 3") == 1
    assert count(q="100%") == 0
    assert count(key="key_x") == 0
    first, more = service.listed(db, who, Wanted(), limit=3)
    rest, end = service.listed(db, who, Wanted(), after=first[-1].id, limit=3)
    assert (len(first), more, len(rest), end) == (3, True, 2, False)
    assert len({one.id for one in [*first, *rest]}) == 5
    assert len(list(service.every(who, Wanted()))) == 5


def test_what_is_over_goes(db, who, key):
    db.add_all([entry(key, "old", at=(now() - timedelta(days=10)).isoformat()), entry(key, "new")])
    db.commit()
    service.clear(db)
    assert db.scalar(select(func.count()).select_from(LoggedRequest)) == 2
    choose(db, who, key, days=7)  # fewer days count for what is there
    service.clear(db)
    assert list(db.scalars(select(LoggedRequest.question))) == ["new"]


# -- datasets ----------------------------------------------------------------------------


def test_conversations_become_a_dataset(db, who, key):
    asked = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "q1"},
        {"role": "assistant", "content": "a1"},
        {"role": "user", "content": "q2"},
    ]
    cut = {"choices": [{"finish_reason": "length", "message": {"content": "x"}}]}
    db.add_all(
        [
            entry(key, body={"messages": asked}, answer=answered("a2")),
            entry(key, body={"messages": asked}, answer=answered("a2")),  # twice is once
            entry(key, answer=orjson.dumps(cut).decode()),
            entry(key, status=400),
            entry(key, body={"prompt": "x"}),
        ]
    )
    db.commit()
    version, rows, left_out = making.make(who, DatasetFrom(name="from the log"))
    assert (version.status, version.rows, rows, left_out) == ("draft", 1, 1, 3)
    assert version.dataset.name == "from the log"
    (stored,) = [orjson.loads(line) for line in b"".join(overlay.download(version)).splitlines()]
    assert stored["messages"] == [
        *asked[:2],
        asked[2] | {"weight": 0},
        asked[3],
        {"role": "assistant", "content": "a2"},
    ]
    with pytest.raises(Conflict):
        making.make(who, DatasetFrom(status="error"))


def answered(content: str) -> str:
    message = {"role": "assistant", "content": content}
    return orjson.dumps({"choices": [{"finish_reason": "stop", "message": message}]}).decode()
