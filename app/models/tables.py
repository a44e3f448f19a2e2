"""The registry: base models, adapters and merged models, with their lineage.

An ORM class named Model is a row of the registry: a large language model.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, Created, new_id


class Model(Base):
    __tablename__ = "models"
    __table_args__ = (Index("ix_models_workspace_id_created_at", "workspace_id", "created_at"),)

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("mdl"))
    workspace_id: Mapped[str | None] = mapped_column(ForeignKey("workspaces.id"))  # None: shared
    name: Mapped[str]
    kind: Mapped[str]  # base, adapter, merged
    artefact: Mapped[str]  # storage id of its directory
    base_id: Mapped[str | None] = mapped_column(ForeignKey("models.id"), index=True)
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("models.id"), index=True)
    job_id: Mapped[str | None]  # the job that made it
    architecture: Mapped[str] = mapped_column(default="")  # Qwen3ForCausalLM
    parameters: Mapped[int] = mapped_column(BigInteger, default=0)
    context_length: Mapped[int] = mapped_column(default=0)
    size: Mapped[int] = mapped_column(BigInteger, default=0)  # bytes on disk
    licence: Mapped[str] = mapped_column(default="")
    description: Mapped[str] = mapped_column(default="")  # msgid for shipped models
    lineage: Mapped[dict[str, Any]] = mapped_column(default=dict)
    # lineage: base {id, name}, dataset {id, version, hash, rows}, stage, method, spec, code,
    # libraries, measured {loss, eval_loss, steps, tokens, seconds, step of a checkpoint}
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[Created]
    deleted_at: Mapped[datetime | None]

    @property
    def scores(self) -> bool:
        """A reward model: it judges answers, and writes none."""
        return self.architecture.endswith("ForSequenceClassification")

    @property
    def shared(self) -> bool:
        return self.workspace_id is None


class ModelPin(Base):
    """A noun above needs this model; deleting what is pinned is refused."""

    __tablename__ = "model_pins"

    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), primary_key=True)
    owner_kind: Mapped[str] = mapped_column(primary_key=True)
    owner_id: Mapped[str] = mapped_column(primary_key=True)
