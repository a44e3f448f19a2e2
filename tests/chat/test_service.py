"""Whose conversations, and how they are found."""

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import text

from app.chat import export, search, service, tree
from app.chat.schemas import Change, Preset, Settings
from app.db import engine
from app.errors import NotFound
from tests.chat.talks import answer, ask, said
from tests.factories import make_deployment, make_model, make_workspace
from tests.jobs.people import owner, principal


def titles(db, who, q, **more):
    return [one.title for one in service.conversations(db, who, q=q, **more)[0]]


def test_search_finds_chinese_and_english_in_titles_and_messages(db, who):
    said(db, who, ("介绍一下部署", "模型部署在两张显卡上，命令是 danlu up。"))
    said(db, who, ("Explain LoRA", "Low-rank adapters change 100% of nothing_else."))
    assert titles(db, who, "显卡") == ["介绍一下部署"]
    assert titles(db, who, "两") == ["介绍一下部署"]
    assert titles(db, who, "DANLU 部署") == ["介绍一下部署"]
    assert titles(db, who, "ADAPT") == ["Explain LoRA"]
    assert titles(db, who, "lora") == ["Explain LoRA"]
    assert titles(db, who, "100% nothing_else") == ["Explain LoRA"]
    assert titles(db, who, "1%") == []
    assert titles(db, who, "显存") == []
    assert len(titles(db, who, "")) == 2
    found = service.conversations(db, who, q="显卡")[0][0]
    assert "两张显卡上" in found.snippet


def test_search_uses_the_index(db, who):
    said(db, who, ("q", "甲乙丙丁"))
    db.commit()
    db.execute(text("SET LOCAL enable_seqscan = off"))
    plan = db.execute(
        text("EXPLAIN SELECT id FROM chat_messages WHERE grams @> CAST(:some AS text[])"),
        {"some": search.grams("乙丙")},
    )
    assert "ix_chat_messages_grams" in "\n".join(plan.scalars())


def test_search_stays_within_what_one_may_read(db, who):
    stranger = principal(db, make_workspace(db))
    said(db, stranger, ("theirs", "secret words"))
    assert titles(db, who, "secret") == []


def test_pages_of_conversations(db, who):
    for number in range(5):
        said(db, who, (f"t{number}", "a"))
    first, more = service.conversations(db, who, limit=3)
    rest, end = service.conversations(db, who, limit=3, offset=3)
    assert [one.title for one in first + rest] == ["t4", "t3", "t2", "t1", "t0"]
    assert (more, end) == (True, False)


def test_a_shared_conversation_is_read_by_the_workspace_only(db, workspace, who):
    from dataclasses import replace

    from tests.factories import make_membership, make_user

    user = make_user(db)
    make_membership(db, workspace, user, "viewer")
    colleague = replace(who, user_id=user.id, role="viewer")
    stranger = principal(db, make_workspace(db))
    talk, _ = said(db, who, ("q", "a"))
    for other in (colleague, stranger):
        with pytest.raises(NotFound):
            service.readable(db, other, talk.id)
    service.change(db, who, talk.id, Change(shared=True))
    db.flush()
    assert service.readable(db, colleague, talk.id) is talk
    assert titles(db, colleague, "", of="shared") == ["q"]
    assert titles(db, colleague, "") == []
    with pytest.raises(NotFound):
        service.readable(db, stranger, talk.id)
    with pytest.raises(NotFound):
        service.get(db, colleague, talk.id)  # reading is not writing
    service.change(db, who, talk.id, Change(shared=False))
    db.flush()
    with pytest.raises(NotFound):
        service.readable(db, colleague, talk.id)


def test_deleting_takes_everything(db, who):
    talk, _ = said(db, who, ("q", "a"), ("r", "b"))
    service.remove(db, who, talk.id)
    db.flush()
    for table in ("conversations", "chat_messages", "chat_lanes"):
        assert db.scalar(text(f"SELECT count(*) FROM {table}")) == 0


def test_presets_are_a_persons_own(db, who):
    kept = service.keep(db, who, Preset(name="calm", settings=Settings(temperature=0)))
    again = service.keep(db, who, Preset(name="calm", settings=Settings(temperature=0.2)))
    assert kept is again
    assert [one.settings for one in service.presets(db, who)] == [{"temperature": 0.2}]
    stranger = principal(db, make_workspace(db))
    assert service.presets(db, stranger) == []
    with pytest.raises(NotFound):
        service.drop(db, stranger, kept.id)
    service.drop(db, who, kept.id)


def test_base_against_tuned(db, workspace, who):
    base = make_model(db, name="starter")
    tuned = make_model(db, workspace, kind="adapter", base_id=base.id, name="reviews")
    user = owner(db, workspace)
    alive = {"state": "ready", "desired": "running"}

    def deploy(name, model):
        from app.db import now

        make_deployment(db, workspace, user, name=name, model_id=model.id, ready_at=now(), **alive)

    assert service.beside(db, workspace.id, "nothing") == (["nothing"], "")
    deploy("rev", tuned)
    assert service.beside(db, workspace.id, "rev") == (["rev"], "starter")
    deploy("small", base)
    assert service.beside(db, workspace.id, "rev") == (["small", "rev"], "")
    assert service.beside(db, workspace.id, tuned.id) == (["small", "rev"], "")
    assert service.answering(db, workspace.id, "reviews") == "rev"


def test_export_has_every_branch_or_what_is_shown(db, who):
    talk, asked = ask(db, who, "q", system="Be kind.")
    answer(db, talk, asked[0][1], "first")
    second = answer(db, talk, asked[0][1], "second")
    second.correction = "third"
    whole = export.as_json(db, talk)
    assert [one["content"] for one in whole["messages"]] == ["q", "first", "second"]
    assert whole["columns"] == [{"lane": 0, "model": "m", "head": second.id}]
    shown = export.as_markdown(db, talk)
    assert shown == (
        "# q\n\n> Be kind.\n\n## User\n\nq\n\n## m\n\nsecond\n\n### Correction\n\nthird\n"
    )


def test_code_is_the_call_that_was_made(db, who):
    talk, asked = ask(
        db, who, 'it\'s "q"', system="S", temperature=0.5, top_k=3, stop=["\n"], seed=1
    )
    one = answer(db, talk, asked[0][1], "a", model="tuned")
    curl, python, java = export.code(db, one)
    assert "it'\\''s" in curl.text
    assert "$DANLU_API_KEY" in curl.text
    compile(python.text, "sample.py", "exec")
    assert 'extra_body={\n        "top_k": 3' in python.text
    assert "temperature=0.5" in python.text
    assert 'model="tuned"' in python.text
    assert '\\"seed\\": 1' in java.text


def test_conversations_of_before_become_chains(db, who):
    """The migration keeps what was said, in its order, and makes it searchable."""
    config = Config(toml_file="pyproject.toml")
    db.commit()
    command.downgrade(config, "0004")
    try:
        with engine().begin() as connection:
            connection.execute(
                text(
                    "INSERT INTO conversations (id, workspace_id, user_id, title, model, settings, "
                    "created_at, updated_at) VALUES ('cnv_1', :w, :u, 't', 'm', "
                    "'{\"temperature\": 1}', now(), now())"
                ),
                {"w": who.workspace_id, "u": who.user_id},
            )
            for number, (role, content) in enumerate(
                [("user", "你好吗"), ("assistant", "好"), ("user", "more")], start=1
            ):
                connection.execute(
                    text(
                        "INSERT INTO chat_messages (conversation_id, number, role, content, usage, "
                        "created_at) VALUES ('cnv_1', :n, :r, :c, '{}', now())"
                    ),
                    {"n": number, "r": role, "c": content},
                )
    finally:
        command.upgrade(config, "head")
    shown, _ = tree.page(db, "cnv_1", 0)
    assert [one.content for one in shown] == ["你好吗", "好", "more"]
    assert [one.model for one in shown] == ["", "m", ""]
    assert shown[1].settings == {"temperature": 1}
    assert titles(db, who, "好吗") == ["t"]
