"""A hub that has models, and imports as a script and the worker do them."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from app.config import settings
from app.db import now
from app.models import importing, sweep
from app.models.tables import ModelImport
from tests.conftest import Client
from tests.models.files import CONFIG, write_safetensors

URL = "/api/v1/models"
README = b"---\nlanguage: zh\nlicense: apache-2.0\n---\n# A model\n"


def weights(tmp_path: Path, numbers: int = 6) -> bytes:
    tensors = {"w": {"dtype": "F32", "shape": [numbers], "data_offsets": [0, 4 * numbers]}}
    path = tmp_path / "w.safetensors"
    return write_safetensors(path, tensors, b"\1\2\3\4" * numbers).read_bytes()


def files(tmp_path: Path, numbers: int = 400_000, **config: Any) -> dict[str, bytes]:
    """What a repository of a whole model holds, less and more than a model needs."""
    return {
        ".gitattributes": b"*.safetensors filter=lfs",
        "README.md": README,
        "config.json": json.dumps(CONFIG | config).encode(),
        "tokenizer_config.json": json.dumps({"chat_template": "{{ messages }}"}).encode(),
        "model.safetensors": weights(tmp_path, numbers),
        "consolidated.safetensors": weights(tmp_path),
        "pytorch_model.bin": b"\x80\x04K\x01.",
        "modeling_x.py": b"import os",
        "original/model.safetensors": weights(tmp_path),
    }


def begin(api: Client, **asked: Any) -> str:
    answer = api.post(URL, json=asked)
    assert answer.status_code == 201, answer.text
    assert answer.json()["state"] == "importing"
    return str(answer.json()["id"])


def fresh(db: Session, import_id: str) -> ModelImport:
    db.rollback()
    db.expire_all()
    found = db.get(ModelImport, import_id)
    assert found
    return found


def rested(db: Session) -> None:
    """As if the time of waiting were over."""
    db.rollback()
    db.execute(update(ModelImport).values(claimed_at=now() - timedelta(minutes=9)))
    db.commit()


def finish(db: Session, import_id: str) -> ModelImport:
    """What the worker does, until nothing moves any more."""
    for _ in range(50):
        found = fresh(db, import_id)
        if found.state != "importing":
            return found
        rested(db)
        importing.import_model(import_id)
    raise AssertionError("it does not end")


def nudges(db: Session) -> list[tuple[str, Any]]:
    db.rollback()
    db.expire_all()
    sweep.resend(db)
    return [(task, queue) for task, _, queue in db.info.pop("outbox", [])]


def left() -> list[str]:
    """Files among the uploads and in the store, but the models'."""
    found = []
    for root in (Path(settings.store_url), settings.uploads):
        found += [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    return sorted(path for path in found if not path.startswith("models/"))
