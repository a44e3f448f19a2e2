"""Room for adapters: vLLM's flags, what the gateway sends for a guest, and vLLM itself."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.orm import Session

from app import storage
from app.accounts.tables import Workspace
from app.config import ROOT, settings
from app.deployments import service
from app.deployments.schemas import DeploymentCreate
from app.deployments.service import RouteReplica
from app.deployments.tables import Deployment
from app.gateway.upstream import spoken_for
from app.models.service import STARTER_FILES, ensure_starter
from app.models.tables import Model
from app.queue import transaction
from tests.factories import make_model, make_node, make_workspace
from tests.jobs.people import principal
from tests.workers import engine_loop
from tests.workers.engine_loop import deploy, state
from tests.workers.test_adapters import state_of, until
from tests.workers.test_engines import flags, start
from workers.engines import vllm


def test_flags_leave_room_for_adapters() -> None:
    command = vllm.command(start(adapters=64, at_once=8, rank=32))
    found = flags(command.argv)
    assert found["--served-model-name"] == "mood"
    assert "--lora-modules" not in found
    names = ("--max-loras", "--max-cpu-loras", "--max-lora-rank")
    assert [found[name] for name in names] == ["8", "64", "32"]
    assert command.env["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
    both = vllm.command(start(adapter=Path("/store/a"), adapters=4, at_once=4, rank=16))
    assert flags(both.argv)["--max-cpu-loras"] == "5"
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in vllm.command(start()).env


def test_an_adapter_with_a_template_of_its_own_is_started_with_it(tmp_path: Path) -> None:
    for name, source in (("base", "{{ messages }}"), ("adapter", "{{ messages[0].content }}")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "chat_template.jinja").write_text(source)
    places: dict[str, Any] = {"model": tmp_path / "base", "directory": tmp_path, "rank": 8}
    found = flags(vllm.command(start(adapter=tmp_path / "adapter", **places)).argv)
    assert Path(found["--chat-template"]).read_text() == "{{ messages[0].content }}"
    found = flags(vllm.command(start(adapter=tmp_path / "base", **places)).argv)
    assert "--chat-template" not in found


def test_what_is_sent_for_a_guest() -> None:
    sends = {"stop_token_ids": [7], "temperature": 0.3}
    route = RouteReplica("rep_x", "", "", "mood", "vllm", sends)
    assert spoken_for(route, {"prompt": "x"}) == {"prompt": "x"} | sends
    said = spoken_for(route, {"temperature": 0, "stop_token_ids": [9], "top_p": None})
    assert said == {"temperature": 0, "stop_token_ids": [7, 9]}
    assert spoken_for(route, {"temperature": None})["temperature"] == 0.3
    assert spoken_for(route, {"ignore_eos": True})["stop_token_ids"] == []
    assert spoken_for(route, {"stop_token_ids": "x"})["stop_token_ids"] == "x"  # vLLM refuses it
    plain = RouteReplica("rep_x", "", "", "mood", "vllm", {})
    assert spoken_for(plain, {"temperature": None}) == {"temperature": None}


# -- for real ----------------------------------------------------------------------------


@pytest.fixture
def workspace(db: Session) -> Iterator[Workspace]:
    if not settings.serve_python.exists() or not settings.train_python.exists():
        pytest.skip("an environment is not built here")
    make_node(db, id=settings.node)
    made = make_workspace(db)
    end = engine_loop.clean()
    next(end)
    yield made
    next(end, None)


def made_adapter(
    db: Session, workspace: Workspace, base: Model, files: Path, **more: dict[str, Any]
) -> Model:
    """A random adapter of rank 12 on the starter, with some of its files changed."""
    name = f"tiny-{len(list(files.parent.iterdir()))}"
    script = ROOT / "tests/workers/served.py"
    subprocess.run([settings.train_python, script, STARTER_FILES, files], check=True)
    for file, changes in more.items():
        path = files / f"{file}.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(known | changes))
    storage.put(files, f"models/{name}")
    return make_model(
        db, workspace, kind="adapter", base_id=base.id, parent_id=base.id,
        artefact=f"models/{name}", size=300_000,
    )  # fmt: skip


def add(workspace: Workspace, model: Model, name: str) -> Deployment:
    with transaction() as db:
        body = DeploymentCreate(name=name, model=model.id)
        return service.create(db, principal(db, workspace), body)


def ask(workspace: Workspace, name: str) -> Any:
    """What the engine answers to what the gateway sends."""
    with transaction() as db:
        route = service.route(db, workspace.id, name)
    assert route
    (way,) = route.replicas
    messages = [{"role": "user", "content": "hello"}]
    body = {"messages": messages, "max_tokens": 12, "temperature": 0}
    answer = httpx.post(
        f"{way.address}/v1/chat/completions",
        json=spoken_for(way, body) | {"model": way.served_name},
        headers={"authorization": f"Bearer {way.secret}"},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_vllm_loads_adapters_while_it_runs(
    db: Session, workspace: Workspace, tmp_path: Path
) -> None:
    base = ensure_starter(db)
    (tmp_path / "files").mkdir()
    files = tmp_path / "files"
    one, two = (made_adapter(db, workspace, base, files / name) for name in ("one", "two"))
    ends = {"eos_token_id": list(range(4096))}  # every token ends its turn
    short = made_adapter(db, workspace, base, files / "short", generation_config=ends)
    host = deploy(db, workspace, base, name="host", engine="vllm", max_model_len=512)
    until(lambda: state(host) == "ready", 400)
    made = {name: add(workspace, model, name) for name, model in (("one", one), ("two", two))}
    made["short"] = add(workspace, short, "short")
    until(lambda: {state_of(guest) for guest in made.values()} == {"ready"})
    texts = {name: ask(workspace, name) for name in ("host", "one", "two")}
    assert {answer["model"] for answer in texts.values()} == set(texts)
    said = {answer["choices"][0]["message"]["content"] for answer in texts.values()}
    assert len(said) == 3
    stopped = ask(workspace, "short")
    assert stopped["choices"][0]["finish_reason"] == "stop"
    assert stopped["usage"]["completion_tokens"] == 1

    # what only the engine finds out: the adapter's own error, and all others answer on
    lying = made_adapter(db, workspace, base, files / "lying", adapter_config={"r": 200})
    db.commit()
    with transaction() as own:
        own.get_one(Deployment, host.id).adapter_rank = 512
    refused = add(workspace, lying, "lying")
    until(lambda: state_of(refused) == "error")
    with transaction() as own:
        error = own.get_one(Deployment, refused.id).error
    assert error is not None
    assert error["code"] == "adapter_refused"
    assert "rank" in error["params"]["why"]
    for name, before in texts.items():
        assert ask(workspace, name)["choices"] == before["choices"]
