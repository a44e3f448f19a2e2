"""TensorBoard: the files that we write, as TensorBoard reads them, and TensorBoard itself."""

import io
import json
import subprocess
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from app import storage
from app.config import settings
from app.jobs import boards, eventfiles, history, tfevents
from app.jobs.tables import Job
from tests.conftest import Client, sign_in
from tests.factories import make_job, make_user, make_workspace

READ = """
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
found = EventAccumulator(sys.argv[1]).Reload()
tags = found.Tags()["tensors"] + found.Tags()["scalars"]
import tensorboard.util.tensor_util as util
print(json.dumps({tag: [[one.step, float(util.make_ndarray(one.tensor_proto))] for one in found.Tensors(tag)]
                  for tag in found.Tags()["tensors"]}
                 | {tag: [[one.step, one.value] for one in found.Scalars(tag)] for tag in found.Tags()["scalars"]}))
"""


def read(directory: Path) -> dict[str, Any]:
    """As TensorBoard's own reader, checksums and all, finds it."""
    done = subprocess.run(
        [settings.train_python, "-c", READ, directory], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def with_curve(db: Session, client: Client, steps: int = 5, **more: Any) -> Job:
    job = make_job(db, client.workspace, client.user, state="succeeded", **more)
    lines = [
        {"step": n, "loss": 1 / n, "lr": 1e-4, "odd": "x", "t": 1.7e9 + n}
        for n in range(1, steps + 1)
    ]
    history.store_metrics(db, job.id, 1, [*lines, {"step": steps, "eval_loss": 0.5}])
    db.commit()
    return job


def test_a_frame_is_the_one_of_the_format():
    assert tfevents.varint(300) == b"\xac\x02"
    assert tfevents.masked(b"\x18" + b"\x00" * 7).hex() == "a37f4b22"  # as in files of others


def test_tensorboard_reads_what_we_write(db: Session, client: Client, tmp_path: Path) -> None:
    job = with_curve(db, client)
    assert eventfiles.write(db, job, tmp_path) == 5
    assert eventfiles.write(db, job, tmp_path) == 0  # nothing is written twice
    history.store_metrics(db, job.id, 2, [{"step": 5, "loss": 9.0, "t": 1.8e9}])
    db.commit()
    assert eventfiles.write(db, job, tmp_path) == 1
    first = read(tmp_path / "runs" / "attempt-1")
    assert [step for step, _ in first["train/loss"]] == [1, 2, 3, 4, 5]
    assert first["train/loss"][3][1] == pytest.approx(0.25)
    assert first["eval/loss"] == [[5, 0.5]]
    assert set(first) == {"train/loss", "train/learning_rate", "eval/loss"}
    assert read(tmp_path / "runs" / "attempt-2")["train/loss"] == [[5, 9.0]]


def test_the_files_to_take_away(db: Session, client: Client, tmp_path: Path) -> None:
    job = with_curve(db, client)
    answer = client.get(f"/jobs/{job.id}/tensorboard.zip")
    assert answer.headers["content-disposition"].endswith(f'"{job.id}-tensorboard.zip"')
    with zipfile.ZipFile(io.BytesIO(answer.content)) as found:
        names = found.namelist()
        assert f"{job.id}/attempt-1/events.out.tfevents.0000000000.danlu" in names
    (tmp_path / "own.tfevents").write_bytes(b"own")  # what the run itself wrote counts more
    job.tensorboard = storage.put(tmp_path, f"tensorboard/{job.id}-1")
    db.commit()
    with zipfile.ZipFile(io.BytesIO(client.get(f"/jobs/{job.id}/tensorboard.zip").content)) as own:
        assert own.read(f"{job.id}/own.tfevents") == b"own"


def test_nothing_is_started_without_need(db: Session, client: Client) -> None:
    empty = make_job(db, client.workspace, client.user)
    foreign = make_job(db, make_workspace(db), client.user)
    db.commit()
    assert client.post(f"/jobs/{empty.id}/tensorboard").status_code == 409
    assert client.get(f"/jobs/{empty.id}/tensorboard/").status_code == 409
    for job in (foreign.id, "job_..", "job_x"):
        assert client.post(f"/jobs/{job}/tensorboard").status_code == 404
        assert client.get(f"/jobs/{job}/tensorboard/data/runs").status_code == 404
    assert boards.started == {}


@pytest.mark.slow
def test_tensorboard_behind_the_sign_in(db: Session, client: Client) -> None:
    job = with_curve(db, client)
    address = f"/jobs/{job.id}/tensorboard/"
    try:
        opened = client.post(f"/jobs/{job.id}/tensorboard")
        assert (opened.status_code, opened.headers["location"]) == (303, address)
        end = time.monotonic() + 60
        while "refresh" in (page := client.get(address)).headers:
            assert time.monotonic() < end
            time.sleep(0.5)
        assert "TensorBoard" in page.text
        assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
        assert "https:" not in page.headers["content-security-policy"]
        while client.get(f"{address}data/runs").json() != ["attempt-1"]:
            assert time.monotonic() < end
            time.sleep(0.5)
        tags = client.get(f"{address}data/plugin/timeseries/tags").json()
        assert "train/loss" in tags["scalars"]["runTagInfo"]["attempt-1"]
        asked = json.dumps([{"plugin": "scalars", "tag": "train/loss"}])
        series = client.post(
            f"{address}data/plugin/timeseries/timeSeries", data={"requests": asked}
        )
        assert len(series.json()[0]["runToSeries"]["attempt-1"]) == 5
        socket = boards.home() / job.id / "socket"
        assert socket.stat().st_mode & 0o077 == 0
        sign_in(db, client, make_user(db))  # somebody else
        assert client.get(address).status_code == 404
        client.cookies.clear()
        assert client.get(address).headers["location"].startswith("/login")
    finally:
        for process in boards.started.values():
            process.terminate()
            process.wait(10)
        boards.started.clear()
