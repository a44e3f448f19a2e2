"""Files to Danlu in pieces. What was cut off, by the network, Ctrl-C or kill -9, goes on where it
was when the command is given again: which upload is whose is remembered in the user's cache.
"""

import hashlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from app.cli.client import Api, Failed, Row, sentence
from app.cli.output import err
from app.cli.text import _

if TYPE_CHECKING:  # which `--help` does without
    from rich.progress import Progress, TaskID

BASE = "/api/v1/uploads"
PIECE = 8 * 2**20  # bytes
TRIES = 6  # in a row without a byte getting through
FORGOTTEN = 3 * 86400  # seconds: an upload that nobody goes on with is gone by then


def bar() -> "Progress":
    """On stderr, so that what a command prints can be piped."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=err(),
    )


def files_of(place: Path) -> list[tuple[Path, str]]:
    """The files of a folder with their names from it on, or one file; hidden ones are left out."""
    if place.is_file():
        return [(place, place.name)]
    if not place.is_dir():
        raise Failed(_("%(place)s is neither a file nor a folder.", place=place))
    found = sorted(
        (Path(folder) / name).relative_to(place)
        for folder, _folders, names in os.walk(place)
        for name in names
        if not any(part.startswith(".") for part in (Path(folder) / name).relative_to(place).parts)
    )
    if not found:
        raise Failed(_("There is no file in %(place)s.", place=place))
    return [(place / name, f"{place.resolve().name}/{name.as_posix()}") for name in found]


# -- which upload is of which file -------------------------------------------------------


def note_of(api: Api, file: Path) -> Path:
    """Where it is remembered; elsewhere once the file has changed."""
    about = file.stat()
    known = f"{api.url}\n{file.resolve()}\n{about.st_size}\n{about.st_mtime_ns}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "danlu" / "uploads" / hashlib.sha256(known.encode()).hexdigest()[:32]


def begun(api: Api, note: Path) -> Row | None:
    """The upload that the note tells of, if it is still there."""
    try:
        return dict(api.get(f"{BASE}/{note.read_text()}"))
    except OSError:
        return None
    except Failed as failed:
        if failed.status in (404, 403):
            return None
        raise


def begin(api: Api, note: Path, name: str, size: int) -> Row:
    made = api.post(BASE, {"file_name": name, "size": size})
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        for old in note.parent.iterdir():
            if old.stat().st_mtime < time.time() - FORGOTTEN:
                old.unlink(missing_ok=True)
        note.write_text(made["id"])
    except OSError:  # it can be uploaded all the same, only not gone on with
        pass
    return dict(made)


# -- sending -----------------------------------------------------------------------------


def send(api: Api, files: list[tuple[Path, str]]) -> list[str]:
    """Send `files`; the ids of their uploads, in order. Raises Failed."""
    ids = []
    with bar() as progress:
        for file, name in files:
            size = file.stat().st_size
            if not size:
                raise Failed(_("%(file)s is empty.", file=file))
            note = note_of(api, file)
            one = begun(api, note) or begin(api, note, name, size)
            task = progress.add_task(name, total=size, completed=one["offset"])
            send_rest(api, f"{BASE}/{one['id']}", file, one["offset"], progress, task)
            ids.append(one["id"])
    return ids


def send_rest(
    api: Api, path: str, file: Path, offset: int, progress: "Progress", task: "TaskID"
) -> None:
    """From byte `offset` on. Asks where to go on after each trouble; raises Failed if none gets by."""
    import httpx

    lost = 0
    with file.open("rb") as stream:
        while True:
            stream.seek(offset)
            piece = stream.read(PIECE)
            if not piece:
                return
            headers = {"upload-offset": str(offset), "content-type": "application/octet-stream"}
            try:
                answer = api.http.patch(path, content=piece, headers=headers)
            except httpx.TransportError as error:
                lost += 1
                if lost == TRIES:
                    raise Failed(
                        _(
                            "%(url)s does not answer: %(why)s. Give the same command again to go on.",
                            url=api.url,
                            why=error,
                        )
                    ) from None
                time.sleep(min(2**lost, 30))
                offset = where(api, path, offset)
            else:
                if answer.is_error and answer.status_code != 409:
                    raise Failed(sentence(answer), answer.status_code)
                arrived = int(answer.headers["upload-offset"])
                lost = 0 if arrived > offset else lost + 1
                if lost == TRIES:
                    raise Failed(sentence(answer), answer.status_code)
                offset = arrived
            progress.update(task, completed=offset)


def where(api: Api, path: str, known: int) -> int:
    try:
        return int(api.get(path)["offset"])
    except Failed:
        return known


# -- fetching ----------------------------------------------------------------------------


def receive(api: Api, path: str, file: Path, **params: str) -> None:
    """A download to `file`, under another name until it is whole. Raises Failed."""
    partial = file.with_name(f".{file.name}.part")
    try:
        with api.streamed("GET", path, params=params) as answer, bar() as progress:
            total = answer.headers.get("content-length")
            task = progress.add_task(file.name, total=int(total) if total else None)
            with partial.open("wb") as stream:
                for piece in answer.iter_bytes():
                    stream.write(piece)
                    progress.advance(task, len(piece))
        partial.replace(file)
    except OSError as error:
        why = error.strerror or error
        raise Failed(_("%(file)s cannot be written: %(why)s", file=file, why=why)) from None
    finally:
        partial.unlink(missing_ok=True)
