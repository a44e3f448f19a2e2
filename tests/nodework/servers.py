"""A Postgres and a Valkey that are reached over TCP with passwords, as other machines reach them."""

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
from redis import Redis
from redis.exceptions import RedisError

from app import embedded
from tests.stack import free_port

PASSWORD = "of-the-platform"


@dataclass(frozen=True)
class Servers:
    database_url: str
    redis_url: str

    @property
    def postgres(self) -> str:
        """For psycopg."""
        return self.database_url.replace("+psycopg", "")


@contextmanager
def networked(home: Path) -> Iterator[Servers]:
    """The platform's role makes roles and is no superuser, as on a managed Postgres."""
    at = embedded.place(home)
    port, redis_port = free_port(), free_port()
    embedded.make_cluster(at, sync=False)
    directory = at.data / "postgres"
    access = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
    (directory / "pg_hba.conf").write_text(access)
    flags = f"-c listen_addresses=127.0.0.1 -c port={port} -c fsync=off -c timezone=UTC".split()
    flags += ["-c", f"unix_socket_directories={at.sockets}"]
    server = embedded.dropped(at, at.postgres / "bin" / "postgres", "-D", directory, *flags)
    postgres = embedded.spawn(at, server, directory, home / "postgres.log")
    broker = ["--port", str(redis_port), "--bind", "127.0.0.1", "--requirepass", PASSWORD]
    broker += ["--save", "", "--dir", str(at.data / "valkey")]
    valkey = embedded.spawn(
        at, embedded.dropped(at, at.valkey, *broker), at.data / "valkey", home / "valkey.log"
    )
    try:
        make_role(f"host={at.sockets} port={port} user=postgres dbname=postgres", postgres)
        address = f"redis://:{PASSWORD}@127.0.0.1:{redis_port}/0"
        wait_for_redis(address, valkey)
        yield Servers(f"postgresql+psycopg://danlu:{PASSWORD}@127.0.0.1:{port}/danlu", address)
    finally:
        embedded.stop(postgres, signal.SIGINT)
        embedded.stop(valkey, signal.SIGTERM)


def make_role(address: str, server: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + 60
    while True:
        assert server.poll() is None
        assert time.monotonic() < end
        with suppress(psycopg.OperationalError):
            with psycopg.connect(address, autocommit=True) as db:
                db.execute(f"CREATE ROLE danlu LOGIN CREATEROLE PASSWORD '{PASSWORD}'")
                db.execute("CREATE DATABASE danlu OWNER danlu")
            return
        time.sleep(0.1)


def wait_for_redis(address: str, server: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + 30
    while True:
        assert server.poll() is None
        assert time.monotonic() < end
        with suppress(RedisError):
            Redis.from_url(address).ping()
            return
        time.sleep(0.1)
