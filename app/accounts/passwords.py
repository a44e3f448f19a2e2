"""Argon2id. One hash takes about 0.1 s and 64 MiB, so only a few run at a time."""

import threading
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from app.errors import N_, Invalid, Unavailable

SHORTEST, LONGEST = 8, 200  # characters

hasher = PasswordHasher()
slots = threading.BoundedSemaphore(4)


def check_password(password: str, field: str = "password") -> None:
    """Raises Invalid when it is too short to be safe or too long to be hashed."""
    if len(password) < SHORTEST:
        raise Invalid(
            N_("A password has at least %(least)s characters."),
            field=field,
            least=SHORTEST,
        )
    if len(password) > LONGEST:
        raise Invalid(N_("A password has at most %(most)s characters."), field=field, most=LONGEST)


def hash_password(password: str, field: str = "password") -> str:
    """The argon2id hash, with its parameters and salt. Blocks for about 0.1 s."""
    check_password(password, field)
    with slots:
        return hasher.hash(password)


@cache
def nobody() -> str:
    """What is verified for an address nobody has, so that the answer takes as long."""
    return hasher.hash("nobody has this password")


def verify_password(password_hash: str | None, password: str) -> bool:
    """Takes as long for an unknown account (None) as for a wrong password."""
    if not slots.acquire(timeout=10):
        raise Unavailable(N_("Too many people are signing in right now. Try again."))
    try:
        matches = hasher.verify(password_hash or nobody(), password[: LONGEST + 1])
        return matches and password_hash is not None
    except (VerificationError, InvalidHashError):
        return False
    finally:
        slots.release()
