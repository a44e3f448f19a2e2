"""Imports of models from a hub: whole, cut off, killed, damaged, stopped, tried again."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import hubs, storage
from app.config import settings
from app.db import now
from app.models import importing, sweep
from app.models.tables import Model, ModelImport, ModelImportEvent
from app.queue import node_queue
from tests.conftest import Client
from tests.models.files import write_adapter, write_safetensors
from tests.models.hub import URL, begin, files, finish, fresh, left, nudges, rested
from tests.stand_in_hub import COMMIT, Hub

TAKEN = ["README.md", "config.json", "model.safetensors", "tokenizer_config.json"]
LEFT_OUT = [
    ".gitattributes",
    "consolidated.safetensors",
    "modeling_x.py",
    "original/model.safetensors",
    "pytorch_model.bin",
]


def model_of(db: Session, one: ModelImport) -> Model:
    assert one.state == "succeeded", one.error
    return db.get_one(Model, one.model_id)


def failed(db: Session, import_id: str) -> str:
    found = finish(db, import_id)
    assert found.state == "failed"
    assert db.scalars(select(Model).where(Model.kind != "base")).all() == []
    return str(found.error and found.error["code"])


@pytest.mark.parametrize("where", ["huggingface", "modelscope", "modelscope without a head"])
def test_a_model_from_a_hub(api: Client, db: Session, hub: Hub, tmp_path: Path, where: str) -> None:
    hub.models["lin/qwen"] = files(tmp_path)
    hub.head = "without" not in where
    made = begin(api, hub=where.split(maxsplit=1)[0], repository="lin/qwen")
    assert nudges(db) == [("workers.import_model", "control")]
    one = finish(db, made)
    model = model_of(db, one)
    assert [model.name, model.kind, model.workspace_id] == ["qwen", "base", api.workspace.id]
    assert [model.architecture, model.family, model.parameters] == [
        "Qwen3ForCausalLM", "Qwen3", 400_000,
    ]  # fmt: skip
    assert [model.licence, model.templated, model.context_length] == ["apache-2.0", True, 2048]
    source = model.lineage["source"]
    assert source["commit"] == COMMIT
    assert source["left_out"] == LEFT_OUT
    digests = {name: hashlib.sha256(hub.models["lin/qwen"][name]).hexdigest() for name in TAKEN}
    assert source["files"] == digests
    directory = storage.fetch(model.artefact)
    assert sorted(path.name for path in directory.iterdir()) == TAKEN
    asked = [path for path, _ in hub.seen if "resolve" in path or "FilePath" in path]
    assert len(asked) == len(TAKEN)
    assert not any(name in path for path in asked for name in ("pytorch", "modeling", "master"))
    assert [event.new for event in db.scalars(select(ModelImportEvent))] == [
        "importing",
        "succeeded",
    ]
    sweep.clear_import(made)
    assert left() == []
    shown = api.get(f"{URL}/imports/{made}").json()
    assert [shown["state"], shown["model_id"], shown["received"]] == [
        "succeeded", model.id, shown["total"],
    ]  # fmt: skip
    assert api.get(f"{URL}/{model.id}").json()["imported"] is True


def test_it_goes_on_where_it_was_cut_off(
    api: Client, db: Session, hub: Hub, tmp_path: Path
) -> None:
    hub.models["lin/qwen"] = {name: body for name, body in files(tmp_path).items() if name in TAKEN}
    hub.breaks = [900_000, 300_000]
    made = begin(api, hub="huggingface", repository="lin/qwen")
    importing.import_model(made)
    shown = api.get(f"{URL}/imports/{made}").json()
    assert shown["state"] == "importing"
    assert 900_000 < shown["received"] < shown["total"]
    assert "broke off" in shown["waits"]
    assert nudges(db) == []  # it rests for some seconds
    rested(db)
    assert nudges(db) == [("workers.import_model", "control")]  # there is no such node
    model = model_of(db, finish(db, made))
    ranges = [head.get("range") for head in hub.asked("model.safetensors")]
    assert ranges == [None, "bytes=900000-", "bytes=1200000-"]
    body = (storage.fetch(model.artefact) / "model.safetensors").read_bytes()
    assert body == hub.models["lin/qwen"]["model.safetensors"]


def test_a_kill_of_the_worker_costs_only_what_was_not_written(
    api: Client, db: Session, hub: Hub, tmp_path: Path
) -> None:
    hub.models["lin/qwen"] = files(tmp_path)
    hub.pause = 0.15
    made = begin(api, hub="huggingface", repository="lin/qwen")
    program = f"import app.tables; from app.models import importing as i; i.import_model({made!r})"
    worker = subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ | {"DANLU_HF_ENDPOINT": hub.url, "DANLU_HOME": str(settings.home)},
        start_new_session=True,
    )
    part = importing.place(made) / "model.safetensors"
    end = time.monotonic() + 60
    while not part.exists() or part.stat().st_size < 200_000:
        assert time.monotonic() < end
        assert worker.poll() is None
        time.sleep(0.02)
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
    hub.pause = 0.0
    have = part.stat().st_size
    assert fresh(db, made).state == "importing"
    model_of(db, finish(db, made))
    assert hub.asked("model.safetensors")[-1].get("range") == f"bytes={have}-"


def test_a_long_import_goes_in_stretches(
    api: Client, db: Session, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "STRETCH", 0.1)
    hub.models["lin/qwen"] = files(tmp_path)
    hub.pause = 0.03
    made = begin(api, hub="huggingface", repository="lin/qwen")
    importing.import_model(made)
    one = fresh(db, made)
    assert [one.state, one.claimed_at, one.node_id] == ["importing", None, settings.node]
    assert 0 < one.cursor["received"] < one.cursor["total"]
    hub.pause = 0.0
    model_of(db, finish(db, made))


def test_what_is_not_as_the_hub_says_is_never_a_model(
    api: Client, db: Session, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.models["lin/qwen"] = files(tmp_path)
    monkeypatch.setattr(hubs, "sha", lambda _: "0" * 64)
    assert failed(db, begin(api, hub="huggingface", repository="lin/qwen")) == "import.damaged"


def test_a_failed_import_is_tried_again_from_what_is_here(
    api: Client, db: Session, hub: Hub, tmp_path: Path
) -> None:
    hub.models["lin/qwen"] = files(tmp_path)
    path = f"/lin/qwen/resolve/{COMMIT}/tokenizer_config.json"
    hub.statuses[path] = 404
    made = begin(api, hub="huggingface", repository="lin/qwen")
    assert failed(db, made) == "address.missing"
    assert nudges(db) == []  # its bytes stay for a day
    assert any(name.endswith("config.json") for name in left())
    del hub.statuses[path]
    assert api.post(f"{URL}/imports/{made}/retry", json={}).json()["state"] == "importing"
    model_of(db, finish(db, made))
    assert len(hub.asked("/config.json")) == 1
    assert api.post(f"{URL}/imports/{made}/retry", json={}).status_code == 409
    assert api.post(f"{URL}/imports/{made}/cancel").status_code == 409


def test_what_a_failed_import_left_goes_after_a_day(
    api: Client, db: Session, hub: Hub, tmp_path: Path
) -> None:
    hub.models["lin/qwen"] = files(tmp_path) | {"model.safetensors": b"\xff" * 64}
    made = begin(api, hub="huggingface", repository="lin/qwen")
    assert failed(db, made) == "model.unsound"
    one = fresh(db, made)
    one.finished_at = now() - timedelta(days=2)
    db.commit()
    assert nudges(db) == [("workers.clear_import", node_queue(settings.node))]
    sweep.clear_import(made)
    assert left() == []
    assert nudges(db) == []


def test_an_import_stops_while_it_runs(
    api: Client, db: Session, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.models["lin/qwen"] = files(tmp_path)
    made = begin(api, hub="huggingface", repository="lin/qwen")
    real, cancelled = importing.Import.beat, []

    def beat(self: importing.Import) -> bool:
        if not cancelled:
            cancelled.append(api.post(f"{URL}/imports/{made}/cancel").json()["state"])
        self.beaten = 0.0
        return real(self)

    monkeypatch.setattr(importing.Import, "beat", beat)
    importing.import_model(made)
    assert cancelled == ["cancelled"]
    assert fresh(db, made).state == "cancelled"
    sweep.clear_import(made)
    assert left() == []
    monkeypatch.undo()


def test_nobody_takes_what_another_is_at(api: Client, db: Session, hub: Hub) -> None:
    made = begin(api, hub="huggingface", repository="lin/qwen")
    assert importing.claim(made)
    importing.import_model(made)
    assert hub.seen == []
    rested(db)
    one = fresh(db, made)
    one.node_id = "another"
    db.commit()
    importing.import_model(made)
    assert hub.seen == []


def test_it_is_given_up_after_some_kills(api: Client, db: Session, hub: Hub) -> None:
    made = begin(api, hub="huggingface", repository="lin/qwen")
    for _ in range(importing.MAX_ATTEMPTS):
        assert importing.claim(made)
        rested(db)
    assert importing.claim(made) is None
    assert [fresh(db, made).state, fresh(db, made).error["code"]] == ["failed", "stopped"]


# -- what is refused -----------------------------------------------------------------------


def only(tmp_path: Path, *names: str, **more: bytes) -> dict[str, bytes]:
    return {name: body for name, body in files(tmp_path, 6).items() if name in names} | more


@pytest.mark.parametrize(
    ("case", "code", "words"),
    [
        ("pickle", "model.pickle", "pytorch_model.bin"),
        ("nothing", "model.no_weights", "safetensors"),
        ("config", "model.no_config", "config.json"),
        ("code", "model.code", "MyOwnForCausalLM"),
        ("lying", "model.unsound", "model.safetensors"),
        ("missing", "hub.login", "lin/other"),
    ],
)
def test_what_cannot_be_imported(
    api: Client, db: Session, hub: Hub, tmp_path: Path, case: str, code: str, words: str
) -> None:
    own = {"auto_map": {"AutoModel": "x.Y"}, "architectures": ["MyOwnForCausalLM"]}
    hub.models["lin/qwen"] = {
        "pickle": only(tmp_path, "config.json", "pytorch_model.bin"),
        "nothing": only(tmp_path, "config.json"),
        "config": only(tmp_path, "model.safetensors"),
        "code": files(tmp_path, 6, **own),
        "lying": only(tmp_path, "config.json") | {"model.safetensors": b"\xff" * 99},
        "missing": {},
    }[case]
    if case == "missing":
        del hub.models["lin/qwen"]
    repository = "lin/other" if case == "missing" else "lin/qwen"
    made = begin(api, hub="huggingface", repository=repository)
    assert failed(db, made) == code
    shown = api.get(f"{URL}/imports/{made}").json()["error"]["message"]
    assert words in shown
    assert "%(" not in shown


def test_code_that_is_not_needed_is_left_out(
    api: Client, db: Session, hub: Hub, tmp_path: Path
) -> None:
    hub.models["lin/qwen"] = files(tmp_path, 6, auto_map={"AutoModel": "modeling_x.X"})
    model = model_of(db, finish(db, begin(api, hub="huggingface", repository="lin/qwen")))
    config = json.loads((storage.fetch(model.artefact) / "config.json").read_bytes())
    assert "auto_map" not in config
    assert "auto_map" in model.lineage["source"]["notes"][0]


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({}, "import.source"),
        ({"repository": "a/b", "path": "/x"}, "import.source"),
        ({"repository": "a/../b"}, "hub.repository"),
        ({"repository": "a/b", "revision": "../x"}, "hub.revision"),
        ({"repository": "alone", "hub": "modelscope"}, "hub.repository"),
        ({"repository": "a/b", "name": "x" * 200}, "name.too_long"),
        ({"preset": "none"}, "not_found"),
        ({"repository": "a/b", "base": "none"}, "model_not_found"),
        ({"repository": "a/b", "shared": True}, "forbidden"),
    ],
)
def test_what_is_refused_at_once(api: Client, asked: dict[str, Any], code: str) -> None:
    answer = api.post(URL, json=asked)
    assert answer.json()["code"] == code
    assert api.get(f"{URL}/imports").json()["data"] == []


# -- adapters ------------------------------------------------------------------------------


def adapter(tmp_path: Path, base: str, width: int = 3) -> dict[str, bytes]:
    directory = write_adapter(tmp_path / f"adapter-{width}")
    config = {"peft_type": "LORA", "r": 2, "base_model_name_or_path": base}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    name = "base_model.model.w.lora_A.weight"
    tensors = {name: {"dtype": "F32", "shape": [2, width], "data_offsets": [0, 8 * width]}}
    write_safetensors(directory / "adapter_model.safetensors", tensors, b"\0" * 8 * width)
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def base(tmp_path: Path) -> dict[str, bytes]:
    tensors = {"w.weight": {"dtype": "F32", "shape": [5, 3], "data_offsets": [0, 60]}}
    path = write_safetensors(tmp_path / "b.safetensors", tensors, b"\0" * 60)
    return files(tmp_path, 6) | {"model.safetensors": path.read_bytes()}


def test_an_adapter_finds_its_base(api: Client, db: Session, hub: Hub, tmp_path: Path) -> None:
    hub.models |= {"lin/base": base(tmp_path), "lin/lora": adapter(tmp_path, "lin/base")}
    made = begin(api, hub="huggingface", repository="lin/lora")
    assert failed(db, made) == "adapter.no_base"
    assert "lin/base" in api.get(f"{URL}/imports/{made}").json()["error"]["message"]
    whole = model_of(db, finish(db, begin(api, hub="huggingface", repository="lin/base", name="B")))
    api.post(f"{URL}/imports/{made}/retry", json={})
    found = model_of(db, finish(db, made))
    assert [found.kind, found.base_id, found.family] == ["adapter", whole.id, "Qwen3"]
    assert found.templated
    ancestors = api.get(f"{URL}/{found.id}").json()["ancestors"]
    assert [one["id"] for one in ancestors] == [whole.id]
    refused = api.delete(f"{URL}/{whole.id}")
    assert [refused.status_code, "lora" in refused.json()["detail"]] == [409, True]


def test_an_adapter_for_other_shapes_is_refused(
    api: Client, db: Session, hub: Hub, tmp_path: Path
) -> None:
    hub.models |= {"lin/base": base(tmp_path), "lin/lora": adapter(tmp_path, "x/y", width=4)}
    model_of(db, finish(db, begin(api, hub="huggingface", repository="lin/base")))
    made = begin(api, hub="huggingface", repository="lin/lora", base="base")
    assert failed(db, made) == "adapter.misfit"
