"""gzip, zstd and zip, read as streams. What they declare is not believed, and no name is used.

Every error of theirs becomes an Invalid that names the file; every byte that comes out is counted.
"""

import gzip
import io
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import zstandard

from app.datasets.containers.decoding import CHUNK, Readable
from app.datasets.containers.limits import MAX_ENTRIES, Budget, broken, printable
from app.errors import N_, Invalid

DIRECTORY = 4 * 2**20  # bytes of a zip's directory
WINDOW = 2**27  # bytes of memory that a zstd file may ask for
JUNK = {"__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini", ".git"}
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    zstandard.ZstdError,
    EOFError,
    gzip.BadGzipFile,
    NotImplementedError,
    UnicodeDecodeError,
)


@dataclass(frozen=True)
class Entry:
    """A file to be read: as it was uploaded, or out of an archive."""

    name: str
    open: Callable[[], Readable]
    path: Path | None = None  # where it lies by itself
    depth: int = 0  # compressions it came out of


class Counted:
    """A stream that counts, and whose errors are ours."""

    def __init__(self, stream: Readable, name: str, budget: Budget) -> None:
        self.stream, self.name, self.budget = stream, name, budget

    def read(self, size: int, /) -> bytes:
        try:
            data = self.stream.read(size)
        except DAMAGE as error:
            raise broken(self.name) from error
        self.budget.out(len(data), self.name)
        return data


# -- one file ----------------------------------------------------------------------------


def gunzipped(entry: Entry, budget: Budget, name: str) -> Entry:
    def opened() -> Readable:
        return Counted(gzip.GzipFile(fileobj=entry.open(), mode="rb"), entry.name, budget)  # type: ignore[call-overload]

    return Entry(name, opened, depth=entry.depth + 1)


def unzstandarded(entry: Entry, budget: Budget, name: str) -> Entry:
    def opened() -> Readable:
        return Counted(Whole(entry.open()), entry.name, budget)

    return Entry(name, opened, depth=entry.depth + 1)


class Sealed:
    """A stream that ends with a seal, which comes together with the last bytes before it.

    Alone it would be taken for a frame, and what was cut off before it be forgotten.
    """

    def __init__(self, stream: Readable, seal: bytes) -> None:
        self.stream, self.seal = stream, seal
        self.next = stream.read(CHUNK)

    def read(self, _: int, /) -> bytes:
        data = self.next
        if self.seal:
            self.next = self.stream.read(CHUNK)
            if not self.next:
                data, self.seal = data + self.seal, b""
        return data


class Whole:
    """Decompresses zstd. The library ends without a word where a file is cut off; this does not.

    A frame of random bytes is put at the end of what came: only after whole frames is it read.
    """

    def __init__(self, stream: Readable) -> None:
        self.last = os.urandom(16)
        frame = zstandard.ZstdCompressor().compress(self.last)
        self.stream = zstandard.ZstdDecompressor(max_window_size=WINDOW).stream_reader(
            Sealed(stream, frame),  # type: ignore[arg-type]
            read_across_frames=True,
        )
        self.held = b""

    def read(self, size: int, /) -> bytes:
        keep = len(self.last)
        while True:
            data = self.stream.read(max(size, keep))
            both = self.held + data
            if not data:
                if both != self.last:
                    raise EOFError
                return b""
            self.held = both[-keep:]
            if len(both) > keep:
                return both[:-keep]


# -- many --------------------------------------------------------------------------------


class Directory:
    """A seekable file of which no read takes more than a zip's directory may have."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("rb")
        self.most: int | None = DIRECTORY
        self.seek, self.tell, self.close = self.file.seek, self.file.tell, self.file.close

    def read(self, size: int = -1) -> bytes:
        if self.most is not None and size > self.most:
            raise too_many()
        return self.file.read(size if size >= 0 or self.most is None else self.most)

    def seekable(self) -> bool:
        return True


def too_many() -> Invalid:
    return Invalid(
        N_("The archive holds more than %(most)s files."),
        code="file.zip.many",
        field="file",
        most=MAX_ENTRIES,
    )


@contextmanager
def opened(path: Path, name: str) -> Iterator[zipfile.ZipFile]:
    """A zip whose directory is read. Raises Invalid for one that is damaged or far too large."""
    file = Directory(path)
    try:
        try:
            archive = zipfile.ZipFile(file)
        except (*DAMAGE, ValueError, OSError, OverflowError) as error:
            raise broken(name) from error
        file.most = None
        with archive:
            yield archive
    finally:
        file.close()


def entries(archive: zipfile.ZipFile, name: str, budget: Budget) -> list[Entry]:
    """The files in a zip, those that systems leave behind not counted.

    Raises Invalid for a zip that a careful person would not unpack: paths that lead out of it,
    links and devices, encryption, the same name twice.
    """
    found: dict[str, Entry] = {}
    if len(archive.infolist()) > MAX_ENTRIES:
        raise too_many()
    for info in archive.infolist():
        inner = name_of(info).replace("\\", "/")
        check(info, inner, name)
        if info.is_dir() or JUNK & set(inner.split("/")) or inner.split("/")[-1].startswith("._"):
            continue
        if inner in found:
            raise refused(
                N_("The archive “%(file)s” holds two files of the name “%(inner)s”."),
                "file.zip.twice",
                name,
                inner,
            )
        found[inner] = Entry(f"{name}/{inner}", opener(archive, info, f"{name}/{inner}", budget))
    return list(found.values())


def opener(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, budget: Budget
) -> Callable[[], Readable]:
    def open_it() -> Readable:
        try:
            return Counted(archive.open(info), name, budget)
        except (*DAMAGE, RuntimeError, ValueError, OSError) as error:
            raise broken(name) from error

    return open_it


def name_of(info: zipfile.ZipInfo) -> str:
    """The name in a zip; Windows writes it in the system's encoding, and says nothing."""
    if info.flag_bits & 0x800 or info.orig_filename.isascii():
        return info.filename
    try:
        raw = info.orig_filename.encode("cp437")
    except UnicodeEncodeError:
        return info.filename
    for codec in ("utf-8", "gb18030"):
        try:
            return raw.decode(codec)
        except UnicodeDecodeError:
            continue
    return info.filename


def check(info: zipfile.ZipInfo, inner: str, name: str) -> None:
    """Raises Invalid for an entry that is not simply a file or a folder."""
    if inner.startswith("/") or ".." in inner.split("/") or ":" in inner[:2]:
        raise refused(
            N_("The archive “%(file)s” holds a path that leads out of it: “%(inner)s”."),
            "file.zip.path",
            name,
            inner,
        )
    kind = stat.S_IFMT(info.external_attr >> 16)
    if info.create_system == 3 and kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise refused(
            N_("The archive “%(file)s” holds a link or a device: “%(inner)s”."),
            "file.zip.link",
            name,
            inner,
        )
    if info.flag_bits & 0x1:
        raise refused(
            N_("The archive “%(file)s” is encrypted. Upload it without a password."),
            "file.zip.encrypted",
            name,
            inner,
        )
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise refused(
            N_(
                "“%(inner)s” in the archive “%(file)s” is compressed by a rare method. "
                "Make the archive with “deflate”."
            ),
            "file.zip.method",
            name,
            inner,
        )


def refused(message: str, code: str, name: str, inner: str) -> Invalid:
    return Invalid(message, code=code, field="file", file=printable(name), inner=printable(inner))


def read_all(stream: Readable, most: int, name: str) -> bytes:
    """A small file. Raises Invalid if it is not small."""
    parts = io.BytesIO()
    while data := stream.read(2**16):
        parts.write(data)
        if parts.tell() > most:
            raise Invalid(
                N_("“%(file)s” is too large to be a description of data."),
                code="file.description",
                field="file",
                file=printable(name),
            )
    return parts.getvalue()
