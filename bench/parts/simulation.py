"""The decision on a virtual clock: what it makes of a large cluster and very many jobs."""

import heapq
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from app.cluster.scheduling.board import Board, decayed
from app.cluster.scheduling.decision import decide
from app.cluster.scheduling.order import Share
from app.cluster.scheduling.picture import NEVER, Device, Node, Waiting, shape
from app.quotas.limits import Ceiling, Limits

NODES, GPUS = 1000, 8
TEAMS, MEMBERS = 40, 5
GIB = 1024**3
START = 1_800_000_000.0
TICK = 30.0  # seconds between two decisions
SIZES = (1, 1, 1, 1, 1, 2, 2, 2, 4, 4, 8)
PRIORITIES = (0, 1, 1, 1, 1, 1, 1, 2, 2, 3)
CHECKPOINT = 900.0  # seconds of work between two
STOPPING = 20.0  # seconds that a run takes to save one and to go
PATIENCE = 3.0  # times its fair-share time: who waits longer was starved


@dataclass
class Work:
    """A job or a replica, and what became of it."""

    id: str
    team: str
    user: str
    devices: int
    memory: int | None
    priority: int
    seconds: float  # that it takes
    estimate: float
    came: float
    serves: bool = False
    left: float = 0.0
    began: float = 0.0  # its present attempt
    since: float = 0.0  # when it began to wait, this time
    served: float = 0.0  # device-seconds: of its workspace when it began to wait
    due: float = 0.0  # and what its share was worth until then
    preemptions: int = 0
    attempt: int = 0
    dies: bool = False


@dataclass
class Log:
    violations: int = 0
    starved: int = 0
    worst: float = 0.0
    starts: int = 0
    deaths: int = 0
    preempted: int = 0
    used: float = 0.0  # device-seconds while somebody waited
    bound: float = 0.0  # that an offline greedy one would have used
    waits: list[float] = field(default_factory=list)
    spent: list[float] = field(default_factory=list)


def cluster() -> Board:
    board = Board()
    for number in range(NODES):
        name = f"node-{number:04}"
        model = "H200" if number % 4 else "A100"
        size = (141 if number % 4 else 80) * GIB
        board.put(
            Node(
                name,
                [
                    Device(f"{name}/{at}", name, f"cuda:{at}", "cuda", model, size)
                    for at in range(GPUS)
                ],
            ),
            [],
        )
    return board


def everyone(chance: random.Random) -> tuple[Limits, dict[str, float]]:
    """Quotas and weights: some workspaces have none, some a small one; some members have their own."""
    workspaces, members, weights = {}, {}, {}
    for number in range(TEAMS):
        team = f"team-{number:02}"
        weights[team] = chance.choice([1.0, 1.0, 1.0, 2.0, 4.0])
        if number % 3:
            workspaces[team] = Ceiling(
                devices=chance.choice([400, 600, 900]),
                by_model={"A100": 150} if number % 5 == 0 else {},
                jobs=400 if number % 4 == 0 else None,
            )
        if number % 6 == 1:
            members[team, f"{team}/0"] = Ceiling(devices=120)
    return Limits(workspaces=workspaces, members=members), weights


def arrivals(count: int, chance: random.Random, load: float) -> list[Work]:
    """So many over a time in which the cluster can do about `1 / load` of them."""
    found = []
    for number in range(count):
        team = min(int(chance.expovariate(1 / 12.0)), TEAMS - 1)
        serves = chance.random() < 0.08
        seconds = min(max(120.0, chance.lognormvariate(7.6, 1.0)), 24 * 3600.0)
        if serves:
            seconds *= 2
        estimate = NEVER if serves else seconds * chance.uniform(0.7, 1.6)
        found.append(
            Work(
                id=f"w{number:06}",
                team=f"team-{team:02}",
                user=f"team-{team:02}/{chance.randrange(MEMBERS)}",
                devices=1 if serves else chance.choice(SIZES),
                memory=chance.choice([12, 24, 40]) * GIB if serves else None,
                priority=chance.choice(PRIORITIES),
                seconds=seconds,
                estimate=estimate,
                came=0.0,
                serves=serves,
                left=seconds,
                dies=chance.random() < 0.02,
            )
        )
    total = sum(work.devices * work.seconds for work in found)
    span = total / (NODES * GPUS) / load
    at = START
    for work in found:  # in waves: quiet nights, busy days
        at += chance.expovariate(count / span) * (
            0.4 if int((at - START) / (span / 6)) % 2 else 1.6
        )
        work.came = at
    return found


class Simulation:
    """The clock, who comes and who goes."""

    def __init__(self, count: int, seed: int = 7) -> None:
        chance = random.Random(seed)
        self.board = cluster()
        self.limits, self.weights = everyone(chance)
        self.works = arrivals(count, chance, load=1.15)
        self.by_id = {work.id: work for work in self.works}
        self.ends: list[tuple[float, str, int]] = []
        self.had: dict[str, tuple[float, float]] = {}  # decayed device-seconds, and when
        self.served: defaultdict[str, float] = defaultdict(float)  # device-seconds, ever
        self.due: defaultdict[str, float] = defaultdict(float)  # that its share would have been
        # of a workspace, and of a member with a quota of its own
        self.held: Counter[str] = Counter()  # devices
        self.jobs: Counter[str] = Counter()  # that run
        self.waits: Counter[str] = Counter()
        self.wanted: Counter[str] = Counter()  # whole devices, by those who wait
        self.log = Log()
        self.tell: Callable[[str], None] = print

    def run(self, tell: Callable[[str], None]) -> Log:
        self.tell = tell
        now, coming, told = START, 0, time.monotonic()
        while coming < len(self.works) or self.board.waiting or self.ends:
            now += TICK
            self.finish(now)
            while coming < len(self.works) and self.works[coming].came <= now:
                self.submit(self.works[coming], self.works[coming].came)
                coming += 1
            self.decide(now)
            self.account()
            if time.monotonic() - told > 20:
                told = time.monotonic()
                tell(
                    f"  {(now - START) / 3600:6.1f} h: {coming:,} have come, {len(self.board.waiting):,} wait,"
                    f" {len(self.board.holders):,} run, {self.log.preempted:,} made room"
                )
            if coming == len(self.works) and not self.board.waiting:
                break
        return self.log

    def submit(self, work: Work, at: float) -> None:
        work.since = at
        key = self.whose(work)
        work.served, work.due = self.served[key], self.due[key]
        self.count_waiting(work, 1)
        self.board.submit(
            Waiting(
                work.id,
                work.team,
                work.user,
                shape(work.devices, work.memory, "cuda"),
                work.priority,
                work.came,
                NEVER if work.serves else work.estimate * work.left / work.seconds,
                preemptible=not work.serves,
                preemptions=work.preemptions,
                job=not work.serves,
            )
        )

    def finish(self, now: float) -> None:
        """Who ends, dies, or has saved its checkpoint and goes."""
        while self.ends and self.ends[0][0] <= now:
            at, id_, attempt = heapq.heappop(self.ends)
            work = self.by_id[id_]
            if attempt != work.attempt or id_ not in self.board.holders:
                continue
            leaving = self.board.holders[id_].leaving
            self.give_back(work, at)
            ran = at - work.began
            if leaving:
                work.left -= ran
                work.preemptions += 1
                self.log.preempted += 1
                if work.left > 0:
                    self.submit(work, at)
            elif work.dies:  # once, half way: it goes on from its last checkpoint
                work.dies = False
                work.left -= ran // CHECKPOINT * CHECKPOINT
                self.log.deaths += 1
                self.submit(work, at)

    def give_back(self, work: Work, at: float) -> None:
        self.board.leave(work.id)
        self.count_held(work, -1)
        used, since = self.had.get(work.team, (0.0, at))
        ran = work.devices * (at - work.began)
        self.had[work.team] = (decayed(used, since, at) + ran, at)

    def decide(self, now: float) -> None:
        shares = {
            team: Share(weight, *self.had.get(team, (0.0, now)))
            for team, weight in self.weights.items()
        }
        began = time.process_time()
        made = decide(self.board, self.limits, shares, now)
        self.log.spent.append(time.process_time() - began)
        for one, devices in made.grants:
            self.start(self.by_id[one.id], now)
            if len({device.node for device in devices}) != 1 or len(devices) != one.shape.devices:
                self.log.violations += 1
        for holder, _ in made.preemptions:
            work = self.by_id[holder.id]
            work.attempt += 1
            ends = min(now + STOPPING, work.began + work.left)
            heapq.heappush(self.ends, (ends, work.id, work.attempt))
        self.log.violations += violations(self.board, self.limits)

    def start(self, work: Work, now: float) -> None:
        work.attempt += 1
        work.began = now
        self.count_waiting(work, -1)
        self.count_held(work, 1)
        takes = work.left / 2 if work.dies else work.left
        heapq.heappush(self.ends, (now + takes, work.id, work.attempt))
        self.log.starts += 1
        waited = now - work.since
        self.log.waits.append(waited)
        fair = self.fair_time(work, waited)
        self.log.worst = max(self.log.worst, waited / fair)
        if waited > PATIENCE * fair:
            self.log.starved += 1
            self.tell(
                f"  starved {waited / fair:.2f}: {work.id} of {self.whose(work)}: {work.devices} devices"
                f" for {work.left:.0f} s, priority {work.priority}, waited {waited:.0f} s, made room"
                f" {work.preemptions} times; its workspace (weight {self.weights[work.team]:g}) holds"
                f" {self.held[work.team]}, {self.limits.workspace(work.team)}"
            )

    def count_waiting(self, work: Work, sign: int) -> None:
        key = self.whose(work)
        self.waits[key] += sign
        self.wanted[key] += sign * work.devices * (work.memory is None)

    def count_held(self, work: Work, sign: int) -> None:
        for key in {work.team, self.whose(work)}:
            self.held[key] += sign * work.devices
            self.jobs[key] += sign * (not work.serves)

    def whose(self, work: Work) -> str:
        """Under whose quota it waits: its workspace's, or also its member's where that has one."""
        return work.user if (work.team, work.user) in self.limits.members else work.team

    def fair_time(self, work: Work, waited: float) -> float:
        """In which its workspace's fair share, and no more, would have done what was done for the
        workspace while this one waited, and this one itself. Nothing is due beyond a quota.
        """
        key = self.whose(work)
        served, due = self.served[key] - work.served, self.due[key] - work.due
        return (waited * served / due if due > 0 else waited) + work.left

    # -- what was due, and what was used -------------------------------------------------

    def account(self) -> None:
        """A tick, as it is after its decision."""
        held, jobs = self.held, self.jobs
        keys = {key for key in {*held, *self.waits} if held[key] or self.waits[key]}
        active = {key.partition("/")[0] for key in keys}
        weights = sum(self.weights[team] for team in active)
        room = 0.0
        for key in keys:
            team, _, member = key.partition("/")
            over = {team: self.limits.workspace(team)}
            if member:
                over[key] = self.limits.member(team, key)
            free = min(left(one.devices, held[whose]) for whose, one in over.items())
            more = min(left(one.jobs, jobs[whose]) for whose, one in over.items())
            share = NODES * GPUS * self.weights[team] / weights
            if free < max(SIZES) or more < 1:
                share = min(share, held[team])  # more than its quota is nobody's due
            self.due[key] += share * TICK
            self.served[key] += held[team] * TICK
            room += min(self.wanted[key], max(0, free), max(SIZES) * max(0, more))
        if self.board.waiting:
            used = sum(GPUS - len(node.unheld()) for node in self.board.nodes.values())
            self.log.used += used * TICK
            self.log.bound += min(NODES * GPUS, used + room) * TICK


def left(most: int | None, held: int) -> float:
    return NEVER if most is None else most - held


def violations(board: Board, limits: Limits) -> int:
    """Everything that is held, counted anew: over a quota, over a device's memory, shared though whole."""
    devices: Counter[tuple[str, str, str]] = Counter()
    jobs: Counter[tuple[str, str]] = Counter()
    alike: Counter[tuple[str, str, str, bool]] = Counter()  # devices
    running: Counter[tuple[str, str]] = Counter()
    used: Counter[Device] = Counter()
    whole: list[Device] = []
    for holder in board.holders.values():
        had = holder.devices  # of a node, which has one model
        alike[holder.workspace, holder.user, had[0].model, holder.job] += len(had)
        running[holder.workspace, holder.user] += holder.job
        if holder.memory is None:
            whole += had
        else:
            for device in had:
                used[device] += holder.memory
    for (team, user, model, _), count in alike.items():
        for key in ((team, "", ""), (team, user, ""), (team, "", model), (team, user, model)):
            devices[key] += count
    for (team, user), count in running.items():
        jobs[team, ""] += count
        jobs[team, user] += count
    alone = set(whole)
    found = len(whole) - len(alone) + len(alone & used.keys())
    found += sum(size > device.memory for device, size in used.items())
    for (team, user, model), count in devices.items():
        ceiling = limits.member(team, user) if user else limits.workspace(team)
        most = ceiling.by_model.get(model) if model else ceiling.devices
        found += most is not None and count > most
    for (team, user), count in jobs.items():
        ceiling = limits.member(team, user) if user else limits.workspace(team)
        found += ceiling.jobs is not None and count > ceiling.jobs
    return found


def run(count: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """{quota_violations, starved, utilisation} of `count` jobs."""
    tell(f"{count:,} jobs on {NODES:,} nodes of {GPUS} GPUs, {TEAMS} workspaces")
    began = time.monotonic()
    log = Simulation(count).run(tell)
    waits, spent = sorted(log.waits), sorted(log.spent)
    tell(
        f"{log.starts:,} starts in {time.monotonic() - began:.0f} s: half waited {waits[len(waits) // 2]:.0f} s,"
        f" one in a hundred {waits[len(waits) * 99 // 100]:.0f} s, the longest {waits[-1]:.0f} s;"
        f" {log.preempted:,} made room, {log.deaths:,} died and went on"
    )
    tell(
        f"the longest wait was {log.worst:.2f} times its fair-share time; the decision alone took"
        f" {1000 * spent[len(spent) * 95 // 100]:.1f} ms of processor at the 95th percentile"
    )
    return {
        "quota_violations": log.violations,
        "starved": log.starved,
        "utilisation": round(log.used / log.bound, 4) if log.bound else 1.0,
    }
