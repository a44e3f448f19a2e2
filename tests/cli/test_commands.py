"""The `danlu` command against a running Danlu, as a person types it."""

import json
import os
import signal
import stat
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from app.cli import client, curves, main, output, text, upload
from app.config import ROOT
from tests.stack import SAMPLES

DANLU = [sys.executable, "-m", "app.cli.main"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("person")


def environment(home, **more):
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("DANLU_", "LC_", "XDG_"))
    }
    return kept | {"HOME": str(home), "COLUMNS": "200", "LANG": "C.UTF-8"} | more


def typed(home, *words, text="", **env):
    """A command in a process of its own: (status, stdout, stderr)."""
    done = subprocess.run(
        [*DANLU, *map(str, words)],
        env=environment(home, **env), cwd=ROOT, input=text, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def danlu(stack, home):
    """Run a command; its output. `fails` says that it shall end with 1."""
    runner = CliRunner()

    def run(*words, text="", fails=False, both=False):
        done = runner.invoke(
            main.app,
            [str(word) for word in words],
            input=text,
            env=dict.fromkeys((n for n in os.environ if n.startswith(("DANLU_", "XDG_"))), None)
            | {"HOME": str(home), "COLUMNS": "200"},
        )
        failed = isinstance(done.exception, client.Failed)
        assert failed == fails, f"{done.output} {done.exception!r}"
        assert failed or done.exit_code == 0, f"{done.output} {done.exception!r}"
        if failed:
            return str(done.exception)
        return done.stdout + done.stderr if both else done.stdout

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


def test_nobody_there(danlu):
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


def patched(api, monkeypatch, before=lambda offset: None):
    """The offsets of the pieces that are sent from now on."""
    offsets = []
    through = api.http.patch

    def patch(path, **kwargs):
        offset = int(kwargs["headers"]["upload-offset"])
        before(offset)
        offsets.append(offset)
        return through(path, **kwargs)

    monkeypatch.setattr(api.http, "patch", patch)
    return offsets


def test_an_upload_goes_on_after_ctrl_c(stack, tmp_path, monkeypatch):
    monkeypatch.setattr(upload, "PIECE", 1000)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "long.jsonl"
    file.write_text("x" * 10_000)

    def interrupt(offset):
        if offset == 3000:
            raise KeyboardInterrupt

    api = client.Api(stack.url, stack.api_key)
    patched(api, monkeypatch, interrupt)
    with pytest.raises(KeyboardInterrupt):
        upload.send(api, upload.files_of(file))
    again = client.Api(stack.url, stack.api_key)
    offsets = patched(again, monkeypatch)
    (one,) = upload.send(again, upload.files_of(file))
    assert offsets[0] == 3000
    assert again.get(f"/api/v1/uploads/{one}")["offset"] == 10_000
    again.delete(f"/api/v1/uploads/{one}")
    file.write_text("y" * 10_000)  # another file of that name and size
    (other,) = upload.send(client.Api(stack.url, stack.api_key), upload.files_of(file))
    assert other != one
    again.delete(f"/api/v1/uploads/{other}")


def test_an_upload_goes_on_after_kill_9(danlu, stack, tmp_path, home, monkeypatch):
    file = tmp_path / "large.jsonl"
    file.touch()
    os.truncate(file, 300 * 2**20)
    api = client.Api(stack.url, stack.api_key)
    command = subprocess.Popen(
        [*DANLU, "upload", "-r", "dataset", "-d", str(file)],
        env=environment(home), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        end = time.monotonic() + 60
        while not any(one["offset"] for one in api.get("/api/v1/uploads")["data"]):
            assert time.monotonic() < end
            time.sleep(0.01)
    finally:
        command.send_signal(signal.SIGKILL)
        command.wait()
    (cut,) = api.get("/api/v1/uploads")["data"]
    assert 0 < cut["offset"] < cut["size"]
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    offsets = patched(api, monkeypatch)
    assert upload.send(api, upload.files_of(file)) == [cut["id"]]
    assert offsets[0] >= cut["offset"]
    api.delete(f"/api/v1/uploads/{cut['id']}")


@pytest.fixture(scope="module")
def job(danlu, dataset):
    """A job that ran to its end while a command watched it."""
    told = danlu(
        *("jobs", "create", "-m", "danlu-starter", "-d", dataset, "-n", "by-command", "--watch"),
        *("-s", "epochs=1", "-s", "batch_size=16", "-s", "learning_rate=1e-3"),
        both=True,
    )
    assert "by-command is a model now" in told
    assert "loss" in told
    return json.loads(danlu("jobs", "list", "--json"))["data"][0]["id"]


def test_jobs(danlu, job, home):
    assert "succeeded" in danlu("jobs", "list")
    assert danlu("jobs", "logs", job)
    steps = json.loads(danlu("jobs", "metrics", job, "--json"))["data"]
    assert "step" in curves.curve(steps, 80)
    assert "loss" in danlu("jobs", "metrics", job)
    assert "by-command" in danlu("jobs", "show", job)
    danlu("jobs", "checkpoints", job)
    danlu("jobs", "download", job, "-o", home / "made.tar")
    assert (home / "made.tar").stat().st_size
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
    for named in (dataset, "reviews-train"):
        figures = danlu("jobs", "create", "-m", "danlu-starter", "-d", named, "--dry-run")
        assert "steps" in figures


def test_models(danlu, job, home):
    assert "by-command" in danlu("models", "list", "--kind", "tuned")
    danlu("models", "download", "by-command", "-o", home / "tuned")
    assert (home / "tuned" / "adapter_model.safetensors").stat().st_size
    danlu("models", "download", "by-command", "-o", home / "tuned", fails=True)


def test_deployments_and_chat(danlu, served, home):
    assert "ready" in danlu("deployments", "list")
    assert "vllm" in danlu("deployments", "show", served)
    assert danlu("deployments", "logs", served)
    assert danlu("chat", served, "你好", "--max-tokens", "8").strip()
    assert danlu("chat", served, "-", "--max-tokens", "8", text="piped in").strip()
    whole = json.loads(danlu("chat", served, "Hello", "--max-tokens", "8", "--json"))
    assert whole["choices"][0]["message"]["role"] == "assistant"
    talked = danlu("chat", served, "--max-tokens", "8", text="Hello\n/clear\nHello again\n")
    assert len(talked.splitlines()) >= 2
    assert "no model called" in danlu("chat", "nobody", "hello", fails=True)


def test_a_deployment_that_sleeps(danlu, stack):
    made = json.loads(danlu("deploy", "danlu-starter", "-n", "briefly", "--no-wait", "--json"))
    assert made["name"] in danlu("deployments", "list")
    for verb, *value in (("priority", "low"), ("scale", 2), ("stop",)):
        assert '"low"' in danlu("deployments", verb, "briefly", *value, "--json")
    danlu("deployments", "delete", "briefly", "--yes")
    assert "no deployment briefly" in danlu("deployments", "show", "briefly", fails=True)


def test_keys(danlu, stack):
    asked = ("--rpm", "60", "--daily-tokens", "9000", "--model", "starter", "--json")
    made = json.loads(danlu("keys", "create", "for-a-test", "-s", "inference", *asked))
    assert (made["rpm"], made["daily_tokens"], made["tpm"]) == (60, 9000, None)
    assert made["models"] == ["starter"]
    assert made["id"] in danlu("keys", "list")
    used = danlu("keys", "usage", made["id"])
    assert "9,000" in used
    assert "60" in used
    danlu("keys", "revoke", made["id"])
    with pytest.raises(client.Failed):
        client.Api(stack.url, made["secret"]).get("/api/v1/models")


def test_admin(danlu, stack):
    assert "cpu:0" in danlu("admin", "devices")
    assert "ready" in danlu("admin", "nodes")
    assert "no limit" in danlu("admin", "quota", stack.workspace)
    danlu("admin", "waiting")
    user = json.loads(danlu("admin", "create-user", stack.workspace, "cli@example.com", "--json"))
    assert "cli@example.com" in danlu("admin", "users")
    danlu("admin", "disable-user", user["id"], "--yes")
    danlu("admin", "enable-user", user["id"])
    assert "/reset/" in danlu("admin", "reset-password", user["id"], "--yes")
    assert "/invitations/" in danlu("admin", "invite", "guest@example.com")
    assert "12.5" in danlu("admin", "prices", "--device", "H200", "--hour", "12.5")
    assert "H200" not in danlu("admin", "prices", "--device", "H200", "--hour", "none")


def test_workspaces(danlu, stack):
    home = stack.workspace
    user = json.loads(danlu("workspaces", "add-member", home, "cli2@example.com", "--json"))
    assert "viewer" in danlu("workspaces", "set-role", home, user["id"], "viewer")
    danlu("workspaces", "remove-member", home, user["id"], "--yes")
    assert "cli2@example.com" not in danlu("workspaces", "members", home)
    made = json.loads(danlu("workspaces", "invite", home, "guest2@example.com", "--json"))
    danlu("workspaces", "uninvite", home, made["id"])
    assert made["id"] not in danlu("workspaces", "invitations", home)
    program = danlu("workspaces", "create-service", home, "nightly").strip()
    key = danlu("workspaces", "service-key", home, program, "cron", "-s", "jobs:read").strip()
    client.Api(stack.url, key).get("/api/v1/jobs")
    danlu("workspaces", "delete-service", home, program, "--yes")
    new = danlu("workspaces", "create", "Short-lived").strip()
    danlu("workspaces", "rename", new, "Shorter")
    danlu("workspaces", "delete", new, "--yes")


def test_what_a_model_says_cannot_steer_a_terminal():
    assert output.plain("a\x1b[2Jb\x07\tc\n") == "a[2Jb\tc\n"


# -- the command itself ------------------------------------------------------------------


def test_exit_status_and_where_it_is_said(danlu, stack, home):
    status, said, told = typed(home, "jobs", "show", "job_nothing")
    assert (status, said) == (1, "")
    assert told.strip()
    assert typed(home, "jobs", "show")[0] == 2
    elsewhere = {"DANLU_URL": stack.url, "DANLU_API_KEY": "dk-wrong"}
    assert typed(home, "whoami", **elsewhere)[0] == 1, "the environment comes first"
    assert typed(home, "whoami", "--json")[0] == 0


def test_it_speaks_chinese(home, stack):
    for how in ({"LANG": "zh_CN.UTF-8"}, {"LANG": "en_US.UTF-8", "DANLU_LANG": "zh"}):
        assert (
            "基座" in typed(home, "--help", **how)[1] or "部署" in typed(home, "--help", **how)[1]
        )
    assert "部署模型" in typed(home, "--lang", "zh", "--help")[1]
    assert text.chosen(["--lang=en", "jobs"], {"LANG": "zh_CN.UTF-8"}) == "en"
    assert text.chosen([], {"LC_ALL": "C", "LANG": "zh_CN.UTF-8"}) == "en"
    other = {"DANLU_CONFIG": str(home / "nobody.yaml"), "DANLU_LANG": "zh"}
    status, _said, told = typed(home, "whoami", **other)
    assert status == 1
    assert "登录" in told
    assert typed(home, "--lang", "fr", "whoami")[0] == 2


def test_help_is_there_at_once(home):
    """What is slow to import is imported by those who need it."""
    heavy = "import app.cli.main, sys; print(*({'httpx', 'rich', 'yaml', 'plotille'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", heavy], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


def test_completion(danlu, home, dataset):
    shown = subprocess.run(
        ["bash", "-c", f"{ROOT}/.venv/bin/danlu --show-completion; true"],
        env=environment(home), capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "_DANLU_COMPLETE" in shown

    def completed(line):
        words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
        done = subprocess.run(
            [f"{ROOT}/.venv/bin/danlu"],
            env=environment(home, _DANLU_COMPLETE="complete_bash", **words),
            capture_output=True, text=True,
        )  # fmt: skip
        return done.stdout.split()

    assert {"datasets", "deploy", "jobs"} <= set(completed("danlu "))
    assert dataset in completed("danlu datasets show ")
    assert "danlu-starter" in completed("danlu models show danlu-s")


def test_what_is_made_is_made_once(danlu, stack, monkeypatch):
    """The first answer gets lost on its way."""
    import httpx

    api = client.Api(stack.url, stack.api_key)
    through = api.http.request
    sent = []

    def lose(method, path, **kwargs):
        sent.append(through(method, path, **kwargs))
        if len(sent) == 1:
            raise httpx.ReadError("cut")
        return sent[-1]

    monkeypatch.setattr(api.http, "request", lose)
    made = api.post("/api/v1/uploads", {"file_name": "once", "size": 5})
    assert [one.json()["id"] for one in sent] == [made["id"]] * 2
    client.Api(stack.url, stack.api_key).delete(f"/api/v1/uploads/{made['id']}")


def test_models_are_evaluated(danlu, dataset):
    told = danlu("evaluate", dataset, "answers:last", "answers:last", "-s", "accuracy", "-s", "f1")
    assert told.count("accuracy 1.0000") == 2
    assert "accuracy: same +0.0000 [+0.0000, +0.0000]" in told
    found = json.loads(danlu("evaluations", "list", "--json"))["data"][0]
    assert found["id"] in danlu("evaluations", "show", found["id"])
    assert danlu("evaluations", "rows", found["id"]).count("\n") > 64
    assert "There is no dataset" in danlu("evaluate", "nothing", "answers:last", fails=True)
