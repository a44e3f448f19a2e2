"""What an upload is made of: any container becomes plain files of JSON rows, read as pieces.

JSON arrays and JSONL in UTF-8 are read where they lie. Everything else is unpacked once, into
files of one JSON row a line. **The line of a row there is the user's own coordinate**: the line of
the CSV, text or JSONL file it begins on, the row of the sheet, the number of the Parquet row;
lines without a row are blank. A row that could not be unpacked is a line that says why (a
`reader.Problem`), so that it is reported in its place.

    manifest = containers.unpack([File("train.zip", path)], into, most)   # Invalid: says why
    for source in containers.sources(manifest, files, into):
        for piece in reader.pieces(source.path, source.begin(), most): …

Nothing of an upload is ever written under a name that came with it. Memory is bounded by the
longest row allowed, the disk by `limits`.
"""

import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from app.datasets.containers import (
    archives,
    decoding,
    delimited,
    documents,
    folders,
    limits,
    parquet,
    reader,
    sheets,
)
from app.datasets.containers.archives import Entry
from app.datasets.containers.decoding import Readable
from app.datasets.containers.folders import Note
from app.datasets.containers.limits import Budget, printable
from app.datasets.containers.spool import Spool
from app.errors import N_, Invalid

MANIFEST = "manifest.json"  # beside the unpacked files
SCRATCH = "scratch"
PACKED = {b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst"}
ZIP, PARQUET = b"PK\x03\x04", b"PAR1"
DOCUMENT = "[Content_Types].xml"  # in all that Office writes
LETTERS = 8  # bytes that are not ASCII, without which JSON is not taken for GB18030
FIELDS = 1000  # of a first row, that a mapping is told of
JSON = (".json", ".jsonl", ".ndjson")
TABLES = {".csv": "csv", ".tsv": "tsv", ".tab": "tsv"}


@dataclass(frozen=True)
class File:
    """An uploaded file: its name as the user knows it (may have folders), and where it lies."""

    name: str
    path: Path


@dataclass(frozen=True)
class Source:
    """A plain file of rows."""

    name: str  # as the user knows it: `train.csv`, `data.zip/part/train.csv`, `book.xlsx`
    container: str  # json, csv, tsv, xlsx, parquet, text
    path: Path
    bytes: int  # of the plain file
    spooled: bool  # written by `unpack`: may hold lines that are problems (reader.problem)
    mapping: dict[str, Any] | None  # which column is which field, where the upload says so

    def begin(self) -> reader.Place:
        """Where the rows begin. Raises Invalid for an empty file."""
        return reader.Place("spool") if self.spooled else reader.begin(self.path)


@dataclass
class Manifest:
    """What an upload holds. As JSON it is kept beside the unpacked files."""

    # {name, container, file | upload, bytes, spooled, mapping}: `file` is a name in the directory
    # that was unpacked into, `upload` the number of an uploaded file that is read where it lies
    files: list[dict[str, Any]] = field(default_factory=list)
    notes: list[dict[str, Any]] = field(default_factory=list)  # Note as JSON
    unpacked: int = 0  # files that were written; 0: the directory need not be kept

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def unpack(
    files: list[File], into: Path, most: int, beat: Callable[[], None] = lambda: None
) -> Manifest:
    """Make plain files of `files` in the directory `into`, without copying those that are plain.

    `most` is the longest row in bytes. `beat` is called every second or so, however long it
    takes. Raises Invalid, naming the file and the reason, for what cannot be a dataset.
    """
    for file in files:
        if not stat.S_ISREG(file.path.lstat().st_mode):
            raise limits.broken(file.name)
    budget = Budget(sum(file.path.stat().st_size for file in files), into, beat)
    work = Unpacking(files, into, most, budget)
    with ExitStack() as held:
        try:
            for entry, said in work.entries(held):
                budget.file()
                work.one(entry, said)
        finally:
            (into / SCRATCH).unlink(missing_ok=True)
    if not work.manifest.files:
        raise Invalid(N_("The file is empty."), code="file.empty", field="file")
    work.manifest.notes = [asdict(note) for note in work.notes]
    (into / MANIFEST).write_bytes(orjson.dumps(work.manifest.to_json()))
    return work.manifest


def manifest(into: Path) -> Manifest:
    """What `unpack` left in a directory. Raises FileNotFoundError."""
    return Manifest(**orjson.loads((into / MANIFEST).read_bytes()))


def sources(manifest: Manifest, files: list[File], into: Path) -> list[Source]:
    """The plain files, in order: those that lie in `files` as they came, and those in `into`."""
    return [
        Source(
            one["name"],
            one["container"],
            into / one["file"] if one["file"] else files[one["upload"]].path,
            one["bytes"],
            one["spooled"],
            one["mapping"],
        )
        for one in manifest.files
    ]


class Unpacking:
    """An upload on its way to plain files."""

    def __init__(self, files: list[File], into: Path, most: int, budget: Budget) -> None:
        self.files, self.into, self.most, self.budget = files, into, most, budget
        self.manifest = Manifest()
        self.notes: list[Note] = []

    def entries(self, held: ExitStack) -> list[tuple[Entry, dict[str, Any] | None]]:
        """The data files with what a dataset_info.json says of each. Zips stay open in `held`."""
        found: list[Entry] = []
        several = len(self.files) > 1
        for file in self.files:
            if (archive := zip_of(file, held)) is None:
                found.append(Entry(file.name, opener(file.path), file.path))
            else:
                found += archives.entries(archive, file.name, self.budget)
                several = True
        if not several:
            return [(entry, None) for entry in found]
        chosen = folders.choose(found, ", ".join(file.name for file in self.files))
        self.notes += chosen.notes
        return chosen.files

    def one(self, entry: Entry, said: dict[str, Any] | None) -> None:
        """Read one file, whatever it is."""
        before = self.budget.read
        head = entry.open().read(decoding.HEAD)
        self.budget.read = before  # these bytes will be read again
        packed = next((end for magic, end in PACKED.items() if head.startswith(magic)), "")
        if packed:
            if entry.depth:
                raise nested(entry.name)
            name = entry.name
            inner = name[: -len(packed)] if name.lower().endswith(packed) else name
            opened = archives.gunzipped if packed == ".gz" else archives.unzstandarded
            self.one(opened(entry, self.budget, inner), said)
        elif head.startswith((ZIP, PARQUET)):
            self.binary(entry, head, said)
        elif len(head) < decoding.HEAD and not head.strip(reader.BLANK + reader.BOM):
            note = N_("“%(file)s” is empty.")
            self.notes.append(Note(entry.name, "file.empty", note, {"file": printable(entry.name)}))
        else:
            self.text(entry, head, said)

    def binary(self, entry: Entry, head: bytes, said: dict[str, Any] | None) -> None:
        """A file that is read by jumping about in it, and so has to lie on the disk."""
        path = entry.path or self.extracted(entry)
        number, target = self.target()
        if head.startswith(PARQUET):
            parquet.spool(path, entry.name, target, self.budget)
            self.add(entry, "parquet", number, said)
            return
        with archives.opened(path, entry.name) as archive:
            names = archive.namelist()
        if not sheets.is_book(names):
            if DOCUMENT in names:
                refuse(entry.name, head)
            raise nested(entry.name)
        with Spool(target, entry.name, self.budget, self.most) as out:
            strings = self.into / f"{SCRATCH}.strings"
            self.notes += sheets.spool(path, entry.name, out, self.budget, strings)
        self.add(entry, "xlsx", number, said)

    def text(self, entry: Entry, head: bytes, said: dict[str, Any] | None) -> None:
        """JSON, a table or prose."""
        refuse(entry.name, head)
        codec, bom = decoding.sniff(head)
        if len(head) >= decoding.HEAD and head.isascii() and container_of(entry.name, "") != "json":
            codec, _ = decoding.sniff(decoding.telling(entry.open()))
        start = head[bom:].decode(codec, "ignore")
        container = container_of(entry.name, start)
        if container == "json" and codec == "gb18030" and decoding.letters(head) < LETTERS:
            codec = "utf-8"  # and what is no UTF-8 in it is reported
        if start[:200].count("\0") > 40 or ("\0" in start[:200] and container != "json"):
            raise no_text(entry.name)
        number, target = self.target()
        stream = entry.open()
        if container == "json":
            returns = decoding.only_returns(start[: 2**16].encode("utf-8", "replace"))
            if entry.path and codec == "utf-8" and not returns:
                self.add(entry, container, "", said)
                return
            with target.open("wb") as file:
                plain = codec == "utf-8" and not returns
                chunks = raw(stream) if plain else decoding.transcoded(stream, codec)
                for chunk in chunks:
                    self.budget.wrote(file.write(chunk), entry.name)
            self.add(entry, container, number, said, spooled=False)
            return
        with Spool(target, entry.name, self.budget, self.most) as out:
            if container == "text":
                markdown = folders.suffix(entry.name) in (".md", ".markdown")
                documents.spool(stream, codec, out, headings=markdown)
            else:
                tabs = container == "tsv"
                delimited.spool(stream, codec, entry.name, out, tabs=tabs)
        self.add(entry, container, number, said)

    def target(self) -> tuple[str, Path]:
        name = f"{len(self.manifest.files)}.rows"
        return name, self.into / name

    def extracted(self, entry: Entry) -> Path:
        path = self.into / SCRATCH
        with path.open("wb") as file:
            for chunk in raw(entry.open()):
                self.budget.wrote(file.write(chunk), entry.name)
        return path

    def add(
        self,
        entry: Entry,
        container: str,
        file: str,
        said: dict[str, Any] | None,
        *,
        spooled: bool = True,
    ) -> None:
        """The file is plain now, in `file` or, if that is empty, where it was uploaded."""
        path = self.into / file if file else entry.path
        assert path
        mapping = None
        if said:
            mapping = folders.mapping_of(
                said["said"], said["name"], fields_of(path, bool(file) and spooled)
            )
        upload = [one.path for one in self.files].index(path) if not file else None
        self.manifest.files.append(
            {
                "name": entry.name,
                "container": container,
                "file": file,
                "upload": upload,
                "bytes": path.stat().st_size,
                "spooled": bool(file) and spooled,
                "mapping": mapping,
            }
        )
        self.manifest.unpacked += bool(file)


def zip_of(file: File, held: ExitStack) -> Any:
    """The open zip that a file is, unless it is a sheet or a document that is made of one."""
    with file.path.open("rb") as stream:
        if not stream.read(4).startswith((ZIP, b"PK\x05\x06")):
            return None
    archive = held.enter_context(archives.opened(file.path, file.name))
    names = archive.namelist()
    if sheets.is_book(names):
        return None
    if DOCUMENT in names:
        refuse(file.name, ZIP)
    return archive


def opener(path: Path) -> Callable[[], Readable]:
    return lambda: path.open("rb")


def raw(stream: Readable) -> Iterator[bytes]:
    while chunk := stream.read(decoding.CHUNK):
        yield chunk


def container_of(name: str, start: str) -> str:
    """What a text is: by its first row if that is JSON, else by its name."""
    end = folders.suffix(name)
    if end in JSON:
        return "json"
    if end in (".md", ".markdown"):
        return "text"
    text = start.lstrip()
    first = text.partition("\n")[0].strip()
    if first.startswith("{") and reader.whole(first.encode("utf-8", "replace")):
        return "json"
    if text.startswith("[") and text[1:].lstrip()[:1] == "{":
        return "json"
    return "text" if end == ".txt" else TABLES.get(end, "json")


def fields_of(path: Path, spooled: bool) -> list[str]:
    """The names of the first row's fields, if it can be read."""
    place = reader.Place("spool") if spooled else reader.begin(path)
    for piece in reader.pieces(path, place, decoding.HEAD):
        try:
            row = orjson.loads(piece.data or b"")
        except ValueError:
            return []
        return list(row)[:FIELDS] if isinstance(row, dict) else []
    return []


def nested(name: str) -> Invalid:
    return Invalid(
        N_("“%(file)s” is an archive inside another. Upload what is in it."),
        code="file.nested",
        field="file",
        file=printable(name),
    )


def refuse(name: str, head: bytes) -> None:
    """Raises Invalid for what is known to be no data."""
    if head[257:262] == b"ustar":
        raise nested(name)
    for magic, kind in reader.MAGIC.items():
        if head.startswith(magic):
            raise Invalid(
                N_(
                    "“%(file)s” is a file of the type %(type)s. Data comes as JSONL, JSON, CSV, "
                    "TSV, XLSX, Parquet or text, or as these in a .gz, .zst or .zip."
                ),
                code="file.type",
                field="file",
                file=printable(name),
                type=kind,
            )


def no_text(name: str) -> Invalid:
    return Invalid(
        N_("“%(file)s” is no text in UTF-8, UTF-16, UTF-32 or GB18030."),
        code="file.encoding",
        field="file",
        file=printable(name),
    )
