"""`danlu backup` and `danlu restore`, and what `danlu up` does before it changes older tables.

Processes of their own beside the console: they work while it runs and while it does not, and start
the embedded Postgres themselves where nobody else has.
"""

import argparse
import contextlib
import getpass
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import psycopg
from sqlalchemy import text

import app.tables  # noqa: F401 - migrations know every table
from app import embedded, sealing
from app.accounts import resealing
from app.backups import making, restoring, schema
from app.backups.archive import SUFFIX, Reader
from app.backups.making import Wanted
from app.cli.text import _
from app.config import settings
from app.db import engine
from app.errors import N_, DomainError
from app.queue import transaction
from app.seed import wait_for_database
from app.supervise import Refused, claim, say
from app.up import PARTS, make_home

UPGRADING = 0x7570677261  # "upgra": two machines that start at once do this one after the other
UPGRADE = "upgrade-from-"  # begins the names of backups made before a migration
KEPT = 3  # of those
SETTLES = 2.0  # seconds in which others have read a key that was changed


def main() -> int:
    """Exit status: 0 if it did what it says, 1 if it could not, 2 for a wrong line."""
    options = arguments().parse_args()
    os.umask(0o077)
    home = getattr(options, "home", None) or settings.home
    settings.home = Path(os.path.abspath(home.expanduser()))  # noqa: PTH100 - keeps links
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(130))
    try:
        options.run(options)
    except DomainError as error:
        sys.stderr.write(_(error.message, **error.params) + "\n")
        return 1
    except (Refused, embedded.Unstartable) as refusal:
        sys.stderr.write(f"{refusal}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="danlu")
    verbs = parser.add_subparsers(required=True)
    for name, run in (
        ("backup", backup),
        ("restore", restore),
        ("reseal", reseal),
        ("upgrade", upgrade),
    ):
        verb = verbs.add_parser(name)
        verb.set_defaults(run=run)
        if name == "backup":
            verb.add_argument("place", type=Path)
            verb.add_argument("--without-artefacts", action="store_true")
            verb.add_argument("--without-key", action="store_true")
            verb.add_argument("--list", action="store_true")
            verb.add_argument("--verify", action="store_true")
        elif name == "restore":
            verb.add_argument("file", type=Path)
            verb.add_argument("--home", type=Path)
            verb.add_argument("--key-file", type=Path)
    return parser


# -- another secret key ------------------------------------------------------------------


def reseal(_options: argparse.Namespace) -> None:
    """See `app.accounts.resealing`. Again until nothing is left that somebody sealed meanwhile."""
    with database():
        resealing.begin()
        changed = 0
        while True:
            with transaction() as db:
                found = resealing.reseal(db)
            changed += found
            if not found:
                break
            time.sleep(SETTLES)
        finish(_("Sealed anew: %(count)s values.", count=changed))
        if resealing.finish():
            say(_("The old key is gone from %(file)s.", file=settings.home / sealing.NAME))
        else:
            say(_("The other keys in DANLU_SECRET_KEY are not needed any more."))


# -- backup ------------------------------------------------------------------------------


def backup(options: argparse.Namespace) -> None:
    if options.list:
        listed(options.place)
        return
    if options.verify:
        with options.place.open("rb") as file:
            reader = Reader(file)
            reader.verify(progress())
        finish(described(reader))
        return
    wanted = Wanted(artefacts=not options.without_artefacts, key=not options.without_key)
    place = options.place.absolute()
    with database():
        made = making.make(place, wanted, progress())
        with made.open("rb") as file:
            facts = Reader(file)
    finish(str(made))
    say(described(facts))
    if facts.manifest["artefacts"] == "elsewhere":
        say(_("The artefacts are in %(store)s and not in it.", store=settings.store_url))
    if facts.manifest["key"] == "included":
        say(_("It holds the secret key: whoever has the file reads the secrets in it."))


def listed(directory: Path) -> None:
    for path in sorted(directory.glob(f"*{SUFFIX}")):
        try:
            with path.open("rb") as file:
                say(f"{path.name}  {described(Reader(file))}")
        except DomainError as error:
            say(f"{path.name}  {_(error.message, **error.params)}")


def described(reader: Reader) -> str:
    facts = reader.manifest
    size = sum(member.size for member in reader.members)
    counts = ", ".join(f"{count} {table}" for table, count in facts["counts"].items())
    at = datetime.fromisoformat(facts["at"]).astimezone()
    return _(
        "%(at)s, Danlu %(danlu)s (revision %(revision)s), %(size)s MB; %(counts)s; artefacts: %(artefacts)s; key: %(key)s",
        at=f"{at:%Y-%m-%d %H:%M}",
        danlu=facts["danlu"],
        revision=facts["revision"],
        size=f"{size / 1e6:.1f}",
        counts=counts,
        artefacts=_(WORDS.get(facts["artefacts"], "?")),
        key=_(WORDS.get(facts["key"], "?")),
    )


WORDS = {
    "included": N_("included"),
    "left out": N_("left out"),
    "elsewhere": N_("in a store elsewhere"),
}


def progress() -> Callable[[str, int], None]:
    """Tells a terminal how far it is, a few times a second."""
    if not sys.stderr.isatty():
        return making.quiet
    last = 0.0

    def tell(member: str, done: int) -> None:
        nonlocal last
        if time.monotonic() - last > 0.3:
            last = time.monotonic()
            sys.stderr.write(f"\r\x1b[K{done / 1e6:.0f} MB  {member[:60]}")
            sys.stderr.flush()

    return tell


def finish(line: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
    say(line)


# -- the database ------------------------------------------------------------------------


@contextlib.contextmanager
def database() -> Iterator[None]:
    """`settings` name a database that answers: one that runs, or one that we start meanwhile."""
    if settings.database_url:
        wait_for_database(10)
        yield
        return
    if not settings.home.is_dir() or not any(settings.home.iterdir()):
        raise Refused(_("There is no Danlu in %(home)s.", home=settings.home))
    at = embedded.place(settings.home)
    name_database(at)
    with contextlib.suppress(psycopg.OperationalError):
        psycopg.connect(settings.database_url.replace("+psycopg", "")).close()
        yield
        return
    with claim(settings.home, PARTS), started(at):
        yield


def name_database(at: embedded.Place) -> None:
    settings.database_url = at.database_url
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]  # libpq would follow them to another server


@contextlib.contextmanager
def started(at: embedded.Place) -> Iterator[None]:
    """The home's own Postgres, for as long as we need it."""
    logs = settings.home / "logs"
    logs.mkdir(mode=0o700, exist_ok=True)
    server = embedded.start_postgres(at, logs / "postgres.log")
    try:
        end = time.monotonic() + 60
        while not embedded.postgres_ready(at):
            if server.poll() is not None or time.monotonic() > end:
                raise Refused(_("Postgres does not start; see %(log)s.", log=logs / "postgres.log"))
            time.sleep(0.05)
        yield
    finally:
        engine().dispose()
        embedded.stop(server, signal.SIGINT, 60)


# -- restore -----------------------------------------------------------------------------


def restore(options: argparse.Namespace) -> None:
    home = settings.home
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise Refused(_("%(home)s is not empty. Restore into an empty home.", home=home))
    try:
        file = options.file.open("rb")
    except OSError as error:
        raise Refused(f"{options.file}: {error.strerror}") from None
    with file:
        reader = Reader(file)
        schema.refuse_newer(reader.manifest["revision"])
        key = asked_key(reader, options.key_file)
        reader.verify(progress())
        new = not home.exists()
        try:
            make_home(home)
            fill(reader, key)
        except BaseException:
            emptied(home, itself=new)
            raise
    finish(_("Restored into %(home)s.", home=home))
    say(described(reader))
    if reader.manifest["artefacts"] == "elsewhere":
        say(_("Its artefacts are in a store elsewhere: set DANLU_STORE as it was."))
    say(_("Start it: DANLU_HOME=%(home)s danlu up", home=home))


def asked_key(reader: Reader, key_file: Path | None) -> str:
    """The secret key of a backup without one: from a file, or typed; may be left out."""
    if key_file:
        return key_file.read_text()
    if reader.manifest["key"] == "included" or settings_have_key() or not sys.stdin.isatty():
        return ""
    return getpass.getpass(_("The secret key (empty: secrets have to be entered again): "))


def settings_have_key() -> bool:
    return bool(os.environ.get("DANLU_SECRET_KEY"))


def fill(reader: Reader, key: str) -> None:
    with contextlib.ExitStack() as stack:
        if settings.database_url:
            wait_for_database(10)
        else:
            at = embedded.place(settings.home)
            name_database(at)
            stack.enter_context(claim(settings.home, PARTS))
            stack.enter_context(started(at))
        restoring.check(reader)
        restoring.restore(reader, key, progress())


def emptied(home: Path, *, itself: bool) -> None:
    """As it was found."""
    data = embedded.SYSTEM / (home / "embedded-id").read_text().strip() if (
        home / "embedded-id"
    ).exists() else None  # fmt: skip
    for path in (*(home.iterdir() if home.is_dir() else ()), *([data] if data else [])):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    if itself:
        shutil.rmtree(home, ignore_errors=True)


# -- before `danlu up` -------------------------------------------------------------------


def upgrade(_options: argparse.Namespace) -> None:
    """Bring an older database to this code's tables, with a backup before."""
    wait_for_database()
    with engine().connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": UPGRADING})
        connection.commit()
        found = schema.revision(connection)
        connection.rollback()
        schema.refuse_newer(found)
        if schema.state(found) != "older":
            return
        kept = backed_up(found) if settings.upgrade_backup else None
        say(
            f"Bringing the data from revision {found} to {schema.known()[0]} · "
            f"正在将数据从版本 {found} 升级到 {schema.known()[0]}"
        )
        try:
            schema.migrate()
        except Exception as error:
            raise Refused(not_migrated(error, kept)) from error


def backed_up(found: str) -> Path:
    """The last few are kept; those with artefacts are the user's to make."""
    place = settings.home / "backups"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        making.room_for_database(place)
        file = place / f"{UPGRADE}{found}-{making.name()}"
        made = making.make(file, Wanted(artefacts=False))
    except DomainError as error:
        raise Refused(
            f"{_(error.message, **error.params)}\n"
            "No backup, so nothing was changed. Make room, or start with --no-backup. · "
            "未能备份，因此未做任何更改。请腾出空间，或使用 --no-backup 启动。"
        ) from error
    say(f"Backup before the upgrade · 升级前的备份: {made}")
    for old in sorted(place.glob(f"{UPGRADE}*"), key=lambda path: path.stat().st_mtime)[:-KEPT]:
        old.unlink(missing_ok=True)
    return made


def not_migrated(error: Exception, kept: Path | None) -> str:
    """What to do; the migration's transaction has left everything as it was."""
    lines = [
        f"The upgrade failed: {error}",
        "Nothing was changed: start the version before this one to go on.",
        "升级失败，数据未被更改：请启动之前的版本继续使用。",
    ]
    if kept:
        lines.append(
            f"Or restore the backup into an empty home · 或将备份恢复到空目录: "
            f"danlu restore {kept} --home DIRECTORY"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
