"""Nodes, their devices, who asks for one and who holds one. Knows owners, not jobs."""

from datetime import datetime
from typing import Any

from sqlalchemy import REAL, BigInteger, Float, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.db import Base, Created, new_id


class Node(Base):
    __tablename__ = "nodes"

    id: Mapped[str] = mapped_column(primary_key=True)  # the name: `local`, or DANLU_NODE
    host: Mapped[str]  # where the gateway reaches its engines
    seen_at: Mapped[datetime]
    facts: Mapped[dict[str, Any]] = mapped_column(default=dict)  # versions, engines, why not vLLM
    labels: Mapped[dict[str, Any]] = mapped_column(default=dict)  # {gpu: h200, room: b}
    cordoned: Mapped[bool] = mapped_column(default=False)
    drain_since: Mapped[datetime | None]  # asked to empty itself; cordoned as long
    drain_until: Mapped[datetime | None]  # then what is left there stops, wanted or not
    dead_at: Mapped[datetime | None]
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
    devices: Mapped[int]
    memory: Mapped[int | None] = mapped_column(BigInteger)  # bytes on each; None: whole devices
    kind: Mapped[str | None]  # cpu or cuda; None: either
    node_id: Mapped[str | None]  # must run there; None: anywhere
    priority: Mapped[int] = mapped_column(default=0)
    preemptible: Mapped[bool] = mapped_column(default=False)
    reason: Mapped[str] = mapped_column(default="new")  # new, quota, devices, memory, node
    created_at: Mapped[Created]
    granted_at: Mapped[datetime | None]


class Lease(Base):
    """A device, or a share of one, held. No expiry: it ends when the processes are seen gone."""

    __tablename__ = "leases"
    __table_args__ = (
        Index("ix_leases_held", "device_id", postgresql_where=text("released_at IS NULL")),
        Index("ix_leases_owner_kind_owner_id", "owner_kind", "owner_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("lse"))
    device_id: Mapped[str] = mapped_column(ForeignKey("devices.id"))
    node_id: Mapped[str] = mapped_column(ForeignKey("nodes.id"), index=True)
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"), index=True)
    owner_kind: Mapped[str]
    owner_id: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    exclusive: Mapped[bool]
    created_at: Mapped[Created]
    released_at: Mapped[datetime | None]
    # how busy it was while held, in seconds: measured, and of those worked
    measured: Mapped[float] = mapped_column(Float, default=0.0)
    worked: Mapped[float] = mapped_column(Float, default=0.0)
    active_at: Mapped[datetime | None]  # when it last did anything

    device: Mapped[Device] = relationship(lazy="raise")


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
