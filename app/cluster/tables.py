"""Nodes, their devices, who asks for one and who holds one. Knows owners, not jobs."""

from datetime import datetime
from typing import Any

from sqlalchemy import REAL, BigInteger, Float, ForeignKey, Identity, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.db import Base, Created, new_id


class Node(Base):
    __tablename__ = "nodes"
    __audited__ = True
    __unaudited__ = (
        "host",
        "facts",
    )

    id: Mapped[str] = mapped_column(primary_key=True)  # the name: `local`, or DANLU_NODE
    host: Mapped[str]  # where the gateway reaches its engines
    seen_at: Mapped[datetime]
    facts: Mapped[dict[str, Any]] = mapped_column(default=dict)  # versions, engines, why not vLLM
    labels: Mapped[dict[str, Any]] = mapped_column(default=dict)  # {gpu: h200, room: b}
    cordoned: Mapped[bool] = mapped_column(default=False)
    drain_since: Mapped[datetime | None]  # asked to empty itself; cordoned as long
    drain_until: Mapped[datetime | None]  # then what is left there stops, wanted or not
    dead_at: Mapped[datetime | None]
    removed_at: Mapped[datetime | None]  # by an admin; its rows stay for what was billed
    created_at: Mapped[Created]


class Device(Base):
    __tablename__ = "devices"
    __table_args__ = (UniqueConstraint("node_id", "name"),)

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("dev"))
    node_id: Mapped[str] = mapped_column(ForeignKey("nodes.id"))
    name: Mapped[str]  # cpu:0, cuda:3
    kind: Mapped[str]  # cpu or cuda
    model: Mapped[str]  # NVIDIA H200, or the processor's name
    uuid: Mapped[str] = mapped_column(default="")
    memory: Mapped[int] = mapped_column(BigInteger)  # bytes
    healthy: Mapped[bool] = mapped_column(default=True)
    problems: Mapped[list[dict[str, Any]]] = mapped_column(default=list)  # see health.py
    taken: Mapped[int] = mapped_column(BigInteger, default=0)  # bytes that strangers' programs use
    facts: Mapped[dict[str, Any]] = mapped_column(default=dict)  # card, pci, compute, slice
    stats: Mapped[dict[str, Any]] = mapped_column(default=dict)  # last reading: use, memory, ...
    retired: Mapped[bool] = mapped_column(default=False)  # its card was cut up another way

    node: Mapped[Node] = relationship(lazy="raise")


class Request(Base):
    """Somebody asks for devices. Gone when its leases are given back or it is withdrawn."""

    __tablename__ = "requests"
    __table_args__ = (
        UniqueConstraint("owner_kind", "owner_id"),
        Index(
            "ix_requests_waiting",
            "created_at",
            postgresql_where=text("granted_at IS NULL"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("req"))
    owner_kind: Mapped[str]  # job or replica
    owner_id: Mapped[str]
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"), index=True)
    user_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"))  # for whom
    devices: Mapped[int]
    memory: Mapped[int | None] = mapped_column(BigInteger)  # bytes on each; None: whole devices
    kind: Mapped[str | None]  # cpu or cuda; None: either
    model: Mapped[str | None]  # of the devices, as they call themselves; None: any
    node_id: Mapped[str | None]  # must run there; None: anywhere
    labels: Mapped[dict[str, Any]] = mapped_column(default=dict)  # that its node must have
    priority: Mapped[int] = mapped_column(default=1)  # 0..3: low, normal, high, urgent
    preemptible: Mapped[bool] = mapped_column(default=False)  # may be told to make room
    seconds: Mapped[float | None]  # that it will hold them, by an estimate; None: no end in sight
    reason: Mapped[str] = mapped_column(default="new")  # why it waits: see app.cluster.scheduling
    detail: Mapped[dict[str, Any]] = mapped_column(default=dict)  # what the reason's sentence names
    position: Mapped[int | None]  # in the queue, from 1
    starts_at: Mapped[datetime | None]  # when the last decision expects it to start
    created_at: Mapped[
        Created
    ]  # its place among equals; kept when it must make room and wait again
    granted_at: Mapped[datetime | None]
    saved_at: Mapped[datetime | None]  # its last checkpoint: what came after would be lost
    preempted_at: Mapped[datetime | None]  # it was told to make room
    preempted_for: Mapped[str | None]  # the request that it makes room for
    preemptions: Mapped[int] = mapped_column(default=0)  # how often it had to, in all


class Lease(Base):
    """A device, or a share of one, held. No expiry: it ends when the processes are seen gone."""

    __tablename__ = "leases"
    __table_args__ = (
        Index("ix_leases_held", "device_id", postgresql_where=text("released_at IS NULL")),
        Index("ix_leases_owner_kind_owner_id", "owner_kind", "owner_id"),
        Index("ix_leases_standing", "node_id", postgresql_where=text("released_at IS NULL")),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("lse"))
    device_id: Mapped[str] = mapped_column(ForeignKey("devices.id"))
    node_id: Mapped[str] = mapped_column(ForeignKey("nodes.id"), index=True)
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"), index=True)
    user_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"))  # for whom
    owner_kind: Mapped[str]
    owner_id: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    exclusive: Mapped[bool]
    created_at: Mapped[Created]
    metered_at: Mapped[datetime | None]  # up to then the ledger has it: see metering.py
    released_at: Mapped[datetime | None]
    # how busy it was while held, in seconds: measured, and of those worked
    measured: Mapped[float] = mapped_column(Float, default=0.0)
    worked: Mapped[float] = mapped_column(Float, default=0.0)
    active_at: Mapped[datetime | None]  # when it last did anything

    device: Mapped[Device] = relationship(lazy="raise")


class BoardChange(Base):
    """What the scheduler must read again. Written by triggers: see changes.py."""

    __tablename__ = "board_changes"

    number: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    xid: Mapped[int] = mapped_column(BigInteger, index=True)  # the transaction
    what: Mapped[str]  # devices, leases, request or origin
    of_id: Mapped[str]  # the node or the request


class DeviceReading(Base):
    """What a device did, on average over `step` seconds from `at`. See readings.py."""

    __tablename__ = "device_readings"
    __table_args__ = (Index("ix_device_readings_step_at", "step", "at"),)

    device_id: Mapped[str] = mapped_column(ForeignKey("devices.id"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime] = mapped_column(primary_key=True)
    use: Mapped[float | None] = mapped_column(REAL)  # percent
    memory: Mapped[int | None] = mapped_column(BigInteger)  # bytes in use, whoever uses them
    temperature: Mapped[float | None] = mapped_column(REAL)  # °C
    power: Mapped[float | None] = mapped_column(REAL)  # W


class FairShare(Base):
    """What a workspace has had of the devices lately, against what it is due.

    A workspace without a row has a weight of 1, and has had nothing.
    """

    __tablename__ = "fair_shares"

    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"), primary_key=True)
    weight: Mapped[float] = mapped_column(default=1.0)
    priority: Mapped[int] = mapped_column(default=1)  # the highest that its members may ask for
    used: Mapped[float] = mapped_column(default=0.0)  # device-seconds given back, decayed to `at`
    at: Mapped[Created]
