"""The data files of a hub's dataset repository, and which of them to train on."""

import re

from app import hubs
from app.errors import N_, Invalid
from app.hubs import NAMES, File, Listing, address, endpoint, headers, named

__all__ = ["NAMES", "address", "endpoint", "headers", "named"]  # part of this module's interface

DATA = re.compile(
    r"\.(?:jsonl|ndjson|json|csv|tsv|parquet|txt|md|xlsx)(?:\.gz|\.zst)?\Z|\.zip\Z", re.IGNORECASE
)
ABOUT = {  # files with such endings that describe a repository rather than being its data
    "readme.md", "readme_zh.md", "license.txt", "license.md", "requirements.txt", "state.json",
    "dataset_infos.json", "configuration.json", "config.json", "package.json", "changelog.md",
}  # fmt: skip


def look(hub: str, repository: str, revision: str = "", token: str = "") -> Listing:
    """The data files of a repository, at the commit that `revision` now is.

    Raises NotFound, Refused, or Interrupted if the hub cannot be reached.
    """
    listing = hubs.look("datasets", hub, repository, revision, token)
    listing.files = [one for one in listing.files if is_data(one)]
    return listing


def is_data(file: File) -> bool:
    name = file.path.rpartition("/")[2].lower()
    hidden = any(part.startswith(".") for part in file.path.split("/"))
    return bool(DATA.search(name)) and name not in ABOUT and not hidden


def suggested(listing: Listing) -> list[File]:
    """All, or those to train on where the paths tell them from the others."""
    return [file for file in listing.files if file.split == "train"] or listing.files


def chosen(listing: Listing, wanted: list[str]) -> list[File]:
    """The files that `wanted` names: paths, or folders that end in a slash; all if it is empty.

    Raises Invalid if there are none, or one that is named is not there.
    """
    if not listing.files:
        raise Invalid(
            N_(
                "There is no data file in “%(repository)s”: JSON, JSONL, CSV, TSV, Parquet or "
                "text, also compressed."
            ),
            code="hub.no_data",
            field="repository",
            repository=listing.repository,
        )
    found: dict[str, File] = {}
    for name in wanted or [""]:
        those = [
            one
            for one in listing.files
            if not name or one.path == name or (name.endswith("/") and one.path.startswith(name))
        ]
        if not those:
            raise Invalid(
                N_("“%(path)s” is not among the data files of this revision."),
                code="hub.no_file",
                field="files",
                path=name[:200],
            )
        found |= {one.path: one for one in those}
    return list(found.values())
