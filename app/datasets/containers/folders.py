"""Which files of a folder are data, and what they say about each other.

A `dataset_info.json` as LLaMA-Factory has it names them; else a `dataset.json` as SXWL wants it
is all the data there is; else every file that can hold rows is data. What was not read is noted.
"""

import posixpath
from dataclasses import dataclass, field
from typing import Any

import orjson

from app.datasets.containers.archives import Entry, read_all
from app.datasets.containers.limits import MAX_NOTES, broken, printable
from app.datasets.formats import KINDS, dataset_info
from app.datasets.formats.parts import BadRow
from app.errors import N_, Invalid

INFO, ONE = "dataset_info.json", "dataset.json"
INFO_BYTES = 4 * 2**20
MAX_LISTED = 1000
ROWS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".xlsx", ".parquet")
TEXT = (".txt", ".md", ".markdown")
PACKED = (".gz", ".zst")
ABOUT = {"readme.md", "readme.txt", "license", "license.txt", "license.md", "requirements.txt"}
REMOTE = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")


@dataclass(frozen=True)
class Note:
    """What else is to be known of a file, such as a sheet that was not read. Becomes a warning."""

    file: str
    code: str
    message: str  # msgid
    params: dict[str, Any] = field(default_factory=dict)


@dataclass
class Chosen:
    """The data files in their order, each with its entry of a dataset_info.json, if there is one."""

    files: list[tuple[Entry, dict[str, Any] | None]]
    notes: list[Note]


def suffix(name: str) -> str:
    """The end of a name that says what is in the file, without that of a compression."""
    low = name.lower()
    for end in PACKED:
        low = low.removesuffix(end)
    return posixpath.splitext(low)[1]


def choose(entries: list[Entry], root: str) -> Chosen:
    """`root` is what the entries' names begin with. Raises Invalid if none of them is data."""
    for entry in entries:
        if base(entry) == INFO:
            return by_info(entry, entries)
    single = [entry for entry in entries if base(entry) == ONE]
    if single:
        return Chosen([(entry, None) for entry in single], unread(entries, single))
    data = [entry for entry in entries if suffix(entry.name) in ROWS]
    if not data:
        data = [
            entry
            for entry in entries
            if suffix(entry.name) in TEXT and base(entry).lower() not in ABOUT
        ]
    if not data:
        raise Invalid(
            N_("There is no file with data in “%(file)s”."),
            code="file.zip.empty",
            field="file",
            file=printable(root),
        )
    data.sort(key=lambda entry: entry.name)
    return Chosen([(entry, None) for entry in data], unread(entries, data))


def base(entry: Entry) -> str:
    return entry.name.rsplit("/", 1)[-1]


def unread(entries: list[Entry], data: list[Entry]) -> list[Note]:
    """That the other files were not read."""
    names = {entry.name for entry in data}
    left = [entry.name for entry in entries if entry.name not in names]
    return [
        Note(name, "file.unread", N_("“%(file)s” was not read."), {"file": printable(name)})
        for name in left[:MAX_NOTES]
    ]


# -- dataset_info.json -------------------------------------------------------------------


def by_info(info: Entry, entries: list[Entry]) -> Chosen:
    """The files that its entries name and that are here. Raises Invalid if there is none."""
    try:
        listed = orjson.loads(read_all(info.open(), INFO_BYTES, info.name))
    except ValueError:
        raise broken(info.name) from None
    if not isinstance(listed, dict):
        raise broken(info.name)
    if len(listed) > MAX_LISTED:
        raise Invalid(
            N_("“%(file)s” names more than %(most)s datasets."),
            code="info.many",
            field="file",
            file=printable(info.name),
            most=MAX_LISTED,
        )
    files: dict[str, tuple[Entry, dict[str, Any] | None]] = {}
    kinds: dict[str, str] = {}
    notes: list[Note] = []
    for name, said in listed.items():
        found = named(said, info.name.removesuffix(INFO), entries)
        for entry in found:
            files.setdefault(entry.name, (entry, {"name": name, "said": said}))
        if found:
            kinds.setdefault(KINDS[mapping_of(said, name)["format"]], printable(name))
        else:
            notes.append(absent(info, name, said))
    if not files:
        first = notes[0] if notes else None
        raise Invalid(
            first.message if first else N_("“%(file)s” names no dataset."),
            code=first.code if first else "info.empty",
            field="file",
            **(first.params if first else {"file": printable(info.name)}),
        )
    one_kind(kinds)
    return Chosen(
        list(files.values()),
        notes[:MAX_NOTES] + unread(entries, [info, *(entry for entry, _ in files.values())]),
    )


def named(said: Any, folder: str, entries: list[Entry]) -> list[Entry]:
    """The files that an entry's `file_name` is: one file, or all in a folder."""
    name = said.get("file_name") if isinstance(said, dict) else None
    if not isinstance(name, str) or not name:
        return []
    path = posixpath.normpath(folder + name)
    found = [entry for entry in entries if entry.name == path]
    within = [
        entry
        for entry in entries
        if entry.name.startswith(path + "/") and suffix(entry.name) in (*ROWS, *TEXT)
    ]
    return found or sorted(within, key=lambda entry: entry.name)


def absent(info: Entry, name: str, said: Any) -> Note:
    params = {"file": printable(info.name), "name": printable(name)}
    if isinstance(said, dict) and any(said.get(one) for one in REMOTE) and "file_name" not in said:
        return Note(
            info.name,
            "info.remote",
            N_(
                "The dataset “%(name)s” in “%(file)s” lies elsewhere and is not fetched. Import it "
                "from its hub instead."
            ),
            params,
        )
    return Note(
        info.name,
        "info.missing",
        N_("The file of the dataset “%(name)s” in “%(file)s” was not uploaded with it."),
        params,
    )


def one_kind(kinds: dict[str, str]) -> None:
    """Raises Invalid where rows of several kinds would come together: kind and first dataset."""
    if len(kinds) > 1:
        (one, first), (two, second) = list(kinds.items())[:2]
        raise Invalid(
            N_(
                "The datasets in dataset_info.json are of different kinds: “%(first)s” is %(one)s, "
                "“%(second)s” is %(two)s. Upload them one by one."
            ),
            code="info.kinds",
            field="file",
            first=first,
            one=one,
            second=second,
            two=two,
        )


def mapping_of(said: Any, name: str, fields: list[str] | None = None) -> dict[str, Any]:
    """What an entry says of its columns. Raises Invalid."""
    try:
        mapping, _ = dataset_info.mapping_of(said, fields or [])
    except BadRow as bad:
        raise Invalid(
            N_("The dataset “%(name)s” in dataset_info.json cannot be read: %(why)s"),
            code=bad.code,
            field="file",
            name=printable(name),
            why={"message": bad.message, "params": bad.params},
        ) from None
    return mapping
