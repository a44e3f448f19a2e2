"""Branches and columns of a conversation."""

import pytest

from app.chat import tree
from app.chat.schemas import AnswerTo
from app.chat.streaming import split
from app.errors import Invalid, NotFound
from tests.chat.talks import answer, ask, said, texts


def test_a_conversation_goes_on(db, who):
    talk, answers = said(db, who, ("one", "1"), ("two", "2"), system="Be short.", temperature=0)
    assert texts(db, talk) == ["one", "1", "two", "2"]
    assert talk.title == "one"
    turn = tree.begin(db, talk, AnswerTo(question=answers[1].parent_id, model="m"))
    assert turn.body["messages"] == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "two"},
    ]
    assert answers[0].settings == {"system": "Be short.", "temperature": 0}


def test_settings_are_sent_and_the_system_prompt_leads(db, who):
    talk, asked = ask(db, who, "hi", system="S", temperature=0.5, stop=["END"], seed=7, top_k=3)
    question = AnswerTo(question=asked[0][1], model="m", settings=talk.settings)
    body = tree.begin(db, talk, question).body
    assert body["messages"][0] == {"role": "system", "content": "S"}
    given = {name: body[name] for name in ("temperature", "stop", "seed", "top_k", "stream")}
    assert given == {"temperature": 0.5, "stop": ["END"], "seed": 7, "top_k": 3, "stream": True}
    assert "max_tokens" not in body


def test_another_answer_stands_beside_the_first(db, who):
    talk, (first,) = said(db, who, ("q", "a"))
    second = answer(db, talk, first.parent_id, "b")
    shown, _ = tree.page(db, talk.id, 0)
    assert [one.content for one in shown] == ["q", "b"]
    assert tree.branches(db, talk.id, shown)[second.id] == [first.id, second.id]
    tree.show(db, talk, 0, first.id)
    assert texts(db, talk) == ["q", "a"]


def test_a_question_asked_anew_is_a_branch_and_the_old_one_stays_whole(db, who):
    talk, (first, second) = said(db, who, ("q1", "a1"), ("q2", "a2"))
    old = first.parent_id
    _, asked = ask(db, who, "Q1", conversation=talk.id, edits=old)
    answer(db, talk, asked[0][1], "A1")
    assert texts(db, talk) == ["Q1", "A1"]
    shown, _ = tree.page(db, talk.id, 0)
    assert tree.branches(db, talk.id, shown)[shown[0].id] == [old, asked[0][1]]
    tree.show(db, talk, 0, old)
    assert texts(db, talk) == ["q1", "a1", "q2", "a2"]
    with pytest.raises(Invalid):
        ask(db, who, "x", conversation=talk.id, edits=second.id)


def test_columns_share_a_question_and_then_go_their_ways(db, who):
    talk, asked = ask(db, who, "q", "base", "tuned")
    assert asked[0][1] == asked[1][1]
    left = answer(db, talk, asked[0][1], "L", lane=0, model="base")
    right = answer(db, talk, asked[1][1], "R", lane=1, model="tuned")
    assert (texts(db, talk, 0), texts(db, talk, 1)) == (["q", "L"], ["q", "R"])
    shown, _ = tree.page(db, talk.id, 0)
    assert tree.branches(db, talk.id, shown)[left.id] == [left.id]  # R is no branch of L
    _, asked = ask(db, who, "q2", "base", "tuned", conversation=talk.id)
    assert asked[0][1] != asked[1][1]
    answer(db, talk, asked[1][1], "R2", lane=1, model="tuned")
    assert texts(db, talk, 1) == ["q", "R", "q2", "R2"]
    _, asked = ask(db, who, "alone", "base", conversation=talk.id)  # the second column is closed
    shown, _ = tree.page(db, talk.id, 0)
    assert tree.branches(db, talk.id, shown)[left.id] == [left.id, right.id]


def test_a_new_column_begins_where_the_first_stands(db, who):
    talk, _ = said(db, who, ("q", "a"))
    _, asked = ask(db, who, "next", "m", "other", conversation=talk.id)
    assert asked[0][1] == asked[1][1]
    assert texts(db, talk, 1) == ["q", "a", "next"]


def test_a_failed_answer_is_replaced_by_the_next_try(db, who):
    talk, asked = ask(db, who, "q")
    answer(db, talk, asked[0][1], "", state="failed")
    shown, _ = tree.page(db, talk.id, 0)
    assert shown[-1].state == "failed"
    assert shown[-1].error["message"] == "Nobody is there."
    answer(db, talk, asked[0][1], "here")
    shown, _ = tree.page(db, talk.id, 0)
    assert [one.content for one in shown] == ["q", "here"]
    assert len(tree.branches(db, talk.id, shown)[shown[-1].id]) == 1


def test_questions_after_a_failure_are_joined(db, who):
    talk, asked = ask(db, who, "q")
    answer(db, talk, asked[0][1], "", state="failed")
    _, asked = ask(db, who, "again", conversation=talk.id)
    body = tree.begin(db, talk, AnswerTo(question=asked[0][1], model="m")).body
    assert body["messages"] == [{"role": "user", "content": "q\n\nagain"}]


def test_an_answer_that_is_being_stored_is_waited_for(db, who):
    talk, asked = ask(db, who, "q")
    first = tree.begin(db, talk, AnswerTo(question=asked[0][1], model="m"))
    _, asked = ask(db, who, "next", conversation=talk.id)
    following = AnswerTo(question=asked[0][1], model="m")
    assert tree.begin(db, talk, following) is None
    tree.finish(
        db, first.message_id, content="as far", reasoning="", state="stopped", usage={}, error=None
    )
    assert tree.begin(db, talk, following).body["messages"][1]["content"] == "as far"


def test_a_long_history_comes_in_pages(db, who):
    talk, _ = said(db, who, *((f"q{n}", f"a{n}") for n in range(40)))
    last, more = tree.page(db, talk.id, 0)
    assert (len(last), more, last[-1].content) == (tree.PAGE, True, "a39")
    before, more = tree.page(db, talk.id, 0, last[0].id)
    assert (len(before), more, before[-1].content) == (tree.PAGE, True, "a24")
    first, more = tree.page(db, talk.id, 0, before[0].id)
    assert first[0].content == "q0"
    assert not more
    body = tree.begin(db, talk, AnswerTo(question=last[-2].id, model="m")).body
    assert len(body["messages"]) == 79


def test_messages_of_another_conversation_are_not_found(db, who):
    _, (one,) = said(db, who, ("q", "a"))
    other, _ = said(db, who, ("x", "y"))
    with pytest.raises(NotFound):
        tree.show(db, other, 0, one.id)
    with pytest.raises(NotFound):
        tree.begin(db, other, AnswerTo(question=one.parent_id, model="m"))
    with pytest.raises(NotFound):
        ask(db, who, "x", conversation=other.id, edits=one.parent_id)


def test_thoughts_are_taken_from_what_was_said():
    assert split("<think>\nhm\n</think>\n\nYes") == ("hm", "Yes")
    assert split("hm\n</think>\n\nYes") == ("hm", "Yes")
    assert split("<think>cut off") == ("cut off", "")
    assert split("Use `</think>` as a tag") == ("", "Use `</think>` as a tag")
