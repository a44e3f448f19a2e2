"""Whether a replica fits now, later or never, by live free memory; and what would make it fit."""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.cluster import overview
from app.cluster.tables import Lease
from app.deployments import sizing
from app.deployments.plans import Plan
from app.deployments.revisions import Settings
from app.deployments.sizing import GIB, LEAST_CACHE, LONG_PROMPTS, MIB, Shape
from app.errors import N_, DomainError, Invalid
from app.quotas import service as quotas

NOW, LATER, NEVER, UNKNOWN = "now", "later", "never", "unknown"
MOST_FIXES = 4


@dataclass(frozen=True)
class Room:
    """Bytes that so many devices of one node have each, at best: `room(2)` for two of them."""

    sizes: tuple[tuple[int, ...], ...]  # of each node, the largest first

    def __call__(self, devices: int) -> int:
        return max((node[devices - 1] for node in self.sizes if len(node) >= devices), default=0)

    @property
    def most(self) -> int:
        """Devices of the widest node."""
        return max(map(len, self.sizes), default=0)


@dataclass(frozen=True)
class Fix:
    """A change of the settings that would make it fit, and the bytes needed on each device then."""

    changes: dict[str, Any]
    need: int


@dataclass(frozen=True)
class Fit:
    """`free` and `need` are bytes of each device."""

    when: str
    words: str  # a msgid
    params: dict[str, Any]
    fixes: list[Fix]
    need: int = 0
    free: int = 0
    refusal: DomainError | None = None


@dataclass(frozen=True)
class Candidate:
    """Settings of one model, and what they need."""

    shape: Shape
    settings: Settings
    engine: str  # vllm or transformers

    @property
    def needed(self) -> sizing.Estimate:
        """At the least: with a share of its own, a cache for one request of full length."""
        return sizing.needs(
            self.shape,
            engine=self.engine,
            max_model_len=self.settings.max_model_len,
            devices=self.settings.devices,
            memory=None if self.settings.memory is None else 0,
            quantization=self.settings.quantization,
            arguments=self.settings.arguments,
        )

    @property
    def need(self) -> int:
        """Bytes of each device."""
        return -(-self.needed.total // self.settings.devices)

    def limit(self, room: Room) -> int:
        """Bytes of each device that it may have."""
        most = room(self.settings.devices)
        return most if self.settings.memory is None else min(most, self.settings.memory)

    def fits(self, room: Room) -> bool:
        enough = room(self.settings.devices) >= (self.settings.memory or 0)
        return enough and 0 < self.need <= self.limit(room)

    def having(self, **changes: Any) -> "Candidate":
        """The same with other settings; `arguments.x` is one of the engine's."""
        inner = {name.partition(".")[2]: value for name, value in changes.items() if "." in name}
        outer = {name: value for name, value in changes.items() if "." not in name}
        arguments = self.settings.arguments | inner
        return replace(self, settings=replace(self.settings, arguments=arguments, **outer))


def fit(
    db: Session, workspace_id: str, plan: Plan, replicas: int = 1, own: Collection[str] = ()
) -> Fit:
    """Whether one more replica of `plan` fits. `own` are owners of leases that would be given
    back before: those of replicas that it takes the place of.
    """
    if plan.place.host:
        return Fit(NOW, N_("An engine that runs carries it, and needs no more memory."), {}, [])
    ever, free = rooms(db, own, whole=plan.settings.exclusive)
    if not ever.sizes:
        return Fit(UNKNOWN, N_("No node has reported its devices yet."), {}, [])
    wish = Candidate(plan.shape, plan.settings, plan.engine)
    able = wish.settings.devices
    sizes = {"need": gib(wish.need, math.ceil), "free": gib(free(able)), "most": gib(ever(able))}

    def found(when: str, words: str, params: dict[str, Any], where: Room | None = None) -> Fit:
        fixes = changes(wish, where, plan.quantizations) if where else []
        return Fit(when, words, params, fixes, need=wish.need, free=free(able))

    if not wish.fits(ever):
        refused = found(NEVER, "", {}, ever)
        refusal = never(wish, ever, sizes, refused.fixes)
        return replace(refused, words=refusal.message, params=refusal.params, refusal=refusal)
    if reason := short_of_quota(db, workspace_id, replicas * able, own):
        return found(LATER, *reason)
    if not wish.fits(free):
        words = N_(
            "It waits for memory: it needs %(need)s GiB of each device, and just now at most"
            " %(free)s GiB are free."
        )
        if wish.settings.exclusive:
            words = N_("It waits for devices that nobody holds.")
        return found(LATER, words, sizes, free)
    return found(
        NOW,
        N_("It fits now: it needs %(need)s GiB of each device, and %(free)s GiB are free."),
        sizes,
    )


def never(wish: Candidate, ever: Room, sizes: dict[str, Any], fixes: list[Fix]) -> Invalid:
    if wish.settings.devices > ever.most:
        return Invalid(
            N_(
                "No node has %(devices)s devices. The largest has %(most)s: "
                "ask for %(most)s at most."
            ),
            code="devices",
            field="devices",
            devices=wish.settings.devices,
            most=ever.most,
        )
    share = wish.settings.memory
    if share is not None and share < wish.need:
        return Invalid(
            N_(
                "%(share)s GiB are too little: model, engine and one request of full length need"
                " %(need)s GiB of each device."
            ),
            code="memory",
            field="memory",
            share=gib(share),
            need=sizes["need"],
        )
    if share is not None and share > ever(wish.settings.devices):
        sizes = sizes | {"need": gib(share)}
    length = next((fix.changes for fix in fixes if set(fix.changes) == {"max_model_len"}), None)
    if length:
        return Invalid(
            N_(
                "This needs %(need)s GiB of memory on each device, but no device has more than "
                "%(most)s GiB. With a context of %(length)s tokens it fits."
            ),
            code="memory",
            field="max_model_len",
            need=sizes["need"],
            most=sizes["most"],
            length=length["max_model_len"],
        )
    return Invalid(
        N_(
            "This needs %(need)s GiB of memory on each device, but no device has more than "
            "%(most)s GiB."
        ),
        code="memory",
        field="devices",
        need=sizes["need"],
        most=sizes["most"],
    )


def short_of_quota(
    db: Session, workspace_id: str, devices: int, own: Collection[str]
) -> tuple[str, dict[str, Any]] | None:
    limit = quotas.limit(db, workspace_id)
    held = db.scalar(
        select(func.count())
        .select_from(Lease)
        .where(
            Lease.workspace_id == workspace_id,
            Lease.released_at.is_(None),
            Lease.owner_id.not_in(own),
        )
    )
    if limit is None or (held or 0) + devices <= limit:
        return None
    return (
        N_(
            "It fits, and waits: this workspace holds %(held)s of the %(limit)s devices that it"
            " may hold at once."
        ),
        {"held": held, "limit": limit},
    )


# -- live memory -------------------------------------------------------------------------


def rooms(db: Session, own: Collection[str] = (), *, whole: bool = False) -> tuple[Room, Room]:
    """What devices could give, and what they give just now.

    Free is what neither a lease nor, by the last heartbeat, a process takes: programs that are
    none of ours count. With `whole`, only what nobody holds.
    """
    ever: dict[str, list[int]] = defaultdict(list)
    free: dict[str, list[int]] = defaultdict(list)
    for device in overview.devices(db, None):
        if device["node_state"] == "dead":
            continue
        ever[device["node"]].append(device["memory"])
        if device["healthy"] and device["node_state"] == "ready":
            free[device["node"]].append(free_of(device, own, whole=whole))
    return room(ever), room(free)


def room(sizes: dict[str, list[int]]) -> Room:
    return Room(tuple(tuple(sorted(node, reverse=True)) for node in sizes.values()))


def free_of(device: dict[str, Any], own: Collection[str], *, whole: bool) -> int:
    """Bytes of a device that a replica could have now."""
    others = [one for one in device["holders"] if one["owner_id"] not in own]
    if any(one["exclusive"] for one in others) or (whole and others):
        return 0
    given_back = device["used"] - sum(one["bytes"] for one in others)
    busy = max(0, int((device["stats"] or {}).get("memory") or 0) - given_back)
    taken = max(sum(one["bytes"] for one in others), busy)
    return max(0, int(device["memory"] - taken))


# -- what would make it fit --------------------------------------------------------------


def changes(wish: Candidate, where: Room, methods: list[str]) -> list[Fix]:
    """Changes that would make it fit: of one setting, the one that costs least first; where none
    is enough, of two together.
    """
    for tried in (single, double):
        found: dict[tuple[str, ...], Fix] = {}
        for changed in tried(wish, where, methods):
            made = wish.having(**changed)
            if made.fits(where):
                found.setdefault(tuple(changed), Fix(changed, made.settings.memory or made.need))
        if found:
            return list(found.values())[:MOST_FIXES]
    return []


def single(wish: Candidate, where: Room, methods: list[str]) -> Iterator[dict[str, Any]]:
    settings = wish.settings
    if settings.memory is not None:
        yield {"memory": -(-wish.need // MIB) * MIB}
        yield {"memory": where(settings.devices) // MIB * MIB}
    if wish.engine == "vllm":
        for requests in (4, 2, 1):
            if requests < settings.arguments.get("max_num_seqs", LONG_PROMPTS):
                yield {"arguments.max_num_seqs": requests}
    if (length := longest(wish, where)) and length < settings.max_model_len:
        yield {"max_model_len": length}
    for method in methods:
        if not settings.quantization:
            yield {"quantization": method}
    for devices in range(settings.devices + 1, where.most + 1):
        yield {"devices": devices}


def double(wish: Candidate, where: Room, methods: list[str]) -> Iterator[dict[str, Any]]:
    for first in single(wish, where, methods):
        if set(first) & {"max_model_len", "memory"}:
            continue
        made = wish.having(**first)
        if (length := longest(made, where)) and length < wish.settings.max_model_len:
            yield first | {"max_model_len": length}


def longest(wish: Candidate, where: Room) -> int:
    """The longest context, in tokens, that fits; 0 if none does."""
    each = wish.shape.per_token
    if not each:
        return 0
    needed = wish.needed
    left = wish.limit(where) * wish.settings.devices - needed.weights - needed.overhead
    if left < LEAST_CACHE:
        return 0
    if str(wish.settings.arguments.get("kv_cache_dtype", "")).startswith("fp8"):
        each //= 2
    requests = min(LONG_PROMPTS, wish.settings.arguments.get("max_num_seqs", LONG_PROMPTS))
    if wish.settings.memory is not None:
        requests = 1
    length = (left // MIB * MIB) // int(requests * each)
    step = 256 if length >= 1024 else 64
    return int(length // step * step)


def gib(size: float, rounded: Callable[[float], int] = math.floor) -> str:
    """GiB with one decimal place: rounded up for needs, down for what there is."""
    return f"{rounded(size / GIB * 10) / 10:.1f}"
