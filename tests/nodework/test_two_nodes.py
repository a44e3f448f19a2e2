"""A second machine, from its token to its removal: it joins, trains, dies, hands on, serves and goes.

Two homes on one machine that share nothing but Postgres, Valkey and a bucket. The tests go through
it in order.
"""

import stat
from collections.abc import Iterator

import httpx
import psycopg
import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, RedisError

from tests.nodework.pair import NAME, Pair, joined, two_nodes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
HERE: dict[str, str] = {}  # what later steps need: ids of what earlier ones made


@pytest.fixture(scope="module")
def pair(s3: str) -> Iterator[Pair]:
    with two_nodes(s3) as found:
        yield found


def test_it_joins_with_one_command(pair: Pair) -> None:
    token = pair.post("/api/v1/nodes/tokens", json={"node": NAME})["token"]
    done = pair.second.danlu("node", "join", pair.first.url, token=token)
    assert done.returncode == 0, done.stdout + done.stderr
    assert token not in done.stdout + done.stderr
    given = joined(pair.second)
    assert stat.S_IMODE((pair.second.home / "node.json").stat().st_mode) == 0o600
    assert given["DANLU_NODE"] == NAME
    assert pair.servers.postgres not in str(given)
    again = pair.second.danlu("node", "join", pair.first.url, token=token)
    assert again.returncode != 0
    assert "not good any more" in again.stdout + again.stderr
    assert joined(pair.second) == given
    pair.second.up()
    pair.until(lambda: pair.node(NAME).get("state") == "ready", 120)
    pair.until(lambda: pair.node(NAME)["devices"], 60)


def test_it_trains_what_is_placed_there(pair: Pair) -> None:
    HERE["dataset"] = pair.dataset("reviews", 64)
    pair.post("/api/v1/nodes/local/cordon")
    job = pair.train(HERE["dataset"], "far-away", 40)
    found = pair.state(f"/jobs/{job}", "running", seconds=120)
    assert found["node"] == NAME
    pair.until(lambda: pair.get(f"/jobs/{job}")["step"] >= 3, 300)
    runs = pair.second.runs()
    assert list(runs) == [f"{job}-1"]
    pair.second.kill()  # supervisor, worker and node process at once: the trainer goes on
    assert pair.second.runs() == runs
    pair.second.up()
    pair.finished(job)
    with pair.first.api() as api:
        log = api.get(f"/api/v1/jobs/{job}/log").text
        steps = api.get(f"/api/v1/jobs/{job}/metrics").json()["data"]
    assert "loss" in log
    assert [one["step"] for one in steps if "loss" in one][-1] == 40
    HERE["model"] = pair.get(f"/jobs/{job}")["result_model"]
    assert f"models/{job}-1" in pair.stored("models")
    kept = pair.second.home / "cache" / "store"
    assert list((kept / "artefacts" / "segments").iterdir())
    assert list((kept / "artefacts" / "models").iterdir())
    assert not (pair.second.home / "store").exists()


def test_a_drained_one_goes_on_elsewhere(pair: Pair) -> None:
    job = pair.train(HERE["dataset"], "travels", 60, save_steps=5)
    pair.until(lambda: pair.get(f"/jobs/{job}")["step"] >= 20, 300)
    pair.post("/api/v1/nodes/local/uncordon")
    pair.post(f"/api/v1/nodes/{NAME}/drain", json={"seconds": 300})
    found = pair.finished(job)
    assert (found["node"], found["retries"]) == ("local", 0)
    pair.until(lambda: pair.node(NAME)["state"] == "drained", 30)
    [went_on] = pair.resumed(job)
    assert went_on >= 20, "it began again on the other node"
    pair.until(lambda: not pair.stored("checkpoints"), 30)  # the job is over
    pair.post(f"/api/v1/nodes/{NAME}/uncordon")
    pair.post("/api/v1/nodes/local/cordon")


def test_it_answers(pair: Pair) -> None:
    body = {"name": "far", "model": HERE["model"], "engine": "transformers", "replicas": 1}
    made = pair.post("/api/v1/deployments", json=body)
    HERE["deployment"] = made["id"]
    found = pair.state(f"/deployments/{made['id']}", "ready", "error", seconds=240)
    assert found["state"] == "ready", f"{found}\n{pair.told()}"
    assert any(run.startswith("rep_") for run in pair.second.runs())
    asked = {"model": "far", "messages": [{"role": "user", "content": "你好"}], "max_tokens": 8}
    said = pair.post("/v1/chat/completions", json=asked)
    assert said["choices"][0]["message"]["content"]
    assert said["usage"]["completion_tokens"] > 0


def test_removed_it_can_do_nothing_more(pair: Pair) -> None:
    given = joined(pair.second)
    pair.post("/api/v1/nodes/local/uncordon")
    with pair.first.api() as api:
        assert api.delete(f"/api/v1/nodes/{NAME}").status_code == 204
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(given["DATABASE_URL"].replace("+psycopg", ""))
    with pytest.raises((AuthenticationError, RedisError)):
        Redis.from_url(given["REDIS_URL"]).ping()
    told = httpx.post(
        f"{pair.first.url}/api/v1/node/calls/jobs.loads.record",
        json={"node_id": NAME},
        headers={"authorization": f"Bearer {given['DANLU_NODE_KEY']}"},
    )
    assert (told.status_code, told.json()["code"]) == (403, "node_removed")
    pair.until(lambda: not pair.second.runs(), 60)  # it ended what ran there
    assert not pair.node(NAME)
    answer = {"model": "far", "messages": [{"role": "user", "content": "你好"}], "max_tokens": 8}
    pair.state(f"/deployments/{HERE['deployment']}", "ready", seconds=240)  # here, from the bucket

    def answered() -> bool:
        with pair.first.api() as api:
            return api.post("/v1/chat/completions", json=answer).status_code == 200

    pair.until(answered, 30)
