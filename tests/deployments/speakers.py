"""Models with the files that say how they speak: tokenizer, chat template, where they stop."""

import json
import shutil
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from app.accounts.tables import Workspace
from app.config import settings
from app.models.service import STARTER_FILES
from app.models.tables import Model
from tests.deployments.acts import LORA
from tests.factories import make_model

WORDS = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


def place(model: Model) -> Path:
    return Path(settings.store_url) / model.artefact


def make_base(db: Session, **more: Any) -> Model:
    """The starter's words and config, without its weights."""
    model = make_model(db, context_length=512, **more)
    place(model).mkdir(parents=True)
    for name in (*WORDS, "config.json"):
        shutil.copyfile(STARTER_FILES / name, place(model) / name)
    return model


def make_tuned(
    db: Session, workspace: Workspace, base: Model, *, words: bool = True, **config: Any
) -> Model:
    """An adapter as our own tuning leaves it; without `words` only its matrices."""
    model = make_model(
        db, workspace, kind="adapter", base_id=base.id, parent_id=base.id, size=1_000_000
    )
    place(model).mkdir(parents=True)
    (place(model) / "adapter_config.json").write_text(json.dumps(LORA | config))
    (place(model) / "voice").write_text(model.name)
    for name in WORDS if words else ():
        shutil.copyfile(STARTER_FILES / name, place(model) / name)
    return model


def say(model: Model, name: str, content: dict[str, Any] | str) -> None:
    """Write one of its files."""
    text = content if isinstance(content, str) else json.dumps(content)
    (place(model) / name).write_text(text)
