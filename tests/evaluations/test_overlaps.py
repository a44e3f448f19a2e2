"""Evaluated rows that stand in training data."""

import random

import pytest
from bs4 import BeautifulSoup

from app.evaluations import overlaps
from app.evaluations.contamination import RUN, Index, runs, words
from tests.evaluations.people import create, published, reviews
from tests.factories import make_job, make_model, make_principal


def row(prompt: str, answer: str = "好") -> dict:
    return {
        "messages": [
            {"role": "system", "content": "Whoever you are."},
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": answer},
        ]
    }


def looked(evaluated: list[dict], trained: list[dict]) -> list[tuple]:
    index = Index()
    for number, one in enumerate(evaluated):
        index.add(number, one)
    index.close()
    for place, one in enumerate(trained):
        index.see("dsv_x", place, one)
    return [(one.number, one.kind, round(one.share, 2), one.place) for one in index.hits()]


def said(count: int, seed: int) -> str:
    rng = random.Random(seed)
    return "".join(
        rng.choice("天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏") for _ in range(count)
    )


def test_words_of_both_kinds():
    assert words("Ｈello, 世界! It's 3.5") == ["hello", "世", "界", "it", "s", "3", "5"]
    assert len(runs(words(said(40, 1)))) == 40 - RUN + 1
    assert len(runs(words("a b c"))) == 0
    assert runs(words(said(30, 2)))[4] == runs(words(said(30, 2)[4:]))[0]


def test_whole_rows_prompts_and_halves():
    long, other = said(60, 3), said(60, 4)
    evaluated = [
        row("这家店怎么样？", "很好"),
        row("Is IT good?", "yes"),
        row(long, "一"),
        row(other, "二"),
        row("没有见过的问题", "三"),
    ]
    trained = [
        row("Something else entirely"),
        row("这家店怎么样", "很好！"),
        row("is it, good", "no"),
        row(said(20, 5) + long[:45] + said(20, 6)),
        row(said(20, 7) + other[:20]),
    ]
    assert looked(evaluated, trained) == [
        (0, "row", 1.0, 1),
        (1, "prompt", 1.0, 2),
        (2, "overlap", pytest.approx(33 / 48, abs=0.01), 3),
    ]


def test_what_all_rows_begin_with_is_nobodys_own():
    head = "请判断下面这条评论的情感倾向，只回答正面或者负面两个字，不要回答任何别的内容："
    evaluated = [row(head + said(12, seed)) for seed in range(40)]
    trained = [row(head + said(12, seed)) for seed in range(1000, 1040)]
    assert looked(evaluated, trained) == []
    assert looked(evaluated, [evaluated[7]]) == [(7, "row", 1.0, 0)]


def test_no_more_runs_are_kept_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr("app.evaluations.contamination.MOST_RUNS", 50)
    index = Index()
    for number in range(4):
        index.add(number, row(said(40, number)))
    index.close()
    assert index.full
    assert len(index.keys) <= 50
    index.see("dsv_x", 0, row(said(40, 3)))
    assert [(one.number, one.kind) for one in index.hits()] == [(3, "row")]


# -- what models learnt from -------------------------------------------------------------


@pytest.fixture
def who(client):
    return make_principal(client.user, client.workspace)


@pytest.fixture
def learnt(db, client, who):
    """A model that was trained on rows 0 to 29, then one that was made of it; rows 20 to 59 are
    evaluated.
    """
    rows = reviews(60)
    trained = published(who, rows[:30], "trained")
    evaluated = published(who, rows[20:], "evaluated")
    base = make_model(db)
    told = {"dataset": {"version_id": trained.id, "name": "trained"}}
    first = make_model(db, client.workspace, kind="adapter", base_id=base.id, lineage=told)
    second = make_model(
        db, client.workspace, kind="adapter", base_id=base.id, parent_id=first.id, name="second"
    )
    db.commit()
    overlaps.kept.cache_clear()
    return trained, evaluated, base, second


def test_before_the_start_and_on_the_page(db, client, who, learnt):
    trained, evaluated, base, second = learnt
    body = {"dataset": evaluated.id, "candidates": [{"kind": "model", "target": second.id}]}
    got = client.post("/api/v1/evaluations/overlaps?limit=4", json=body).json()
    assert (got["complete"], got["rows"], got["found"], got["has_more"]) == (True, 40, 10, True)
    assert got["kinds"] == {"row": 10, "prompt": 0, "overlap": 0}
    assert [(one["number"], one["found_number"]) for one in got["data"][:2]] == [(0, 20), (1, 21)]
    assert got["data"][0]["version"] == trained.id
    assert "第20条" in got["data"][0]["text"]
    none = client.post(
        "/api/v1/evaluations/overlaps",
        json={"dataset": evaluated.id, "candidates": [{"kind": "model", "target": base.id}]},
    )
    assert (none.json()["complete"], none.json()["found"]) == (True, 0)
    form = {"dataset": evaluated.id, "candidate.0": f"model:{second.id}", "scorers": "accuracy"}
    page = BeautifulSoup(
        client.get("/evaluations/overlaps/chosen", params=form).text, "html.parser"
    )
    assert page.select_one("[data-testid=overlaps]")["data-found"] == "10"
    assert len(page.select("[data-testid=overlap]")) == 10
    one = create(who, evaluated, f"model:{second.id}", scorers=[{"kind": "exact"}])
    listed = client.get(f"/api/v1/evaluations/{one.id}/overlaps?offset=8").json()
    assert [each["number"] for each in listed["data"]] == [8, 9]
    shown = client.get(f"/evaluations/overlaps/of/{one.id}").text
    assert "10 of 40 rows stand in the training data" in shown
    assert "overlaps/of/" in client.get(f"/evaluations/{one.id}").text


def test_beside_the_form_of_a_job(db, client, learnt):
    trained, evaluated, *_ = learnt
    form = {"dataset": trained.id, "evaluate": evaluated.id, "evaluate_limit": "20"}
    page = client.get("/evaluations/overlaps/job", params=form).text
    assert "of 20 rows stand in the training data" in page
    other = {"dataset": evaluated.id, "evaluate": "ds_x"}
    assert "There is no such dataset." in client.get("/evaluations/overlaps/job", params=other).text
    assert "overlaps/job" in client.get("/jobs/new").text


def test_a_checkpoint_learnt_what_its_job_reads(db, client, learnt):
    trained, evaluated, base, _ = learnt
    job = make_job(
        db, client.workspace, client.user, model_id=base.id, dataset_version_id=trained.id
    )
    db.commit()
    found = overlaps.learnt(db, client.workspace.id, [], [f"{job.id}/checkpoint-10"])
    assert found == [trained.id]
    assert overlaps.learnt(db, "ws_other", [], [f"{job.id}/checkpoint-10"]) == []
    assert evaluated.id not in found
