"""The store as a bucket, and what a machine keeps of it."""

import contextlib
import errno
import hashlib
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from app import bucket, cache, storage
from app.config import settings


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucketed: str) -> None:
    monkeypatch.setattr(settings, "home", tmp_path / "home")


def made(tmp_path: Path, **files: bytes) -> Path:
    directory = tmp_path / "made" / os.urandom(4).hex()
    directory.mkdir(parents=True)
    for name, content in files.items():
        path = directory / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return directory


def objects() -> set[str]:
    found = boto3.resource("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"]).Bucket("danlu")
    return {one.key for one in found.objects.all()}


def contents(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


@contextlib.contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What is downloaded meanwhile."""
    came: list[str] = []
    real = bucket.download

    def download(artefact: str, name: str, file: bucket.File, to: Path) -> None:
        came.append(f"{artefact}/{name}")
        real(artefact, name, file, to)

    with monkeypatch.context() as patch:
        patch.setattr(bucket, "download", download)
        yield came


def test_what_is_put_there_comes_back(tmp_path: Path) -> None:
    files = {"config.json": b"{}", "deep__er": b"x" * 10, "empty": b""}
    assert storage.put(made(tmp_path, **files), "models/a") == "models/a"
    assert "some/prefix/models/a/deep/er" in objects()
    storage.put(made(tmp_path, other=b"1"), "models/a")  # artefacts do not change
    storage.put(made(tmp_path, other=b"2"), "models/ab")
    found = storage.fetch("models/a")
    assert contents(found) == {"config.json": b"{}", "deep/er": b"x" * 10, "empty": b""}
    assert not (found / "config.json").stat().st_mode & 0o222
    assert storage.read("models/a", "config.json") == b"{}"
    with pytest.raises(FileNotFoundError):
        storage.read("models/a", "no")
    with pytest.raises(FileNotFoundError):
        storage.fetch("models/b")
    storage.delete("models/a")
    assert objects() == {"some/prefix/models/ab/other", "some/prefix/models/ab/.manifest.json"}
    with pytest.raises(FileNotFoundError):
        storage.fetch("models/a")


def test_a_large_file_goes_in_parts(tmp_path: Path) -> None:
    content = os.urandom(40 * 2**20)
    storage.put(made(tmp_path, weights=content), "models/a")
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    facts = client.head_object(Bucket="danlu", Key="some/prefix/models/a/weights")
    assert facts["ETag"].strip('"').endswith("-3")
    assert (storage.fetch("models/a") / "weights").read_bytes() == content


def test_half_an_artefact_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = made(tmp_path, a=b"1", b=b"2")
    with monkeypatch.context() as patch:
        patch.setattr(bucket.json, "dumps", lambda _: 1 / 0)  # before the manifest
        with pytest.raises(ZeroDivisionError):
            storage.put(whole, "models/a")
    assert len(objects()) == 2
    with pytest.raises(FileNotFoundError):
        storage.fetch("models/a")
    storage.put(whole, "models/a")
    assert contents(storage.fetch("models/a")) == {"a": b"1", "b": b"2"}


def test_what_came_damaged_is_not_used(tmp_path: Path) -> None:
    storage.put(made(tmp_path, a=b"right"), "models/a")
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    client.put_object(Bucket="danlu", Key="some/prefix/models/a/a", Body=b"wrong")
    with pytest.raises(bucket.Torn, match="damaged"):
        storage.fetch("models/a")
    assert not list(cache.kept())
    client.put_object(Bucket="danlu", Key="some/prefix/models/a/a", Body=b"right")
    assert contents(storage.fetch("models/a")) == {"a": b"right"}


def test_a_refusal_is_no_absence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "AccessDenied"}}, "GetObject")

    monkeypatch.setattr(bucket.client(), "get_object", refuse)
    with pytest.raises(PermissionError, match="AccessDenied"):
        storage.fetch("models/a")


def test_the_same_content_is_kept_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.put(made(tmp_path, words=b"same", one=b"1"), "models/a")
    storage.put(made(tmp_path, words=b"same", two=b"2"), "models/b")
    with counted(monkeypatch) as came:
        storage.fetch("models/a")
        storage.fetch("models/b")
        storage.fetch("models/b")
    assert sorted(came) == ["models/a/one", "models/a/words", "models/b/two"]
    assert cache.used() == 6


def test_what_is_moved_there_is_here_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.home.mkdir()
    directory = made(settings.home, rows=b"123")
    storage.move(directory, "segments/a")
    assert not directory.exists()
    with counted(monkeypatch) as came:
        assert contents(storage.fetch("segments/a")) == {"rows": b"123"}
    assert came == []


def test_some_files_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.put(made(tmp_path, **{"a.safetensors": b"heavy", "words": b"1"}), "models/a")
    light = storage.fetch("models/a", without=(".safetensors",))
    assert contents(light) == {"words": b"1"}
    with counted(monkeypatch) as came:
        whole = storage.fetch("models/a")
        assert storage.fetch("models/a", without=(".safetensors",)) == whole
    assert set(contents(whole)) == {"a.safetensors", "words"}
    assert came == ["models/a/a.safetensors"]


def test_fetched_once_whoever_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.put(made(tmp_path, a=b"1" * 1000), "models/a")
    found: list[Path] = []
    with counted(monkeypatch) as came:
        asking = [
            threading.Thread(target=lambda: found.append(storage.fetch("models/a")))
            for _ in range(8)
        ]
        for one in asking:
            one.start()
        for one in asking:
            one.join()
    assert len(set(found)) == 1
    assert len(found) == 8
    assert came == ["models/a/a"]


def old(artefact: str, seconds: float) -> None:
    for whole in (True, False):
        with contextlib.suppress(FileNotFoundError):
            at = time.time() - seconds
            os.utime(cache.directory(artefact, whole=whole), (at, at))


def test_the_least_recently_used_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "cache_gb", 3 / 10**6)  # 3000 bytes
    for name, age in (("a", 9000), ("b", 8000), ("c", 7000)):
        storage.put(made(tmp_path, shared=b"s" * 10, own=name.encode() * 900), f"models/{name}")
        storage.fetch(f"models/{name}")
        old(f"models/{name}", age)
    storage.hold("job_x-1", ["models/a"])
    storage.put(made(tmp_path, own=b"d" * 900), "models/d")
    storage.fetch("models/d")
    assert {path.name for path in cache.kept()} == {"a", "c", "d"}
    assert cache.used() == 2710
    assert storage.holders() == {"job_x-1"}
    storage.let_go(["job_x-1"])
    storage.put(made(tmp_path, own=b"e" * 900), "models/e")
    storage.fetch("models/e")
    assert {path.name for path in cache.kept()} == {"c", "d", "e"}


def test_what_is_in_use_may_go_past_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "cache_gb", 1 / 10**6)
    for name in "ab":
        storage.put(made(tmp_path, own=name.encode() * 900), f"models/{name}")
        storage.fetch(f"models/{name}")
    assert {path.name for path in cache.kept()} == {"a", "b"}


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ab":
        storage.put(made(tmp_path, own=name.encode() * 1000), f"models/{name}")
    storage.fetch("models/a")
    room = shutil.disk_usage(tmp_path)._replace(free=cache.SPARE + 500)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: room)
    with pytest.raises(OSError, match="GB are free") as refused:
        storage.fetch("models/b")
    assert refused.value.errno == errno.ENOSPC
    assert {path.name for path in cache.kept()} == {"a"}


def fetch_and_die(artefact: str) -> None:
    real = bucket.download

    def download(artefact: str, name: str, file: bucket.File, to: Path) -> None:
        real(artefact, name, file, to)
        if name == "b":
            os._exit(9)

    bucket.download = download
    storage.fetch(artefact)


def test_killed_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing half is ever used, and what had come is not fetched again."""
    storage.put(made(tmp_path, a=b"1", b=b"2", c=b"3"), "models/a")
    dying = multiprocessing.get_context("fork").Process(target=fetch_and_die, args=("models/a",))
    dying.start()
    dying.join()
    assert dying.exitcode == 9
    assert not list(cache.kept())
    with counted(monkeypatch) as came:
        found = storage.fetch("models/a")
    assert contents(found) == {"a": b"1", "b": b"2", "c": b"3"}
    assert came == ["models/a/b", "models/a/c"]
    assert {path.name for path in (cache.root() / "blobs").iterdir()} == {
        hashlib.sha256(one).hexdigest() for one in (b"1", b"2", b"3")
    }


def test_only_directories_and_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "store", "gs://bucket")
    with pytest.raises(ValueError, match="DANLU_STORE"):
        storage.fetch("models/a")
