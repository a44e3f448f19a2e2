"""Uploads in pieces: cut off, gone on with, doubled, too long, and what becomes of them."""

import asyncio
import hashlib
import os
import random
import socket
import time
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.config import settings
from app.datasets.tables import DatasetVersion
from app.db import now
from app.queue import transaction
from app.uploads import pieces, service
from app.uploads.service import placed_name
from app.uploads.tables import Upload
from tests import factories as make
from tests.conftest import Client, sign_in
from tests.datasets.files import many, stored
from tests.stack import Stack

URL = "/api/v1/uploads"


def begin(api: Client, data: bytes, name: str = "a.jsonl", **how: Any) -> str:
    answer = api.post(URL, json={"file_name": name, "size": len(data)} | how)
    assert answer.status_code == 201, answer.text
    assert answer.json()["offset"] == 0
    return str(answer.json()["id"])


def send(api: Client, upload: str, data: Any, at: int | str) -> Any:
    return api.patch(f"{URL}/{upload}", content=data, headers={"upload-offset": str(at)})


def sent(api: Client, data: bytes, name: str = "a.jsonl") -> str:
    upload = begin(api, data, name)
    assert send(api, upload, data, 0).status_code == 200
    return upload


def rows(db: Session) -> int:
    db.rollback()
    return db.scalar(select(func.count()).select_from(Upload)) or 0


def test_a_file_in_three_pieces_becomes_a_dataset(api: Client, db: Session) -> None:
    data = many(300)
    upload = begin(api, data, "数据/a.jsonl")
    for at in range(0, len(data), 9000):
        answer = send(api, upload, data[at : at + 9000], at)
        assert answer.status_code == 200
        here = min(at + 9000, len(data))
        assert [answer.json()["offset"], answer.headers["upload-offset"]] == [here, str(here)]
        assert api.head(f"{URL}/{upload}").headers["upload-offset"] == str(here)
        assert api.get(f"{URL}/{upload}").json()["offset"] == here
    assert service.place(upload).read_bytes() == data
    made = api.post("/api/v1/datasets", json={"name": "mine", "uploads": [upload]})
    assert made.status_code == 201, made.text
    assert [made.json()[key] for key in ("name", "status", "rows")] == ["mine", "draft", 300]
    assert made.json()["file_name"] == "a.jsonl"
    assert rows(db) == 0
    assert {path.split("/")[0] for path in stored()} == {"segments", "facts", "checks"}
    assert api.get(f"{URL}/{upload}").status_code == 404
    version = db.scalars(select(DatasetVersion)).one()
    assert version.files == [{"name": "a.jsonl", "bytes": len(data)}] or version.files[0]["rows"]
    assert version.recipe == {"made": "upload"}


def test_a_new_version_takes_uploads_too(api: Client) -> None:
    first = api.post("/api/v1/datasets", json={"uploads": [sent(api, many(2))]}).json()
    assert first["name"] == "a"
    path = f"/api/v1/datasets/{first['id']}/versions"
    second = api.post(path, json={"uploads": [sent(api, many(3), "b.jsonl")]})
    assert [second.status_code, second.json()["version"], second.json()["rows"]] == [201, 2, 3]


def test_several_files_make_one_dataset(api: Client) -> None:
    ones = [sent(api, many(3), "a.jsonl"), sent(api, many(4), "b.jsonl")]
    made = api.post("/api/v1/datasets", json={"name": "two", "uploads": ones})
    assert made.status_code == 201, made.text
    assert [made.json()["rows"], made.json()["file_name"]] == [7, "a.jsonl, b.jsonl"]
    form = [("file", ("a.jsonl", many(2))), ("file", ("b.jsonl", many(5)))]
    made = api.post("/api/v1/datasets", files=form, data={"name": "form"})
    assert [made.status_code, made.json()["rows"]] == [201, 7]


def test_another_offset_is_refused_with_the_true_one(api: Client) -> None:
    data = many(100)
    upload = begin(api, data)
    send(api, upload, data[:1000], 0)
    for at in (0, 999, 1001, len(data)):
        answer = send(api, upload, data[1000:], at)
        assert [answer.status_code, answer.json()["code"]] == [409, "upload.offset"]
        assert answer.headers["upload-offset"] == "1000"
    for wrong in ("", "x", "-1", "１", "1e3"):
        headers = {"upload-offset": wrong.encode()}
        answer = api.patch(f"{URL}/{upload}", content=b"x", headers=headers)
        assert answer.status_code == 422
    assert api.patch(f"{URL}/{upload}", content=b"x").status_code == 422
    assert send(api, upload, data[1000:], 1000).status_code == 200


def test_more_than_announced_is_refused(api: Client) -> None:
    upload = begin(api, b"", size=1000)
    answer = send(api, upload, b"x" * 1001, 0)
    assert [answer.status_code, answer.json()["code"]] == [422, "upload.too_long"]
    assert answer.headers["upload-offset"] == "0"
    answer = send(api, upload, iter([b"x" * 600] * 2), 0)  # without a length
    assert [answer.status_code, answer.headers["upload-offset"]] == [422, "1000"]
    assert service.offset(upload) == 1000


@pytest.mark.parametrize("size", [0, -1, 1.5, "x", 10**16, None])
def test_sizes_that_are_none(api: Client, size: Any) -> None:
    assert api.post(URL, json={"file_name": "a", "size": size}).status_code == 422


def test_limits_are_checked_before_anything_is_sent(
    api: Client, db: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "max_upload_mb", 1)
    answer = api.post(URL, json={"file_name": "a", "size": 2**20 + 1})
    assert [answer.status_code, answer.json()["code"]] == [413, "too_large"]
    begin(api, b"", size=2**20)
    monkeypatch.setattr(service, "MOST", 2)
    begin(api, b"x")
    answer = api.post(URL, json={"file_name": "a", "size": 1})
    assert [answer.status_code, answer.json()["code"]] == [409, "upload.too_many"]
    monkeypatch.setattr(service, "MOST", 200)
    monkeypatch.setattr(settings, "max_upload_mb", 10**9)
    answer = api.post(URL, json={"file_name": "a", "size": 10**14})
    assert [answer.status_code, answer.json()["code"]] == [507, "disk_full"]
    assert rows(db) == 2


def test_files_that_are_together_too_large(api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    ones = [sent(api, b"x" * 600_000) for _ in range(2)]
    monkeypatch.setattr(settings, "max_upload_mb", 1)
    assert api.post("/api/v1/datasets", json={"uploads": ones}).status_code == 413


def test_a_full_disk_is_said_and_what_came_stays(
    api: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = begin(api, b"", size=5 * 2**20)
    real, written = os.write, []

    def full(file: int, data: Any) -> int:
        if written:
            raise OSError(28, "No space left on device")
        written.append(real(file, data[: 2**20]))
        return written[0]

    monkeypatch.setattr(pieces.os, "write", full)
    answer = send(api, upload, b"x" * 5 * 2**20, 0)
    monkeypatch.undo()
    assert [answer.status_code, answer.json()["code"]] == [507, "disk_full"]
    assert int(answer.headers["upload-offset"]) == service.offset(upload) == written[0]
    assert send(api, upload, b"y" * (5 * 2**20 - written[0]), written[0]).status_code == 200


def test_two_connections_do_not_mix(api: Client) -> None:
    upload = begin(api, b"", size=10)
    file = pieces.claimed(upload)
    assert file is not None
    answer = send(api, upload, b"x" * 10, 0)
    assert [answer.status_code, answer.json()["code"]] == [409, "upload.busy"]
    os.close(file)
    assert send(api, upload, b"x" * 10, 0).status_code == 200


def test_a_client_that_goes_away_leaves_what_it_sent(api: Client, db: Session) -> None:
    """As the server sees it: no error is logged, and the rest can follow."""
    from app.main import app

    data = many(40_000)
    upload = begin(api, data)
    cut = len(data) * 6 // 10
    messages = iter(
        [
            {"type": "http.request", "body": data[:cut], "more_body": True},
            {"type": "http.disconnect"},
        ]
    )

    async def receive() -> Any:
        return next(messages)

    async def answer(message: Any) -> None:
        pass

    path = f"{URL}/{upload}"
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "PATCH",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "scheme": "http",
        "server": ("127.0.0.1", 8420),
        "client": ("127.0.0.1", 5000),
        "headers": [
            (b"host", b"127.0.0.1"),
            (b"authorization", b"Bearer " + api.key.encode()),
            (b"content-length", str(len(data)).encode()),
            (b"upload-offset", b"0"),
        ],
    }
    asyncio.run(app(scope, receive, answer))
    assert service.offset(upload) == cut
    db.rollback()
    assert db.get(Upload, upload).received == cut
    assert send(api, upload, data[cut:], cut).json()["offset"] == len(data)
    assert service.place(upload).read_bytes() == data


def test_a_silent_sender_is_given_up(api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "SILENCE", 0.2)
    upload = begin(api, b"", size=100)

    class Slow:
        headers = {"upload-offset": "0"}

        async def stream(self) -> Any:
            yield b"x" * 10
            await asyncio.sleep(5)

    file = pieces.claimed(upload)
    assert file is not None
    with pytest.raises(TimeoutError):
        asyncio.run(pieces.pour(Slow(), file, 100))
    os.close(file)
    assert service.offset(upload) == 10


def test_what_is_not_complete_makes_no_dataset(api: Client, db: Session) -> None:
    data = many(10)
    upload = begin(api, data)
    send(api, upload, data[:50], 0)
    answer = api.post("/api/v1/datasets", json={"name": "x", "uploads": [upload]})
    assert [answer.status_code, answer.json()["code"]] == [409, "upload.unfinished"]
    for body in ({}, {"uploads": []}, {"uploads": "x"}, [], {"uploads": [1]}):
        assert api.post("/api/v1/datasets", json=body).status_code == 422
    assert api.post("/api/v1/datasets", json={"uploads": ["up_x"]}).status_code == 404
    assert rows(db) == 1


def test_a_wrong_name_does_not_cost_the_upload(api: Client, db: Session) -> None:
    upload = sent(api, many(3))
    answer = api.post("/api/v1/datasets", json={"name": "x" * 200, "uploads": [upload]})
    assert [answer.status_code, answer.json()["errors"][0]["field"]] == [422, "name"]
    made = api.post("/api/v1/datasets", json={"name": "x", "uploads": [upload]})
    assert [made.status_code, made.json()["rows"]] == [201, 3]
    upload = sent(api, b"%PDF-1.7")  # but of what can be no dataset, nothing is kept
    answer = api.post("/api/v1/datasets", json={"name": "x", "uploads": [upload]})
    assert answer.status_code == 422
    assert rows(db) == 0


def test_cancelling(api: Client, db: Session) -> None:
    upload = sent(api, many(3))
    assert [one["id"] for one in api.get(URL).json()["data"]] == [upload]
    assert api.delete(f"{URL}/{upload}").status_code == 204
    assert api.get(URL).json()["data"] == []
    assert stored() == []


def test_other_workspaces_find_nothing(api: Client, db: Session, anonymous: Client) -> None:
    upload = sent(api, many(3))
    sign_in(db, anonymous)
    path = f"{URL}/{upload}"
    assert anonymous.get(path).status_code == 404
    assert anonymous.head(path).status_code == 404
    assert anonymous.delete(path).status_code == 404
    assert send(anonymous, upload, b"x", 0).status_code == 404
    assert anonymous.get(URL).json()["data"] == []
    answer = anonymous.post("/api/v1/datasets", json={"uploads": [upload]})
    assert answer.status_code == 404
    assert service.offset(upload) == len(many(3))


def test_nobody_is_read_from_who_may_not_upload(
    api: Client, db: Session, anonymous: Client
) -> None:
    upload = begin(api, many(3))
    assert send(anonymous, upload, b"x", 0).status_code == 401
    user = make.make_user(db)
    make.make_membership(db, api.workspace, user, "viewer")
    sign_in(db, anonymous, user, api.workspace)
    assert send(anonymous, upload, b"x", 0).status_code == 403
    assert service.offset(upload) == 0


def test_what_nobody_goes_on_with_is_cleared(api: Client, db: Session) -> None:
    old, new = sent(api, many(3)), sent(api, many(3))
    db.execute(
        update(Upload).where(Upload.id == old).values(touched_at=now() - timedelta(hours=25))
    )
    db.commit()
    with transaction() as session:
        service.clear(session)
    assert [one["id"] for one in api.get(URL).json()["data"]] == [new]
    assert [path.split("/")[0] for path in stored()] == [new]
    long_ago = time.time() - 90_000  # where the sweep does not see the disk
    for path in (service.place(new), service.place(new).parent):
        os.utime(path, (long_ago, long_ago))
    api.post("/api/v1/datasets", files={"file": ("a.jsonl", many(1))})
    assert not service.place(new).exists()
    assert send(api, new, many(3), 0).status_code == 200  # and it begins anew


def test_a_piece_may_be_larger_than_other_bodies(api: Client) -> None:
    data = b"x" * (17 * 2**20)
    upload = begin(api, data)
    assert send(api, upload, data, 0).json()["offset"] == len(data)


@pytest.mark.slow
def test_a_connection_killed_at_60_percent(stack: Stack) -> None:
    """Over a real socket: the server keeps what came, and the file is the same in the end."""
    data = random.Random(1).randbytes(20 * 2**20)
    cut = len(data) * 6 // 10
    with stack.api() as api:
        made = api.post(URL, json={"file_name": "a.bin", "size": len(data)}).json()
        path = f"{URL}/{made['id']}"
        host, port = stack.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as raw:
            raw.sendall(
                f"PATCH {path} HTTP/1.1\r\nhost: {host}:{port}\r\nupload-offset: 0\r\n"
                f"authorization: Bearer {stack.api_key}\r\ncontent-length: {len(data)}\r\n\r\n".encode()
            )
            raw.sendall(data[:cut])
        end = time.monotonic() + 20
        at = 0
        while at < cut - 2**20 and time.monotonic() < end:
            time.sleep(0.1)
            at = int(api.head(path).headers["upload-offset"])
        assert 0 < at <= cut
        while (answer := send(api, made["id"], data[at:], at)).status_code == 409:
            at = int(answer.headers["upload-offset"])
        assert answer.json()["offset"] == len(data)
        on_disk = stack.home / "uploads" / made["id"] / "body"
        digest = hashlib.sha256(on_disk.read_bytes()).hexdigest()
        assert digest == hashlib.sha256(data).hexdigest()
        api.delete(path)
        log = stack.tail()
        assert "ClientDisconnect" not in log
        assert "Traceback" not in log.partition("== web.log")[2]


@pytest.mark.parametrize(
    ("raw", "kept"),
    [
        ("a.jsonl", "a.jsonl"),
        ("set/data/a.jsonl", "set/data/a.jsonl"),
        ("/etc/../../passwd", "etc/passwd"),
        ("C:\\data\\a.jsonl", "C:/data/a.jsonl"),
        ("./a\x00\n.jsonl", "a.jsonl"),
        ("", ""),
    ],
)
def test_a_name_keeps_its_folders_and_nothing_else(raw: str, kept: str) -> None:
    assert placed_name(raw) == kept
