"""A model's files as one tar, streamed from the store: nothing is packed on disk first."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from fastapi.responses import StreamingResponse
from sqlalchemy.orm import Session

from app import storage
from app.errors import N_, NotFound
from app.models import service
from app.models.card import markdown
from app.models.schemas import Ancestor, ModelDetail, ModelOut
from app.models.tables import Model

BLOCK = tarfile.BLOCKSIZE
CHUNK = 1 << 20


@dataclass(frozen=True)
class About:
    """What goes beside a model's files: its lineage as JSON, its card as Markdown."""

    model: ModelDetail
    card: str

    def files(self) -> dict[str, bytes]:
        return {"danlu.json": self.model.model_dump_json(indent=2).encode(), "README.md": self.card.encode()}  # fmt: skip


def about(db: Session, workspace_id: str, model: Model) -> About:
    ancestors = [Ancestor.model_validate(one) for one in service.ancestors(db, workspace_id, model)]
    found = ModelDetail(
        **ModelOut.model_validate(model).model_dump(), ancestors=ancestors, lineage=model.lineage
    )
    return About(found, markdown(found))


def response(about: About, artefact: str, name: str = "") -> StreamingResponse:
    """`NAME.tar`, with its length. Raises NotFound if the store has lost the files."""
    name = name or about.model.name
    try:
        directory = storage.fetch(artefact)
    except FileNotFoundError:
        raise NotFound(
            N_("The files of “%(name)s” are no longer in the store. Ask an administrator."),
            code="files_missing",
            name=name,
        ) from None
    ours = about.files()
    entries: list[tuple[Path | bytes, bytes]] = [
        (content, header(f"{safe(name)}/{file}", len(content))) for file, content in ours.items()
    ]
    entries += [
        (path, header(f"{safe(name)}/{path.relative_to(directory)}", path.stat().st_size))
        for path in sorted(directory.rglob("*"))
        if path.is_file() and str(path.relative_to(directory)) not in ours
    ]
    length = sum(len(head) + padded(size_of(content)) for content, head in entries) + 2 * BLOCK
    full = quote(f"{name}.tar", safe="")
    return StreamingResponse(
        stream(entries),
        media_type="application/octet-stream",
        headers={
            "content-length": str(length),
            "content-disposition": f"attachment; filename=\"{safe(name)}.tar\"; filename*=UTF-8''{full}",
        },
    )


def size_of(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def stream(entries: list[tuple[Path | bytes, bytes]]) -> Iterator[bytes]:
    for content, head in entries:
        yield head
        sent = 0
        if isinstance(content, bytes):
            sent = len(content)
            yield content
        else:
            with content.open("rb") as file:
                while chunk := file.read(CHUNK):
                    sent += len(chunk)
                    yield chunk
        yield b"\0" * (padded(sent) - sent)
    yield b"\0" * (2 * BLOCK)


def header(name: str, size: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o644
    return entry.tobuf(tarfile.PAX_FORMAT)


def padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def safe(name: str) -> str:
    """A name that is harmless as a folder and in a header: ASCII letters, digits, dot, dash."""
    kept = "".join(
        each if each.isascii() and (each.isalnum() or each in "._-") else "-" for each in name
    )
    return kept.strip(".-")[:80] or "model"
