"""What an API key may call, from where, and how much of it."""

import ipaddress
import re
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from app.accounts.tables import ApiKey
from app.errors import N_

MODEL = re.compile(r"[^\s*]{1,200}\*?|\*")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Limits:
    """Of one key. No name, no network and None are no limit."""

    models: tuple[str, ...] = ()  # names at /v1; `*` at the end stands for the rest
    ips: tuple[str, ...] = ()  # addresses and networks
    rpm: int | None = None  # requests a minute
    tpm: int | None = None  # tokens a minute, prompt and answer together
    parallel: int | None = None  # requests at the same time
    daily_tokens: int | None = None  # from midnight to midnight, UTC
    total_tokens: int | None = None  # ever

    @property
    def counted(self) -> bool:
        """Whether requests have to be counted while they run."""
        return any(getattr(self, name) is not None for name in COUNTED)

    @property
    def held(self) -> bool:
        """Whether it matters how many requests run just now."""
        return any(getattr(self, name) is not None for name in COUNTED[2:])

    def permits(self, model: str) -> bool:
        return not self.models or any(matches(pattern, model) for pattern in self.models)

    def admits(self, address: str) -> bool:
        return not self.ips or within(address, self.ips)


COUNTED = ("rpm", "tpm", "parallel", "daily_tokens", "total_tokens")
NO_LIMITS = Limits()


def matches(pattern: str, model: str) -> bool:
    return model.startswith(pattern[:-1]) if pattern.endswith("*") else model == pattern


@lru_cache(maxsize=4096)
def within(address: str, networks: tuple[str, ...]) -> bool:
    try:
        ip: Address = ipaddress.ip_address(address)
    except ValueError:  # a unix socket's other end
        return False
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return any(ip in ipaddress.ip_network(network) for network in networks)


def of(key: ApiKey) -> Limits:
    values = {one.name: getattr(key, one.name) for one in fields(Limits)}
    return Limits(**values | {"models": tuple(key.models), "ips": tuple(key.ips)})


# -- as forms and the API say them -------------------------------------------------------


def listed(value: Any) -> Any:
    """Names with commas or spaces between them, as a form has them."""
    return [one for one in re.split(r"[,，\s]+", value) if one] if isinstance(value, str) else value


def known_models(names: list[str]) -> list[str]:
    if not all(MODEL.fullmatch(name) for name in names):
        raise ValueError(N_("A model's name has no spaces, and * stands at its end only."))
    return list(dict.fromkeys(names))


def known_networks(names: list[str]) -> list[str]:
    try:
        return list(dict.fromkeys(plain(name) for name in names))
    except ValueError:
        raise ValueError(
            N_("These must be IP addresses or networks, such as 10.0.0.7 or 10.1.0.0/16.")
        ) from None


def plain(name: str) -> str:
    network = ipaddress.ip_network(name, strict=False)
    return str(network.network_address if network.num_addresses == 1 else network)


Models = Annotated[
    list[str], Field(max_length=100), AfterValidator(known_models), BeforeValidator(listed)
]
Networks = Annotated[
    list[str], Field(max_length=100), AfterValidator(known_networks), BeforeValidator(listed)
]
Few = Annotated[int, Field(ge=1, le=1_000_000)]
Tokens = Annotated[int, Field(ge=1, le=10**15)]
