"""Files to Danlu in pieces. What was cut off, by the network or by Ctrl-C, goes on where it was."""

import os
import time
from pathlib import Path

import httpx
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from app.cli.client import Api, Failed, err, sentence

PIECE = 8 * 2**20  # bytes
TRIES = 6  # in a row without a byte getting through


def bar() -> Progress:
    """On stderr, so that what a command prints can be piped."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=err,
    )


def files_of(place: Path) -> list[tuple[Path, str]]:
    """The files of a folder with their names from it on, or one file; hidden ones are left out."""
    if place.is_file():
        return [(place, place.name)]
    if not place.is_dir():
        raise Failed(f"{place} is neither a file nor a folder.")
    found = sorted(
        (Path(folder) / name).relative_to(place)
        for folder, folders, names in os.walk(place)
        for name in names
        if not name.startswith(".")
        and not any(part.startswith(".") for part in Path(folder).relative_to(place).parts)
    )
    if not found:
        raise Failed(f"There is no file in {place}.")
    return [(place / name, f"{place.name}/{name.as_posix()}") for name in found]


def send(api: Api, path: str, files: list[tuple[Path, str]]) -> list[str]:
    """Send `files` to the uploads at `path`; their ids, in order."""
    begun = {(one["file_name"], one["size"]): one for one in api.get(path)["data"]}
    ids = []
    with bar() as progress:
        for file, name in files:
            size = file.stat().st_size
            if not size:
                raise Failed(f"{file} is empty.")
            one = begun.pop((name, size), None)
            one = one or api.post(path, {"file_name": name, "size": size})
            task = progress.add_task(name, total=size, completed=one["offset"])
            send_rest(api, f"{path}/{one['id']}", file, one["offset"], progress, task)
            ids.append(one["id"])
    return ids


def send_rest(
    api: Api, path: str, file: Path, offset: int, progress: Progress, task: TaskID
) -> None:
    """From byte `offset` on. Asks where to go on after each trouble; raises Failed if none gets by."""
    lost = 0
    with file.open("rb") as stream:
        while True:
            stream.seek(offset)
            piece = stream.read(PIECE)
            if not piece:
                return
            try:
                answer = api.http.patch(
                    path,
                    content=piece,
                    headers={
                        "upload-offset": str(offset),
                        "content-type": "application/octet-stream",
                    },
                )
            except httpx.TransportError as error:
                lost += 1
                if lost == TRIES:
                    raise Failed(
                        f"{api.url} does not answer: {error}. Give the same command again to go on."
                    ) from None
                time.sleep(min(2**lost, 30))
                offset = where(api, path, offset)
            else:
                if answer.is_error and answer.status_code != 409:
                    raise Failed(sentence(answer))
                arrived = int(answer.headers["upload-offset"])
                lost = 0 if arrived > offset else lost + 1
                if lost == TRIES:
                    raise Failed(sentence(answer))
                offset = arrived
            progress.update(task, completed=offset)


def where(api: Api, path: str, known: int) -> int:
    try:
        return int(api.get(path)["offset"])
    except Failed:
        return known


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
        raise Failed(f"{file} cannot be written: {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)
