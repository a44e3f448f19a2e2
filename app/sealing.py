"""Encryption at rest: what must be read again later (hub tokens, passwords of mail servers), and never
by who only has the database.

Fernet (AES-128-CBC with HMAC-SHA256, as the `cryptography` project specifies it). The key is
`DANLU_SECRET_KEY`, or the file `secret.key` in the home. Several keys stand one a line (in the variable:
with commas between); the first seals, all unseal, so a key is changed by putting a new one before it.
"""

import contextlib
import os
import secrets
from functools import lru_cache
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from sqlalchemy import Dialect, Text
from sqlalchemy.types import TypeDecorator

from app.config import settings
from app.errors import N_, DomainError

NAME = "secret.key"
BEGINS = "gAAAA"  # every sealed text: Fernet's version byte and the high bits of the time


class WrongKey(DomainError):
    """Something was sealed with a key that this process does not have, or the key is no key."""

    status = 503
    code = "secret_key"


class Sealed(TypeDecorator[str]):
    """A column whose value is a str in Python and ciphertext in the row. Not to be searched by.

    Loading it raises WrongKey where the key is another: `defer` it where it is not needed.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        return None if value is None else seal(value)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        return None if value is None else unseal(value)


def seal(text: str) -> str:
    """Ciphertext, another one each time. Raises WrongKey if the key given is no key."""
    return keys().encrypt(text.encode()).decode()


def unseal(sealed: str) -> str:
    """What was sealed. Raises WrongKey."""
    try:
        return keys().decrypt(sealed.encode()).decode()
    except (InvalidToken, UnicodeError) as error:
        raise WrongKey(
            N_(
                "A secret kept here was sealed with another key. An administrator has to put the old key back into secret.key or DANLU_SECRET_KEY, behind the new one; or enter the secret again."
            )
        ) from error


def resealed(sealed: str) -> str:
    """The same with the first key, so that the others can go. Raises WrongKey."""
    return seal(unseal(sealed))


def looks_sealed(value: object) -> bool:
    return isinstance(value, str) and value.startswith(BEGINS) and len(value) >= 100


def newest() -> Fernet:
    """The first key: the one that seals. Raises WrongKey."""
    return parsed(text_of_keys())[0]


def is_of(key: Fernet, sealed: str) -> bool:
    """Whether it was sealed with this key."""
    try:
        key.decrypt(sealed.encode())
    except InvalidToken:
        return False
    return True


def keys() -> MultiFernet:
    return MultiFernet(parsed(text_of_keys()))


def text_of_keys() -> str:
    """As they stand now: a file that was changed meanwhile is read again."""
    if settings.secret_key:
        return settings.secret_key
    file = settings.home / NAME
    try:
        facts = file.stat()
    except FileNotFoundError:
        return from_file(file)
    return read_file(file, facts.st_ino, facts.st_mtime_ns)


@lru_cache(maxsize=4)
def read_file(path: Path, _inode: int, _changed: int) -> str:
    return path.read_text()


@lru_cache(maxsize=4)
def parsed(text: str) -> list[Fernet]:
    """The keys in a text, at least one."""
    found = [part for line in text.splitlines() for part in line.replace(",", " ").split()]
    try:
        made = [Fernet(key) for key in found]
        MultiFernet(made)  # refuses an empty list
    except ValueError as error:
        raise WrongKey(
            N_(
                "The key in secret.key or DANLU_SECRET_KEY is none: 32 bytes in URL-safe base64 are needed: openssl rand -base64 32 | tr '+/' '-_'"
            )
        ) from error
    return made


def from_file(path: Path) -> str:
    """The keys in the file, which is made if there is none. Whoever comes second gets the first's."""
    with contextlib.suppress(FileNotFoundError):
        return path.read_text()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{NAME}-{secrets.token_hex(8)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(Fernet.generate_key().decode() + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(partial, path)  # unlike a rename, it replaces nothing
    finally:
        partial.unlink()
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return path.read_text()
