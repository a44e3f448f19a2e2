"""`danlu up`: everything on one machine, under one supervisor in the foreground.

Postgres, Valkey, web, beat, a Celery worker and the node process are children, each in a session
of its own, started again when they die. Trainers and engines are not: the node process starts them
detached, so they outlive us when we are killed, and the next `up` finds them.
"""

import argparse
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from app import embedded
from app.config import ROOT, settings
from app.supervise import (
    TAKE_OVER,
    Child,
    Refused,
    claim,
    claim_port,
    end_marked,
    mark,
    say,
    take_over,
)

PARTS = ("web", "worker", "node", "beat")
LOG_LIMIT = 20 * 1024 * 1024  # bytes; a larger log is put aside at the next start
DRAIN = 40.0  # seconds in which trainers leave a checkpoint and engines end


def main() -> int:
    """Run until a signal asks us to stop. The exit status is not 0 if it could not start."""
    parser = argparse.ArgumentParser(prog="danlu up")
    parser.add_argument("--only")
    parser.add_argument("--take-over", action="store_true")
    parser.add_argument("--no-backup", action="store_true")
    asked = parser.parse_args()
    chosen = asked.only
    settings.upgrade_backup = settings.upgrade_backup and not asked.no_backup
    os.umask(0o077)
    home = settings.home = Path(os.path.abspath(settings.home.expanduser()))  # noqa: PTH100 - keeps links
    try:
        parts = chosen_parts(chosen)
        make_home(home)
        if asked.take_over:
            take_over(home, parts)
        with claim(home, parts):
            end_marked(home, (*parts, "seed"), runs=False, grace=8)
            if "web" in parts:
                claim_port(settings.host, settings.port)
            return Stack(home, parts, to_files=chosen is None).run()
    except (Refused, embedded.Unstartable) as error:
        sys.stderr.write(f"{error}\n")
        return 1


def chosen_parts(only: str | None) -> tuple[str, ...]:
    """What `--only web,beat` names; everything without it."""
    if only is None and not settings.server:
        return PARTS
    parts = tuple((only or "worker,node").split(","))
    if settings.server and not set(parts) <= {"worker", "node"}:
        raise Refused(f"This home is a node of {settings.server}: --only takes worker,node here.")
    if not set(parts) <= set(PARTS):
        raise Refused(f"--only takes some of {','.join(PARTS)}, not {only}.")
    if not (settings.database_url and settings.redis_url):
        raise Refused("--only needs servers that all machines reach: DATABASE_URL and REDIS_URL.")
    return parts


def make_home(home: Path) -> None:
    """The home and what is in it; nobody else's business, save the way to the servers' data."""
    if not home.exists() or not any(home.iterdir()):
        home.mkdir(parents=True, exist_ok=True)
        home.chmod(0o711 if os.geteuid() == 0 else 0o700)
    for path in (home / "logs", settings.runs, settings.cache, settings.spool, settings.uploads):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)


class Stack:
    """The servers, and those processes of one home that are ours to run."""

    def __init__(self, home: Path, parts: tuple[str, ...], *, to_files: bool) -> None:
        self.home = home
        self.to_files = to_files  # else the children write where we do, as containers want it
        self.signals = 0  # how often we were asked to stop
        self.leaves_runs = False  # asked by who takes over
        self.began = time.monotonic()
        self.is_first = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self.heard)
        signal.signal(TAKE_OVER, self.relieved)
        self.servers = servers(home)
        self.own = {
            name: Child(
                name,
                lambda name=name: self.python(name, commands()[name]),  # type: ignore[misc]
                ready=web_ready if name == "web" else lambda: True,
            )
            for name in parts
        }
        self.active: list[Child] = [*self.servers]

    def python(self, name: str, argv: list[str]) -> subprocess.Popen[bytes]:
        """`python -m argv`. It ends when we do, however we do."""
        log = log_file(name).open("ab") if self.to_files else None
        try:
            return subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", "--", sys.executable, "-m", *argv],
                cwd=ROOT,
                env=environment(self.home) | mark(self.home, name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        finally:
            if log:
                log.close()

    def heard(self, *_: object) -> None:
        self.signals += 1

    def relieved(self, *_: object) -> None:
        """Another one takes over: stop, and leave trainers and engines to it."""
        self.leaves_runs = True
        self.signals += 1

    def run(self) -> int:
        """Start, tend, and when asked stop everything."""
        say("Danlu 丹炉 is starting · 正在启动")
        try:
            self.start()
            while not self.signals:
                self.tend()
                time.sleep(0.2)
            if self.leaves_runs:
                say("Making way for another; runs go on · 正在移交，运行中的任务不受影响")
            else:
                say("Stopping; training leaves a checkpoint first · 正在停止，训练会先保存检查点")
            return 0
        finally:
            self.stop()
            say("Stopped · 已停止")

    def tend(self) -> None:
        for child in self.active:
            try:
                child.tend()
            except OSError as error:  # no process to be had, or no memory, at the moment
                child.lost(str(error))

    def start(self) -> None:
        """Bring all of it up, side by side where one does not need the other."""
        for server in self.servers:
            server.start()
        if "web" in self.own:
            self.seed()
            head_start = time.monotonic() + 4  # people wait for web; the others may wait for it
            self.settle(lambda: self.own["web"].is_ready or time.monotonic() > head_start)
        if not self.signals:
            self.activate(*self.own)
        self.settle(lambda: all(child.is_ready for child in self.active))
        if not self.signals:
            self.announce()

    def seed(self) -> None:
        """Run `app.seed` and start web: together where the tables are as web wants them."""
        schema, written = schema_version(), self.home / "schema"
        self.is_first = not written.exists()
        if not self.is_first and written.read_text() == schema:
            self.activate("web")
        elif not self.is_first or not any(one.name == "postgres" for one in self.servers):
            self.upgrade()
        seed = self.python("seed", ["app.seed"])
        self.settle(lambda: seed.poll() is not None)
        if seed.poll() is None:
            seed.terminate()
        elif seed.returncode:
            raise Refused(failure("seed", "The database could not be prepared."))
        else:
            written.write_text(schema)
            self.activate("web")

    def upgrade(self) -> None:
        """Tables of an older version are backed up and changed; of a newer one, refused."""
        command = ["setpriv", "--pdeathsig", "TERM", "--", sys.executable, "-m", "app.backup"]
        child = subprocess.Popen(
            [*command, "upgrade"],
            cwd=ROOT,
            env=environment(self.home) | mark(self.home, "seed"),
            stdin=subprocess.DEVNULL,
        )
        self.settle(lambda: child.poll() is not None)
        if child.poll() is None:
            child.terminate()
            child.wait()
        elif child.returncode:
            raise Refused("Danlu does not start on this data. · 无法使用这份数据启动 Danlu。")

    def settle(self, done: Callable[[], bool]) -> None:
        """Tend until `done`, or until we are asked to stop.

        Raises Refused when something dies again and again before it was ever ready.
        """
        while not self.signals and not done():
            self.tend()
            for child in self.active:
                if child.failures >= (5 if child in self.servers else 3):
                    raise Refused(failure(child.name, f"{child.name} does not start."))
            time.sleep(0.05)

    def activate(self, *names: str) -> None:
        for name in names:
            if self.own[name] not in self.active:
                self.own[name].start()
                self.active.append(self.own[name])

    def announce(self) -> None:
        """The address, and at the first start the first sign-in."""
        seconds = time.monotonic() - self.began
        if "web" not in self.own:
            say(f"Danlu 丹炉: {', '.join(self.own)} · 已就绪  ({seconds:.1f} s)")
            return
        file = self.home / "first-run.json"
        lines = ["", f"  丹炉 Danlu is ready · 已就绪  ({seconds:.1f} s)", ""]
        lines.append(f"  address · 地址    {settings.url}")
        if self.is_first and file.exists():
            first = json.loads(file.read_text())
            lines.append(f"  sign-in · 登录    {first['email']}")
            lines.append(f"  password · 密码   {first['password']}")
        if file.exists():
            lines.append(f"  first sign-in and API key · 首次登录信息与 API key: {file}")
        if not settings.serve_python.exists() and settings.engine != "transformers":
            lines.append("  vLLM is not installed here; transformers serves instead · ")
            lines[-1] += "未安装 vLLM，将由 transformers 提供服务"
        if self.to_files:
            lines.append(f"  logs · 日志       {self.home / 'logs'}")
        lines.append("  Ctrl-C stops it · 按 Ctrl-C 停止")
        say("\n".join([*lines, ""]))

    # -- stopping ------------------------------------------------------------------------

    def stop(self) -> None:
        """Nothing new starts, runs leave, then the servers. A second signal makes it quick."""
        heard = max(self.signals, 1)
        leave = signal.SIGTERM if self.leaves_runs else signal.SIGUSR1
        self.finish(heard, self.some("beat", "worker"), 10)
        self.finish(heard, self.some("node"), DRAIN, leave)
        self.finish(heard, self.some("web"), 8)
        grace = 0 if self.signals > heard else 30
        runs = "node" in self.own and not self.leaves_runs
        end_marked(self.home, (*self.own, "seed"), runs=runs, grace=grace)
        self.finish(heard, self.servers, 20)

    def some(self, *names: str) -> list[Child]:
        return [self.own[name] for name in names if name in self.own]

    def finish(
        self,
        heard: int,
        children: Iterable[Child],
        seconds: float,
        kind: signal.Signals | None = None,
    ) -> None:
        for child in children:
            child.ask(kind)
        end = time.monotonic() + seconds
        while any(child.running for child in children) and time.monotonic() < end:
            if self.signals > heard and children is not self.servers:
                break
            time.sleep(0.05)
        for child in children:
            child.end()


# -- the children ------------------------------------------------------------------------


def log_file(name: str) -> Path:
    """`logs/<name>.log`, put aside first if it grew large."""
    path = settings.home / "logs" / f"{name}.log"
    if path.exists() and path.stat().st_size > LOG_LIMIT:
        path.rename(path.with_suffix(".log.1"))
    return path


def failure(name: str, sentence: str) -> str:
    """`sentence` and the end of a log."""
    path = settings.home / "logs" / f"{name}.log"
    tail = path.read_text(errors="replace").splitlines()[-20:] if path.exists() else []
    return "\n".join([f"{sentence} The log {path} ends so · 日志结尾如下:", *tail])


def servers(home: Path) -> list[Child]:
    """The embedded servers that no setting replaces; `settings` name them from here on."""
    if settings.database_url and settings.redis_url:
        return []
    at = embedded.place(home)
    found = []
    if not settings.database_url:
        settings.database_url = at.database_url
        for name in [name for name in os.environ if name.startswith("PG")]:
            del os.environ[name]  # libpq would follow them to another server
        found.append(
            Child(
                "postgres",
                lambda: embedded.start_postgres(at, log_file("postgres")),
                ends_by=signal.SIGINT,
                ready=lambda: embedded.postgres_ready(at),
            )
        )
    if not settings.redis_url:
        settings.redis_url = at.redis_url
        valkey = Child(
            "valkey", lambda: start_valkey(at, valkey), ready=lambda: embedded.valkey_ready(at)
        )
        found.append(valkey)
    return found


def start_valkey(at: embedded.Place, child: Child) -> subprocess.Popen[bytes]:
    """Its data holds nothing that may not be lost, so data it cannot read must not stop us."""
    if child.failures >= 3 and embedded.set_aside_broken_log(at):
        say("valkey cannot read its data and starts empty · valkey 数据损坏，将以空数据启动")
    return embedded.start_valkey(at, log_file("valkey"))


def environment(home: Path) -> dict[str, str]:
    """Ours, and what we found out."""
    return os.environ | {
        "DANLU_HOME": str(home),
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "DANLU_UPGRADE_BACKUP": str(settings.upgrade_backup),
    }


def commands() -> dict[str, list[str]]:
    """What runs as each of PARTS: arguments of `python -m`."""
    web = "uvicorn app.main:app --loop uvloop --http app.protocol:Protocol --no-proxy-headers"
    web += " --no-access-log --no-server-header --timeout-graceful-shutdown 5 --host"
    worker = "celery -A workers.celery worker -c 2 --disable-prefetch --pool prefork -l WARNING"
    worker += " --without-gossip --without-mingle"
    queues = f"control,node.{settings.node}"
    if settings.server:  # a node of another's platform: its own queue alone
        queues = f"node.{settings.node}"
        worker += " --without-heartbeat"
    return {
        "web": [*web.split(), settings.host, "--port", str(settings.port)],
        "worker": [*worker.split(), "-Q", queues, "-n", f"{settings.node}@danlu"],
        "node": ["workers.node"],
        "beat": "celery -A workers.celery beat -l WARNING --pidfile=".split(),
    }


def web_ready() -> bool:
    """Whether /readyz answers 200."""
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what users may set
    host = everywhere.get(settings.host, settings.host)
    line = http.client.HTTPConnection(host, settings.port, timeout=2)
    try:
        line.request("GET", "/readyz", headers={"Host": f"127.0.0.1:{settings.port}"})
        return line.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        line.close()


def schema_version() -> str:
    """The names of all migrations: a home brought to them needs no more before web starts."""
    return " ".join(sorted(path.name for path in (ROOT / "migrations" / "versions").glob("*.py")))


if __name__ == "__main__":
    sys.exit(main())
