"""Whether a run fits now, later or never, and which setting would make it fit."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.cluster import overview
from app.cluster.tables import Lease
from app.errors import N_, DomainError, Invalid
from app.jobs import memory
from app.quotas import service as quotas

NOW, LATER, NEVER, UNKNOWN = "now", "later", "never", "unknown"


@dataclass(frozen=True)
class Target:
    """The devices that a run would get: those of the node where it can begin soonest."""

    kind: str
    model: str
    memory: int  # bytes of each
    free: int  # healthy, held by nobody
    ready: int  # healthy, of nodes that take work
    count: int  # of a node
    cores: int  # of a device of kind cpu


@dataclass(frozen=True)
class Run:
    """What decides the memory of a run."""

    shape: memory.Shape
    method: str
    settings: dict[str, Any]
    kind: str
    longest: int
    devices: int = 1
    shares: bool = False  # could be shared out over devices; see app.jobs.methods
    sharded: bool = False
    second: bool = False
    ratio: float = 1.0  # of what jobs like it took, over what was estimated

    @cached_property
    def parts(self) -> list[memory.Part]:
        return memory.parts(
            self.shape, self.method, self.settings, kind=self.kind, longest=self.longest,
            devices=self.devices, sharded=self.sharded, second=self.second,
        )  # fmt: skip

    @property
    def bare(self) -> int:
        return sum(part.bytes for part in self.parts)

    @property
    def need(self) -> int:
        return round(self.bare * self.ratio)

    @property
    def least(self) -> int:
        """Without which it cannot even begin, whatever the batch."""
        share = self.devices if self.sharded else 1
        return memory.least(self.shape, self.method, self.settings, kind=self.kind, share=share)

    def with_settings(self, **changes: Any) -> "Run":
        return replace(self, settings=self.settings | changes)


@dataclass(frozen=True)
class Fix:
    """A change of the form that would make it fit, field by field, and the need then."""

    changes: dict[str, Any]
    need: int


@dataclass(frozen=True)
class Fit:
    when: str
    words: str  # a msgid
    params: dict[str, Any]
    fixes: list[Fix]
    refusal: DomainError | None = None


def target(db: Session, devices: int) -> Target | None:
    """None before any node has reported."""
    known = [one for one in overview.devices(db, None) if one["node_state"] != "dead"]
    groups = Counter((one["node"], one["kind"], one["model"], one["memory"]) for one in known)
    found = []
    for (node, kind, model, size), count in groups.items():
        ready = [
            one
            for one in known
            if (one["node"], one["kind"], one["model"], one["memory"]) == (node, kind, model, size)
            and one["healthy"]
            and one["node_state"] == "ready"
        ]
        free = sum(one["state"] == "free" for one in ready)
        cores = max(1, cores_of(db, node) // count) if kind == "cpu" else 1
        found.append(Target(kind, model, size, free, len(ready), count, cores))
    wide = [one for one in found if one.count >= devices]
    return max(
        wide or found,
        key=lambda one: (one.free >= devices, one.ready >= devices, one.memory),
        default=None,
    )


def cores_of(db: Session, node: str) -> int:
    facts = next(one["facts"] for one in overview.overview(db)["nodes"] if one["id"] == node)
    return int(facts.get("cores") or 1)


def fit(db: Session, workspace_id: str, run: Run, goal: Target | None) -> Fit:
    if goal is None:
        return Fit(UNKNOWN, N_("No node has reported its devices yet."), {}, [])
    sizes = {"need": gib(run.need), "most": gib(goal.memory), "device": goal.model or goal.kind}
    if run.need > goal.memory:
        fixes = changes(run, goal)
        if run.least > goal.memory:
            return Fit(NEVER, NEVER_FITS, sizes, fixes, too_large(run, goal, fixes))
        return Fit(
            NEVER,
            N_(
                "It most likely does not fit: about %(need)s GiB are needed on each device, and the"
                " largest (%(device)s) has %(most)s GiB."
            ),
            sizes,
            fixes,
        )
    limit = quotas.limit(db, workspace_id)
    held = db.scalar(
        select(func.count())
        .select_from(Lease)
        .where(Lease.workspace_id == workspace_id, Lease.released_at.is_(None))
    )
    if limit is not None and (held or 0) + run.devices > limit:
        return Fit(
            LATER,
            N_(
                "It fits, and waits: this workspace holds %(held)s of the %(limit)s devices that it"
                " may hold at once."
            ),
            {"held": held, "limit": limit},
            [],
        )
    if goal.free < run.devices:
        return Fit(
            LATER,
            N_("It fits, and waits: of %(ready)s devices that would do, %(free)s are free."),
            {"ready": goal.ready, "free": goal.free},
            [],
        )
    return Fit(
        NOW,
        N_("It fits now: about %(need)s of %(most)s GiB on a free device (%(device)s)."),
        sizes,
        [],
    )


NEVER_FITS = N_(
    "It does not fit on any device: weights, gradients and optimizer alone need more than the"
    " %(most)s GiB of the largest (%(device)s)."
)


def too_large(run: Run, goal: Target, fixes: list[Fix]) -> DomainError:
    sizes = {"most": gib(goal.memory), "device": goal.model or goal.kind}
    if fixes and "method" in fixes[0].changes:
        return Invalid(
            N_(
                "It does not fit on any device: weights, gradients and optimizer alone need"
                " %(need)s GiB, and the largest (%(device)s) has %(most)s GiB. With the method"
                " %(method)s it would."
            ),
            code="memory",
            field="method",
            need=gib(run.least),
            method=str(fixes[0].changes["method"]),
            **sizes,
        )
    return Invalid(NEVER_FITS, code="memory", field="model", **sizes)


def changes(run: Run, goal: Target) -> list[Fix]:
    """Changes that would make it fit: of one setting, the one that costs least first; where none
    is enough, of several together.
    """
    found: dict[tuple[str, ...], Fix] = {}
    for changed in [*single(run, goal), *together(run)]:
        if len(changed) > 1 and len(next(iter(found), ())) == 1:
            break
        made = after(run, changed)
        if made.need <= goal.memory:
            found.setdefault(tuple(changed), Fix(changed, made.need))
    return list(found.values())


def single(run: Run, goal: Target) -> Iterator[dict[str, Any]]:
    for tokens in smaller(run):
        yield {"batch_tokens": tokens}
    if not run.settings.get("gradient_checkpointing"):
        yield {"gradient_checkpointing": True}
    length = run.longest
    while length > 256:
        length //= 2
        yield {"max_length": length}
    for method in lighter(run):
        yield {"method": method}
    if run.shares and goal.count > run.devices:
        yield {"devices": goal.count}


def together(run: Run) -> Iterator[dict[str, Any]]:
    light = {"gradient_checkpointing": True}
    for method in ("", *lighter(run)):
        chosen = {"method": method} if method else {}
        for tokens in (int(run.settings["batch_tokens"]), *smaller(run)):
            yield chosen | light | {"batch_tokens": tokens}


def lighter(run: Run) -> list[str]:
    """Methods that need less: quantising wants a GPU."""
    able = ["lora", "qlora"] if run.kind == "cuda" else ["lora"]
    return able[able.index(run.method) + 1 :] if run.method in able else able


def smaller(run: Run) -> Iterator[int]:
    """Tokens in a batch, halved down to the longest row."""
    tokens, least = int(run.settings["batch_tokens"]), max(256, run.longest)
    while tokens > least:
        tokens = max(tokens // 2, least)
        yield tokens


def after(run: Run, changed: dict[str, Any]) -> Run:
    rest = {name: one for name, one in changed.items() if name not in ("method", "devices")}
    made = run.with_settings(**rest)
    if "max_length" in changed:
        most = min(int(run.settings["batch_tokens"]), changed["max_length"])
        made = replace(
            made.with_settings(batch_tokens=most), longest=min(run.longest, changed["max_length"])
        )
    if "method" in changed:
        made = replace(made, method=changed["method"], shares=False, sharded=False)
    if "devices" in changed:
        made = replace(made, devices=changed["devices"], sharded=True)
    return made


def gib(size: float) -> str:
    return f"{math.ceil(size / 2**30 * 10) / 10:.1f}"
