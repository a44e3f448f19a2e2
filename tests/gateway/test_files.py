"""`/v1/files` and `/v1/uploads` with the stock `openai` client."""

import hashlib
from datetime import timedelta

import httpx
import openai
import pytest
from openai import OpenAI
from sqlalchemy.orm import Session

from app.config import settings
from app.db import now
from app.gateway.files import service, uploads
from app.gateway.files.tables import File, FileUpload
from tests.conftest import Client
from tests.gateway.rows import chats
from tests.stack import Stack

ROWS = chats(12)


@pytest.fixture
def client(stack: Stack) -> OpenAI:
    return OpenAI(base_url=f"{stack.url}/v1", api_key=stack.api_key, max_retries=0)


def test_a_file_is_kept_listed_read_and_deleted(client: OpenAI) -> None:
    made = client.files.create(
        file=("训练.jsonl", ROWS),
        purpose="fine-tune",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert made.id.startswith("file-")
    assert (made.object, made.bytes, made.filename) == ("file", len(ROWS), "训练.jsonl")
    assert (made.purpose, made.status) == ("fine-tune", "processed")
    assert made.expires_at == made.created_at + 3600
    assert client.files.retrieve(made.id) == made
    assert client.files.content(made.id).read() == ROWS
    assert made.id in [one.id for one in client.files.list(purpose="fine-tune")]
    assert client.files.delete(made.id).deleted is True
    with pytest.raises(openai.NotFoundError) as caught:
        client.files.retrieve(made.id)
    assert made.id in caught.value.message
    assert caught.value.type == "invalid_request_error"


def test_pages_follow_a_cursor_in_both_orders(client: OpenAI) -> None:
    made = [client.files.create(file=(f"{n}.jsonl", ROWS), purpose="batch").id for n in range(3)]
    newest = [one.id for one in client.files.list(purpose="batch", limit=2)]
    assert newest[:3] == made[::-1]  # the client asks for the next page by itself
    page = client.files.list(purpose="batch", limit=2)
    assert (len(page.data), page.has_more) == (2, True)
    after = client.files.list(purpose="batch", order="asc", after=made[0]).data
    assert [one.id for one in after][:2] == made[1:]
    with pytest.raises(openai.NotFoundError):
        client.files.list(after="file-nothing")
    for one in made:
        client.files.delete(one)


@pytest.mark.parametrize(
    ("name", "content", "purpose", "param", "said"),
    [
        ("a.txt", ROWS, "fine-tune", "file", "Must be .jsonl"),
        ("a.jsonl", ROWS, "assistants", "purpose", "is not one of"),
        ("a.jsonl", b'{"a": 1}\n\n[1]\n', "fine-tune", "file", "Line 3 is not a dictionary"),
        ("a.jsonl", b'{"a": 1}\n{"b": ', "batch", "file", "Line 2 is not a dictionary"),
        ("a.jsonl", b"", "fine-tune", "file", "empty"),
    ],
)
def test_what_is_no_such_file_is_refused(
    client: OpenAI, name: str, content: bytes, purpose: str, param: str, said: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.files.create(file=(name, content), purpose=purpose)
    assert caught.value.param == param
    assert said in caught.value.message


def test_parts_become_a_file(client: OpenAI) -> None:
    """As the client cuts it itself, with the checksum of the whole."""
    done = client.uploads.upload_file_chunked(
        file=ROWS,
        filename="rows.jsonl",
        bytes=len(ROWS),
        mime_type="text/jsonl",
        purpose="fine-tune",
        part_size=100,
        md5=hashlib.md5(ROWS).hexdigest(),
    )
    assert (done.status, done.bytes) == ("completed", len(ROWS))
    assert done.file
    assert client.files.content(done.file.id).read() == ROWS
    with pytest.raises(openai.BadRequestError) as caught:
        client.uploads.parts.create(done.id, data=b"more")
    assert caught.value.code == "upload_not_pending"
    client.files.delete(done.file.id)


def test_parts_that_do_not_fit_are_refused_and_kept(client: OpenAI) -> None:
    begun = client.uploads.create(
        bytes=len(ROWS), filename="rows.jsonl", mime_type="text/jsonl", purpose="fine-tune"
    )
    assert begun.status == "pending"
    assert begun.expires_at > begun.created_at
    second = client.uploads.parts.create(begun.id, data=ROWS[500:])
    first = client.uploads.parts.create(begun.id, data=ROWS[:500])
    assert (first.object, first.upload_id) == ("upload.part", begun.id)
    refusals = [
        ({"part_ids": [first.id]}, "bytes_mismatch"),
        ({"part_ids": [first.id, "part_x"]}, "invalid_part_ids"),
        ({"part_ids": [first.id, first.id]}, "invalid_part_ids"),
        ({"part_ids": [first.id, second.id], "md5": "0" * 32}, "md5_mismatch"),
        ({"part_ids": [second.id, first.id]}, "invalid_file_format"),
    ]
    for body, code in refusals:
        with pytest.raises(openai.BadRequestError) as caught:
            client.uploads.complete(begun.id, **body)
        assert caught.value.code == code
    with pytest.raises(openai.BadRequestError):
        client.uploads.parts.create(begun.id, data=b"x")  # more than was announced
    done = client.uploads.complete(begun.id, part_ids=[first.id, second.id])
    assert done.file
    client.files.delete(done.file.id)


def test_a_cancelled_upload_takes_no_more(client: OpenAI) -> None:
    begun = client.uploads.create(
        bytes=10, filename="a.jsonl", mime_type="text/jsonl", purpose="batch"
    )
    assert client.uploads.cancel(begun.id).status == "cancelled"
    assert client.uploads.cancel(begun.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError):
        client.uploads.parts.create(begun.id, data=b"x")
    with pytest.raises(openai.NotFoundError):
        client.uploads.cancel("upload_nothing")


def test_a_cookie_opens_nothing(stack: Stack) -> None:
    with httpx.Client(base_url=stack.url) as browser:
        browser.post(
            "/login",
            data={"email": stack.email, "password": stack.password},
            headers={"origin": stack.url},
        )
        assert browser.get("/datasets").status_code == 200
        answer = browser.get("/v1/files")
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


# -- letting go --------------------------------------------------------------------------


def test_what_is_over_goes_with_its_bytes(db: Session, api: Client) -> None:
    made = [
        api.post(
            "/v1/files",
            files={"file": ("a.jsonl", ROWS)},
            data={"purpose": "batch"},
        ).json()["id"]
        for _ in range(3)
    ]
    api.delete(f"/v1/files/{made[0]}")
    db.get_one(File, made[1]).expires_at = now() - timedelta(seconds=1)
    db.commit()
    assert [one["id"] for one in api.get("/v1/files").json()["data"]] == [made[2]]
    places = [service.path(db.get_one(File, one)) for one in made]
    service.clear(db)
    db.commit()
    assert [one.exists() for one in places] == [False, False, True]
    service.clear(db)  # and nothing more happens


def test_an_upload_that_is_left_alone_expires(db: Session, api: Client) -> None:
    body = {"bytes": 10, "filename": "a.jsonl", "mime_type": "", "purpose": "batch"}
    begun = api.post("/v1/uploads", json=body).json()["id"]
    api.post(f"/v1/uploads/{begun}/parts", files={"data": b"12345"})
    assert (settings.uploads / begun).exists()
    db.get_one(FileUpload, begun).expires_at = now() - timedelta(hours=1)
    db.commit()
    refused = api.post(f"/v1/uploads/{begun}/complete", json={"part_ids": ["part_x"]})
    assert "expired" in refused.json()["error"]["message"]
    uploads.clear(db)
    db.commit()
    assert not (settings.uploads / begun).exists()
    assert db.get_one(FileUpload, begun).status == "expired"
