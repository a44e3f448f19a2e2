"""The decision: who gets which devices, who must make room, and why the others wait.

Pure: it looks at a `Board`, changes it as it grants, and says what it did. In order of priority,
fair share and age each request is given devices if its quotas and the devices allow. The first ones
of each pool of devices that must wait for devices have those kept that will be free first; those who
come later may use them only if they will be done by then. So nobody who comes later delays them.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.cluster.scheduling import picture, preempting
from app.cluster.scheduling.board import Board
from app.cluster.scheduling.fit import Fit, able
from app.cluster.scheduling.order import PREEMPTING, Order, Share
from app.cluster.scheduling.picture import (
    LEAVING,
    NEVER,
    Device,
    Holder,
    Node,
    Pool,
    Shape,
    Waiting,
)
from app.quotas.limits import OPEN, Ceiling, Limits

NEW, DEVICES, MEMORY, NODE = "new", "devices", "memory", "node"
# limits on devices, on those of a model, and on running jobs: the workspace's, and a member's own
QUOTA, MODEL, JOBS = "quota", "model_quota", "jobs_quota"
MEMBER, MEMBER_MODEL, MEMBER_JOBS = "member_quota", "member_model_quota", "member_jobs_quota"
LIMITS = frozenset((QUOTA, MODEL, JOBS, MEMBER, MEMBER_MODEL, MEMBER_JOBS))
HEADS = 4  # of a pool, for which devices are kept
MOST_POOLS = 32  # a request that must go back to its node has a pool of its own
PATIENCE = LEAVING  # seconds: nobody makes room for what will be free as soon as that


@dataclass
class Decision:
    """`reasons` has those whose reason is another one now: id → (reason, what its sentence names)."""

    grants: list[tuple[Waiting, list[Device]]] = field(default_factory=list)
    preemptions: list[tuple[Holder, Waiting]] = field(default_factory=list)
    reasons: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    kept: dict[str, float] = field(default_factory=dict)  # id → when its devices will be free


def decide(board: Board, limits: Limits, shares: Mapping[str, Share], now: float) -> Decision:
    return Deciding(board, limits, shares, now).run()


class Deciding:
    """One decision under way."""

    def __init__(
        self, board: Board, limits: Limits, shares: Mapping[str, Share], now: float
    ) -> None:
        self.board, self.all_limits, self.now = board, limits, now
        self.order = Order(board, shares, now)
        self.fit = Fit(board, now)
        self.made = Decision()
        self.stuck: dict[Shape, str] = {}  # why a shape finds no devices now
        self.late: dict[Shape, float] = {}  # nor before others need them, if it takes so long
        self.open: dict[Pool, int] = {}  # devices on one node that nobody holds whole
        # what all who ask the same of a workspace are told: see `run`
        self.settled: dict[str, dict[tuple[Shape, str, bool], str]] = defaultdict(dict)
        self.heads: dict[Pool, int] = {}
        self.full: set[Pool] = set()  # enough is kept for those who wait for them
        self.by_model = False  # whether anybody has a limit on devices of a model
        self.limits: dict[tuple[str, str], list[tuple[str, Ceiling]]] = {}

    def run(self) -> Decision:
        """Most of a long queue asks what somebody before it has asked in vain, and is told the same.
        Devices and quotas only become fewer here, so that this holds to the end, save for those who
        may be done before devices are needed that are kept.
        """
        order, late = self.order, self.late
        reach = self.reach()
        for ones in order:
            settled = self.settled[ones[0].workspace]
            for number, one in enumerate(ones, 1):
                reason = settled.get((one.shape, one.user, one.job))
                if reason is not None and (
                    reason in LIMITS
                    or one.seconds > reach
                    or one.seconds >= late.get(one.shape, NEVER)
                ):
                    if one.reason != reason:
                        self.say(one, reason)
                    continue
                granted = self.look(one)
                reach = self.reach()
                if granted:
                    settled.clear()  # their quotas may be used up now
                    order.taken = number
                    break
        self.fit.forget()
        return self.made

    def reach(self) -> float:
        """Who takes longer is not done before any of the kept devices is needed."""
        return self.fit.latest - self.now if self.fit.keeping else -1.0

    def look(self, one: Waiting) -> bool:
        """Grant it, or say why not. True if it was granted."""
        settled, asked = self.settled[one.workspace], (one.shape, one.user, one.job)
        if reason := self.over_quota(one):
            settled[asked] = reason
            self.say(one, reason)
            return False
        shape = one.shape
        if self.by_model and (banned := self.models_banned(one)):
            devices = self.elsewhere(one, banned)
            if devices:
                self.grant(one, devices)
            else:
                settled[asked] = MODEL
                self.say(one, MODEL)
            return bool(devices)
        stuck = self.stuck.get(shape)
        if stuck is None or (self.fit.keeping and self.may_go_before(one)):
            devices = self.find(one, stuck)
            if devices:
                self.grant(one, devices)
                return True
            if stuck is None:
                stuck = self.stuck[shape] = self.why(shape)
        if stuck == NODE or shape.pool in self.full:
            settled[asked] = stuck
            self.say(one, stuck)
        elif not self.wait_in_front(one):
            self.say(one, stuck)
        return False

    def grant(self, one: Waiting, devices: list[Device]) -> None:
        self.board.place(one, devices, self.now)
        self.order.granted(one)
        self.made.grants.append((one, devices))

    def say(self, one: Waiting, reason: str, **detail: Any) -> None:
        if one.reason != reason:
            if PREEMPTING in (one.reason, reason):
                self.board.resort(one.workspace)
            one.reason = reason
            self.made.reasons[one.id] = (reason, detail)

    # -- quotas --------------------------------------------------------------------------

    def over_quota(self, one: Waiting) -> str:
        """The limit that it would exceed, if any: the workspace's or the member's."""
        key = (one.workspace, one.user)
        found = self.limits.get(key)
        if found is None:
            whose = [("", self.all_limits.workspace(one.workspace))]
            if one.user:
                whose.append((one.user, self.all_limits.member(*key)))
            found = self.limits[key] = [
                (user, ceiling) for user, ceiling in whose if ceiling != OPEN
            ]
            self.by_model |= any(ceiling.by_model for _, ceiling in found)
        for user, ceiling in found:
            held = self.board.held[one.workspace, user, ""]
            if ceiling.devices is not None and held + one.shape.devices > ceiling.devices:
                return MEMBER if user else QUOTA
            if (
                one.job
                and ceiling.jobs is not None
                and self.board.jobs[one.workspace, user] >= ceiling.jobs
            ):
                return MEMBER_JOBS if user else JOBS
            model = one.shape.pool.model
            if model is not None and model in ceiling.by_model and self.banned(one, model):
                return MEMBER_MODEL if user else MODEL
        return ""

    def banned(self, one: Waiting, model: str) -> bool:
        """Whether devices of this model would exceed a limit on that model."""
        return any(
            model in ceiling.by_model
            and self.board.held[one.workspace, user, model] + one.shape.devices
            > ceiling.by_model[model]
            for user, ceiling in self.limits[one.workspace, one.user]
        )

    # -- devices -------------------------------------------------------------------------

    def find(self, one: Waiting, stuck: str | None) -> list[Device] | None:
        shape = one.shape
        if stuck is None:
            found = self.fit.whole(shape) if shape.memory is None else self.fit.share(shape)
            if found:
                return found
        if not self.may_go_before(one):
            return None
        found = self.fit.before(shape, one.seconds)
        if found is None:
            self.late[shape] = min(one.seconds, self.late.get(shape, one.seconds))
        return found

    def models_banned(self, one: Waiting) -> set[str]:
        limits = self.limits[one.workspace, one.user]
        if not limits or one.shape.pool.model is not None:
            return set()
        models = {model for _, ceiling in limits for model in ceiling.by_model}
        return {model for model in models if self.banned(one, model)}

    def elsewhere(self, one: Waiting, banned: set[str]) -> list[Device] | None:
        """On devices of another model than those of which it may have no more."""
        shape = one.shape
        models = {model for node in self.fit.of(shape.pool) for _, model in node.pools} - banned
        for model in sorted(models):
            kind, on = shape.pool.kind, shape.pool.node
            other = picture.shape(shape.devices, shape.memory, kind, model, on, shape.pool.labels)
            found = self.fit.whole(other) if shape.memory is None else self.fit.share(other)
            if found:
                return found
        return None

    def may_go_before(self, one: Waiting) -> bool:
        """Whether devices that are kept for others might do meanwhile."""
        return bool(self.fit.keeping) and (
            self.now + one.seconds <= self.fit.latest
            and one.seconds < self.late.get(one.shape, one.seconds + 1)
        )

    def why(self, shape: Shape) -> str:
        """Why no devices are found for it, where quota allows: there are none of the kind, all are
        held or kept for those who come before it, or none has so much memory free.
        """
        nodes = self.fit.of(shape.pool)
        key = (shape.pool, shape.devices > 1, shape.memory)
        most = self.board.most.get(key)
        if most is None:
            most = self.board.most[key] = max((count(node, shape) for node in nodes), default=0)
        if most < shape.devices:
            return NODE
        if shape.memory is None:
            return DEVICES
        if shape.pool not in self.open:
            nodes = self.fit.with_room(shape.pool, shared=True)
            self.open[shape.pool] = max((node.open() for node in nodes), default=0)
        return MEMORY if self.open[shape.pool] >= shape.devices else DEVICES

    def wait_in_front(self, one: Waiting) -> bool:
        """Keep devices for it if it is one of the first of its pool; have others make room if they
        must. True if it has said why it waits.
        """
        pool = one.shape.pool
        count = self.heads[pool] = self.heads.get(pool, 0) + 1
        if count >= HEADS or len(self.heads) >= MOST_POOLS:
            self.full.add(pool)
        if one.reason == PREEMPTING and one.id in self.board.leaving.values():
            self.keep(one)  # those who were told are on their way
            return True
        found = self.fit.keep(one.shape)
        if found and found[0] <= self.now + PATIENCE:
            self.made.kept[one.id] = found[0]
            return False
        if found:  # what was kept may be just what others must leave
            for device in found[1]:
                device.kept = None
        made = preempting.room(self.board, self.fit, one)
        if made is None:
            if found:
                self.fit.mark(found[1], found[0])
                self.made.kept[one.id] = found[0]
            return False
        victims, devices = made
        self.made.kept[one.id] = self.now + LEAVING
        self.made.preemptions += [(holder, one) for holder in victims]
        self.say(one, PREEMPTING, node=devices[0].node, jobs=len(victims))
        return True

    def keep(self, one: Waiting) -> None:
        if found := self.fit.keep(one.shape):
            self.made.kept[one.id] = found[0]


def count(node: Node, shape: Shape) -> int:
    """Its devices that would do if nobody held them."""
    if not node.odd:
        first = node.devices[0]
        return len(node.devices) if (shape.memory or 0) <= first.room else 0
    return sum(able(device, shape) for device in node.devices)
