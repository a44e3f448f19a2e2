"""docker-compose.yml and its images, as far as a machine without a Docker engine can prove them.

The file's shape is checked; each image's install steps run in a clean copy; each service's exact
command runs against Debian's PostgreSQL and Redis.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from typer.main import get_group

from app.cli.node import app as node_commands
from app.config import ROOT, Settings
from app.nodework.joining import BUCKET
from tests.stack import SAMPLES, free_port
from tests.test_debian import POSTGRES, REDIS, urls

__all__ = ["urls"]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DOCKERFILE = (ROOT / ".docker" / "Dockerfile").read_text()
OURS = ("web", "gateway", "beat", "worker-cpu", "worker-gpu")
no_servers = pytest.mark.skipif(
    not (POSTGRES and REDIS) and not os.environ.get("CI"),
    reason="needs Debian's postgresql and redis-server; .ci/run installs them",
)


# -- the file's shape --------------------------------------------------------------------


def test_the_services_are_those_of_the_design() -> None:
    assert set(COMPOSE["services"]) == {"postgres", "redis", *OURS}


@pytest.mark.parametrize("name", OURS)
def test_a_service_of_ours_builds_a_stage_that_exists_and_sets_settings_that_exist(
    name: str,
) -> None:
    service = COMPOSE["services"][name]
    assert (ROOT / service["build"]["dockerfile"]).is_file()
    assert f" AS {service['build']['target']}\n" in DOCKERFILE
    known = {f"DANLU_{field.upper()}" for field in Settings.model_fields}
    assert set(service["environment"]) <= known | {"DATABASE_URL", "REDIS_URL"}
    assert service["init"] is True  # reaps what detached runs leave
    assert set(service["depends_on"]) >= {"postgres", "redis"}
    for volume in service["volumes"]:
        assert volume.split(":")[0] in COMPOSE["volumes"]


def test_gpus_are_asked_for_by_the_gpu_worker_alone() -> None:
    for name in OURS:
        devices = (
            COMPOSE["services"][name]
            .get("deploy", {})
            .get("resources", {})
            .get("reservations", {})
            .get("devices", [])
        )
        assert bool(devices) == (name == "worker-gpu")


def test_only_what_users_call_is_published_and_only_on_loopback() -> None:
    ports = {
        name: service["ports"]
        for name, service in COMPOSE["services"].items()
        if "ports" in service
    }
    assert ports == {"web": ["127.0.0.1:8420:8420"], "gateway": ["127.0.0.1:8421-8428:8420"]}


def test_passwords_come_from_outside() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    for name in ("POSTGRES_PASSWORD", "REDIS_PASSWORD"):
        assert re.search(r"\$\{" + name + r":\?", text)


# -- a second machine --------------------------------------------------------------------


def test_the_second_machine_joins_and_needs_no_server_of_its_own() -> None:
    node: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.node.yml").read_text())
    assert {name: one["profiles"] for name, one in node["services"].items()} == {
        "node": ["node"],
        "node-gpu": ["gpu"],
    }
    up = get_group(node_commands).commands["up"]
    taken = {str(option.envvar) for option in up.params}
    settings = {f"DANLU_{field.upper()}" for field in Settings.model_fields}
    for name, service in node["services"].items():
        assert f" AS {service['build']['target']}\n" in DOCKERFILE
        assert service["command"] == ["danlu", "node", "up"]
        assert service["network_mode"] == "host"  # the gateway reaches what an engine listens on
        assert set(service["environment"]) <= settings | taken
        assert service["init"] is True
        devices = service.get("deploy", {}).get("resources", {}).get("reservations", {})
        assert bool(devices) == (name == "node-gpu")
        assert [volume.split(":")[0] for volume in service["volumes"]] == list(node["volumes"])
    asked = (ROOT / "docker-compose.node.yml").read_text()
    assert re.search(r"\$\{DANLU_JOIN_URL:\?", asked)
    for variable in re.findall(r"\$\{(\w+)", asked):
        assert variable in asked.split("x-node")[0] or variable in settings


def test_the_platform_is_reached_from_the_lan_where_it_is_told_to() -> None:
    text = (ROOT / "docker-compose.lan.yml").read_text()
    lan: dict[str, Any] = yaml.safe_load(text)
    assert set(lan["services"]) == {"postgres", "redis", *OURS}
    for service in lan["services"].values():
        for port in service.get("ports", ()):
            assert port.startswith("${DANLU_LAN:?")
    known = {f"DANLU_{field.upper()}" for field in Settings.model_fields}
    bucket = {*BUCKET, *(f"DANLU_JOIN_{one}" for one in BUCKET)}
    for name in OURS:
        environment = lan["services"][name]["environment"]
        assert set(environment) <= known | bucket
        assert environment["DANLU_STORE"].startswith("${DANLU_STORE:?")


# -- the images' steps -------------------------------------------------------------------


def steps(stage: str) -> list[str]:
    """The RUN lines of one stage that are not the base system's."""
    text = DOCKERFILE.replace("\\\n", " ")
    found, inside = [], False
    for line in text.splitlines():
        if line.startswith("FROM "):
            inside = line.endswith(f" AS {stage}")
        elif inside and line.startswith("RUN ") and "apt-get" not in line:
            found.append(line.removeprefix("RUN "))
    return found


def copies() -> list[str]:
    """What the platform image copies, in order."""
    found = re.findall(r"^COPY --chown=danlu (.+) \S+$", DOCKERFILE, re.MULTILINE)
    return [name for line in found for name in line.split()]


@pytest.fixture(scope="module")
def image() -> Iterator[Path]:
    """A clean directory with what the Dockerfile copies, and nothing else."""
    base = Path(tempfile.mkdtemp(prefix="danlu-image-", dir="/tmp"))
    for name in copies():
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, base / name, ignore=ignored)
        else:
            shutil.copy(source, base / name)
    yield base
    subprocess.Popen(["rm", "-rf", base])  # gigabytes: nothing waits for them to go


def build(image: Path, stage: str) -> None:
    assert steps(stage)
    for step in steps(stage):
        env = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        kept = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        kept["PIP_COMPILE"] = "0"  # a third of the time, and nothing here is imported twice
        done = subprocess.run(
            ["bash", "-c", step],
            cwd=image,
            env=env | kept,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{step}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_install_steps_of_the_cpu_images_work_in_a_clean_place(image: Path) -> None:
    build(image, "platform")
    imports = [".venv/bin/python", "-c", "import app.main, workers.celery, workers.node"]
    subprocess.run(imports, cwd=image, check=True)
    build(image, "worker-cpu")
    subprocess.run([".venv-train/bin/python", "-c", "import torch, peft"], cwd=image, check=True)
    serve = [".venv-serve/bin/python", "-c", "import vllm; assert vllm.__version__ == '0.32.0'"]
    subprocess.run(serve, cwd=image, check=True)


# -- the services' commands --------------------------------------------------------------


@pytest.fixture
def services(urls: dict[str, str]) -> Iterator[dict[str, str]]:
    """web, beat and worker-cpu by their exact commands; their environment."""
    base = Path(tempfile.mkdtemp(prefix="danlu-compose-", dir="/tmp"))
    port = free_port()
    shared = {
        "DATABASE_URL": urls["DANLU_TEST_DATABASE_URL"],
        "REDIS_URL": urls["DANLU_TEST_REDIS_URL"],
        "DANLU_STORE": str(base / "store"),
        "DANLU_PORT": str(port),
        "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}",
        "HOME": os.environ.get("HOME", "/tmp"),
    }
    running = []
    try:
        for name in ("web", "beat", "worker-cpu"):
            command = COMPOSE["services"][name]["command"]
            environment = shared | {"DANLU_HOME": str(base / name)}
            if name == "worker-cpu":
                environment["DANLU_NODE"] = COMPOSE["services"][name]["environment"]["DANLU_NODE"]
            log = (base / f"{name}.log").open("wb")
            running.append(
                subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
            )
            if name == "web":
                wait_ready(port, base / "web.log")
        first = json.loads((base / "web" / "first-run.json").read_text())
        yield {"url": f"http://127.0.0.1:{port}", "key": first["api_key"]}
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            assert process.wait(90) == 0
        shutil.rmtree(base)


def wait_ready(port: int, log: Path) -> None:
    end = time.monotonic() + 90
    while True:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.2)


@pytest.mark.slow
@no_servers
@pytest.mark.timeout(300)
def test_the_commands_make_a_danlu_that_tunes(services: dict[str, str]) -> None:
    headers = {"authorization": f"Bearer {services['key']}"}
    api = httpx.Client(base_url=services["url"], headers=headers, timeout=60)
    end = time.monotonic() + 240
    while not any(device["node"] == "worker-cpu" for device in devices(api)):
        assert time.monotonic() < end
        time.sleep(0.5)
    sample = next(
        one for one in api.get("/api/v1/datasets").json()["data"] if one["name"] == "reviews-train"
    )
    assert sample["rows"] == len((SAMPLES / "reviews-train.jsonl").read_text().splitlines())
    job = api.post(
        "/api/v1/jobs",
        json={
            "name": "container",
            "model": "danlu-starter",
            "dataset": sample["id"],
            "stage": "sft",
            "method": "lora",
            "hyperparameters": {"max_steps": 2},
        },
    )
    assert job.status_code == 201, job.text
    while True:
        found = api.get(f"/api/v1/jobs/{job.json()['id']}").json()
        if found["state"] in ("succeeded", "failed"):
            break
        assert time.monotonic() < end, found
        time.sleep(0.5)
    assert found["state"] == "succeeded", found


def devices(api: httpx.Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.get("/api/v1/devices").raise_for_status().json()["data"]
    return found


def test_the_health_check_is_a_command_that_can_run() -> None:
    check = COMPOSE["services"]["web"]["healthcheck"]["test"]
    assert check[0] == "CMD"
    assert shlex.join(check[1:]).startswith("python -c")
    compile(check[3], "healthcheck", "exec")
