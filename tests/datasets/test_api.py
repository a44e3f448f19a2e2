"""Datasets as a script sees them."""

import asyncio
import json
import time
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.config import settings
from app.datasets.tables import Dataset, DatasetEvent, DatasetIssue, DatasetVersion
from app.uploads.service import display_name
from tests.conftest import Client
from tests.datasets.files import BAD, jsonl, many, row, stored

URL = "/api/v1/datasets"


def upload(api: Client, data: bytes, name: str = "reviews", file_name: str = "a.jsonl") -> Any:
    return api.post(URL, files={"file": (file_name, data)}, data={"name": name})


def counts(db: Session) -> list[int]:
    db.rollback()
    tables = (Dataset, DatasetVersion, DatasetIssue, DatasetEvent)
    return [db.scalar(select(func.count()).select_from(table)) or 0 for table in tables]


def nothing_left(db: Session) -> None:
    assert counts(db) == [0, 0, 0, 0]
    assert stored() == []


# -- uploading ---------------------------------------------------------------------------


def test_upload(api: Client) -> None:
    answer = upload(api, many(3))
    assert answer.status_code == 201
    body = answer.json()
    assert body["id"].startswith("ds_")
    assert body["version_id"].startswith("dv_")
    expected = {
        "name": "reviews",
        "version": 1,
        "status": "draft",
        "format": "messages",
        "rows": 3,
        "errors": [],
        "error_count": 0,
        "sample": False,
        "file_name": "a.jsonl",
        "error": None,
    }
    assert {name: body[name] for name in expected} == expected
    assert {path.split("/")[0] for path in stored()} == {"segments", "facts", "checks"}


def test_upload_alpaca_json(api: Client) -> None:
    rows = [{"instruction": "a", "input": "b", "output": "c", "system": "s"}]
    body = upload(api, json.dumps(rows, indent=2).encode(), file_name="a.json").json()
    assert [body["format"], body["rows"]] == ["alpaca", 1]
    assert api.get(f"{URL}/{body['id']}/rows").json()["data"][0]["messages"] == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": "c"},
    ]


def test_the_name_is_the_files_where_none_is_given(api: Client) -> None:
    answer = api.post(URL, files={"file": ("评论.train.jsonl", many(1))})
    assert answer.json()["name"] == "评论.train"


@pytest.mark.parametrize(
    ("file_name", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\data\\a.jsonl", "a.jsonl"),
        ("<img src=x onerror=alert(1)>.jsonl", "<img src=x onerror=alert(1)>.jsonl"),
        ("%2e%2e%2fa", "%2e%2e%2fa"),
        ("/", ""),
    ],
)
def test_file_names_are_for_display_only(api: Client, file_name: str, shown: str) -> None:
    body = upload(api, many(1), file_name=file_name).json()
    assert body["file_name"] == shown
    assert {path.split("/")[0] for path in stored()} == {"segments", "facts", "checks"}


def test_nothing_unprintable_is_in_a_name() -> None:
    assert display_name("a\x07\n\0b\u202e.jsonl ") == "ab.jsonl"


def test_rows_with_errors_are_reported_in_the_readers_language(api: Client) -> None:
    body = upload(api, BAD).json()
    assert [body["status"], body["rows"], body["error_count"]] == ["draft", 2, 2]
    assert [(one["line"], one["path"], one["code"]) for one in body["errors"]] == [
        (2, "messages", "messages.empty"),
        (4, "", "row.type"),
    ]
    assert body["errors"][0]["message"] == "The list of messages is empty."
    assert body["errors"][1]["message"].endswith("number.")
    listed = api.get(f"{URL}/{body['id']}/errors?limit=1").json()
    assert [len(listed["data"]), listed["has_more"]] == [1, True]
    assert api.get(f"{URL}/{body['id']}/errors?offset=1").json()["data"] == body["errors"][1:]
    assert api.get(f"{URL}/{body['id']}/errors?level=warning").json()["data"] == []


def test_warnings(api: Client) -> None:
    body = upload(api, jsonl(row() | {"source": "web"})).json()
    assert body["errors"] == []
    assert [one["code"] for one in body["warnings"]] == ["field.unused"]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "file.empty"),
        (b"\n\n", "file.empty"),
        (b"%PDF-1.4 ...", "file.type"),
        (b"PK\x03\x04....", "file.broken"),
        (b"a,b,c\n1,2,3\n", "file.no_rows"),
        (b"[]", "file.no_rows"),
        (b'{"messages": []}\n' * 3, "file.no_rows"),
        (b'{"conversations": []}\n', "file.no_rows"),
        (b'{"messages": [{"role": "user", "content": "x"}]}\n', "file.no_rows"),
    ],
)
def test_what_cannot_be_used_at_all_is_refused(
    api: Client, db: Session, data: bytes, code: str
) -> None:
    answer = upload(api, data)
    assert answer.status_code == 422
    assert answer.json()["code"] == code
    assert answer.json()["detail"]
    nothing_left(db)


def test_a_refusal_says_where_and_why(api: Client) -> None:
    detail = upload(api, b"\n\nnonsense\n").json()["detail"]
    assert "line 3" in detail
    assert "not valid JSON" in detail


def test_too_many_bad_rows_refuse_the_file(
    api: Client, db: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.datasets.validation.validate.MAX_ISSUES", 10)
    answer = upload(api, many(5) + b"x\n" * 11)
    assert [answer.status_code, answer.json()["code"]] == [422, "file.too_many_errors"]
    nothing_left(db)
    assert upload(api, many(5) + b"x\n" * 10).status_code == 201


@pytest.mark.parametrize(
    ("name", "code"), [("x" * 121, "name.too_long"), ("a\nb", "name.unprintable")]
)
def test_a_bad_name(api: Client, db: Session, name: str, code: str) -> None:
    answer = upload(api, many(1), name=name)
    assert [answer.status_code, answer.json()["code"]] == [422, code]
    assert answer.json()["errors"][0]["field"] == "name"
    nothing_left(db)


@pytest.mark.parametrize(
    ("headers", "body", "code"),
    [
        ({"content-type": "text/plain"}, b"{}", "content_type"),
        ({"content-type": "application/json"}, b"{}", "form"),
        ({"content-type": "multipart/form-data"}, b"x", "content_type"),
        ({"content-type": "multipart/form-data; boundary=b"}, b"garbage", "form"),
        ({"content-type": "multipart/form-data; boundary=b"}, b"", "file.cut"),
        ({"content-type": "multipart/form-data; boundary=b"}, b"--b--\r\n", "file.missing"),
        (
            {"content-type": "multipart/form-data; boundary=b"},
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n{"mess',
            "file.cut",
        ),
        (
            {"content-type": "multipart/form-data; boundary=b"},
            b'--b\r\nContent-Disposition: form-data; name="file"; filename=""\r\n\r\n\r\n--b--\r\n',
            "file.missing",
        ),
        (
            {"content-type": "multipart/form-data; boundary=b"},
            b'--b\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\nx\r\n' * 101
            + b"--b--\r\n",
            "file.many",
        ),
        (
            {"content-type": "multipart/form-data; boundary=b"},
            b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\n'
            + b"x" * 70_000
            + b"\r\n--b--\r\n",
            "form",
        ),
        (
            {"content-type": "multipart/form-data; boundary=b"},
            b'--b\r\nContent-Disposition: form-data; name="n"\r\n\r\nx\r\n' * 201 + b"--b--\r\n",
            "form",
        ),
    ],
)
def test_bodies_that_are_no_upload(
    api: Client, db: Session, headers: dict[str, str], body: bytes, code: str
) -> None:
    answer = api.post(URL, content=body, headers=headers)
    assert [answer.status_code, answer.json()["code"]] == [422, code]
    nothing_left(db)


def test_a_body_over_the_limit_is_refused_by_its_length(
    api: Client, db: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "max_upload_mb", 1)
    answer = upload(api, many(40_000))
    assert answer.status_code == 413
    nothing_left(db)


def test_a_body_of_unknown_length_is_cut_off_at_the_limit(
    api: Client, db: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "max_upload_mb", 1)

    def parts() -> Any:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(40):
            yield many(1000)
        yield b"\r\n--b--\r\n"

    answer = api.post(
        URL, content=parts(), headers={"content-type": "multipart/form-data; boundary=b"}
    )
    assert answer.status_code == 413
    nothing_left(db)


def test_an_upload_that_stops_in_the_middle_leaves_nothing(api: Client, db: Session) -> None:
    """A client that goes away, as the server sees it."""
    from app.main import app

    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    messages = iter(
        [
            {"type": "http.request", "body": head + many(20_000), "more_body": True},
            {"type": "http.disconnect"},
        ]
    )
    seen = []

    async def receive() -> Any:
        seen.append(stored())
        return next(messages)

    sent = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": URL,
        "raw_path": URL.encode(),
        "query_string": b"",
        "scheme": "http",
        "server": ("127.0.0.1", 8420),
        "client": ("127.0.0.1", 5000),
        "headers": [
            (b"host", b"127.0.0.1"),
            (b"authorization", b"Bearer " + api.key.encode()),
            (b"content-type", b"multipart/form-data; boundary=b"),
        ],
    }
    asyncio.run(app(scope, receive, send))
    assert any(path.endswith("body") for path in seen[-1])  # it was on its way to the disk
    assert sent[0]["status"] == 422
    nothing_left(db)


def test_nobody_is_read_from_who_may_not_upload(api: Client, anonymous: Client) -> None:
    assert upload(anonymous, many(1)).status_code == 401
    api.headers["authorization"] = "Bearer dk-" + "x" * 43
    assert upload(api, many(1)).status_code == 401
    assert not settings.uploads.exists()


def test_what_a_dead_process_left_is_removed(api: Client) -> None:
    import os

    old = settings.uploads / "part-old"
    new = settings.uploads / "part-new"
    for directory in (old, new):
        directory.mkdir(parents=True)
        (directory / "body").write_bytes(b"x")
    long_ago = time.time() - 7200
    os.utime(old / "body", (long_ago, long_ago))
    os.utime(old, (long_ago, long_ago))
    upload(api, many(1))
    assert [path.name for path in settings.uploads.iterdir()] == ["part-new"]
