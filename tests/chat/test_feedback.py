"""Ratings, and the datasets that they make."""

from dataclasses import replace

import orjson
import pytest

from app.chat import feedback, service
from app.chat.schemas import Change, DatasetFrom, Feedback, Wanted
from app.datasets import work
from app.datasets.drafts import overlay
from app.errors import Conflict, Invalid, NotFound
from tests.chat.talks import answer, ask, said
from tests.factories import make_membership, make_user, make_workspace
from tests.jobs.people import principal


def judge(db, who, one, **said):
    feedback.judge(db, who, one.conversation_id, one.id, Feedback(**said))
    db.flush()


def rows(db, who, **wanted):
    return feedback.rows(db, who, Wanted(**wanted))


def test_good_answers_are_learned_and_only_they(db, who):
    _, (first, second) = said(db, who, ("q1", "a1"), ("q2", "a2"), system="S")
    judge(db, who, second, rating=1)
    assert rows(db, who).by_kind["sft"] == [
        {
            "messages": [
                {"role": "system", "content": "S"},
                {"role": "user", "content": "q1"},
                {"role": "assistant", "content": "a1", "weight": 0},
                {"role": "user", "content": "q2"},
                {"role": "assistant", "content": "a2"},
            ]
        }
    ]
    judge(db, who, second, rating=None)
    assert rows(db, who).by_kind["sft"] == []
    assert first.rated_at is second.rated_at is None


def test_a_correction_is_learned_and_beats_what_it_corrects(db, who):
    _, (one,) = said(db, who, ("q", "wrong"))
    judge(db, who, one, rating=-1, correction="right")
    made = rows(db, who).by_kind
    assert made["sft"][0]["messages"][-1] == {"role": "assistant", "content": "right"}
    (pair,) = made["preference"]
    assert (pair["chosen"]["content"], pair["rejected"]["content"]) == ("right", "wrong")
    labels = {row["messages"][-1]["content"]: row["label"] for row in made["kto"]}
    assert labels == {"wrong": False, "right": True}
    judge(db, who, one, correction="wrong")  # the answer itself is no correction
    assert one.correction is None
    assert one.rating == -1  # what is not named stays


def test_a_better_regeneration_makes_a_pair(db, who):
    talk, (first,) = said(db, who, ("q", "bad"))
    second = answer(db, talk, first.parent_id, "good")
    third = answer(db, talk, first.parent_id, "unrated")
    judge(db, who, first, rating=-1)
    judge(db, who, second, rating=1)
    (pair,) = rows(db, who).by_kind["preference"]
    assert pair == {
        "messages": [{"role": "user", "content": "q"}],
        "chosen": {"role": "assistant", "content": "good"},
        "rejected": {"role": "assistant", "content": "bad"},
    }
    assert third.rated_at is None


def test_the_chosen_column_beats_the_others_for_the_same_prompt_only(db, who):
    talk, asked = ask(db, who, "q", "base", "tuned")
    left = answer(db, talk, asked[0][1], "L", lane=0, model="base")
    right = answer(db, talk, asked[1][1], "R", lane=1, model="tuned")
    judge(db, who, right, chosen_over=[left.id])
    (pair,) = rows(db, who).by_kind["preference"]
    assert (pair["chosen"]["content"], pair["rejected"]["content"]) == ("R", "L")
    judge(db, who, left, chosen_over=[right.id])  # thought again
    assert right.chosen_over == []
    (pair,) = rows(db, who).by_kind["preference"]
    assert (pair["chosen"]["content"], pair["rejected"]["content"]) == ("L", "R")
    _, asked = ask(db, who, "q2", "base", "tuned", conversation=talk.id)
    left = answer(db, talk, asked[0][1], "L2", lane=0, model="base")
    right = answer(db, talk, asked[1][1], "R2", lane=1, model="tuned")
    judge(db, who, right, chosen_over=[left.id])
    made = rows(db, who)  # their histories differ: no pair, and that is said
    assert len(made.by_kind["preference"]) == 1
    assert made.left_out["preference"] == 1


def test_only_answers_are_judged_and_only_ones_own(db, who):
    talk, (one,) = said(db, who, ("q", "a"))
    _, (foreign,) = said(db, who, ("x", "y"))
    with pytest.raises(Invalid):
        feedback.judge(db, who, talk.id, one.parent_id, Feedback(rating=1))
    with pytest.raises(NotFound):
        judge(db, who, one, chosen_over=[foreign.id])
    with pytest.raises(Invalid):
        judge(db, who, one, chosen_over=[one.id])
    stranger = principal(db, make_workspace(db))
    with pytest.raises(NotFound):
        judge(db, stranger, one, rating=1)


def test_filters_and_choice(db, who):
    _, (one,) = said(db, who, ("q", "alpha"))
    _, (two,) = said(db, who, ("r", "beta 显卡"))
    judge(db, who, one, rating=1)
    judge(db, who, two, rating=-1)

    def found(**wanted):
        return [each.answer for each in feedback.rated(db, who, Wanted(**wanted))[0]]

    assert found() == ["beta 显卡", "alpha"]
    assert found(rating="up") == ["alpha"]
    assert found(q="显卡") == ["beta 显卡"]
    assert found(model="other") == []
    assert found(days=1) == ["beta 显卡", "alpha"]
    assert len(rows(db, who, ids=[two.id]).by_kind["kto"]) == 1
    assert feedback.models(db, who) == ["m"]


def test_ratings_of_shared_conversations_count_for_colleagues(db, workspace, who):
    user = make_user(db)
    make_membership(db, workspace, user, "member")
    colleague = replace(who, user_id=user.id, role="member")
    talk, (one,) = said(db, who, ("q", "a"))
    judge(db, who, one, rating=1)
    assert rows(db, colleague).by_kind["sft"] == []
    service.change(db, who, talk.id, Change(shared=True))
    db.flush()
    assert len(rows(db, colleague).by_kind["sft"]) == 1
    stranger = principal(db, make_workspace(db))
    assert feedback.rated(db, stranger, Wanted()) == ([], 0)
    with pytest.raises(NotFound):
        rows(db, stranger, ids=[one.id])


@pytest.mark.parametrize("kind", ["sft", "preference", "kto"])
def test_a_dataset_in_one_click_is_a_draft_without_errors(db, who, kind):
    talk, (first,) = said(db, who, ("你好", "bad"), system="S")
    good = answer(db, talk, first.parent_id, "good", reasoning="because")
    judge(db, who, first, rating=-1, correction="better")
    judge(db, who, good, rating=1)
    db.commit()
    expected = feedback.rows(db, who, Wanted()).by_kind[kind]
    version, made, left_out = feedback.make(who, DatasetFrom(kind=kind, name="From chat"))
    assert (version.status, version.kind, version.error_count) == ("draft", kind, 0)
    assert (version.rows, made, left_out) == (len(expected), len(expected), 0)
    assert version.dataset.name == "From chat"
    stored = [orjson.loads(line) for line in b"".join(overlay.download(version)).splitlines()]
    assert len(stored) == len(expected)
    judge(db, who, good, correction="best of all")
    db.commit()
    again = DatasetFrom(kind=kind, dataset=version.dataset_id, ids=[good.id])
    more, added, _ = feedback.make(who, again)
    assert added >= 1
    assert more.rows == len(expected) + added
    published = work.publish(who, version.dataset_id)
    assert published.status == "published"
    with pytest.raises(Conflict):
        feedback.make(who, again)


def test_a_draft_of_another_kind_takes_no_rows(db, who):
    _, (one,) = said(db, who, ("q", "a"))
    judge(db, who, one, rating=1)
    db.commit()
    version, _, _ = feedback.make(who, DatasetFrom(kind="sft", name="x"))
    with pytest.raises(Conflict):
        feedback.make(who, DatasetFrom(kind="kto", dataset=version.dataset_id))
    with pytest.raises(Conflict):
        feedback.make(who, DatasetFrom(kind="preference", name="none"))
    with pytest.raises(NotFound):
        feedback.make(who, DatasetFrom(kind="sft", dataset="ds_nothing"))
