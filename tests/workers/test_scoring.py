"""Perplexity by a real model in a child process; and by one that is not there, or does not answer."""

import sys

import pytest

from app import storage
from app.config import settings
from app.errors import Unavailable
from app.models.service import STARTER_FILES
from workers import scoring


@pytest.fixture
def starter(database: None) -> str:
    return storage.put(STARTER_FILES, "models/starter")


@pytest.mark.slow
def test_what_the_model_knows_surprises_it_less(starter: str) -> None:
    with scoring.scorer(starter) as score:
        known = score("The service was good and the food was very good.")
        noise = score("qzx vvk jjw 7#% plorb xxq zzt ooq")
        empty = score("a")
        long = score("很好吃 " * 20_000)
    assert 1 <= known < noise
    assert empty >= 1
    assert long >= 1


def test_a_model_that_is_gone(database: None) -> None:
    with pytest.raises(FileNotFoundError), scoring.scorer("models/gone"):
        pass


def test_a_model_that_does_not_answer(starter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "train_python", sys.executable)  # it has no torch
    with pytest.raises(Unavailable), scoring.scorer(starter):
        pass
