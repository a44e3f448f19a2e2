"""A bucket of S3, or of anything that speaks its protocol: `s3://bucket/prefix`.

Endpoint, region and credentials are the usual ones (`AWS_ENDPOINT_URL`, `AWS_REGION`,
`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, or a profile, or the machine's role). An artefact is its
files and, written last, a manifest that names each with its size and hash: without it, it is not there.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from app.config import settings

MANIFEST = ".manifest.json"
LARGE = 100 * 2**30  # bytes
ABSENT = {"404", "NoSuchKey", "NotFound"}
REFUSED = {"403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"}


class File(NamedTuple):
    size: int  # bytes
    sha256: str


Manifest = dict[str, File]  # by path inside the artefact


class Torn(OSError):
    """What came is not what was put there. Raised after the file is removed; trying again may help."""


@lru_cache
def client() -> Any:
    """Safe to use from several threads. Broken connections and busy servers are tried again."""
    import boto3  # half a second that only a bucket's users pay
    from botocore.config import Config

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    style = settings.s3_addressing if settings.s3_addressing != "auto" or not endpoint else "path"
    return boto3.session.Session().client(
        "s3",
        region_name=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or None,
        config=Config(
            connect_timeout=5,
            read_timeout=60,
            retries={"mode": "standard", "total_max_attempts": 6},
            s3={"addressing_style": style},
            request_checksum_calculation="when_required",  # not every server knows the newer ones
            response_checksum_validation="when_required",
        ),
    )


def place(artefact: str, name: str = "") -> tuple[str, str]:
    """(bucket, key) of a file of an artefact."""
    address = urlsplit(settings.store_url)
    return address.netloc, "/".join([*filter(None, [address.path.strip("/")]), artefact, name])


@contextlib.contextmanager
def told(artefact: str) -> Iterator[None]:
    """A missing object is raised as FileNotFoundError, a refusal as PermissionError."""
    from botocore.exceptions import ClientError

    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in ABSENT:
            raise FileNotFoundError(artefact) from error
        if code in REFUSED:
            raise PermissionError(f"the store refuses: {error}") from error
        raise


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def manifest(artefact: str) -> Manifest:
    """Raises FileNotFoundError."""
    value = json.loads(content(artefact, MANIFEST))
    return {name: File(*facts) for name, facts in value["files"].items()}


def content(artefact: str, name: str) -> bytes:
    """A small file, whole. Raises FileNotFoundError."""
    bucket, key = place(artefact, name)
    with told(artefact):
        found: bytes = client().get_object(Bucket=bucket, Key=key)["Body"].read()
    return found


def upload(directory: Path, artefact: str) -> Manifest:
    """Put the files there, then the manifest. An artefact that is there stays as it is."""
    try:
        return manifest(artefact)
    except FileNotFoundError:
        pass
    files: Manifest = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            name = path.relative_to(directory).as_posix()
            files[name] = File(path.stat().st_size, digest(path))
            bucket, key = place(artefact, name)
            client().upload_file(str(path), bucket, key, Config=transfer(files[name].size))
    bucket, key = place(artefact, MANIFEST)
    client().put_object(Bucket=bucket, Key=key, Body=json.dumps({"files": files}).encode())
    return files


def transfer(size: int) -> Any:
    """4 parts of 16 MB at a time are all that is held in memory. 10,000 parts are the most there
    may be, so a file of 100 GB and more has larger ones.
    """
    from boto3.s3.transfer import TransferConfig

    part = 16 * 2**20 if size < LARGE else 256 * 2**20
    return TransferConfig(
        multipart_threshold=part, multipart_chunksize=part, max_concurrency=64 * 2**20 // part or 1
    )


def download(artefact: str, name: str, file: File, to: Path) -> None:
    """The file at `to`, on the disk and found to be what was put there. Raises Torn."""
    bucket, key = place(artefact, name)
    with told(f"{artefact}/{name}"):
        client().download_file(bucket, key, str(to), Config=transfer(0))
    if to.stat().st_size != file.size or digest(to) != file.sha256:
        to.unlink()
        raise Torn(f"{artefact}/{name} came damaged out of the store")
    with to.open("rb") as written:
        os.fsync(written.fileno())


def delete(artefact: str) -> None:
    """The manifest first: half an artefact is none."""
    bucket, key = place(artefact, MANIFEST)
    client().delete_object(Bucket=bucket, Key=key)
    found = keys(artefact)
    while some := list(islice(found, 1000)):
        client().delete_objects(
            Bucket=bucket, Delete={"Objects": [{"Key": one} for one in some], "Quiet": True}
        )


def standing(kind: str) -> Iterator[tuple[str, datetime]]:
    """The ids of one kind, also of those without a manifest, and when each was last written to."""
    bucket, prefix = place(kind)
    pages = client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    last: dict[str, datetime] = {}
    for one in (one for page in pages for one in page.get("Contents", ())):
        artefact = f"{kind}/{one['Key'][len(prefix) :].partition('/')[0]}"
        last[artefact] = max(last.get(artefact, one["LastModified"]), one["LastModified"])
    yield from last.items()


def abort(kind: str, before: datetime) -> None:
    """Uploads in parts that began before that time and never ended: nobody sees their bytes."""
    bucket, prefix = place(kind)
    pages = client().get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix)
    for one in [one for page in pages for one in page.get("Uploads", ())]:
        if one["Initiated"] < before:
            client().abort_multipart_upload(Bucket=bucket, Key=one["Key"], UploadId=one["UploadId"])


def keys(artefact: str) -> Iterator[str]:
    bucket, prefix = place(artefact)
    pages: Iterable[dict[str, Any]] = (
        client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    )
    return (one["Key"] for page in pages for one in page.get("Contents", ()))
