"""Imports from a directory of the server and from uploads."""

import io
import zipfile
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from app import pulling, storage
from app.config import settings
from app.models import importing, sources, sweep
from app.models.tables import Model
from tests.conftest import Client
from tests.models.files import write_model
from tests.models.hub import URL, begin, finish, left, rested

NAMES = ["chat_template.jinja", "config.json", "model.safetensors"]


def names(db: Session, import_id: str) -> list[str]:
    one = finish(db, import_id)
    assert one.state == "succeeded", one.error
    model = db.get_one(Model, one.model_id)
    return sorted(path.name for path in storage.fetch(model.artefact).iterdir())


# -- directories ---------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that an administrator opened, with a model in it."""
    write_model(tmp_path / "open" / "qwen")
    monkeypatch.setattr(settings, "model_directories", f" {tmp_path / 'open'} , /nowhere")
    monkeypatch.setattr(pulling, "BEAT", 0.02)
    return tmp_path / "open"


def test_a_directory_of_the_server(api: Client, db: Session, root: Path) -> None:
    (root / "qwen" / "training_args.bin").write_bytes(b"\x80\x04")
    made = begin(api, path=str(root / "qwen"))
    assert names(db, made) == NAMES
    one = finish(db, made)
    assert [one.name, one.cursor["left_out"]] == ["qwen", ["training_args.bin"]]
    assert (root / "qwen" / "model.safetensors").is_file()  # it was copied


def test_a_cache_of_links_is_followed_but_not_out_of_what_is_open(
    api: Client, db: Session, root: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    shot = root / "snapshot"
    shot.mkdir()
    for path in (root / "qwen").iterdir():
        (shot / path.name).symlink_to(path)
    (shot / "tokenizer_config.json").symlink_to(secret)
    assert names(db, begin(api, path=str(shot))) == NAMES


@pytest.mark.parametrize(
    "path", ["/etc", "{root}/../", "{root}/none", "qwen", "{root}/out", "/a\0b"]
)
def test_other_places_are_refused(api: Client, root: Path, tmp_path: Path, path: str) -> None:
    (root / "out").symlink_to(tmp_path)
    answer = api.post(URL, json={"path": path.format(root=root)})
    assert [answer.status_code, answer.json()["code"]] == [422, "directory.outside"]
    assert answer.json()["errors"][0]["field"] == "path"


def test_no_directory_is_open_by_itself(api: Client, tmp_path: Path) -> None:
    answer = api.post(URL, json={"path": str(tmp_path)})
    assert [answer.status_code, answer.json()["code"]] == [422, "directory.closed"]


def test_what_leaves_the_directory_meanwhile(api: Client, db: Session, root: Path) -> None:
    made = begin(api, path=str(root / "qwen"))
    importing.claim(made)
    rested(db)
    real = importing.Import.room

    def gone(self: importing.Import) -> None:
        (root / "qwen" / "model.safetensors").unlink()
        real(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importing.Import, "room", gone)
        importing.import_model(made)
    one = finish(db, made)
    assert [one.state, one.error["code"]] == ["failed", "import.gone"]


# -- uploads -------------------------------------------------------------------------------


def upload(api: Client, name: str, body: bytes, whole: bool = True) -> str:
    made = api.post("/api/v1/uploads", json={"file_name": name, "size": len(body)}).json()
    sent = body if whole else body[: len(body) // 2]
    headers = {"upload-offset": "0", "content-type": "application/octet-stream"}
    api.patch(f"/api/v1/uploads/{made['id']}", content=sent, headers=headers)
    return str(made["id"])


def zipped(files: dict[str, bytes], **how: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as box:
        for name, body in files.items():
            box.writestr(name, body)
    return packed.getvalue()


def test_a_folder_of_files(api: Client, db: Session, tmp_path: Path) -> None:
    directory = write_model(tmp_path / "mine")
    (directory / "optimizer.pt").write_bytes(b"\x80\x04")
    ids = [upload(api, f"mine/{path.name}", path.read_bytes()) for path in directory.iterdir()]
    made = begin(api, uploads=ids)
    assert names(db, made) == NAMES
    one = finish(db, made)
    assert [one.name, one.cursor["left_out"]] == ["mine", ["mine/optimizer.pt"]]
    sweep.clear_import(made)
    assert left() == []
    assert api.get("/api/v1/uploads").json()["data"] == []


def test_a_zip(api: Client, db: Session, tmp_path: Path) -> None:
    directory = write_model(tmp_path / "m")
    files = {f"deep/m/{path.name}": path.read_bytes() for path in directory.iterdir()}
    files |= {"../../evil.json": b"{}", "/etc/evil.json": b"{}", "deep/m/x.bin": b"\x80"}
    made = begin(api, uploads=[upload(api, "m.zip", zipped(files))])
    assert names(db, made) == NAMES
    assert finish(db, made).name == "m"
    assert not list(tmp_path.rglob("evil.json"))


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"PK no zip at all", "zip.bad"),
        (zipped({"pytorch_model.bin": b"\x80", "config.json": b"{}"}), "model.pickle"),
        (zipped({"notes.txt": b"hello"}), "model.no_weights"),
    ],
)
def test_a_zip_without_a_model(api: Client, db: Session, body: bytes, code: str) -> None:
    one = finish(db, begin(api, uploads=[upload(api, "a.zip", body)]))
    assert [one.state, one.error["code"]] == ["failed", code]


def test_a_model_of_more_than_is_allowed(
    api: Client, db: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A zip that is small until it is unpacked."""
    monkeypatch.setattr(settings, "max_model_gb", 1)
    monkeypatch.setattr(sources, "GIB", 2000)
    body = zipped({"model.safetensors": b"\0" * 10**6, "config.json": b"{}"})
    assert len(body) < 2000
    one = finish(db, begin(api, uploads=[upload(api, "a.zip", body)]))
    assert [one.state, one.error["code"]] == ["failed", "model.too_large"]


def test_an_upload_must_be_whole(api: Client, tmp_path: Path) -> None:
    body = zipped({"config.json": b"{}" * 100})
    answer = api.post(URL, json={"uploads": [upload(api, "a.zip", body, whole=False)]})
    assert [answer.status_code, answer.json()["code"]] == [409, "upload.unfinished"]
    assert api.post(URL, json={"uploads": ["up_none"]}).status_code == 404
