"""The Cleaning tab: choosing, ordering, trying, running, stopping."""

from typing import Any

import pytest
from bs4 import BeautifulSoup
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.datasets.cleaning import run
from app.datasets.tables import DatasetVersion
from app.db import now
from tests.conftest import Client
from tests.datasets.cleaning.cleaned import rows, version_of


@pytest.fixture
def stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is cleaned while the user waits, and a stretch is short."""
    monkeypatch.setattr(run, "INLINE_ROWS", 0)
    monkeypatch.setattr(run, "STRETCH_BYTES", 1000)


def page(answer: Any) -> BeautifulSoup:
    assert answer.status_code == 200, answer.text
    return BeautifulSoup(answer.text, "lxml")


def shown_order(found: BeautifulSoup) -> list[str]:
    return [one["value"].split(":")[1] for one in found.select('[name=move][value^="up:"]')]


def test_the_tab_from_choice_to_version(db: Session, client: Client) -> None:
    parent = version_of(db, client.workspace, rows(100))
    address = f"/datasets/{parent.dataset_id}/cleaning"
    first = page(client.get(address))
    chosen = [one["value"] for one in first.select("[name=on][checked]")]
    assert shown_order(first) == chosen
    assert "deduplication_exact" in chosen
    assert first.select_one("[data-testid=tab-cleaning]")
    assert "Each becomes <EMAIL>." in first.text

    form = {"on": ["replace_emails", "check_number_words", "deduplication_exact"],
            "p.check_number_words.min": "3", "language": "en",
            "order": ["replace_emails", "deduplication_exact", "check_number_words"]}  # fmt: skip
    moved = page(
        client.post(
            f"{address}/order",
            data=form | {"move": "up:check_number_words"},
            headers={"hx-request": "true"},
        )
    )
    assert shown_order(moved) == ["replace_emails", "check_number_words", "deduplication_exact"]
    assert moved.select_one("#cleaning-order")
    assert not moved.select_one("#cleaning")
    whole = page(client.post(f"{address}/order", data=form))  # without script: the page
    assert whole.select_one("#cleaning")

    tried = page(client.post(f"{address}/preview", data=form, headers={"hx-request": "true"}))
    assert "Tried on 100 of 100 rows" in tried.select_one("[data-testid=cleaning-found]").text
    assert "<EMAIL>" in [one.text for one in tried.select("ins")]
    wrong = form | {"p.check_number_words.min": "many"}
    refused = page(client.post(f"{address}/preview", data=wrong, headers={"hx-request": "true"}))
    assert "Number of words" in refused.select_one("[role=alert]").text
    again = client.post(address, data=wrong)
    assert again.status_code == 422
    assert BeautifulSoup(again.text, "lxml").select_one(
        '[name="p.check_number_words.min"].is-invalid'
    )
    assert client.post(address, data={"language": "en"}).status_code == 422

    done = client.post(address, data=form)
    assert done.status_code == 303
    made = db.scalar(select(DatasetVersion).where(DatasetVersion.number == 2))
    assert made
    assert made.status == "draft"
    liked = page(client.get(f"{address}?like=2"))
    assert shown_order(liked) == ["replace_emails", "deduplication_exact", "check_number_words"]
    assert liked.select_one('[name="p.check_number_words.min"]')["value"] == "3"
    assert liked.select_one("[data-testid=cleaning-like-2]")


def test_hostile_rows_are_shown_as_text(db: Session, client: Client) -> None:
    bad = [{"id": "a.1", "text": "<script>alert(1)</script> x@y.com <img src=x>"}]
    parent = version_of(db, client.workspace, bad)
    answer = client.post(
        f"/datasets/{parent.dataset_id}/cleaning/preview",
        data={"on": ["replace_emails"]},
        headers={"hx-request": "true"},
    )
    assert "<script>" not in answer.text
    assert "<img" not in answer.text
    assert "&lt;script&gt;" in answer.text


def test_a_cleaning_is_cancelled_from_its_page(
    db: Session, client: Client, stretches: None
) -> None:
    parent = version_of(db, client.workspace, rows(30))
    address = f"/datasets/{parent.dataset_id}/cleaning"
    client.post(address, data={"on": ["deduplication_exact"]})
    shown = page(client.get(f"/datasets/{parent.dataset_id}"))
    button = shown.select_one("[data-testid=cleaning-cancel]")
    assert button
    assert client.post(f"{address}/cancel", data={"version": "2"}).status_code == 303
    made = db.scalar(select(DatasetVersion).where(DatasetVersion.number == 2))
    assert made
    assert made.status == "failed"
    assert made.created_at < now()
