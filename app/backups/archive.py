"""A backup's file: a plain tar of members that are compressed one by one, the manifest last.

So the index is read by seeking, one member is read without the others, and what GNU tar and zstd
can read is not lost without us:

    database.dump.zst             pg_dump's custom format
    secret.key                    what unseals the database's secrets, unless it was left out
    spool/NAME.zst                usage that the gateway had measured and the database not yet seen
    store/KIND/NAME.tar.zst       an artefact
    manifest.json                 {format, danlu, revision, at, ..., members: [{name, size, sha256}]}
"""

import hashlib
import json
import os
import re
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import zstandard

from app.errors import N_, DomainError

FORMAT = 1
SUFFIX = ".danlu.tar"
MANIFEST = "manifest.json"
DATABASE = "database.dump.zst"
KEY = "secret.key"
LEVEL = 3  # of zstd: weights hardly shrink, rows shrink well at any level
PIECE = 1024 * 1024
Tell = Callable[[str, int], None]  # which member, and how many bytes of the file are done


class Broken(DomainError):
    """A file that is no backup, or not what its manifest says."""

    status = 422
    code = "broken_backup"


@dataclass(frozen=True)
class Member:
    """As the manifest lists it: bytes in the file, and their SHA-256."""

    name: str
    size: int
    sha256: str


# -- writing -----------------------------------------------------------------------------


class Sink:
    """Counts and hashes what passes into a member."""

    def __init__(self, file: BinaryIO, told: Callable[[], None]) -> None:
        self.file = file
        self.told = told
        self.size = 0
        self.hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.file.write(data)
        self.hash.update(data)
        self.size += len(data)
        self.told()
        return len(data)


class Writer:
    """Writes the members of a new backup into `file`, which can seek."""

    def __init__(self, file: BinaryIO, tell: Tell) -> None:
        self.file = file
        self.tell = tell
        self.members: list[Member] = []

    @contextmanager
    def member(self, name: str) -> Iterator[Sink]:
        """A place for bytes of which nobody knows yet how many. An exception takes all back."""
        at = self.file.tell()
        self.file.write(bytes(tarfile.BLOCKSIZE))
        sink = Sink(self.file, lambda: self.tell(name, self.file.tell()))
        try:
            yield sink
            self.file.write(bytes(-sink.size % tarfile.BLOCKSIZE))
            end = self.file.tell()
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.mtime = sink.size, 0o600, int(time.time())
            self.file.seek(at)
            self.file.write(header(info))
            self.file.seek(end)
        except BaseException:
            self.file.seek(at)
            self.file.truncate()
            raise
        self.members.append(Member(name, sink.size, sink.hash.hexdigest()))

    @contextmanager
    def packed(self, name: str) -> Iterator[IO[bytes]]:
        """A member that is compressed on its way."""
        packer = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
        with self.member(name) as sink:
            stream = packer.stream_writer(cast(BinaryIO, sink), closefd=False)
            yield stream
            stream.flush(zstandard.FLUSH_FRAME)

    def directory(self, name: str, path: Path) -> None:
        """An artefact's files. Raises FileNotFoundError if it goes meanwhile."""
        with self.packed(name) as stream, tarfile.open(fileobj=stream, mode="w|") as tar:
            for file in sorted(path.rglob("*")):
                if file.is_file() or file.is_dir():
                    tar.add(file, str(file.relative_to(path)), recursive=False, filter=nobody)
            path.stat()  # rglob says nothing of a directory that is gone

    def close(self, facts: dict[str, Any]) -> None:
        """The manifest, and the tar's end."""
        members = [asdict(one) for one in self.members]
        text = json.dumps(facts | {"format": FORMAT, "members": members}, indent=1)
        with self.member(MANIFEST) as sink:
            sink.write(text.encode())
        self.file.write(bytes(2 * tarfile.BLOCKSIZE))
        self.file.flush()
        os.fsync(self.file.fileno())


def header(info: tarfile.TarInfo) -> bytes:
    """One block: names are short, and GNU's format has room for any size."""
    made = info.tobuf(tarfile.GNU_FORMAT)
    if len(made) != tarfile.BLOCKSIZE:
        raise ValueError(f"too long for a backup: {info.name}")
    return made


def nobody(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Who owned a file here means nothing elsewhere."""
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info if info.isfile() or info.isdir() else None


# -- reading -----------------------------------------------------------------------------


class Reader:
    """A backup's manifest and members. Raises Broken for what is none."""

    def __init__(self, file: BinaryIO) -> None:
        try:
            self.tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 - the file is closed
            self.infos = {info.name: info for info in self.tar.getmembers()}
            found = self.tar.extractfile(self.infos[MANIFEST])
            assert found
            self.manifest: dict[str, Any] = json.loads(found.read(64 * 2**20))
            self.members = [Member(**one) for one in self.manifest["members"]]
        except (tarfile.TarError, KeyError, TypeError, ValueError, EOFError) as error:
            raise Broken(
                N_("This is no backup of Danlu, or its end is missing: %(why)s"), why=str(error)
            ) from error
        if self.manifest["format"] != FORMAT:
            raise Broken(N_("This backup was made by a newer Danlu. Restore it with that one."))

    def verify(self, tell: Tell) -> None:
        """Read everything. Raises Broken if a member is not what the manifest says."""
        done = 0
        for member in self.members:
            digest = hashlib.sha256()
            with self.raw(member) as stream:
                while piece := stream.read(PIECE):
                    digest.update(piece)
                    done += len(piece)
                    tell(member.name, done)
            if digest.hexdigest() != member.sha256:
                raise Broken(
                    N_("This backup is damaged: %(member)s is not what was written."),
                    member=member.name,
                )

    @contextmanager
    def raw(self, member: Member) -> Iterator[IO[bytes]]:
        info = self.infos.get(member.name)
        stream = self.tar.extractfile(info) if info and info.size == member.size else None
        if stream is None:
            raise Broken(N_("This backup is damaged: %(member)s is missing."), member=member.name)
        with stream:
            yield stream

    @contextmanager
    def unpacked(self, member: Member) -> Iterator[IO[bytes]]:
        with self.raw(member) as stream, zstandard.ZstdDecompressor().stream_reader(stream) as out:
            yield cast(IO[bytes], out)

    def named(self, name: str) -> Member | None:
        return next((one for one in self.members if one.name == name), None)

    def artefacts(self) -> Iterator[tuple[str, Member]]:
        """The ids of the artefacts, and where they are."""
        for member in self.members:
            if found := re.fullmatch(r"store/(.+)\.tar\.zst", member.name):
                yield found[1], member

    def unpack(self, member: Member, into: Path) -> None:
        """An artefact's files. What would leave `into` is refused by tarfile's own filter."""
        with self.unpacked(member) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            tar.extractall(into, filter="data")
