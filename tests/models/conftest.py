"""What several tests of models share."""

from collections.abc import Iterator

import pytest

from app import pulling
from app.config import settings
from tests.stand_in_hub import Hub, serving


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Both hubs, without a model yet."""
    with serving() as hub:
        monkeypatch.setattr(settings, "hf_endpoint", hub.url)
        monkeypatch.setattr(settings, "modelscope_endpoint", hub.url)
        monkeypatch.setattr(pulling, "BEAT", 0.02)
        yield hub
