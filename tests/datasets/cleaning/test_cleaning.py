"""Cleaning a version into another: previewed, run in stretches, killed, cancelled, by API and page."""

from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.datasets import sweep, work
from app.datasets.cleaning import run
from app.datasets.cleaning.pipeline import Pipeline, Step, check, schema
from app.datasets.cleaning.preview import difference, preview, sample
from app.datasets.rows import browse
from app.datasets.tables import DatasetIssue, DatasetVersion
from app.errors import Invalid
from tests.conftest import Client
from tests.datasets.cleaning.cleaned import rows, version_of
from tests.factories import make_dataset, make_model, make_workspace

DEDUP = {"operator": "deduplication_exact"}
EMAILS = {"operator": "replace_emails"}
SHORT = {"operator": "check_number_words", "params": {"min": 3}}


@pytest.fixture
def parent(db: Session, api: Client) -> DatasetVersion:
    return version_of(db, api.workspace, rows(100))


@pytest.fixture
def stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is cleaned while the user waits, and a stretch is short."""
    monkeypatch.setattr(run, "INLINE_ROWS", 0)
    monkeypatch.setattr(run, "STRETCH_BYTES", 1000)


def fresh(db: Session, version_id: str) -> DatasetVersion:
    db.rollback()
    db.expire_all()
    found = db.get(DatasetVersion, version_id)
    assert found
    return found


def clean(api: Client, parent: DatasetVersion, *steps: dict[str, Any], **more: Any) -> Any:
    return api.post(
        f"/api/v1/datasets/{parent.dataset_id}/cleaning", json={"steps": list(steps)} | more
    )


def contents(version: DatasetVersion) -> list[bytes]:
    return list(browse.lines(version))


# -- the version it makes ----------------------------------------------------------------


def test_a_small_version_is_cleaned_at_once(
    db: Session, api: Client, parent: DatasetVersion
) -> None:
    answer = clean(api, parent, EMAILS, SHORT, DEDUP, language="en")
    assert answer.status_code == 201, answer.text
    made = fresh(db, answer.json()["version_id"])
    assert (made.status, made.number, made.parent_id) == ("draft", 2, parent.id)
    assert (made.kind, made.format) == ("pretrain", "text")
    found = contents(made)
    assert len(found) == made.rows == answer.json()["rows"]
    assert made.bytes == sum(len(line) + 1 for line in found)
    assert not any(b"@example.com" in line for line in found)
    assert found[0] == contents(parent)[0]  # ids are kept, and so is what did not change
    ids = {line.split(b'"')[3] for line in found}
    assert len(ids) == len(found)
    assert ids < {line.split(b'"')[3] for line in contents(parent)}

    counts = made.recipe["counts"]
    assert made.recipe["made"] == "cleaning"
    assert made.recipe["from"] == parent.id
    assert [step["operator"] for step in made.recipe["pipeline"]["steps"]] == [
        "replace_emails", "check_number_words", "deduplication_exact",
    ]  # fmt: skip
    assert counts["rows"] == 100 == made.rows + counts["dropped"]
    assert counts["changed"] == sum(b"<EMAIL>" in line for line in found)
    assert [step["dropped"] for step in counts["steps"]] == [
        0, 9, counts["dropped"] - 9,
    ]  # fmt: skip


def test_every_row_that_is_left_out_is_reported(
    db: Session, api: Client, parent: DatasetVersion
) -> None:
    answer = clean(api, parent, SHORT, DEDUP).json()
    issues = list(
        db.scalars(
            select(DatasetIssue)
            .where(DatasetIssue.version_id == answer["version_id"])
            .order_by(DatasetIssue.number)
        )
    )
    assert len(issues) == 100 - answer["rows"] == answer["warning_count"]
    assert {issue.level for issue in issues} == {"warning"}
    first = answer["warnings"][0]
    assert first["line"] == 6
    assert first["code"] == "cleaning.check_number_words"
    assert first["message"] == (
        "Row 6 of version 1 was left out by “Number of words”: 1 words, fewer than 3."
    )
    twin = next(one for one in answer["warnings"] if one["code"] == "cleaning.deduplication_exact")
    assert "the same as row 1" in twin["message"] or "the same as row" in twin["message"]


def test_in_stretches_with_kills_and_doubles_it_comes_out_the_same(
    db: Session, api: Client, parent: DatasetVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    near = {"operator": "deduplication_minhash"}
    whole = fresh(db, clean(api, parent, EMAILS, SHORT, DEDUP, near).json()["version_id"])
    monkeypatch.setattr(run, "INLINE_ROWS", 0)
    monkeypatch.setattr(run, "STRETCH_BYTES", 1000)
    answer = clean(api, parent, EMAILS, SHORT, DEDUP, near, version="1").json()
    version_id = answer["version_id"]
    assert answer["status"] == "importing"
    killed = False
    for at in range(200):
        made = fresh(db, version_id)
        if made.status != "importing":
            break
        sweep.resend(db)
        assert ("workers.clean_dataset", (version_id,), "control") in db.info.pop("outbox")
        db.rollback()
        if at == 3:
            with monkeypatch.context() as patch:
                patch.setattr(run, "apply", lambda *_: (_ for _ in ()).throw(SystemExit))
                with pytest.raises(SystemExit):
                    run.clean_version(version_id)
            killed = True
            db.execute(update(DatasetVersion).values(claimed_at=None))
            db.commit()
        if at == 6:  # another machine, that has seen nothing yet
            run.duplicates.remove(run.index_path(version_id))
        run.clean_version(version_id)
    assert killed
    assert made.status == "draft"
    assert len(made.segments) > 3
    assert contents(made) == contents(whole)
    assert made.recipe["counts"] == whole.recipe["counts"]
    assert made.warning_count == whole.warning_count
    assert not list(run.index_path(version_id).parent.glob("*"))


def test_progress_and_cancelling(
    db: Session, api: Client, parent: DatasetVersion, stretches: None
) -> None:
    made = clean(api, parent, DEDUP).json()
    run.clean_version(made["version_id"])
    shown = api.get(f"/api/v1/datasets/{parent.dataset_id}?version=2").json()
    assert 0 < shown["progress"] < 1
    one = work.claim(made["version_id"], "importing")
    assert one
    address = f"/api/v1/datasets/{parent.dataset_id}/cleaning/cancel?version=2"
    stopped = api.post(address).json()
    assert stopped["status"] == "failed"
    assert stopped["error"]["code"] == "cancelled"
    run.stretch(one)  # it was at it, and comes too late
    work.clear(parent.dataset_id)
    found = fresh(db, made["version_id"])
    assert (found.status, found.segments) == ("failed", [])
    assert api.post(address).status_code == 409
    assert len(contents(fresh(db, parent.id))) == 100


def test_nothing_left(db: Session, api: Client, parent: DatasetVersion) -> None:
    made = clean(api, parent, {"operator": "check_number_words", "params": {"min": 99}}).json()
    assert made["status"] == "failed"
    assert made["error"]["code"] == "cleaning.nothing_left"


def test_a_draft_that_is_edited_meanwhile(
    db: Session, api: Client, parent: DatasetVersion, stretches: None
) -> None:
    made = clean(api, parent, DEDUP).json()
    db.execute(update(DatasetVersion).where(DatasetVersion.id == parent.id).values(edition=1))
    db.commit()
    run.clean_version(made["version_id"])
    found = fresh(db, made["version_id"])
    assert found.error
    assert (found.status, found.error["code"]) == ("failed", "cleaning.draft_changed")


def test_perplexity_by_a_model_of_the_registry(
    db: Session, api: Client, parent: DatasetVersion
) -> None:
    from contextlib import contextmanager

    asked = []

    @contextmanager
    def scoring(artefact: str) -> Any:
        asked.append(artefact)
        yield lambda text: 100.0 if "says" in text else 10.0

    base, foreign = make_model(db), make_model(db, make_workspace(db))
    db.commit()
    step = {"operator": "check_perplexity", "params": {"model": base.id, "max": 50}}
    wrong = {"operator": "check_perplexity", "params": {"model": foreign.id, "max": 50}}
    refused = clean(api, parent, wrong)
    assert (refused.status_code, refused.json()["code"]) == (422, "cleaning.model")
    made = clean(api, parent, step).json()
    assert made["status"] == "importing"  # a model is never waited for
    run.clean_version(made["version_id"], scoring)
    found = fresh(db, made["version_id"])
    assert asked == [base.artefact]
    assert found.status == "draft"
    assert not any(b"says" in line for line in contents(found))


# -- what is refused ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "step",
    [
        {"operator": "nonsense"},
        {"operator": "remove_emoji", "params": {"x": 1}},
        {"operator": "remove_emoji", "of": "sideways"},
        {"operator": "check_special_characters", "params": {"max": 2}},
        {"operator": "check_special_characters", "params": {"max": "nan"}},
        {"operator": "check_special_characters", "params": {"max": True}},
        {"operator": "check_special_characters", "params": {"max": [1]}},
        {"operator": "check_number_words", "params": {"min": 1.5}},
        {"operator": "check_number_words", "params": {"min": 9, "max": 3}},
        {"operator": "check_flagged_words"},
        {"operator": "check_flagged_words", "params": {"words": ["x" * 101]}},
        {"operator": "check_flagged_words", "params": {"words": ["x"] * 5001}},
        {"operator": "check_lang_id", "params": {"languages": ["zh"]}},
        {"operator": "deduplication_simhash"},
        {"operator": "deduplication_simhash", "params": {"distance": 7}},
    ],
)
def test_a_wrong_step_is_refused(api: Client, parent: DatasetVersion, step: dict) -> None:
    for address in ("cleaning", "cleaning/preview"):
        answer = api.post(f"/api/v1/datasets/{parent.dataset_id}/{address}", json={"steps": [step]})
        assert answer.status_code == 422, answer.text


def test_what_has_no_rows_is_not_cleaned(db: Session, api: Client) -> None:
    one = make_dataset(db, api.workspace, status="validating")
    db.commit()
    assert clean(api, one, DEDUP).json()["code"] == "cleaning.no_rows"
    sample_set = make_dataset(db, None)
    db.commit()
    assert clean(api, sample_set, DEDUP).status_code == 403


def test_operators_are_listed_with_a_schema(api: Client) -> None:
    found = api.get("/api/v1/datasets/cleaning/operators").json()
    assert len(found["data"]) >= 17
    assert found["pipeline"] == schema()
    items = found["pipeline"]["properties"]["steps"]["items"]["oneOf"]
    assert {one["properties"]["operator"]["const"] for one in items} == {
        one["name"] for one in found["data"]
    }


# -- preview -----------------------------------------------------------------------------


def test_preview_counts_and_shows(api: Client, parent: DatasetVersion) -> None:
    address = f"/api/v1/datasets/{parent.dataset_id}/cleaning/preview"
    found = api.post(address, json={"steps": [EMAILS, SHORT, DEDUP], "language": "en"}).json()
    made = clean(api, parent, EMAILS, SHORT, DEDUP, language="en").json()
    assert (found["rows"], found["total"], found["complete"]) == (100, 100, True)
    assert found["kept"] == made["rows"]
    emails, short, _ = found["steps"]
    assert emails["changed"] > 0 == emails["dropped"]
    example = emails["examples"][0]
    assert {"kind": "new", "text": "<EMAIL>"} in example["after"]
    assert "".join(one["text"] for one in example["before"]).endswith("@example.com")
    assert short["dropped"] == 9
    assert short["examples"][0]["why"] == "1 words, fewer than 3"


def test_a_sample_is_the_beginning_and_places_spread_over_the_rest() -> None:
    assert sample(2000) == [(0, 2000)]
    places = sample(1_000_000)
    assert sum(count for _, count in places) == 2000
    assert places[0] == (0, 500)
    assert places[-1][0] + places[-1][1] == 1_000_000


def test_a_preview_ends_in_time_and_skips_what_is_too_long() -> None:
    pipeline = check(Pipeline(steps=[Step(operator="remove_emoji")]))
    long = b'{"id":"a","text":"' + b"x" * 300_000 + b'"}'
    found = preview(pipeline, lambda _: iter([long, b'{"id":"b","text":"x"}']), 2)
    assert (found.skipped, found.rows) == (1, 1)
    late = preview(pipeline, lambda _: iter([b'{"id":"b","text":"x"}'] * 2), 2, seconds=-1)
    assert (late.rows, late.complete) == (0, False)


def test_differences_are_marked_around_the_first() -> None:
    before, after = difference("a" * 100 + "b\u200bc" + "d" * 500, "a" * 100 + "bc" + "d" * 500)
    assert [one.text for one in before if one.kind == "gone"] == ["\u200b"]
    assert [one for one in after if one.kind == "new"] == []
    assert before[0].text == "… "
    assert before[-1].text == " …"


def test_a_required_parameter_may_not_be_left_out() -> None:
    with pytest.raises(Invalid) as refused:
        check(Pipeline(steps=[Step(operator="deduplication_simhash")]))
    assert refused.value.field == "steps.0.params.distance"
