"""How a command reaches Danlu: where it is, with which key, and what its refusals say.

`danlu login` keeps both in ~/.danlu.yaml, which only its owner may read; DANLU_URL and
DANLU_API_KEY come first, and DANLU_CONFIG names another file.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

HERE = "http://127.0.0.1:8420"
Row = dict[str, Any]
Json = Annotated[bool, typer.Option("--json", help="Print the API's JSON and nothing else.")]
out, err = Console(highlight=False), Console(stderr=True, highlight=False)


class Failed(Exception):
    """Why a command could not do what it says."""


# -- the account -------------------------------------------------------------------------


def config_file() -> Path:
    return Path(os.environ.get("DANLU_CONFIG", "~/.danlu.yaml")).expanduser()


def account() -> tuple[str, str]:
    """Address and key. Raises Failed if nobody said which, or the file is not what it was."""
    kept: Row = {}
    try:
        kept = yaml.safe_load(config_file().read_text("utf-8")) or {}
    except FileNotFoundError:
        pass
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise Failed(f"{config_file()} cannot be read: {error}") from None
    if not isinstance(kept, dict):
        raise Failed(f"{config_file()} holds no address and token. Run `danlu login` again.")
    url = os.environ.get("DANLU_URL") or str(kept.get("url") or HERE)
    token = os.environ.get("DANLU_API_KEY") or str(kept.get("token") or "")
    if not token:
        raise Failed("Nobody is signed in here. Run `danlu login`, or set DANLU_API_KEY.")
    return url.rstrip("/"), token


def keep(url: str, token: str) -> Path:
    """Write both to the file, readable by its owner alone from its first byte on."""
    file = config_file()
    partial = file.with_name(f"{file.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        yaml.safe_dump({"url": url, "token": token}, stream)
    partial.replace(file)
    return file


# -- the API -----------------------------------------------------------------------------


class Api:
    """A connection with a key."""

    def __init__(self, url: str, token: str) -> None:
        language = "zh" if os.environ.get("LANG", "").startswith("zh") else "en"
        self.url = url
        self.http = httpx.Client(
            base_url=url,
            headers={"authorization": f"Bearer {token}", "accept-language": language},
            timeout=60,
        )

    def send(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        """One answer. Raises Failed with the sentence of a refusal, or if nobody answers."""
        with reaching(self.url):
            answer = self.http.request(method, path, **kwargs)
        if answer.is_error:
            raise Failed(sentence(answer))
        return answer

    def get(self, path: str, **params: Any) -> Any:
        chosen = {name: value for name, value in params.items() if value not in (None, "")}
        return self.send("GET", path, params=chosen).json()

    def post(self, path: str, body: Any = None) -> Any:
        answer = self.send("POST", path, json={} if body is None else body)
        return answer.json() if answer.content else None

    def delete(self, path: str) -> None:
        self.send("DELETE", path)

    def all(self, path: str, most: int, **params: Any) -> Row:
        """At most `most` entries of a list, however many pages that takes."""
        data: list[Row] = []
        more = True
        while more and len(data) < most:
            page = self.get(path, offset=len(data), limit=min(100, most - len(data)), **params)
            data += page["data"]
            more = bool(page["has_more"]) and bool(page["data"])
        return {"data": data, "has_more": more}

    @contextmanager
    def streamed(self, method: str, path: str, **kwargs: Any) -> Iterator[httpx.Response]:
        """An answer that is read as it comes. Raises Failed as `send` does."""
        kwargs.setdefault("timeout", httpx.Timeout(60, read=600))
        with reaching(self.url), self.http.stream(method, path, **kwargs) as answer:
            if answer.is_error:
                answer.read()
                raise Failed(sentence(answer))
            yield answer


@contextmanager
def reaching(url: str) -> Iterator[None]:
    try:
        yield
    except httpx.HTTPError as error:
        raise Failed(f"{url} does not answer: {error or type(error).__name__}") from None


def sentence(answer: httpx.Response) -> str:
    """What a refusal says, as problem details, as OpenAI words it, or as it stands."""
    try:
        said = answer.json()
        error = said.get("error")
        text = error["message"] if isinstance(error, dict) else said["detail"]
        fields = [f"  {one['field']}: {one['message']}" for one in said.get("errors") or ()]
        return "\n".join([str(text), *fields])
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{answer.request.method} {answer.request.url.path}: {answer.status_code}"


def connect() -> Api:
    return Api(*account())


# -- output ------------------------------------------------------------------------------


def show_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def show_table(rows: list[Row], columns: dict[str, Callable[[Row], Any]], empty: str) -> None:
    """A line for each row, or the sentence `empty`. A cell is text: nothing in it is markup."""
    if not rows:
        out.print(empty)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(cell(row))) for cell in columns.values()))
    out.print(table)


def plain(value: Any) -> str:
    """As text that cannot steer a terminal."""
    text = "" if value is None else str(value)
    return "".join(char for char in text if char.isprintable() or char in "\n\t")


def say(text: str) -> None:
    out.print(Text(plain(text)))


def bytes_of(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def day(at: str | None) -> str:
    """A time of the API, to the minute."""
    return (at or "").replace("T", " ")[:16]


def until(look: Callable[[], Row], done: tuple[str, ...], every: float = 1.0) -> Row:
    """Ask until the state or status is one of `done`."""
    while True:
        found = look()
        if (found.get("state") or found.get("status")) in done:
            return found
        time.sleep(every)
