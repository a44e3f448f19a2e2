"""`danlu up`: everything on one machine, under one supervisor in the foreground.

Postgres, Valkey, web, beat, a Celery worker and the node process are children, each in a session
of its own, started again when they die. Trainers and engines are not: the node process starts them
detached, so they outlive us when we are killed, and the next `up` finds them.
"""

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
from app.supervise import MARK, Child, Refused, claim, claim_port, end_marked, say

LOG_LIMIT = 20 * 1024 * 1024  # bytes; a larger log is put aside at the next start
DRAIN = 40.0  # seconds in which trainers leave a checkpoint and engines end


def main() -> int:
    """Run until a signal asks us to stop. The exit status is not 0 if it could not start."""
    os.umask(0o077)
    home = settings.home = Path(os.path.abspath(settings.home.expanduser()))  # noqa: PTH100 - keeps links
    try:
        make_home(home)
        with claim(home):
            end_marked(home, runs=False, grace=8)
            claim_port(settings.host, settings.port)
            return Stack(home).run()
    except (Refused, embedded.Unstartable) as error:
        sys.stderr.write(f"{error}\n")
        return 1


def make_home(home: Path) -> None:
    """The home and what is in it; nobody else's business, save the way to the servers' data."""
    if not home.exists() or not any(home.iterdir()):
        home.mkdir(parents=True, exist_ok=True)
        home.chmod(0o711 if os.geteuid() == 0 else 0o700)
    for path in (home / "logs", settings.runs, settings.cache, settings.spool, settings.uploads):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)


class Stack:
    """The servers and processes of one home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.signals = 0  # how often we were asked to stop
        self.began = time.monotonic()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self.heard)
        self.servers = servers(home)
        self.environment = environment(home)
        self.own = processes(self.environment)
        self.active: list[Child] = [*self.servers]

    def heard(self, *_: object) -> None:
        self.signals += 1

    def run(self) -> int:
        """Start, tend, and when asked stop everything."""
        say("Danlu 丹炉 is starting · 正在启动")
        try:
            self.start()
            while not self.signals:
                self.tend()
                time.sleep(0.2)
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
        schema = schema_version()
        mark = self.home / "schema"  # what `app.seed` has brought this home to
        if mark.exists() and mark.read_text() == schema:
            self.activate("web")  # its imports take longer than all the rest
        seed = python("seed", ["app.seed"], self.environment)
        while not self.signals and seed.poll() is None:
            self.tend_or_refuse()
        if self.signals:
            seed.terminate()
            return
        if seed.returncode:
            raise Refused(failure("seed", "The database could not be prepared."))
        mark.write_text(schema)
        self.activate("web")
        head_start = time.monotonic() + 4  # people wait for web; the others may wait for it, too
        while not self.signals and not self.own["web"].is_ready and time.monotonic() < head_start:
            self.tend_or_refuse()
        self.activate("worker", "node", "beat")
        while not self.signals and not all(child.is_ready for child in self.active):
            self.tend_or_refuse()
        if not self.signals:
            self.announce()

    def activate(self, *names: str) -> None:
        for name in names:
            if self.own[name] not in self.active:
                self.own[name].start()
                self.active.append(self.own[name])

    def tend_or_refuse(self) -> None:
        """Raises Refused when something dies again and again before it was ever ready."""
        self.tend()
        for child in self.active:
            if child.failures >= (5 if child in self.servers else 3):
                raise Refused(failure(child.name, f"{child.name} does not start."))
        time.sleep(0.05)

    def announce(self) -> None:
        """The address, and the first sign-in while the password is still the first one."""
        seconds = time.monotonic() - self.began
        lines = ["", f"  丹炉 Danlu is ready · 已就绪  ({seconds:.1f} s)", ""]
        lines.append(f"  address · 地址    {settings.url}")
        try:
            first = json.loads((self.home / "first-run.json").read_text())
            lines.append(f"  sign-in · 登录    {first['email']}")
            lines.append(f"  password · 密码   {first['password']}")
            lines.append(f"  ({self.home / 'first-run.json'})")
        except (OSError, ValueError, KeyError):
            pass  # its owner removed it, as one may
        if not settings.serve_python.exists() and settings.engine != "transformers":
            lines.append("  vLLM is not installed here; transformers serves instead · ")
            lines[-1] += "未安装 vLLM，将由 transformers 提供服务"
        lines += [f"  logs · 日志       {self.home / 'logs'}", "  Ctrl-C stops it · 按 Ctrl-C 停止"]
        say("\n".join([*lines, ""]))

    # -- stopping ------------------------------------------------------------------------

    def stop(self) -> None:
        """Nothing new starts, runs leave, then the servers. A second signal makes it quick."""
        heard = max(self.signals, 1)
        beat, worker, node, web = (self.own[name] for name in ("beat", "worker", "node", "web"))
        self.finish(heard, (beat, worker), 10)
        self.finish(heard, (node,), DRAIN, signal.SIGUSR1)
        self.finish(heard, (web,), 8)
        end_marked(self.home, runs=True, grace=0 if self.signals > heard else 30)
        self.finish(heard, self.servers, 20)

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
    """Ours, and what we found out. libpq's own variables would divert the embedded Postgres."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return kept | {
        MARK: str(home),
        "DANLU_HOME": str(home),
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
    }


def processes(env: dict[str, str]) -> dict[str, Child]:
    """web, worker, node, beat."""
    web = "uvicorn app.main:app --loop uvloop --http httptools --no-proxy-headers --no-access-log"
    web += " --no-server-header --timeout-graceful-shutdown 5 --host"
    worker = "celery -A workers.celery worker -c 2 --disable-prefetch --pool prefork -l WARNING"
    worker += " --without-gossip --without-mingle"
    beat = "celery -A workers.celery beat -l WARNING --pidfile="
    queues = f"control,node.{settings.node}"
    commands = {
        "web": [*web.split(), settings.host, "--port", str(settings.port)],
        "worker": [*worker.split(), "-Q", queues, "-n", f"{settings.node}@danlu"],
        "node": ["workers.node"],
        "beat": beat.split(),
    }

    def launcher(name: str) -> Callable[[], subprocess.Popen[bytes]]:
        return lambda: python(name, commands[name], env)

    return {
        name: Child(name, launcher(name), ready=web_ready if name == "web" else lambda: True)
        for name in commands
    }


def python(name: str, argv: list[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
    """`python -m argv`, logging to `logs/<name>.log`. It ends when we do, however we do."""
    with log_file(name).open("ab") as out:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", "--", sys.executable, "-m", *argv],
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )


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
