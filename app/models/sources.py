"""What an import takes of a hub's repository, a directory of the server, or an upload.

Each gives a list of `{name, size, sha256, …}`: plain names of ours to be, beside each other. Where
the bytes come from is `url`, `path` (of a file), or `part` (of an upload) with the `member` of a
zip. Formats that can run code are never fetched, copied or unpacked.
"""

import os
import re
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from app import hubs, storage
from app.accounts import user_secrets
from app.config import settings
from app.errors import N_, Invalid, NotFound, TooLarge
from app.models.tables import ModelImport
from app.models.weights import MAX_FILES, RUNS_CODE

GIB = 2**30
PIECE = 2**20
LISTED = 200  # names of what is left out that are remembered
ENTRIES = 20_000  # that are looked through
NAME = re.compile(r"[A-Za-z0-9_][\w.@+-]{0,199}\Z", re.ASCII)
ENDINGS = {".safetensors", ".json", ".jinja", ".txt", ".model", ".tiktoken", ".md"}
PAPERS = ("license", "licence", "notice", "use_policy")
ABOUT = ("config.json", "adapter_config.json")
HUBS = tuple(hubs.PUBLIC)


def listed(one: ModelImport) -> dict[str, Any]:
    """The files of an import as its cursor: {files, left_out, total, commit?}. Raises DomainError."""
    source = one.source
    commit: dict[str, Any] = {}
    if source["from"] in HUBS:
        listing = hubs.look(
            "models", source["from"], source["repository"], source["revision"], token(one)
        )
        commit = {"commit": listing.commit}
        found = [
            {
                "path": file.path,
                "size": file.size,
                "sha256": file.sha256,
                "url": hubs.address(listing, file),
            }
            for file in listing.files
        ]
    elif source["from"] == "directory":
        found = list(in_directory(allowed_directory(source["path"])))
    else:
        found = list(in_upload(one))
    files, left_out = chosen(found)
    total = sum(file["size"] or 0 for file in files)
    if total > settings.max_model_gb * GIB:
        raise too_large()
    return commit | {"files": files, "left_out": left_out[:LISTED], "total": total, "at": 0}


def token(one: ModelImport) -> str:
    """What its user chose to show the hub. Raises NotFound if that is gone."""
    return user_secrets.hub_token(one.source.get("secret"), one.source["from"], one.workspace_id)


def too_large() -> TooLarge:
    return TooLarge(
        N_("This is larger than the %(most)s GiB that a model may have here."),
        code="model.too_large",
        field="file",
        most=settings.max_model_gb,
    )


# -- which files make the model ------------------------------------------------------------


def chosen(found: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """What to take, each with a plain `name`, and the paths that are left out.

    The model is the folder nearest to the top that has a config.json and weights. Raises Invalid
    if there is none.
    """
    folders: dict[str, dict[str, dict[str, Any]]] = {}
    for file in found:
        place = PurePosixPath(file["path"])
        folders.setdefault(str(place.parent), {})[place.name] = file
    able = [
        name
        for name, files in folders.items()
        if any(one in files for one in ABOUT) and any(is_weights(one) for one in files)
    ]
    if not able:
        raise nothing([file["path"] for file in found])
    top = min(able, key=lambda name: (0 if name == "." else len(PurePosixPath(name).parts), name))
    names = {name for name in folders[top] if wanted(name)}
    whole = {name for name in names if is_weights(name) and not name.startswith("consolidated")}
    if whole:  # the same weights a second time, in their maker's own naming
        names -= {name for name in names if name.startswith("consolidated")}
    if len(names) > MAX_FILES:
        raise Invalid(N_("A model of more than %(limit)s files is refused."), limit=MAX_FILES)
    taken = {name: folders[top][name] for name in names} | pooling(folders, top)
    files = [
        {key: value for key, value in taken[name].items() if key != "path"} | {"name": name}
        for name in sorted(taken, key=lambda name: (is_weights(name), name))
    ]
    paths = {file["path"] for file in taken.values()}
    return files, sorted(file["path"] for file in found if file["path"] not in paths)


def pooling(folders: dict[str, dict[str, dict[str, Any]]], top: str) -> dict[str, dict[str, Any]]:
    """How an embedding model makes one vector of many: 1_Pooling/config.json, as
    `app.deployments.runners` reads it.
    """
    found = {}
    for folder, files in folders.items():
        place = PurePosixPath(folder)
        if str(place.parent) == top and place.name.endswith("_Pooling") and "config.json" in files:
            found[f"{place.name}.config.json"] = files["config.json"]
    return {name: file for name, file in found.items() if wanted(name)}


def is_weights(name: str) -> bool:
    return name.endswith(".safetensors")


def wanted(name: str) -> bool:
    known = PurePosixPath(name).suffix.lower() in ENDINGS or name.lower().startswith(PAPERS)
    return bool(NAME.match(name)) and known and PurePosixPath(name).suffix.lower() not in RUNS_CODE


def nothing(paths: list[str]) -> Invalid:
    """Why there is no model there."""
    if any(is_weights(path) for path in paths):
        return Invalid(
            N_("There are weights here, but no config.json or adapter_config.json beside them."),
            code="model.no_config",
        )
    code = [path for path in paths if PurePosixPath(path).suffix.lower() in RUNS_CODE]
    weights = [path for path in code if not path.endswith((".py", ".so"))]
    if weights:
        return Invalid(
            N_("“%(file)s” is in a format that can run code. Convert the model to safetensors."),
            code="model.pickle",
            file=weights[0],
        )
    return Invalid(
        N_("There are no weights here: a model needs at least one .safetensors file."),
        code="model.no_weights",
    )


# -- a directory of the server -------------------------------------------------------------


def roots() -> list[Path]:
    """The directories below which an administrator lets models be imported from."""
    named = (part.strip() for part in settings.model_directories.split(","))
    return [Path(part).resolve() for part in named if part]


def allowed_directory(path: str) -> Path:
    """`path` with its links followed, if it is a directory below an allowed one. Raises Invalid."""
    below = roots()
    if not below:
        raise Invalid(
            N_(
                "No directory of the server is open to imports. An administrator names some in "
                "DANLU_MODEL_DIRECTORIES."
            ),
            code="directory.closed",
            field="path",
        )
    try:
        real = (
            Path(path).resolve(strict=True) if path.startswith("/") and "\0" not in path else None
        )
    except (OSError, RuntimeError):
        real = None
    if real is None or not real.is_dir() or not inside(real, below):
        raise Invalid(
            N_("“%(path)s” is not a directory below %(roots)s."),
            code="directory.outside",
            field="path",
            path=path[:200],
            roots=", ".join(map(str, below)),
        )
    return real


def inside(path: Path, below: list[Path]) -> bool:
    return any(path == root or path.is_relative_to(root) for root in below)


def in_directory(directory: Path) -> Iterator[dict[str, Any]]:
    """Its files, and those of its folders. A link counts as what it leads to, if that is allowed."""
    below, seen = roots(), 0
    for folder, _, names in os.walk(directory):
        for name in names:
            place = Path(folder, name)
            shown = display(place.relative_to(directory).as_posix())
            seen += 1
            if seen > ENTRIES:
                raise too_many()
            try:
                real = place.resolve(strict=True)
                about = real.lstat()
            except (OSError, RuntimeError):
                yield {"path": f"{shown} (link)", "size": 0}
                continue
            if stat.S_ISREG(about.st_mode) and inside(real, below):
                yield {"path": shown, "size": about.st_size, "from": str(real)}
            else:
                yield {"path": f"{shown} (link)", "size": 0}


def display(path: str) -> str:
    """A path from outside, as it may be kept and shown; one that is taken is plain anyway."""
    return "".join(char if char.isprintable() else "?" for char in path)[:500]


def too_many() -> Invalid:
    return Invalid(N_("A model of more than %(limit)s files is refused."), limit=ENTRIES)


# -- an upload -----------------------------------------------------------------------------


def in_upload(one: ModelImport) -> Iterator[dict[str, Any]]:
    """Its files; of a zip, what is in it. Raises NotFound, Invalid."""
    try:
        directory = storage.fetch(upload(one.id))
    except FileNotFoundError:
        raise NotFound(
            N_("“%(name)s” is not there any more."), code="import.gone", name=one.name
        ) from None
    for number, file in enumerate(one.source["files"]):
        path = directory / str(number)
        if file["name"].lower().endswith(".zip"):
            yield from in_zip(path, file["name"], number)
        else:
            yield {"path": file["name"], "size": path.stat().st_size, "part": number}


def in_zip(path: Path, name: str, number: int) -> Iterator[dict[str, Any]]:
    try:
        with zipfile.ZipFile(path) as opened:
            entries = opened.infolist()
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, ValueError):
        raise Invalid(N_("“%(name)s” is not a sound zip."), code="zip.bad", name=name) from None
    if len(entries) > ENTRIES:
        raise too_many()
    for entry in entries:
        shown = display(entry.filename)
        if entry.is_dir():
            continue
        if entry.flag_bits & 1:
            raise Invalid(N_("“%(name)s” is locked with a password."), code="zip.locked", name=name)
        if stat.S_ISLNK(entry.external_attr >> 16):
            yield {"path": f"{shown} (link)", "size": 0}
        else:
            size, member = entry.file_size, entry.filename
            yield {"path": shown, "size": size, "part": number, "member": member}


def upload(import_id: str) -> str:
    """The artefact with an import's upload: files 0, 1, … in the order of its source."""
    return f"uploads/{import_id}"


def pieces(one: ModelImport, file: dict[str, Any], offset: int) -> Iterator[bytes]:
    """The bytes of a file that is on this machine, from `offset` on. Raises NotFound, Invalid."""
    try:
        if "from" in file:
            path = still_allowed(Path(file["from"]))
        else:
            path = storage.fetch(upload(one.id)) / str(file["part"])
        if "member" in file:
            with zipfile.ZipFile(path) as box, box.open(file["member"]) as opened:
                opened.seek(offset)
                while block := opened.read(PIECE):
                    yield block
        else:
            with os.fdopen(plain(path), "rb") as opened:
                opened.seek(offset)
                while block := opened.read(PIECE):
                    yield block
    except (FileNotFoundError, KeyError):
        raise NotFound(
            N_("“%(name)s” is not there any more."), code="import.gone", name=file["name"]
        ) from None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError):
        raise Invalid(
            N_("“%(name)s” cannot be unpacked: the zip is damaged."),
            code="zip.bad",
            name=file["name"],
        ) from None


def still_allowed(path: Path) -> Path:
    """Raises FileNotFoundError for what is not below an allowed directory any more."""
    if not inside(path.resolve(strict=True), roots()):
        raise FileNotFoundError(path)
    return path


def plain(path: Path) -> int:
    """Open for reading, but nothing that a link was put in the place of."""
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
