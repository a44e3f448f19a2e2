"""A disk that is really full: what is asked meanwhile is told so, what runs goes on afterwards."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import stack as stacks
from tests.stack import SAMPLES, Stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(800)]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    place = Path("/tmp") / f"danlu-disk-{os.getpid()}"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=320m", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)
    place.rmdir()


@pytest.fixture
def small(disk: Path) -> Iterator[Stack]:
    running = stacks.start(disk / "home", stacks.free_port())
    yield running
    stacks.stop(running)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for block in (2**20, 1):
            try:
                while file.write(bytes(block)):
                    pass
            except OSError:
                pass


def test_a_full_disk_loses_nothing(small: Stack, disk: Path) -> None:
    with small.api() as api:
        found = api.get("/api/v1/datasets").raise_for_status().json()["data"]
        dataset = next(one["id"] for one in found if one["name"] == "reviews-train")
        job = {
            "name": "survivor",
            "model": "danlu-starter",
            "dataset": dataset,
            "stage": "sft",
            "method": "lora",
            "hyperparameters": {"max_steps": 60, "save_steps": 10},
        }
        made = api.post("/api/v1/jobs", json=job)
        assert made.status_code == 201, made.text
        place = f"/jobs/{made.json()['id']}"
        end = time.monotonic() + 150
        while api.get(f"/api/v1{place}").json()["step"] < 15:
            assert time.monotonic() < end, small.tail()
            time.sleep(0.3)

        fill(disk / "filler")
        with (SAMPLES / "reviews-train.jsonl").open("rb") as file:
            refused = api.post("/api/v1/datasets", files={"file": file})
        assert (refused.status_code, refused.json()["code"]) == (507, "disk_full")
        for _ in range(20):  # a page of a table may have room for a few rows yet
            refused = api.post("/api/v1/jobs", json=job)
            assert refused.status_code in (201, 507), refused.text
        for _ in range(8):
            assert api.get("/api/v1/models").status_code == 200
            assert small.process.poll() is None
            time.sleep(1)

        (disk / "filler").unlink()
        for one in api.get("/api/v1/jobs").json()["data"]:
            if f"/jobs/{one['id']}" != place:
                api.post(f"/api/v1/jobs/{one['id']}/cancel").raise_for_status()
        done = small.wait(place)
        assert done["state"] == "succeeded", f"{done}\n{small.tail()}"
        steps = [point["step"] for point in api.get(f"/api/v1{place}/metrics").json()["data"]]
        assert sorted(set(steps)) == steps
        assert steps[-1] == 60
        assert api.get("/readyz").status_code == 200
