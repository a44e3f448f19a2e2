"""A file of unknown columns: what is guessed, what the rows would become, and going on."""

from typing import Any

import pytest
from sqlalchemy.orm import Session

from app.datasets.states import MAPPING
from app.datasets.tables import DatasetVersion
from app.datasets.validation import mapping
from app.errors import Invalid
from tests.conftest import Client
from tests.datasets.test_routes import one, page, test_id
from tests.factories import make_dataset

ROWS: list[Any] = [{"甲": f"q{at}", "乙": f"a{at}", "丙": "<b>x</b>"} for at in range(8)]
CHOSEN = {"format": "completion", "columns": {"prompt": "甲", "completion": "乙"}}


def waiting(client: Client, db: Session, rows: list[Any] = ROWS) -> DatasetVersion:
    """A version whose file has these first rows, and waits for its mapping."""
    version = make_dataset(
        db, client.workspace, status="validating", segments=[], rows=0, format=""
    )
    mapping.wait(db, version, rows)
    db.commit()
    return version


def test_waiting_keeps_a_small_sample_and_the_guess(client: Client, db: Session) -> None:
    rows = [5, {"问题": "x" * 10**6, "答案": "a\0", "深": [[[{"a": 1}]]]}, *ROWS * 10]
    version = waiting(client, db, rows)
    kept = mapping.sample(version)
    assert version.status == MAPPING
    assert len(kept) == mapping.SAMPLE_ROWS
    assert len(kept[0]["问题"]) == mapping.TEXT_CHARS
    assert version.mapping == {
        "format": "completion",
        "columns": {"prompt": "问题", "completion": "答案"},
    }


def test_the_page(client: Client, db: Session) -> None:
    version = waiting(client, db)
    path = f"/datasets/{version.dataset_id}"
    detail = page(client.get(path))
    assert one(detail, test_id("dataset-mapping"))["href"] == f"{path}/mapping"
    soup = page(client.get(f"{path}/mapping"))
    form = one(soup, test_id("mapping-form"))
    assert [str(one(soup, test_id("mapping-format")).select("option[selected]")[0]["value"])] == [
        "alpaca"
    ]
    assert form["hx-get"] == f"{path}/mapping/form"
    assert "disabled" in one(soup, test_id("mapping-submit")).attrs
    # a choice: the fragment shows what becomes of the rows
    asked = {
        "version": "1",
        "format": "completion",
        "column.prompt": "甲",
        "column.completion": "乙",
    }
    soup = page(client.get(f"{path}/mapping/form", params=asked))
    shown = soup.select(test_id("mapping-row"))
    assert len(shown) == mapping.SHOWN
    assert "q0" in shown[0].get_text()
    assert "Left out: 丙" in shown[0].get_text()
    assert soup.select("b") == []
    assert "disabled" not in one(soup, test_id("mapping-submit")).attrs
    # another format keeps what is the same there
    soup = page(client.get(f"{path}/mapping/form", params={**asked, "format": "kto"}))
    assert one(soup, "#column-prompt option[selected]").get_text() == "甲"
    asked |= {"column.system": "", "column.tools": ""}
    soup = page(client.get(f"{path}/mapping/form", params={**asked, "format": "alpaca"}))
    assert one(soup, "#column-instruction option[selected]").get_text() == "甲"
    assert one(soup, "#column-output option[selected]").get_text() == "乙"
    answer = client.post(f"{path}/mapping", data=asked)
    assert (answer.status_code, answer.headers["location"]) == (303, path)
    db.refresh(version)
    assert (version.status, version.mapping) == ("validating", CHOSEN)


def test_rows_that_would_not_do(client: Client, db: Session) -> None:
    version = waiting(client, db, [{"a": "x", "b": ""}, {"a": "x"}])
    asked = {"version": "1", "format": "completion", "column.prompt": "a", "column.completion": "b"}
    soup = page(client.get(f"/datasets/{version.dataset_id}/mapping/form", params=asked))
    said = [row.get_text(" ", strip=True) for row in soup.select(test_id("mapping-row"))]
    assert ["content.empty" in said[0], "completion.missing" in said[1]] == [True, True]


def test_a_mapping_that_is_not_whole_is_refused_in_the_form(client: Client, db: Session) -> None:
    version = waiting(client, db)
    path = f"/datasets/{version.dataset_id}/mapping"
    asked = {"version": "1", "format": "alpaca", "column.instruction": "甲"}
    soup = page(client.post(path, data=asked), 422)
    assert "also needs a column for: output" in soup.get_text()
    assert one(soup, "#column-instruction option[selected]").get_text() == "甲"


def test_the_api(client: Client, db: Session) -> None:
    version = waiting(client, db)
    path = f"/api/v1/datasets/{version.dataset_id}/mapping"
    found = client.get(path).json()
    assert found["columns"] == ["甲", "乙", "丙"]
    assert found["fields"]["text"] == {"text": True}
    shown = client.post(f"{path}?preview=true", json=CHOSEN).json()["preview"]
    assert shown[0]["row"]["messages"][0] == {"role": "user", "content": "q0"}
    assert shown[0]["unused"] == ["丙"]
    answer = client.post(path, json=CHOSEN)
    assert (answer.status_code, answer.json()["status"]) == (200, "validating")
    again = client.post(path, json=CHOSEN)
    assert (again.status_code, again.json()["code"]) == (409, "not_mapping")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        (5, "format"),
        ({}, "format"),
        ({"format": ["alpaca"]}, "format"),
        ({"format": "x"}, "format"),
        ({"format": "alpaca"}, "columns.instruction"),
        ({"format": "alpaca", "columns": 5}, "columns"),
        ({"format": "alpaca", "columns": {"x": "a"}}, "columns"),
        ({"format": "alpaca", "columns": {"output": 5}}, "columns"),
        ({"format": "text", "columns": {"text": "a" * 2000}}, "columns"),
        ({"format": "text", "columns": {"text": "a"}, "tags": {"x": "y"}}, "tags"),
        ({"format": "kto", "columns": {"prompt": "a", "label": "b"}}, "columns.completion"),
    ],
)
def test_mappings_that_are_none(given: Any, field: str) -> None:
    with pytest.raises(Invalid) as caught:
        mapping.checked(given)
    assert caught.value.field == field


def test_other_ways_to_say_the_same() -> None:
    for given in (
        {"format": "kto", "columns": {"instruction": "a", "output": "b", "kto_tag": "c"}},
        {"format": "preference", "columns": {"chosen": "a", "rejected": "b"}},
        {"format": "preference", "columns": {"messages": "m", "chosen": "a", "rejected": "b"}},
    ):
        assert mapping.checked(given) == given
