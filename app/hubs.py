"""What repositories at Hugging Face and ModelScope hold, by the hubs' own HTTP APIs.

A repository is one of `datasets` or of `models`; the addresses differ, the answers do not.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import orjson

from app import fetching
from app.addresses import Refused, parse
from app.config import settings
from app.errors import N_, Invalid, NotFound

PUBLIC = {"huggingface": "https://huggingface.co", "modelscope": "https://www.modelscope.cn"}
NAMES = {"huggingface": "Hugging Face", "modelscope": "ModelScope"}
REPOSITORY = re.compile(r"(?:[\w.-]{1,96}/)?[\w.-]{1,96}\Z", re.ASCII)
REVISION = re.compile(r"[\w.][\w./-]{0,199}\Z", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}\Z")
SPLITS = re.compile(
    r"(?:\A|[/._-])(train|validation|valid|val|dev|test|eval)(?=[/._-])", re.IGNORECASE
)
SAME = {"valid": "validation", "val": "validation", "dev": "validation", "eval": "validation"}
JSON_BYTES = 64 * 2**20
PAGES = 100  # of a listing
SECONDS = 20.0  # for one answer of a hub's API


@dataclass(frozen=True)
class File:
    path: str
    size: int | None  # bytes
    revision: str  # the commit that its address names
    sha256: str = ""

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]

    @property
    def split(self) -> str:
        """train, validation or test if its path says so."""
        found = SPLITS.search(self.path)
        word = found[1].lower() if found else ""
        return SAME.get(word, word)


@dataclass
class Listing:
    """A repository at one commit."""

    kind: str  # datasets or models
    hub: str
    repository: str
    commit: str
    revision: str  # what to ask for to get this again
    files: list[File] = field(default_factory=list)  # with safe paths, in their order


def endpoint(hub: str) -> tuple[str, tuple[str, ...]]:
    """The hub's address, and what may be connected to for it besides public addresses."""
    own = {"huggingface": settings.hf_endpoint, "modelscope": settings.modelscope_endpoint}[hub]
    if not own:
        return PUBLIC[hub], ()
    target = parse(own)
    host = f"[{target.host}]" if ":" in target.host else target.host
    return own.rstrip("/"), (f"{host}:{target.port}",)


def named(hub: str, repository: str, revision: str) -> tuple[str, str]:
    """A repository's name and revision as typed or pasted. Raises Invalid."""
    if hub not in PUBLIC:
        raise Invalid(N_("Choose Hugging Face or ModelScope."), field="hub", code="hub.unknown")
    repository = repository.strip()
    if "://" in repository:
        path = (
            urlsplit(repository).path.strip("/").removeprefix("datasets/").removeprefix("models/")
        )
        repository = "/".join(path.split("/")[:2])
    if not REPOSITORY.match(repository) or ".." in repository:
        raise Invalid(
            N_("A repository is named like “owner/name”."),
            field="repository",
            code="hub.repository",
        )
    if hub == "modelscope" and "/" not in repository:
        raise Invalid(
            N_("A repository is named like “owner/name”."),
            field="repository",
            code="hub.repository",
        )
    revision = revision.strip()
    if revision and (not REVISION.match(revision) or ".." in revision):
        raise Invalid(
            N_("A revision is a branch, a tag or a commit."), field="revision", code="hub.revision"
        )
    return repository, revision


def headers(hub: str, token: str) -> dict[str, str]:
    """Who asks. Sent to the hub's own origin only: see `fetching.stream`."""
    if not token:
        return {}
    own = {"authorization": f"Bearer {token}"}
    # ModelScope's older addresses know a token by the cookie that its own client sets
    return own | ({"cookie": f"m_session_id={token}"} if hub == "modelscope" else {})


def look(kind: str, hub: str, repository: str, revision: str = "", token: str = "") -> Listing:
    """The files of a repository, at the commit that `revision` now is; as who has `token`.

    Raises NotFound, Refused, or Interrupted if the hub cannot be reached.
    """
    try:
        listing = HUBS[hub](kind, repository, revision, token)
    except Refused as error:
        if error.code not in ("address.missing", "address.login"):
            raise
        raise missing(kind, hub, repository, revision, error.code == "address.login") from None
    listing.files = sorted(
        (one for one in listing.files if safe(one.path)), key=lambda one: one.path
    )
    return listing


def missing(kind: str, hub: str, repository: str, revision: str, login: bool) -> NotFound:
    if login:
        return NotFound(
            N_(
                "%(hub)s shows “%(repository)s” to nobody without a sign-in: it does not exist, "
                "is private, or asks its readers to agree to something first."
            ),
            code="hub.login",
            field="repository",
            hub=NAMES[hub],
            repository=repository,
        )
    words = {
        "datasets": N_(
            "%(hub)s has no dataset “%(repository)s”, or not the revision “%(revision)s” of it."
        ),
        "models": N_(
            "%(hub)s has no model “%(repository)s”, or not the revision “%(revision)s” of it."
        ),
    }
    return NotFound(
        words[kind],
        code="hub.missing",
        field="repository",
        hub=NAMES[hub],
        repository=repository,
        revision=revision or "–",
    )


def safe(path: str) -> bool:
    """Whether a path of a listing is one that we would show and ask for."""
    parts = path.split("/")
    return len(path) <= 500 and path.isprintable() and not {"", ".", ".."} & set(parts)


def address(listing: Listing, file: File) -> str:
    base, repository = endpoint(listing.hub)[0], listing.repository
    if listing.hub == "huggingface":
        place = f"datasets/{repository}" if listing.kind == "datasets" else repository
        return f"{base}/{place}/resolve/{quote(file.revision)}/{quote(file.path)}"
    query = urlencode({"Revision": file.revision, "FilePath": file.path})
    return f"{base}/api/v1/{listing.kind}/{repository}/repo?{query}"


# -- the two APIs ------------------------------------------------------------------------


def ask(hub: str, path: str, token: str, **query: Any) -> tuple[fetching.Answer, Any]:
    """JSON from the hub's API. Raises Refused for what is none."""
    base, allow = endpoint(hub)
    url = f"{base}{path}" + (f"?{urlencode(query)}" if query else "")
    answer, body = fetching.read(
        url, limit=JSON_BYTES, seconds=SECONDS, allow=allow, headers=headers(hub, token)
    )
    try:
        return answer, orjson.loads(body)
    except orjson.JSONDecodeError:
        raise odd(hub) from None


def odd(hub: str) -> Refused:
    return Refused(
        N_("%(hub)s answers in a way that is not understood."), code="hub.odd", hub=NAMES[hub]
    )


def too_many(hub: str) -> Refused:
    return Refused(
        N_("%(hub)s lists more files there than can be looked through."),
        code="hub.too_many",
        hub=NAMES[hub],
    )


def huggingface(kind: str, repository: str, revision: str, token: str) -> Listing:
    path = f"/api/{kind}/{repository}"
    wanted = quote(revision or "main", safe="")
    _, about = ask("huggingface", f"{path}/revision/{wanted}", token)
    commit = about.get("sha") if isinstance(about, dict) else None
    if not isinstance(commit, str) or not COMMIT.match(commit):
        raise odd("huggingface")
    listing = Listing(kind, "huggingface", repository, commit, commit)
    for entry in huggingface_tree(f"{path}/tree/{commit}", token):
        lfs = entry.get("lfs") or {}
        if entry.get("type") == "file" and isinstance(entry.get("path"), str):
            size = lfs.get("size", entry.get("size"))
            listing.files.append(File(entry["path"], bytes_of(size), commit, sha(lfs.get("oid"))))
    return listing


def huggingface_tree(path: str, token: str) -> Iterator[dict[str, Any]]:
    """A page after the other, as the Link header says."""
    more: dict[str, str] = {}
    for _ in range(PAGES):
        answer, page = ask("huggingface", path, token, recursive="true", expand="false", **more)
        if not isinstance(page, list):
            raise odd("huggingface")
        yield from (entry for entry in page if isinstance(entry, dict))
        link = re.search(r'<([^>]+)>;\s*rel="next"', answer.headers.get("link", ""))
        cursor = parse_qs(urlsplit(link[1]).query).get("cursor") if link else None
        if not cursor:
            return
        more = {"cursor": cursor[0]}
    raise too_many("huggingface")


def modelscope(kind: str, repository: str, revision: str, token: str) -> Listing:
    """Its files carry the commit that last changed them, which is what is asked for later."""
    tree = "tree" if kind == "datasets" else "files"
    wanted = revision or "master"
    listing = Listing(kind, "modelscope", repository, "", wanted)
    commits: list[str] = []
    short, last = "", (0, "")
    for data in modelscope_tree(f"/api/v1/{kind}/{repository}/repo/{tree}", wanted, token):
        head = data.get("LatestCommitter") or {}
        short = short or str(head.get("Id") or head.get("ShortId") or "")
        for entry in data["Files"]:
            changed = str(entry.get("Revision") or "")
            pinned = changed if COMMIT.match(changed) else wanted
            commits.append(pinned)
            last = max(last, (bytes_of(entry.get("CommittedDate")) or 0, pinned))
            if entry.get("Type") == "blob" and isinstance(entry.get("Path"), str):
                size, digest = bytes_of(entry.get("Size")), sha(entry.get("Sha256"))
                listing.files.append(File(entry["Path"], size, pinned, digest))
    full = (one for one in commits if short and one.startswith(short))
    # without a head, the commit that changed a file last; a wish that is none stays what it is
    newest = last[1] if COMMIT.match(last[1]) and not COMMIT.match(wanted) else wanted
    listing.commit = next(full, short if REVISION.match(short) else newest)
    if COMMIT.match(listing.commit):
        listing.revision = listing.commit
        listing.files = [
            one if COMMIT.match(one.revision) else replace(one, revision=listing.commit)
            for one in listing.files
        ]
    return listing


def modelscope_tree(path: str, revision: str, token: str) -> Iterator[dict[str, Any]]:
    """Pages of the whole tree, then of folders whose files the hub left out."""
    roots, kinds, walked = [""], dict[str, str](), set[str]()
    page = 0
    for _ in range(PAGES):
        query = {"Revision": revision, "Root": roots[0], "Recursive": "True"}
        # a page is asked for until one brings nothing new: hubs differ in how long a page is
        page = 1 if roots[0] not in walked else page + 1
        walked.add(roots[0])
        _, body = ask("modelscope", path, token, **query, PageNumber=page, PageSize=200)
        data = body.get("Data") if isinstance(body, dict) and body.get("Success") else None
        if not isinstance(data, dict):
            raise odd("modelscope")
        if data.get("Files") is None:  # how it says that there is no such revision
            raise Refused(N_("This address gives nothing."), code="address.missing")
        those = [one for one in data["Files"] if isinstance(one, dict)]
        fresh = [one for one in those if str(one.get("Path")) not in kinds]
        if fresh:
            kinds |= {str(one.get("Path")): str(one.get("Type")) for one in fresh}
            yield data | {"Files": fresh}
            continue
        full = {one.rpartition("/")[0] for one in kinds}
        roots = [
            one
            for one, kind in kinds.items()
            if kind == "tree" and one not in full and one not in walked
        ]
        if not roots:
            return
    raise too_many("modelscope")


def bytes_of(size: Any) -> int | None:
    return size if isinstance(size, int) and size >= 0 else None


def sha(digest: Any) -> str:
    """A SHA-256 in hexadecimal, or nothing."""
    return digest if isinstance(digest, str) and re.fullmatch(r"[0-9a-f]{64}", digest) else ""


HUBS = {"huggingface": huggingface, "modelscope": modelscope}
