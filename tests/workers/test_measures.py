"""Measures on a node: started once, found again, stopped, tried again."""

import signal
import time
from datetime import timedelta
from pathlib import Path

import pytest

from app import storage
from app.config import settings
from app.datasets.drafts import edits, overlay
from app.datasets.measures import service as measures
from app.datasets.tables import Dataset, DatasetMeasure, DatasetVersion
from app.db import now
from app.queue import transaction
from tests import factories
from tests.datasets.measures.measured import dataset, starter
from tests.workers.stage_runs import chat
from tests.workers.test_stages_measure import conversations, model, stored
from workers import measures as node
from workers import process, starting, sweep


@pytest.fixture(autouse=True)
def nothing_is_left():
    node.noted.clear()
    yield
    left = process.attempts()
    for run in left:
        owner, _, fence = run.rpartition("-")
        process.stop_attempt(owner, int(fence), 0)


@pytest.fixture
def asked(db, tmp_path):
    """A measure of a stored version; `rows` copies make it last."""

    def make(rows=200, template=None):
        storage.put(model(tmp_path, template), f"models/m{rows}")
        directory = stored(tmp_path, conversations(rows), f"rows-{rows}")
        storage.put(directory, f"segments/{rows}")
        chosen = factories.make_model(db, artefact=f"models/m{rows}")
        version = factories.make_dataset(
            db,
            factories.make_workspace(db),
            rows=rows,
            segments=[{"artefact": f"segments/{rows}", "rows": rows}],
        )
        one = measures.ask(db, version, chosen)
        db.commit()
        return one.id

    return make


def look(measure_id) -> DatasetMeasure | None:
    with transaction() as db:
        return db.get(DatasetMeasure, measure_id)


def tick_until(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        node.tick(settings.node)
        time.sleep(0.05)


def state_of(measure_id, *states):
    def holds():
        one = look(measure_id)
        return (one.state if one else "gone") in states

    return holds


def test_a_measure_from_asking_to_its_result(asked):
    measure_id = asked()
    tick_until(state_of(measure_id, "done"))
    one = look(measure_id)
    assert (one.result["rows"], one.progress, one.pid) == (200, 1.0, None)
    assert not list(settings.runs.glob("me_*"))  # the row says all


def test_the_process_knows_nothing_of_the_platform_and_yields_to_everybody(asked):
    measure_id = asked(20_000)
    node.tick(settings.node)
    one = look(measure_id)
    environ = Path(f"/proc/{one.pid}/environ").read_text()
    assert f"DANLU_RUN={one.id}-1" in environ
    assert "DATABASE_URL" not in environ
    assert int(Path(f"/proc/{one.pid}/stat").read_text().rpartition(")")[2].split()[16]) == 15


def test_one_at_a_time(asked):
    first, second = asked(20_000), asked(300)
    for _ in range(3):
        node.tick(settings.node)
    assert (look(first).state, look(second).state) == ("running", "queued")


def test_what_was_started_is_found_again_and_not_started_twice(asked):
    """The node process may die at any moment: everything it knew is in the row and on disk."""
    measure_id = asked(5000)
    node.tick(settings.node)
    before = look(measure_id)
    with transaction() as db:  # as if we had died before writing the pid down
        row = db.get_one(DatasetMeasure, measure_id)
        row.pid = row.pid_started = None
    node.noted.clear()
    node.tick(settings.node)
    after = look(measure_id)
    assert (after.pid, after.pid_started, after.fence) == (before.pid, before.pid_started, 1)
    tick_until(lambda: look(measure_id).progress > 0 or look(measure_id).state == "done")


def test_a_process_that_is_killed_is_tried_again_then_given_up(asked):
    measure_id = asked(20_000)
    for fence in (1, 2, 3):
        tick_until(lambda: look(measure_id).pid)
        one = look(measure_id)
        assert one.fence == fence
        process.send(process.Process(one.pid, one.pid_started), signal.SIGKILL)
        tick_until(lambda: look(measure_id).pid is None)
    tick_until(state_of(measure_id, "failed"))
    assert look(measure_id).error["code"] == "died"


def test_a_deleted_dataset_stops_its_measure(db, asked):
    measure_id = asked(20_000)
    tick_until(lambda: look(measure_id).pid)
    one = look(measure_id)
    for deleted in db.query(Dataset):
        deleted.deleted_at = now()
    db.commit()
    tick_until(state_of(measure_id, "gone"))
    assert not process.alive(one.pid, one.pid_started)
    assert not list(settings.runs.glob("me_*"))


def test_draining_lets_it_wait_again(asked):
    measure_id = asked(20_000)
    tick_until(lambda: look(measure_id).pid)
    settings.runs.mkdir(parents=True, exist_ok=True)
    starting.draining().touch()
    node.drain(settings.node)
    node.tick(settings.node)
    one = look(measure_id)
    assert (one.state, one.node_id, one.pid) == ("queued", None, None)
    assert not process.attempts()
    starting.draining().unlink()


def test_a_failed_one_says_why_and_can_be_asked_for_again(db, asked):
    measure_id = asked(150, template="{% for")
    tick_until(state_of(measure_id, "failed"))
    one = look(measure_id)
    assert one.error["code"] == "chat_template"
    assert one.error["message"] % one.error["params"]
    with transaction() as session:
        session.get_one(DatasetMeasure, measure_id, with_for_update=True)
        measures.switch(session, session.get_one(DatasetMeasure, measure_id), "queued")
    assert look(measure_id).error is None


def test_a_lost_segment_is_named(db, asked):
    measure_id = asked(120)
    storage.delete("segments/120")
    tick_until(state_of(measure_id, "failed"))
    assert look(measure_id).error["code"] == "artefact_missing"


def test_a_draft_is_measured_as_edited_and_anew_after_each_change(db):
    user = factories.make_user(db)
    workspace = factories.make_workspace(db, owner=user)
    chosen = starter(db)
    rows = [chat(f"问题 {at}", "答案") for at in range(5)]
    version = dataset(db, workspace, rows, status="draft")
    who = factories.make_principal(user, workspace)

    def measure():
        with transaction() as session:
            fresh = session.get_one(DatasetVersion, version.id)
            asked = measures.ask(session, fresh, chosen).id
        tick_until(state_of(asked, "done"))
        return look(asked).result

    before = measure()
    edits.delete(who, version.dataset_id, "", ["dv_x.1", "dv_x.4"])
    edits.add(who, version.dataset_id, "", [chat("加在后面", "好" * 100)], after="dv_x.0")
    edits.add(who, version.dataset_id, "", [chat("加在最后", "好" * 200)])
    after = measure()
    assert (before["rows"], after["rows"]) == (5, 5)
    assert [one["row"] for one in after["longest"][:2]] == [4, 1]
    with transaction() as session:  # what the draft no longer is, is forgotten
        assert session.query(DatasetMeasure).count() == 1
        shown = [
            overlay.row(session.get_one(DatasetVersion, version.id), number)["messages"][0][
                "content"
            ]
            for number in range(5)
        ]
    assert shown == ["问题 0", "加在后面", "问题 2", "问题 3", "加在最后"]


def test_an_edit_while_it_runs_gives_the_measure_up(db, asked):
    measure_id = asked(20_000)
    tick_until(lambda: look(measure_id).pid)
    one = look(measure_id)
    for version in db.query(DatasetVersion):
        version.edition += 1
    db.commit()
    tick_until(state_of(measure_id, "gone"))
    assert not process.alive(one.pid, one.pid_started)


def test_a_dead_node_gives_up_its_measures(db, asked, monkeypatch):
    measure_id = asked(150)
    with transaction() as session:
        measures.claim(session, "node-gone")
    factories.make_node(db, id="node-gone", seen_at=now() - timedelta(hours=1))
    db.commit()
    monkeypatch.setattr(settings, "node_dead_after", 0.001)
    sweep.sweep()
    assert look(measure_id).state == "queued"
    tick_until(state_of(measure_id, "done"))
