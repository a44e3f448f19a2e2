"""/metrics: who may read it, what stands in it, and that docs and dashboard name nothing else."""

import json
import re
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

import app.queue
from app.cluster import nodes
from app.cluster import service as cluster
from app.config import ROOT, settings
from app.db import now
from app.deployments import metrics
from app.gateway import figures
from app.main import app as web
from tests.conftest import Client
from tests.factories import (
    make_deployment,
    make_job,
    make_node,
    make_replica,
    make_user,
    make_workspace,
)
from workers import sweep

TOKEN = "a long and secret word"
REMOTE = {"authorization": f"Bearer {TOKEN}"}


def caller(address: str, base_url: str = "http://127.0.0.1:8420") -> Client:
    return Client(web, base_url=base_url, client=(address, 50000), follow_redirects=False)


# -- who may -----------------------------------------------------------------------------


def test_without_a_token_only_this_machine_may(database, monkeypatch):
    assert caller("127.0.0.1").get("/metrics").status_code == 200
    assert caller("::1").get("/metrics").status_code == 200
    assert caller("192.0.2.7").get("/metrics").status_code == 403
    for header in ("x-forwarded-for", "x-real-ip", "forwarded", "via"):
        answer = caller("127.0.0.1").get("/metrics", headers={header: "127.0.0.1"})
        assert answer.status_code == 403, header
    # with a public address there is a proxy, and everybody may come from this machine
    monkeypatch.setattr(settings, "public_url", "https://danlu.example.com")
    assert caller("127.0.0.1").get("/metrics").status_code in (403, 421)
    behind = caller("127.0.0.1", "https://danlu.example.com").get("/metrics")
    assert behind.status_code == 403
    assert "danlu_" not in behind.text


def test_with_a_token_only_who_sends_it_may(database, monkeypatch):
    monkeypatch.setattr(settings, "metrics_token", TOKEN)
    wrong = [{}, {"authorization": "Bearer x"}, {"authorization": f"Basic {TOKEN}"}]
    wrong += [{"authorization": b"Bearer \xe4"}, {"authorization": "Bearer"}]
    for headers in wrong:
        for address in ("127.0.0.1", "192.0.2.7"):
            answer = caller(address).get("/metrics", headers=headers)
            assert answer.status_code == 401, headers
            assert answer.headers["www-authenticate"] == "Bearer"
            assert "danlu_" not in answer.text
    assert caller("192.0.2.7").get("/metrics", headers=REMOTE).status_code == 200


# -- what --------------------------------------------------------------------------------


@pytest.fixture
def scraped(db: Session) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of a Danlu in which something of everything happens."""
    team = make_workspace(db, slug="team")
    node = make_node(db, facts={"shipping_lag": 7.5})
    owner = make_user(db)
    deployment = make_deployment(db, team, owner, name="mood", state="ready")
    deployment.served_model_id = deployment.model_id
    replica = make_replica(db, deployment, state="ready", engine="vllm", node_id=node.id, fence=1)
    for asker in (replica.id, "waiting", "waits too"):
        cluster.ask(
            db, owner_kind="replica", owner_id=asker, workspace_id=team.id, devices=1, memory=None
        )
    cluster.decide(db)
    said = metrics.Reading(running=3, waiting=1, cache=0.5, prompted=10, generated=20)
    metrics.record(db, replica.id, 1, said)
    make_job(db, team, owner, state="running")
    devices = [{"name": "cpu:0", "kind": "cpu", "model": "P", "uuid": "", "memory": 100}]
    heat = {"temperature": 50, "power": 90.5, "power_limit": 700.0}
    stats = {"healthy": True, "stats": {"use": 40, "memory": 60} | heat}
    nodes.beat(db, node.id, "127.0.0.1", node.facts, [devices[0] | stats])
    db.commit()
    sweep.timed()
    figures.observe(
        {
            "workspace_id": team.id,
            "model": "mood",
            "status": 200,
            "prompt_tokens": 3,
            "completion_tokens": 5,
            "first_token_ms": 40,
            "duration_ms": 90,
        }
    )
    settings.spool.mkdir(parents=True, exist_ok=True)
    (settings.spool / "usage-1-x.jsonl").write_text("1234")
    answer = caller("127.0.0.1").get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(scraped, name, **labels):
    wanted = set(labels.items())
    found = [number for (one, has), number in scraped.items() if one == name and wanted <= set(has)]
    assert found, (name, labels)
    return sum(found)


def test_it_says_what_happens(scraped):
    def said(name, **labels):
        return value(scraped, f"danlu_{name}", **labels)

    assert said("database_up") == said("redis_up") == said("build_info") == 1
    assert said("jobs", state="running", stage="sft") == 1
    assert said("deployments", state="ready") == 1
    assert said("replicas", state="ready", engine="vllm") == 1
    assert said("queue_requests", owner="replica") == 1
    assert 0 <= said("queue_oldest_wait_seconds") < 60
    assert said("device_held") == 2
    assert said("device_use_ratio", device="cpu:0") == 0.4
    assert said("device_memory_used_bytes", device="cpu:0") == 60
    assert said("node_up") == 1
    assert said("outbox_lag_seconds") == 7.5
    assert said("engine_requests_running", deployment="mood") == 3
    assert said("engine_cache_use_ratio", deployment="mood") == 0.5
    assert said("engine_generation_tokens_total", deployment="mood") == 20
    assert said("gateway_requests_total", deployment="mood", code="200") >= 1
    assert said("gateway_tokens_total", deployment="mood", kind="completion") >= 5
    assert said("gateway_first_token_seconds_bucket", deployment="mood", le="0.05") >= 1
    assert said("usage_spool_bytes") == 4
    assert said("disk_free_bytes", place="home") > 0
    assert 0 <= said("sweep_duration_seconds") < 60
    assert 0 <= said("sweep_age_seconds") < 60


def names_in(text: str) -> set[str]:
    return set(re.findall(r"\b(?:danlu|process)_[a-z_]+[a-z]\b", text))


def test_the_dashboard_draws_only_what_is_there(scraped):
    board = json.loads((ROOT / "docs" / "grafana-danlu.json").read_text())
    exported = {name for name, _ in scraped}
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert len(panels) > 20
    for panel in panels:
        for target in panel["targets"]:
            found = names_in(target["expr"])
            assert found, target
            assert found <= exported, panel["title"]
    (query,) = (one["query"] for one in board["templating"]["list"] if one["type"] == "query")
    assert names_in(query) <= exported
    boxes = [panel["gridPos"] for panel in board["panels"]]
    assert all(box["x"] + box["w"] <= 24 for box in boxes)
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_the_page_about_it_names_all_of_it(scraped):
    described = names_in((ROOT / "docs" / "monitoring.md").read_text())
    exported = {
        re.sub(r"_(bucket|count|sum)$", "", name)
        for name, _ in scraped
        if name.startswith("danlu_")
    }
    assert exported <= described
    assert {name for name in described if name.startswith("danlu_")} <= exported


# -- when something is away --------------------------------------------------------------


def test_without_database_and_redis_it_still_answers(database, monkeypatch):
    nowhere = create_engine(
        "postgresql+psycopg://x@127.0.0.1:1/x", connect_args={"connect_timeout": 2}
    )
    monkeypatch.setattr(app.queue, "engine", lambda: nowhere)
    from redis import Redis

    from app.dashboard import prometheus

    monkeypatch.setattr(prometheus, "redis", lambda: Redis(port=1))
    began = time.monotonic()
    answer = caller("127.0.0.1").get("/metrics")
    assert time.monotonic() - began < 10
    assert answer.status_code == 200
    assert "\ndanlu_database_up 0.0\n" in answer.text
    assert "\ndanlu_redis_up 0.0\n" in answer.text
    assert "danlu_disk_free_bytes" in answer.text
    assert "danlu_jobs" not in answer.text


def test_an_engine_that_fell_silent_is_left_out(db):
    from datetime import timedelta

    from app.deployments.tables import ReplicaMetric

    team = make_workspace(db)
    deployment = make_deployment(db, team, make_user(db))
    replica = make_replica(db, deployment, fence=1)
    metrics.record(db, replica.id, 1, metrics.Reading(running=3))
    assert len(metrics.latest(db)) == 1
    db.query(ReplicaMetric).update({"at": now() - timedelta(minutes=2)})
    assert metrics.latest(db) == []
