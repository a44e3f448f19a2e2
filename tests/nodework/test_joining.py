"""Joining with a token, what a node's credentials open, and their end."""

import contextlib
from datetime import timedelta

import psycopg
import pytest
from kombu import Connection
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.accounts.tables import AuditEntry, User
from app.cluster.tables import Lease, Node
from app.config import settings
from app.db import now
from app.jobs.tables import Job
from app.nodework import broker, roles
from app.nodework.tables import NodeAccess, NodeToken
from app.queue import celery, node_queue, redis, unacked
from app.tables import Base
from tests import factories as make
from tests.conftest import Client
from tests.nodework.conftest import invite, join
from tests.nodework.servers import Servers


def connect(joined: dict[str, str]) -> psycopg.Connection:
    return psycopg.connect(joined["DATABASE_URL"].replace("+psycopg", ""), autocommit=True)


# -- tokens ------------------------------------------------------------------------------


def test_a_token_is_good_once_and_for_a_while(admin: Client, db: Session) -> None:
    token = invite(admin)
    assert token not in str(db.execute(select(NodeToken.__table__)).all())
    body = {"token": token, "node": "gpu-1"}
    given = admin.post("/api/v1/node/join", json=body).json()["environment"]
    assert given["DANLU_NODE"] == "gpu-1"
    assert admin.post("/api/v1/node/join", json=body).status_code == 401
    late = invite(admin)
    db.execute(update(NodeToken).values(expires_at=now() - timedelta(seconds=1)))
    db.commit()
    refused = admin.post("/api/v1/node/join", json={"token": late, "node": "gpu-2"})
    assert (refused.status_code, refused.json()["code"]) == (401, "token")
    assert admin.post("/api/v1/node/join", json={"token": "x"}).status_code == 401


@pytest.mark.parametrize("name", ["", "GPU", "a b", "-a", "x" * 41, "a;drop"])
def test_names(admin: Client, name: str) -> None:
    answer = admin.post("/api/v1/node/join", json={"token": invite(admin), "node": name})
    assert answer.status_code == 422


def test_a_token_for_a_name(admin: Client) -> None:
    token = invite(admin, node="gpu-7", minutes=5)
    other = admin.post("/api/v1/node/join", json={"token": token, "node": "gpu-8"})
    assert other.status_code == 409
    found = admin.post("/api/v1/node/join", json={"token": token})
    assert found.json()["environment"]["DANLU_NODE"] == "gpu-7"


def test_nobody_takes_a_name(admin: Client, db: Session, joined: dict[str, str]) -> None:
    make.make_node(db, id="local")
    db.commit()
    for name in ("gpu-1", "local"):
        body = {"token": invite(admin), "node": name}
        assert admin.post("/api/v1/node/join", json=body).json()["code"] == "name_taken"
    body = {"token": invite(admin, node="local"), "node": "local"}
    assert admin.post("/api/v1/node/join", json=body).json()["code"] == "name_taken"


def test_joining_again_replaces_what_it_had(admin: Client, joined: dict[str, str]) -> None:
    again = join(admin, "gpu-1", node="gpu-1")
    with connect(again) as line:
        assert line.execute("SELECT 1").fetchone() == (1,)
    assert Redis.from_url(again["REDIS_URL"]).ping()
    with pytest.raises(psycopg.OperationalError):
        connect(joined)
    with pytest.raises(AuthenticationError):
        Redis.from_url(joined["REDIS_URL"]).ping()


def test_the_store_of_nodes(admin: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "store", "s3://bucket/prefix")
    monkeypatch.setattr(settings, "join_database", "db.example:5432")
    monkeypatch.setenv("AWS_REGION", "eu-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ours")
    monkeypatch.setenv("DANLU_JOIN_AWS_ACCESS_KEY_ID", "theirs")
    given = join(admin, "gpu-3")
    assert given["DANLU_STORE"] == "s3://bucket/prefix"
    assert given["AWS_REGION"] == "eu-1"
    assert given["AWS_ACCESS_KEY_ID"] == "theirs"
    assert "@db.example:5432/danlu" in given["DATABASE_URL"]
    assert "of-the-platform" not in str(given)


# -- the database ------------------------------------------------------------------------


def rows(db: Session) -> tuple[Job, Job]:
    """A job on gpu-1, and one elsewhere, of the same workspace."""
    owner = make.make_user(db)
    workspace = make.make_workspace(db, owner=owner)
    for name in ("gpu-1", "other"):
        make.make_node(db, id=name)
    mine = make.make_job(db, workspace, owner, state="running", node_id="gpu-1", fence=1)
    theirs = make.make_job(db, workspace, owner, state="running", node_id="other", fence=1)
    for job in (mine, theirs):
        model = make.make_model(db, workspace)
        deployment = make.make_deployment(
            db, workspace, owner, model_id=model.id, served_model_id=model.id, name=f"d-{job.id}"
        )
        make.make_replica(db, deployment, state="ready", node_id=job.node_id, fence=1)
    db.commit()
    return mine, theirs


def test_a_role_sees_its_own_rows(db: Session, joined: dict[str, str]) -> None:
    mine, _ = rows(db)
    with connect(joined) as line:
        for table, column in (("jobs", "node_id"), ("devices", "node_id"), ("nodes", "id")):
            found = line.execute(f"SELECT DISTINCT {column} FROM {table}").fetchall()
            assert found == [("gpu-1",)], table
        assert line.execute("SELECT node_id FROM replicas").fetchall() == [("gpu-1",)]
        assert line.execute("SELECT name FROM deployments").fetchall() == [(f"d-{mine.id}",)]


def test_a_role_reads_nothing_else_and_changes_nothing(db: Session, joined: dict[str, str]) -> None:
    mine, _ = rows(db)
    readable = set()
    with connect(joined) as line:
        for table in Base.metadata.sorted_tables:
            with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
                line.execute(f'SELECT * FROM "{table.name}" LIMIT 1')
                readable.add(table.name)
        assert readable == set(roles.READS)
        line.execute("SET default_transaction_read_only = off")  # it is a help, no guard
        for statement in (
            f"UPDATE jobs SET state = 'succeeded' WHERE id = '{mine.id}'",
            "DELETE FROM leases",
            "INSERT INTO nodes (id) VALUES ('x')",
            "CREATE TABLE mine (a int)",
            "CREATE ROLE another",
            "ALTER TABLE jobs DISABLE ROW LEVEL SECURITY",
            "DROP POLICY node_reads ON jobs",
            "CREATE OR REPLACE FUNCTION danlu_node() RETURNS text LANGUAGE sql AS 'SELECT $$x$$'",
            "SET ROLE danlu",
            "SET SESSION AUTHORIZATION danlu",
            "COPY jobs TO PROGRAM 'true'",
            "SELECT pg_read_file('PG_VERSION')",
        ):
            with pytest.raises(
                (psycopg.errors.InsufficientPrivilege, psycopg.errors.WrongObjectType)
            ):
                line.execute(statement)
        facts = line.execute(
            "SELECT rolsuper, rolcreaterole, rolcreatedb, rolbypassrls FROM pg_roles"
            " WHERE rolname = session_user"
        ).fetchone()
        assert facts == (False, False, False, False)


def test_the_platform_needs_leave_to_make_roles(
    admin: Client, over_tcp: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roles, "may_make_roles", lambda _: False)
    answer = admin.post("/api/v1/node/join", json={"token": invite(admin), "node": "gpu-5"})
    assert (answer.status_code, answer.json()["code"]) == (409, "no_createrole")
    assert "CREATEROLE" in answer.json()["detail"]


# -- the broker --------------------------------------------------------------------------


def test_a_user_takes_its_own_messages_and_no_others(joined: dict[str, str]) -> None:
    redis().execute_command("ACL", "LOG", "RESET")
    with Connection(settings.redis_url) as ours:
        producer = ours.Producer()
        for queue in (node_queue("gpu-1"), node_queue("gpu-2"), "control"):
            celery.amqp.queues[queue](ours.default_channel).declare()
            producer.publish({"for": queue}, routing_key=queue, exchange=queue)
    options = unacked("gpu-1")
    with Connection(joined["REDIS_URL"], transport_options=options) as theirs:
        queue = theirs.SimpleQueue(node_queue("gpu-1"))
        message = queue.get(timeout=5)
        assert message.payload == {"for": "node.gpu-1"}
        message.ack()
        queue.close()
        theirs.default_channel.qos.restore_visible()  # what a worker does as it starts
    assert redis().execute_command("ACL", "LOG") == []
    line = Redis.from_url(joined["REDIS_URL"])
    for words in (
        ("LPUSH", "control", "x"),
        ("BRPOP", "node.gpu-2", 1),
        ("BRPOP", "node.gpu-11", 1),
        ("HGETALL", "unacked"),
        ("GET", "danlu:swept"),
        ("KEYS", "*"),
        ("SCAN", "0"),
        ("SET", "danlu:swept", "x"),
        ("ZADD", "unacked_index", 1, "x"),
        ("SUNION", "_kombu.binding.control"),
        ("FLUSHALL",),
        ("CONFIG", "GET", "*"),
        ("ACL", "LIST"),
        ("SUBSCRIBE", "danlu"),
        ("PUBLISH", "danlu", "x"),
        ("CLIENT", "LIST"),
        ("MONITOR",),
    ):
        with pytest.raises(NoPermissionError):
            line.execute_command(*words)


def test_the_broker_is_told_again_after_it_forgot(db: Session, joined: dict[str, str]) -> None:
    broker.drop("gpu-1")
    with pytest.raises(AuthenticationError):
        Redis.from_url(joined["REDIS_URL"]).ping()
    broker.restore(db)
    assert Redis.from_url(joined["REDIS_URL"]).ping()


# -- the end -----------------------------------------------------------------------------


def test_removed(admin: Client, db: Session, joined: dict[str, str]) -> None:
    mine, theirs = rows(db)
    lease = make.added(
        db,
        Lease(
            device_id=make.make_device(db, db.get_one(Node, "gpu-1"), name="cpu:9").id,
            node_id="gpu-1",
            workspace_id=mine.workspace_id,
            owner_kind="job",
            owner_id=mine.id,
            bytes=1,
            exclusive=True,
        ),
    )
    db.commit()
    line, watching = connect(joined), Redis.from_url(joined["REDIS_URL"])
    assert watching.ping()
    assert admin.delete("/api/v1/nodes/gpu-1").status_code == 204
    with pytest.raises(psycopg.OperationalError):
        line.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        connect(joined)
    with pytest.raises(AuthenticationError):
        Redis.from_url(joined["REDIS_URL"]).ping()
    db.expire_all()
    assert (mine.state, mine.retries, theirs.state) == ("queued", 1, "running")
    assert db.get_one(Lease, lease.id).released_at
    told = select(AuditEntry).where(AuditEntry.noun_id == "gpu-1", AuditEntry.action == "removed")
    gone = db.scalars(told).one()
    assert (gone.user_id, gone.actor, gone.workspace_id) == (admin.user.id, "user", None)
    assert gone.before == {
        "host": "127.0.0.1", "labels": {}, "devices": ["cpu:0", "cpu:1", "cpu:9"], "ran": [mine.id],
    }  # fmt: skip
    assert not roles.exists(db, roles.names(db, "gpu-1")[0])
    assert broker.acl("GETUSER", broker.user_of("gpu-1")) is None
    assert not any(node["id"] == "gpu-1" for node in admin.get("/api/v1/nodes").json()["data"])
    assert not any(one["node"] == "gpu-1" for one in admin.get("/api/v1/devices").json()["data"])
    late = admin.post(
        "/api/v1/node/calls/jobs.loads.record",
        json={"node_id": "gpu-1"},
        headers={"authorization": f"Bearer {joined['DANLU_NODE_KEY']}"},
    )
    assert (late.status_code, late.json()["code"]) == (403, "node_removed")
    assert admin.delete("/api/v1/nodes/gpu-1").status_code in (204, 404)
    again = join(admin, "gpu-1")
    with connect(again) as back:
        assert back.execute("SELECT id FROM nodes").fetchall() == [("gpu-1",)]
    db.expire_all()
    assert db.get_one(NodeAccess, "gpu-1").removed_at is None


def test_a_node_of_the_platform_itself(admin: Client, db: Session) -> None:
    node = make.make_node(db, id="local")
    db.commit()
    assert admin.delete("/api/v1/nodes/local").json()["code"] == "node_alive"
    node.seen_at = now() - timedelta(minutes=10)
    db.commit()
    assert admin.delete("/api/v1/nodes/local").status_code == 204
    assert admin.delete("/api/v1/nodes/nowhere").status_code == 404
    assert db.scalar(select(User.id).limit(1))
