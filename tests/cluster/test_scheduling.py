"""The decision, pure: who is given what, who waits, and for whom others make room."""

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from app.cluster.scheduling import decision
from app.cluster.scheduling.board import HALF_LIFE, Use, decayed
from app.cluster.scheduling.foresight import foresee
from app.cluster.scheduling.order import ENDLESS, RISE, Share
from app.cluster.scheduling.picture import NEVER
from app.quotas.limits import Ceiling, Limits
from tests.cluster.boards import GIB, NOW, board, check, granted, node, run, wait


def test_whole_devices_come_from_the_fullest_node_that_has_them() -> None:
    made = board(node("a", 8), node("b", 8))
    first = wait(made, 3)
    run(made)
    small, large = wait(made, 5), wait(made, 8)
    found = {one.id: devices[0].node for one, devices in run(made).grants}
    assert found == {small.id: made.holders[first.id].devices[0].node, large.id: "b"}


def test_devices_of_another_kind_or_model_do_not_do() -> None:
    made = board(node("cpu", 2, kind="cpu", model="EPYC"), node("old", 8, model="A100"))
    picky = wait(made, 1, model="H200")
    cuda = wait(made, 1, kind="cuda")
    both = wait(made, 1, kind="cpu", model="EPYC")
    found = run(made)
    assert {one.id: devices[0].node for one, devices in found.grants} == {
        cuda.id: "old",
        both.id: "cpu",
    }
    assert picky.reason == "node"


def test_what_strangers_use_is_left_to_them() -> None:
    made = board(node("a", 2, taken=30 * GIB))
    whole, share, large = (
        wait(made, 1),
        wait(made, 1, memory=40 * GIB),
        wait(made, 1, memory=60 * GIB),
    )
    assert granted(run(made)) == [share.id]
    assert whole.reason == large.reason == "node"


def test_slices_are_never_put_together() -> None:
    made = board(node("mig", 4, single=True))
    two, one = wait(made, 2), wait(made, 1)
    assert granted(run(made)) == [one.id]
    assert two.reason == "node"


def test_priority_then_share_then_age() -> None:
    made = board(node("a", 1))
    old = wait(made, team="busy")
    young = wait(made, team="idle")
    high = wait(made, team="busy", priority=2)
    had = {"busy": Share(used=1e6, at=NOW)}
    for expected in (high, young, old):
        assert granted(run(made, shares=had)) == [expected.id]
        made.leave(expected.id)


def test_a_weight_of_three_has_three_times_as_much() -> None:
    made = board(node("a", 8))
    for _ in range(8):
        wait(made, team="one")
        wait(made, team="three")
    found = run(made, shares={"three": Share(weight=3.0)})
    teams = [one.workspace for one, _ in found.grants]
    assert (teams.count("one"), teams.count("three")) == (2, 6)


def test_what_was_had_counts_half_after_the_half_life() -> None:
    assert decayed(100.0, NOW - HALF_LIFE, NOW) == 50.0
    use = Use()
    use.add(NOW - 10, 4)
    assert math.isclose(use.running(NOW), 40.0, rel_tol=1e-3)
    use.add(NOW - 10, -4)
    use.add(NOW - 100 * HALF_LIFE, 1)
    assert math.isclose(use.running(NOW), HALF_LIFE / math.log(2), rel_tol=1e-6)


def test_waiting_raises_but_displaces_nobody() -> None:
    made = board(node("a", 1))
    runs = wait(made, preemptible=True, seconds=1e6)
    run(made)
    low = wait(made, priority=0, since=NOW - 2 * RISE - 1)
    normal = wait(made, priority=1)
    found = run(made)
    assert not found.preemptions
    made.leave(runs.id)
    assert granted(run(made)) == [low.id]
    assert normal.id in made.waiting


@pytest.mark.parametrize(
    ("waited", "seconds"), [(150.0, 100.0), (ENDLESS + 1, NEVER), (ENDLESS + 1, ENDLESS)]
)
def test_what_is_owed_to_a_workspace_comes_before_the_priorities_of_others(
    waited: float, seconds: float
) -> None:
    made = board(node("a", 2))
    held = [wait(made, team="rich"), wait(made, team="rich")]
    run(made)
    low = wait(made, team="poor", priority=0, since=NOW - waited, seconds=seconds)
    normal = wait(made, team="rich", priority=1, since=NOW - 300)
    made.leave(held[0].id)
    assert granted(run(made)) == [low.id]
    assert normal.id in made.waiting


def test_quotas_of_workspace_member_and_model() -> None:
    made = board(node("a", 8), node("b", 8, model="A100"))
    limits = Limits(
        workspaces={"a": Ceiling(devices=10, by_model={"H200": 2}), "b": Ceiling(jobs=1)},
        members={("a", "li"): Ceiling(devices=3)},
    )
    of_li = [wait(made, 2, team="a", user="li"), wait(made, 2, team="a", user="li")]
    of_b = [wait(made, team="b"), wait(made, team="b"), wait(made, team="b", job=False)]
    elsewhere = wait(made, 4, team="a", user="wu")
    picky = wait(made, 3, team="a", user="wu", model="H200")
    found = granted(run(made, limits=limits))
    assert of_li[0].id in found
    assert of_li[1].reason == "member_quota"
    assert of_b[1].reason == "jobs_quota"
    assert of_b[2].id in found
    assert made.holders[elsewhere.id].devices[0].model == "A100"
    assert picky.reason == "model_quota"


def test_the_first_is_not_delayed_by_those_who_come_later() -> None:
    made = board(node("a", 8))
    wait(made, 4, seconds=1000)
    wait(made, 2, seconds=5000)
    run(made)
    first = wait(made, 5, seconds=100)
    short, long = wait(made, 1, seconds=900), wait(made, 1, seconds=1100)
    found = run(made)
    assert granted(found) == [short.id]
    assert found.kept[first.id] == NOW + 1000
    assert (first.reason, long.reason) == ("devices", "devices")


def test_a_device_that_the_first_does_not_need_is_given_for_as_long_as_wanted() -> None:
    made = board(node("a", 4), node("b", 4))
    wait(made, 4, seconds=1000)
    wait(made, 3, seconds=9000)
    run(made)
    first, other = wait(made, 4, seconds=100), wait(made, 1, seconds=NEVER)
    found = run(made)
    assert granted(found) == [other.id]
    assert found.kept[first.id] == NOW + 1000


def test_nothing_is_kept_where_no_end_is_in_sight() -> None:
    made = board(node("a", 2))
    wait(made, 1, seconds=NEVER, job=False)
    run(made)
    wait(made, 2)
    other = wait(made, 1)
    found = run(made)
    assert granted(found) == [other.id]
    assert not found.kept


def test_lower_training_makes_room_the_fewest_and_the_cheapest() -> None:
    made = board(node("a", 4), node("b", 4))
    old = wait(made, 4, priority=0, preemptible=True)
    run(made, now=NOW - 5000)
    pair = [wait(made, 2, priority=0, preemptible=True) for _ in range(2)]
    run(made, now=NOW - 50)
    urgent = wait(made, 4, priority=3)
    found = run(made)
    assert [(holder.id, one.id) for holder, one in found.preemptions] == [(old.id, urgent.id)]
    assert urgent.reason == "preempting"
    assert not run(made, now=NOW + 5).preemptions  # they are on their way
    taker = wait(made, 4, priority=2)
    made.leave(old.id)
    assert granted(run(made, now=NOW + 30)) == [urgent.id]
    assert {holder.id for holder, one in run(made, now=NOW + 31).preemptions if one is taker} <= {
        one.id for one in pair
    }


def test_what_others_left_is_for_the_one_they_left_it_to() -> None:
    made = board(node("a", 1))
    low = wait(made, priority=0, preemptible=True, seconds=1e5)
    run(made, now=NOW - 100)
    waiter = wait(made, team="busy", priority=2)
    had = {"busy": Share(used=1e6, at=NOW)}
    assert run(made, shares=had).preemptions
    wait(made, team="idle", priority=2, since=NOW - 9000)
    made.leave(low.id)
    assert granted(run(made, now=NOW + 10, shares=had)) == [waiter.id]


def test_who_has_made_room_often_enough_stays() -> None:
    made = board(node("a", 1))
    wait(made, priority=0, preemptible=True, preemptions=3)
    run(made)
    wait(made, priority=3)
    assert not run(made).preemptions


def test_nobody_makes_room_for_what_is_free_in_a_minute() -> None:
    made = board(node("a", 2))
    wait(made, 1, priority=0, preemptible=True, seconds=9000)
    wait(made, 1, priority=0, preemptible=True, seconds=40)
    run(made)
    wait(made, 1, priority=3)
    assert not run(made).preemptions


@some.composite
def asked(draw: some.DrawFn) -> dict[str, object]:
    share = draw(some.sampled_from([None, None, None, 10 * GIB, 50 * GIB]))
    return {
        "devices": draw(some.integers(1, 8 if share is None else 2)),
        "memory": share,
        "team": draw(some.sampled_from("abc")),
        "user": draw(some.sampled_from(["", "li", "wu"])),
        "priority": draw(some.integers(0, 3)),
        "seconds": draw(some.sampled_from([60.0, 1000.0, 9000.0, NEVER])),
        "preemptible": share is None and draw(some.booleans()),
        "job": share is None,
        "model": draw(some.sampled_from([None, None, None, "H200", "A100"])),
    }


LIMITS = Limits(
    default=Ceiling(devices=20),
    workspaces={"a": Ceiling(devices=9, by_model={"A100": 3}), "b": Ceiling(devices=30, jobs=4)},
    members={("a", "li"): Ceiling(devices=4), ("c", "wu"): Ceiling(jobs=2, by_model={"H200": 5})},
)
act = some.one_of(
    asked(),
    some.tuples(some.just("leave"), some.integers(0, 99)),
    some.tuples(some.just("later"), some.integers(1, 4000)),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(some.lists(act, min_size=5, max_size=60))
def test_whatever_happens_the_invariants_hold(acts: list[object]) -> None:
    """And what could be granted in order, with nothing kept in front of it, is."""
    made = board(node("a", 8), node("b", 4, model="A100"), node("c", 8, taken=GIB), node("d", 3))
    now = NOW
    for act in acts:
        if isinstance(act, dict):
            wait(made, **act)
        elif isinstance(act, tuple) and act[0] == "leave":
            if made.holders:
                made.leave(sorted(made.holders)[act[1] % len(made.holders)])
        elif isinstance(act, tuple):
            now += act[1]
        run(made, now=now, limits=LIMITS)
        assert not run(made, now=now, limits=LIMITS).grants  # what could be given was given
    for id_ in list(made.holders):
        made.leave(id_)
    for _ in range(200):
        run(made, now=now, limits=LIMITS)
        for id_ in list(made.holders):
            made.leave(id_)
    for one in made.waiting.values():  # nothing is stuck but what can never be
        assert one.reason == "node" or one.reason in decision.LIMITS
    check(made, LIMITS)


@settings(max_examples=150, deadline=None)
@given(
    some.lists(
        some.tuples(some.integers(1, 4), some.sampled_from([100.0, 700.0, 3000.0])),
        min_size=2,
        max_size=8,
    ),
    some.lists(
        some.tuples(some.integers(1, 4), some.sampled_from([50.0, 400.0, 5000.0])),
        min_size=1,
        max_size=12,
    ),
)
def test_the_first_starts_no_later_for_those_behind(
    running: list[tuple[int, float]], behind: list[tuple[int, float]]
) -> None:
    """Its expected start with others behind it is not later than without, at each end of a run."""

    def start(others: list[tuple[int, float]]) -> float:
        made = board(node("a", 4), node("b", 4))
        for devices, seconds in running:
            wait(made, devices, seconds=seconds)
        run(made)
        for id_ in list(made.waiting):
            made.withdraw(id_)
        first = wait(made, 4, seconds=100.0)
        for devices, seconds in others:
            wait(made, devices, seconds=seconds)
        now = NOW
        while first.id in made.waiting:
            run(made, now=now)
            if first.id not in made.waiting:
                break
            now = min(holder.end for holder in made.holders.values())
            for holder in list(made.holders.values()):
                if holder.end <= now:
                    made.leave(holder.id)
        return now

    assert start(behind) <= start([])


def test_the_queue_played_forward() -> None:
    made = board(node("a", 2))
    runs = wait(made, 2, seconds=100.0)
    run(made)
    second, third = wait(made, 1, seconds=50.0, team="b"), wait(made, 2, seconds=10.0, team="b")
    limited = wait(made, 1, team="c", seconds=10.0, since=NOW)
    never = wait(made, 3, team="d", since=NOW + 1)
    limits = Limits(workspaces={"c": Ceiling(devices=0)})
    found = {one.id: one for one in foresee(made, limits, {}, NOW)}
    assert runs.id not in found
    assert (found[second.id].position, found[second.id].start) == (1, NOW + 100)
    assert found[third.id].start == NOW + 150
    assert found[limited.id].start is None
    assert found[never.id].start is None
    check(made)
