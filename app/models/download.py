"""A model's files as one tar, streamed from the store: nothing is packed on disk first."""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from fastapi.responses import StreamingResponse

from app import storage
from app.errors import N_, NotFound
from app.models.schemas import ModelDetail

BLOCK = tarfile.BLOCKSIZE
CHUNK = 1 << 20
CARD = "danlu.json"  # the model's lineage, put beside its files


def response(card: ModelDetail, artefact: str) -> StreamingResponse:
    """`NAME.tar`, with its length. Raises NotFound if the store has lost the files."""
    try:
        directory = storage.fetch(artefact)
    except FileNotFoundError:
        raise NotFound(
            N_("The files of “%(name)s” are no longer in the store. Ask an administrator."),
            code="files_missing",
            name=card.name,
        ) from None
    entries = [(path, header(f"{safe(card.name)}/{path.relative_to(directory)}", path.stat().st_size))
               for path in sorted(directory.rglob("*")) if path.is_file()]  # fmt: skip
    about = json.dumps(card.model_dump(mode="json"), ensure_ascii=False, indent=2).encode()
    about_header = header(f"{safe(card.name)}/{CARD}", len(about))
    length = sum(len(head) + padded(path.stat().st_size) for path, head in entries)
    length += len(about_header) + padded(len(about)) + 2 * BLOCK
    name = quote(f"{card.name}.tar", safe="")
    return StreamingResponse(
        stream(entries, about_header, about),
        media_type="application/octet-stream",
        headers={
            "content-length": str(length),
            "content-disposition": f"attachment; filename=\"{safe(card.name)}.tar\"; filename*=UTF-8''{name}",
        },
    )


def stream(entries: list[tuple[Path, bytes]], about_header: bytes, about: bytes) -> Iterator[bytes]:
    yield about_header + about + b"\0" * (padded(len(about)) - len(about))
    for path, head in entries:
        yield head
        sent = 0
        with path.open("rb") as file:
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
