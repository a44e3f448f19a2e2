"""`danlu node`: this machine as a node of a Danlu elsewhere."""

import json
import os
import socket
import sys
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from app.cli.client import Failed, Row, reaching, sentence
from app.cli.output import say, tell
from app.cli.text import _, language

app = typer.Typer(no_args_is_help=True, help=_("This machine as a node of a Danlu elsewhere."))


@app.command(help=_("Join with a token from the page of nodes; `danlu node up` then works for it."))
def join(
    url: Annotated[str, typer.Argument(help=_("Where Danlu is, as browsers have it."))],
    token: Annotated[
        str,
        typer.Option(envvar="DANLU_JOIN_TOKEN", help=_("The token; read from stdin if it is -.")),
    ] = "-",  # noqa: S107 - where to read it
    name: Annotated[
        str, typer.Option(help=_("The node's name; the token's, or this machine's, if left out."))
    ] = "",
    host: Annotated[
        str, typer.Option(help=_("The address at which the gateway reaches this machine."))
    ] = "",
) -> None:
    if token == "-":  # noqa: S105 - where to read it
        tell(_("Token:"))
        token = sys.stdin.readline().strip()
    take_part(url.rstrip("/"), token, name, host)
    say(_("Start it with `danlu node up`."))


@app.command(
    help=_("Work for the Danlu that this machine has joined, or joins now; Ctrl-C stops it.")
)
def up(
    url: Annotated[
        str, typer.Option(envvar="DANLU_JOIN_URL", help=_("Join this one first, if none yet."))
    ] = "",
    token: Annotated[
        str, typer.Option(envvar="DANLU_JOIN_TOKEN", help=_("With this token."), show_default=False)
    ] = "",
    name: Annotated[
        str, typer.Option(envvar="DANLU_JOIN_NAME", help=_("As the node of this name."))
    ] = "",
    host: Annotated[
        str, typer.Option(envvar="DANLU_JOIN_HOST", help=_("Reached at this address."))
    ] = "",
) -> None:
    if not place().exists():
        if not (url and token):
            raise Failed(_("This machine has joined nothing: `danlu node join` comes first."))
        take_part(url.rstrip("/"), token, name, host)
    os.environ.pop("DANLU_JOIN_TOKEN", None)
    os.execv(sys.executable, [sys.executable, "-m", "app.up", "--only", "worker,node"])


def take_part(url: str, token: str, name: str, host: str) -> None:
    """Join, and keep what that gave. Raises Failed."""
    environment = exchange(url, token, name)
    environment |= {"DANLU_SERVER": url, "DANLU_NODE_HOST": host or own_address(url)}
    try:
        check(environment)
    finally:  # the token is used up: what it gave is kept, whatever is not reached yet
        file = keep(environment)
    say(
        _(
            "This machine is the node %(name)s now: %(file)s",
            name=environment["DANLU_NODE"],
            file=file,
        )
    )


def exchange(url: str, token: str, name: str) -> dict[str, str]:
    """What the platform gives the new node. Raises Failed."""
    import httpx

    body = {"token": token, "node": name}
    with reaching(url):
        answer = httpx.post(
            f"{url}/api/v1/node/join", json=body, headers={"accept-language": language}, timeout=60
        )
    if answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY and not name:
        return exchange(url, token, socket.gethostname().split(".")[0].lower())
    if not answer.is_success:
        raise Failed(sentence(answer), answer.status_code)
    found: Row = answer.json()["environment"]
    return {key: str(value) for key, value in found.items()}


def own_address(url: str) -> str:
    """The address of this machine from which it reaches the platform."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    with socket.create_connection((parts.hostname or "", port), timeout=10) as line:
        return str(line.getsockname()[0])


def check(environment: dict[str, str]) -> None:
    """Whether the servers and the store are reached from here. Raises Failed."""
    import psycopg
    from redis import Redis
    from redis.exceptions import RedisError

    store = environment["DANLU_STORE"]
    if "://" not in store and not Path(store).is_dir():
        raise Failed(
            _("The store is the directory %(store)s, which is not here. Mount it, or use a bucket.",
              store=store)
        )  # fmt: skip
    try:
        address = environment["DATABASE_URL"].replace("+psycopg", "", 1)
        psycopg.connect(address, connect_timeout=10).close()
        Redis.from_url(environment["REDIS_URL"], socket_connect_timeout=10).ping()
    except (psycopg.Error, RedisError) as error:
        raise Failed(
            _("Joined, but this machine does not reach a server of the platform: %(why)s",
              why=str(error).strip())
        ) from None  # fmt: skip


def place() -> Path:
    from app.config import joined

    return joined()


def keep(environment: dict[str, str]) -> Path:
    """Readable by its owner alone from its first byte on."""
    file = place()
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        json.dump(environment, stream, indent=2)
    partial.replace(file)
    return file
