"""A bucket for tests, on moto's S3 server, and a store that is it."""

import os
import socket
from collections.abc import Iterator

import pytest

from app import bucket
from app.config import settings

ACCOUNT = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The address of a running server."""
    from moto.server import ThreadedMotoServer  # seconds that only its users pay

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture
def bucketed(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """`settings.store` is an empty bucket's prefix; its name."""
    import boto3

    for name, value in (ACCOUNT | {"AWS_ENDPOINT_URL": s3}).items():
        monkeypatch.setenv(name, value)
    account = boto3.resource("s3", endpoint_url=s3, region_name="us-east-1")
    made = account.create_bucket(Bucket="danlu")
    monkeypatch.setattr(settings, "store", "s3://danlu/some/prefix")
    bucket.client.cache_clear()
    yield "danlu"
    made.objects.all().delete()
    made.delete()
    bucket.client.cache_clear()


def kinds(name: str) -> set[str]:
    """Of what artefacts the bucket holds anything."""
    import boto3

    account = boto3.resource("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    return {one.key.split("/")[2] for one in account.Bucket(name).objects.all()}
