"""Decisions from Postgres: 1,000 full nodes, 5,000 waiting, some go and some come each time."""

import gc
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app import embedded

NODES, GPUS, WAITING, TEAMS = 1000, 8, 5000, 40
LEAVE = 12  # requests given back between two decisions, and as many new ones
WARM = 10  # decisions before the first that is measured

FILL = [
    """INSERT INTO workspaces (id, slug, name, created_at, tuned_calls)
       SELECT 'ws_' || i, 'ws-' || i, 'ws ' || i, now(), 'off' FROM generate_series(0, :teams - 1) i""",
    """INSERT INTO nodes (id, host, seen_at, facts, labels, cordoned, created_at)
       SELECT 'node-' || i, 'host', now() + interval '1 day', '{}', '{}', false, now()
       FROM generate_series(1, :nodes) i""",
    """INSERT INTO devices (id, node_id, name, kind, model, uuid, memory, healthy, problems, taken,
                            facts, stats, retired)
       SELECT 'dev_' || i || '_' || k, 'node-' || i, 'cuda:' || k, 'cuda', 'NVIDIA H200', '',
              151397597184, true, '[]', 0, '{"card": "0"}', '{"use": 97, "memory": 90000000000}', false
       FROM generate_series(1, :nodes) i, generate_series(0, :gpus - 1) k""",
]


def run(rounds: int, tell: Callable[[str], None], home: Path, at: embedded.Place) -> dict[str, Any]:
    """{decision_p95_ms} over so many decisions, each in its transaction, from call to commit."""
    postgres = embedded.start_postgres(at, home / "postgres.log", sync=False)
    try:
        while not embedded.postgres_ready(at):
            time.sleep(0.05)
        return measured(rounds, tell)
    finally:
        embedded.stop(postgres, signal.SIGINT)


def measured(rounds: int, tell: Callable[[str], None]) -> dict[str, Any]:
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import text
    from sqlalchemy.orm import Session

    from app.cluster import service as cluster
    from app.db import engine
    from app.quotas import limits
    from app.tables import Base

    assert Base.metadata
    command.upgrade(Config(toml_file="pyproject.toml"), "head")
    chance = random.Random(11)

    values = {"nodes": NODES, "gpus": GPUS, "teams": TEAMS}
    with engine().begin() as connection:
        for statement in FILL:
            connection.execute(text(statement), values)
    with Session(engine()) as db:
        for team in range(0, TEAMS, 2):
            limits.change(db, f"ws_{team}", None, {"devices": 300})
        fill(db, chance)
        db.execute(text("ANALYZE"))
        db.commit()
        held = [
            tuple(row)
            for row in db.execute(
                text("SELECT owner_kind, owner_id FROM requests WHERE granted_at IS NOT NULL")
            )
        ]
    wall, processor, granted = [], [], 0
    with Session(engine()) as db:
        first = once(db, cluster.decide)
    tell(f"{NODES:,} nodes, {WAITING:,} wait; the first look took {first[0]:.0f} ms")
    gc.collect()
    gc.freeze()
    for number in range(rounds + WARM):
        with Session(engine()) as db:
            for _ in range(LEAVE):
                cluster.release(db, *held.pop(chance.randrange(len(held))))
            insert(db, chance, max(0, LEAVE))
            db.commit()
        with Session(engine()) as db:
            ms, cpu, grants = once(db, cluster.decide)
        held += [(grant.owner_kind, grant.owner_id) for grant in grants]
        if number >= WARM:
            wall.append(ms)
            processor.append(cpu)
            granted += len(grants)
    wall.sort()
    processor.sort()
    tell(
        f"{rounds} decisions, {granted / rounds:.0f} grants each: median {wall[rounds // 2]:.1f} ms,"
        f" p95 {wall[int(rounds * 0.95)]:.1f} ms, most {wall[-1]:.1f} ms; of the processor of this"
        f" process median {processor[rounds // 2]:.1f} ms, p95 {processor[int(rounds * 0.95)]:.1f} ms"
    )
    return {"decision_p95_ms": round(wall[int(rounds * 0.95)], 1)}


def once(db: Any, decide: Callable[[Any], Any]) -> tuple[float, float, Any]:
    """Milliseconds from the call to the commit, of the clock and of this process's processor."""
    began, spent = time.perf_counter(), time.process_time()
    grants = decide(db)
    db.commit()
    return 1000 * (time.perf_counter() - began), 1000 * (time.process_time() - spent), grants


def fill(db: Any, chance: random.Random) -> None:
    """Every device held, and so many waiting."""
    from app.cluster import service as cluster

    for _ in range(5):
        insert(db, chance, 1000)
        cluster.decide(db)
    while (waits := waiting(db)) < WAITING:
        insert(db, chance, WAITING - waits)
        cluster.decide(db)


def waiting(db: Any) -> int:
    from sqlalchemy import text

    return int(db.scalar(text("SELECT count(*) FROM requests WHERE granted_at IS NULL")))


def insert(db: Any, chance: random.Random, count: int) -> None:
    """New requests, in one statement: what `ask` would insert, without its look at what is possible."""
    from sqlalchemy import insert as into

    from app.cluster.tables import Request
    from app.db import new_id

    rows = []
    for _ in range(count):
        shared = chance.random() < 0.1
        rows.append(
            {
                "owner_kind": "replica" if shared else "job",
                "owner_id": new_id("job"),
                "workspace_id": f"ws_{chance.randrange(TEAMS)}",
                "devices": 1 if shared else chance.choice([1, 1, 1, 2, 2, 4, 8]),
                "memory": chance.choice([12, 24, 40]) * 2**30 if shared else None,
                "priority": chance.choice([0, 1, 1, 1, 1, 2]),
                "preemptible": not shared,
                "seconds": None if shared else chance.uniform(600, 20_000),
            }
        )
    if rows:
        db.execute(into(Request), rows)
