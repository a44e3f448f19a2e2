"""How a command reaches Danlu: where it is, with which key, and what its refusals say.

`danlu login` keeps both in ~/.danlu.yaml, which only its owner may read; DANLU_URL and
DANLU_API_KEY come first, and DANLU_CONFIG names another file.
"""

import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.cli.text import _, language

if TYPE_CHECKING:  # a tenth of a second that `--help` does not need
    import httpx

HERE = "http://127.0.0.1:8420"
Row = dict[str, Any]


class Failed(Exception):
    """Why a command could not do what it says; `status` is the answer's, if there was one."""

    def __init__(self, why: str, status: int = 0) -> None:
        super().__init__(why)
        self.status = status


class Lost(Failed):
    """Nobody answered, or not to the end."""


# -- the account -------------------------------------------------------------------------


def config_file() -> Path:
    return Path(os.environ.get("DANLU_CONFIG", "~/.danlu.yaml")).expanduser()


def account() -> tuple[str, str]:
    """Address and key. Raises Failed if nobody said which, or the file is not what it was."""
    kept = kept_account()
    url = os.environ.get("DANLU_URL") or str(kept.get("url") or HERE)
    token = os.environ.get("DANLU_API_KEY") or str(kept.get("token") or "")
    if not token:
        raise Failed(_("Nobody is signed in here. Run `danlu login`, or set DANLU_API_KEY."))
    return url.rstrip("/"), token


def kept_account() -> Row:
    """What the file says; nothing if there is none. Raises Failed."""
    import yaml

    try:
        kept = yaml.safe_load(config_file().read_text("utf-8")) or {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise Failed(_("%(file)s cannot be read: %(why)s", file=config_file(), why=error)) from None
    if not isinstance(kept, dict):
        raise Failed(
            _("%(file)s holds no address and token. Run `danlu login` again.", file=config_file())
        )
    return kept


def keep(url: str, token: str) -> Path:
    """Write both to the file, readable by its owner alone from its first byte on."""
    import yaml

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

    def __init__(self, url: str, token: str, timeout: float = 60) -> None:
        import httpx

        self.url = url
        try:
            self.http = httpx.Client(
                base_url=url,
                headers={"authorization": f"Bearer {token}", "accept-language": language},
                timeout=timeout,
            )
        except (httpx.InvalidURL, UnicodeError, ValueError):
            raise Failed(_("The address or the key cannot be right: %(url)s", url=url)) from None

    def send(self, method: str, path: str, **kwargs: Any) -> "httpx.Response":
        """One answer. Raises Failed with the sentence of a refusal, or if nobody answers."""
        with reaching(self.url):
            answer = self.http.request(method, path, **kwargs)
        if not answer.is_success:
            raise Failed(sentence(answer), answer.status_code)
        return answer

    def get(self, path: str, **params: Any) -> Any:
        chosen = {name: value for name, value in params.items() if value not in (None, "")}
        return decoded(self.send("GET", path, params=chosen))

    def post(self, path: str, body: Any = None) -> Any:
        """Happens once, although it is sent again where the answer got lost."""
        sent = {
            "json": {} if body is None else body,
            "headers": {"idempotency-key": secrets.token_hex(16)},
        }
        try:
            return decoded(self.send("POST", path, **sent))
        except Lost:
            if not path.startswith("/api/"):  # elsewhere nobody looks at the key
                raise
        return decoded(self.send("POST", path, **sent))

    def put(self, path: str, body: Any) -> Any:
        return decoded(self.send("PUT", path, json=body))

    def patch(self, path: str, body: Any) -> Any:
        return decoded(self.send("PATCH", path, json=body))

    def delete(self, path: str) -> None:
        self.send("DELETE", path)

    def all(self, path: str, most: int = 10**9, **params: Any) -> Row:
        """At most `most` entries of a list, however many pages that takes."""
        data: list[Row] = []
        more = True
        while more and len(data) < most:
            after = data[-1]["id"] if data else ""
            page = self.get(path, after=after, limit=min(100, most - len(data)), **params)
            data += page["data"]
            more = bool(page["has_more"]) and bool(page["data"])
        return {"data": data, "has_more": more}

    @contextmanager
    def streamed(self, method: str, path: str, **kwargs: Any) -> Iterator["httpx.Response"]:
        """An answer that is read as it comes. Raises Failed as `send` does."""
        import httpx

        kwargs.setdefault("timeout", httpx.Timeout(60, read=600))
        with reaching(self.url), self.http.stream(method, path, **kwargs) as answer:
            if not answer.is_success:
                answer.read()
                raise Failed(sentence(answer), answer.status_code)
            yield answer


@contextmanager
def reaching(url: str) -> Iterator[None]:
    import httpx

    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        why = error if str(error) else type(error).__name__
        raise Lost(_("%(url)s does not answer: %(why)s", url=url, why=why)) from None


def decoded(answer: "httpx.Response") -> Any:
    """The JSON of an answer; None of an empty one. Raises Failed: it is no Danlu that answers."""
    if not answer.content:
        return None
    try:
        return answer.json()
    except ValueError:
        raise Failed(
            _("What answers at %(url)s is not Danlu.", url=answer.request.url.host)
        ) from None


def sentence(answer: "httpx.Response") -> str:
    """What a refusal says, as problem details, as OpenAI words it, or as it stands."""
    try:
        said = answer.json()
        error = said.get("error")
        text = str(error["message"] if isinstance(error, dict) else said["detail"])
        fields = [f"  {one['field']}: {one['message']}" for one in said.get("errors") or ()]
        return "\n".join([text, *(field for field in fields if not field.endswith(f": {text}"))])
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{answer.request.method} {answer.request.url.path}: {answer.status_code}"


def connect() -> Api:
    return Api(*account())


def until(look: Callable[[], Row], done: tuple[str, ...], every: float = 1.0) -> Row:
    """Ask until the state or status is one of `done`."""
    while True:
        found = look()
        if (found.get("state") or found.get("status")) in done:
            return found
        time.sleep(every)
