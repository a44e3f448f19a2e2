"""The `danlu` command against a running Danlu, as a person types it."""

import json
import os
import stat
import subprocess
import sys

import pytest

from app.cli import client, jobs, upload
from app.config import ROOT
from tests.stack import SAMPLES

DANLU = [sys.executable, "-m", "app.cli.main"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("person")


@pytest.fixture(scope="module")
def danlu(stack, home):
    """Run a command; its output. `fails` says that it shall end with 1."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("DANLU_")}
    env |= {"HOME": str(home), "COLUMNS": "200", "LANG": "C.UTF-8"}

    def run(*words, text="", fails=False):
        done = subprocess.run(
            [*DANLU, *map(str, words)],
            env=env, cwd=ROOT, input=text, capture_output=True, text=True, timeout=240,
        )  # fmt: skip
        assert done.returncode == (1 if fails else 0), done.stdout + done.stderr
        return done.stderr if fails else done.stdout

    assert "Run `danlu login`" in run("whoami", fails=True)
    assert stack.email in run("login", "--url", stack.url, text=stack.api_key + "\n")
    return run


@pytest.fixture(scope="module")
def dataset(danlu, home):
    """A published dataset, made by a command."""
    file = home / "reviews.jsonl"
    lines = (SAMPLES / "reviews-train.jsonl").read_text().splitlines()[:64]
    file.write_text("\n".join(lines) + "\n")
    found = json.loads(danlu("datasets", "upload", file, "--publish", "--json"))
    assert (found["name"], found["status"], found["rows"]) == ("reviews", "published", 64)
    return found["id"]


def test_the_key_is_kept_for_oneself(danlu, stack, home):
    file = home / ".danlu.yaml"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stack.api_key in file.read_text()
    assert json.loads(danlu("whoami", "--json"))["email"] == stack.email


def test_a_wrong_key_is_not_kept(danlu, stack, home):
    before = (home / ".danlu.yaml").read_text()
    danlu("login", "--url", stack.url, "--token", "dk-wrong", fails=True)
    assert (home / ".danlu.yaml").read_text() == before


def test_nobody_there(danlu, monkeypatch, home):
    told = danlu("login", "--url", "http://127.0.0.1:9", "--token", "dk-x", fails=True)
    assert "http://127.0.0.1:9 does not answer" in told


def test_datasets(danlu, dataset, home):
    assert dataset in danlu("datasets", "list")
    assert "64 rows" in danlu("datasets", "show", dataset)
    rows = json.loads(danlu("datasets", "rows", dataset, "--limit", "2"))
    assert len(rows["data"]) == 2
    danlu("datasets", "download", dataset, "--output", home / "back.jsonl")
    assert len((home / "back.jsonl").read_text().splitlines()) == 64
    danlu("datasets", "download", dataset, "-f", "alpaca-jsonl", "-o", home / "x", fails=True)
    assert not (home / "x").exists()


def test_a_folder_is_uploaded_as_sxwlctl_does(danlu, home):
    folder = home / "set"
    folder.mkdir()
    (folder / "dataset.json").write_text(json.dumps([{"instruction": "a", "output": "b"}] * 3))
    (folder / ".hidden").write_text("not sent")
    made = json.loads(danlu("upload", "-r", "dataset", "-d", folder, "-n", "folder", "--json"))
    assert (made["name"], made["rows"], made["format"]) == ("folder", 3, "alpaca")
    danlu("datasets", "delete", made["id"])
    danlu("datasets", "show", made["id"], fails=True)


def test_rows_that_are_wrong_are_told(danlu, home):
    (home / "bad.jsonl").write_text('{"messages": []}\n{"messages": [{"role": "user"}]}\n')
    told = danlu("datasets", "upload", home / "bad.jsonl", fails=True)
    assert told.strip()


def test_an_upload_goes_on_where_it_was_cut_off(stack, tmp_path, monkeypatch):
    monkeypatch.setattr(upload, "PIECE", 1000)
    file = tmp_path / "long.jsonl"
    row = json.dumps(
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    )
    file.write_text("\n".join([row] * 100) + "\n")
    api = client.Api(stack.url, stack.api_key)
    sent = []
    through = api.http.patch

    def cut(path, **kwargs):
        if len(sent) == 3:
            raise KeyboardInterrupt
        sent.append(kwargs["headers"]["upload-offset"])
        return through(path, **kwargs)

    monkeypatch.setattr(api.http, "patch", cut)
    with pytest.raises(KeyboardInterrupt):
        upload.send(api, "/api/v1/uploads", upload.files_of(file))
    again = client.Api(stack.url, stack.api_key)
    first = []
    rest = again.http.patch
    monkeypatch.setattr(
        again.http,
        "patch",
        lambda path, **kwargs: (
            first.append(kwargs["headers"]["upload-offset"]),
            rest(path, **kwargs),
        )[1],
    )
    (one,) = upload.send(again, "/api/v1/uploads", upload.files_of(file))
    assert first[0] == "3000"
    assert again.get(f"/api/v1/uploads/{one}")["offset"] == file.stat().st_size
    again.delete(f"/api/v1/uploads/{one}")


@pytest.fixture(scope="module")
def job(danlu, dataset):
    """A job that ran to its end while a command watched it."""
    told = danlu(
        *("jobs", "create", "-m", "danlu-starter", "-d", dataset, "-n", "by-command", "--watch"),
        *("-s", "epochs=1", "-s", "batch_size=16", "-s", "learning_rate=1e-3"),
    )
    assert "by-command is a model now" in told
    assert "loss" in told
    return json.loads(danlu("jobs", "list", "--json"))["data"][0]["id"]


def test_jobs(danlu, job, home):
    assert "succeeded" in danlu("jobs", "list")
    assert danlu("jobs", "logs", job)
    steps = json.loads(danlu("jobs", "metrics", job))["data"]
    assert "⠀" in jobs.curve(steps, 80) or jobs.curve(steps, 80)
    danlu("jobs", "script", job, "-o", home / "train.py")
    compile((home / "train.py").read_text(), "train.py", "exec")
    assert danlu("jobs", "cancel", job, fails=True)


def test_a_job_that_cannot_be(danlu, dataset):
    told = danlu("jobs", "create", "-m", "nobody", "-d", dataset, fails=True)
    assert "nobody" in told
    wrong = danlu(
        "jobs", "create", "-m", "danlu-starter", "-d", dataset, "-s", "epochs=-1", fails=True
    )
    assert "epochs" in wrong


def test_models(danlu, job, home):
    assert "by-command" in danlu("models", "list", "--kind", "tuned")
    danlu("models", "download", "by-command", "-o", home / "tuned")
    assert (home / "tuned" / "adapter_model.safetensors").stat().st_size
    danlu("models", "download", "by-command", "-o", home / "tuned", fails=True)


def test_deployments_and_chat(danlu, served):
    assert "ready" in danlu("deployments", "list")
    assert danlu("deployments", "logs", served)
    assert danlu("chat", served, "你好", "--max-tokens", "8").strip()
    talked = danlu("chat", served, "--max-tokens", "8", text="Hello\n/clear\nHello again\n")
    assert len(talked.splitlines()) >= 2
    assert "no model called" in danlu("chat", "nobody", "hello", fails=True)


def test_keys(danlu, stack):
    made = json.loads(danlu("keys", "create", "for-a-test", "-s", "models:read", "--json"))
    assert made["id"] in danlu("keys", "list")
    danlu("keys", "revoke", made["id"])
    with pytest.raises(client.Failed):
        client.Api(stack.url, made["secret"]).get("/api/v1/models")


def test_admin(danlu, stack):
    assert "cpu:0" in danlu("admin", "devices")
    assert "no limit" in danlu("admin", "quota", stack.workspace) or "devices" in danlu(
        "admin", "quota", stack.workspace
    )


def test_what_a_model_says_cannot_steer_a_terminal():
    assert client.plain("a\x1b[2Jb\x07\tc\n") == "a[2Jb\tc\n"


def test_completion(danlu):
    assert "_DANLU_COMPLETE" in subprocess.run(
        [str(ROOT / ".venv/bin/danlu"), "--show-completion", "bash"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
