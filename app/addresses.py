"""Which addresses may be fetched for a user: public ones, or what `DANLU_FETCH_ALLOW` names."""

import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from app.config import settings
from app.errors import N_, Invalid, Unavailable

PORTS = {"http": 80, "https": 443}
CHARACTERS = "/%:=&?~#+!$,;'@()*[]|-._"  # what a path or a query may hold as it is
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
# IPv6 that leads to an IPv4 address: 6to4, Teredo. Others lie outside the global unicast block.
TUNNELS = [ipaddress.ip_network(one) for one in ("2002::/16", "2001::/32")]
UNICAST = ipaddress.ip_network("2000::/3")
# not for the public either, though `is_global` is true of some
SPECIAL = [ipaddress.ip_network(one) for one in ("192.0.0.0/24", "192.88.99.0/24")]


class Refused(Invalid):
    """This address is not fetched, or gives nothing: trying again does not help."""


class Interrupted(Unavailable):
    """It could not be reached, or broke off: trying again may help."""


@dataclass(frozen=True)
class Target:
    """An address, taken apart once, so that what is checked is what is asked for."""

    scheme: str
    host: str  # lower case, punycode; IPv6 without brackets
    port: int
    path: str  # with the query

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


def parse(url: str) -> Target:
    """Raises Refused for what is no plain http or https address."""
    unreadable = Refused(N_("This is not an address that can be read."), code="address.invalid")
    url = url.strip()
    if any(char.isspace() or not char.isprintable() or char == "\\" for char in url):
        raise unreadable
    try:
        parts = urlsplit(url)
        scheme, host = parts.scheme.lower(), (parts.hostname or "").rstrip(".")
        port = parts.port or PORTS.get(scheme, 0)
        if ":" not in host:
            host = host.encode("idna").decode()
    except ValueError:
        raise unreadable from None
    if scheme not in PORTS:
        raise Refused(
            N_("Only addresses that begin with http:// or https:// are fetched."),
            code="address.scheme",
        )
    if "@" in parts.netloc:
        raise Refused(
            N_("The address contains a user name or a password. Remove it."),
            code="address.credentials",
        )
    if not host or "%" in host:
        raise unreadable
    path = quote(parts.path or "/", safe=CHARACTERS)
    query = "?" + quote(parts.query, safe=CHARACTERS) if parts.query else ""
    return Target(scheme, host, port, path + query)


def check(url: str, *, allow: Iterable[str] = ()) -> Target:
    """Raises Refused for an address that is not fetched. Asks the name server, nobody else."""
    target = parse(url)
    resolve(target.host, target.port, allow)
    return target


def resolve(host: str, port: int, allow: Iterable[str] = ()) -> list[str]:
    """Where `host` may be connected to. Raises Refused if nowhere."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno == socket.EAI_AGAIN:
            raise Interrupted(
                N_("The name server did not answer for %(host)s."), code="address.dns", host=host
            ) from None
        raise unknown(host) from None
    except (UnicodeError, OSError):
        raise unknown(host) from None
    entries = [*allow, *filter(None, map(str.strip, settings.fetch_allow.split(",")))]
    passed = []
    for *_, where in found:
        address = ipaddress.ip_address(str(where[0]))
        if public(address) or any(permits(one, host, address, port) for one in entries):
            passed.append(str(address))
    if not passed:
        raise Refused(
            N_(
                "%(host)s is not a public address, so it is not fetched. An administrator can "
                "allow it (DANLU_FETCH_ALLOW)."
            ),
            code="address.private",
            host=host,
        )
    return list(dict.fromkeys(passed))


def unknown(host: str) -> Refused:
    return Refused(N_("The name %(host)s is not known."), code="address.unknown", host=host)


def public(address: Address) -> bool:
    """Whether it is out there: not this machine, its network, its cloud's inside, or a group."""
    if address.version == 6 and address not in UNICAST:
        return False  # also IPv4 in disguise: mapped, compatible, NAT64
    inside = any(address in network for network in (*TUNNELS, *SPECIAL))
    return address.is_global and not address.is_multicast and not address.is_reserved and not inside


def permits(entry: str, host: str, address: Address, port: int) -> bool:
    """Whether `entry` names this: a host, an address or a network; with a port, only that one."""
    where, colon, only = entry.rpartition(":")
    if not colon or not only.isdecimal() or (":" in where and not where.endswith("]")):
        where, only = entry, ""
    if only and int(only) != port:
        return False
    where = where.strip("[]").lower()
    try:
        return address in ipaddress.ip_network(where, strict=False)
    except ValueError:
        return where.rstrip(".") == host
