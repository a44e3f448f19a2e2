"""Whatever happens, and whoever comes at once: what must hold."""

import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.cluster import service
from app.cluster.tables import Lease, Node, Request
from app.errors import Invalid
from app.queue import transaction
from app.quotas import service as quotas
from tests.cluster.test_service import ask
from tests.factories import GIB, make_device, make_node, make_workspace


def check_invariants(db: Session) -> None:
    """Whatever happened: no device over its memory, none shared that is held whole, no
    workspace over its quota."""
    leases = list(db.scalars(service.held()))
    limits = quotas.limits(db)
    for workspace_id, count in Counter(lease.workspace_id for lease in leases).items():
        assert count <= limits.get(workspace_id, count)
    by_device: dict[str, list[Lease]] = {}
    for lease in leases:
        by_device.setdefault(lease.device_id, []).append(lease)
    for held in by_device.values():
        assert sum(lease.bytes for lease in held) <= held[0].device.memory
        assert len(held) == 1 or not any(lease.exclusive for lease in held)
    by_owner: dict[str, set[str]] = {}
    for lease in leases:
        by_owner.setdefault(lease.owner_id, set()).add(lease.node_id)
    assert all(len(nodes) == 1 for nodes in by_owner.values())


@pytest.mark.parametrize("seed", range(12))
def test_random_sequences_keep_the_invariants(db: Session, seed: int) -> None:
    chance = random.Random(seed)
    for number in range(chance.randint(1, 3)):
        node = make_node(db, devices=0)
        for index in range(chance.randint(1, 4)):
            size = chance.choice([4, 8, 16]) * GIB
            make_device(db, node, name=f"cpu:{index}", memory=size)
        node.cordoned = number == 2
    teams = [make_workspace(db).id for _ in range(3)]
    for team in teams[:2]:
        quotas.put(db, team, chance.randint(1, 4))
    owners: list[str] = []
    for turn in range(60):
        act = chance.random()
        if act < 0.5:
            owner = f"o{turn}"
            try:
                ask(
                    db,
                    chance.choice(teams),
                    owner,
                    devices=chance.randint(1, 3),
                    memory=chance.choice([None, GIB, 3 * GIB, 7 * GIB]),
                    priority=chance.randint(0, 2),
                )
                owners.append(owner)
            except Invalid:
                pass
        elif act < 0.8:
            service.decide(db)
        elif owners:
            owner = owners.pop(chance.randrange(len(owners)))
            chance.choice([service.release, service.withdraw])(db, "job", owner)
        check_invariants(db)
    for node in db.scalars(select(Node)):
        node.cordoned = False
    # nothing is stuck: give everything back, and what is left can be granted in turn
    for _ in range(200):
        service.decide(db)
        check_invariants(db)
        holders = set(db.scalars(select(Lease.owner_id).where(Lease.released_at.is_(None))))
        if not holders:
            break
        for owner in holders:
            service.release(db, "job", owner)
    assert db.scalar(select(func.count()).select_from(Request)) == 0


def test_fifty_submitters_at_once(db: Session) -> None:
    make_node(db, devices=4)
    teams = [make_workspace(db).id for _ in range(3)]
    for team in teams:
        quotas.put(db, team, 1)
    db.commit()
    start = threading.Barrier(50)

    def submit(number: int) -> list[str]:
        start.wait()
        with transaction() as own:
            ask(own, teams[number % 3], f"o{number}")
        with transaction() as own:
            grants = [grant.owner_id for grant in service.decide(own)]
        if number % 5 == 0:
            with transaction() as own:
                service.release(own, "job", f"o{number}")
        return grants

    with ThreadPoolExecutor(50) as pool:
        grants = [owner for granted in pool.map(submit, range(50)) for owner in granted]
    assert len(grants) == len(set(grants))
    service.decide(db)
    check_invariants(db)
    held = list(db.scalars(service.held()))
    assert Counter(lease.workspace_id for lease in held) == dict.fromkeys(teams, 1)
