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
    __audited__ = True
    __unaudited__ = (
        "artefact",
        "architecture",
        "family",
        "templated",
        "parameters",
        "context_length",
        "size",
        "lineage",
        "purged_at",
    )
    __table_args__ = (Index("ix_models_workspace_id_created_at", "workspace_id", "created_at"),)

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("mdl"))
    workspace_id: Mapped[str | None] = mapped_column(ForeignKey("workspaces.id"))  # None: shared
    name: Mapped[str]
    kind: Mapped[str]  # base, adapter, merged
    artefact: Mapped[str]  # storage id of its directory; empty once that is cleared away
    base_id: Mapped[str | None] = mapped_column(ForeignKey("models.id"), index=True)
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("models.id"), index=True)
    job_id: Mapped[str | None]  # the job that made it
    architecture: Mapped[str] = mapped_column(default="")  # Qwen3ForCausalLM
    family: Mapped[str] = mapped_column(default="")  # Qwen3: see families.py
    templated: Mapped[bool | None]  # has a chat template; None: nobody has looked yet
    parameters: Mapped[int] = mapped_column(BigInteger, default=0)
    context_length: Mapped[int] = mapped_column(default=0)
    size: Mapped[int] = mapped_column(BigInteger, default=0)  # bytes on disk
    licence: Mapped[str] = mapped_column(default="")
    description: Mapped[str] = mapped_column(default="")  # msgid for shipped models
    lineage: Mapped[dict[str, Any]] = mapped_column(default=dict)
    # lineage: base {id, name}, dataset {id, version, hash, rows}, stage, method, spec, code,
    # libraries, measured {loss, eval_loss, steps, tokens, seconds, step of a checkpoint}; of an
    # import: source {from, repository, commit, path, files {name: sha256}, left_out, notes}
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[Created]
    deleted_at: Mapped[datetime | None]
    purged_at: Mapped[
        datetime | None
    ]  # nobody brings it back; without an artefact its files are gone

    @property
    def scores(self) -> bool:
        """A reward model: it judges answers, and writes none."""
        return self.architecture.endswith("ForSequenceClassification")

    @property
    def imported(self) -> bool:
        return "source" in self.lineage

    @property
    def shared(self) -> bool:
        return self.workspace_id is None


class ModelPin(Base):
    """A noun above needs this model; deleting what is pinned is refused."""

    __tablename__ = "model_pins"

    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), primary_key=True)
    owner_kind: Mapped[str] = mapped_column(primary_key=True)
    owner_id: Mapped[str] = mapped_column(primary_key=True)
    label: Mapped[str] = mapped_column(default="")  # the owner's name, to say who needs it


class ModelImport(Base):
    """A model on its way in. Its bytes lie in `settings.uploads` of one node until all are here."""

    __tablename__ = "model_imports"
    __audited__ = True
    __unaudited__ = (
        "node_id",
        "cleared",
    )
    __table_args__ = (
        Index("ix_model_imports_workspace_id_created_at", "workspace_id", "created_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("imp"))
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    shared: Mapped[bool] = mapped_column(default=False)  # the model will be the platform's
    name: Mapped[str]
    source: Mapped[dict[str, Any]]  # {from, repository, revision | path | files, preset?}
    base_id: Mapped[str | None] = mapped_column(ForeignKey("models.id"))  # of an adapter, if said
    state: Mapped[str]  # see states.py
    cursor: Mapped[dict[str, Any]] = mapped_column(default=dict)  # how far it is: see importing.py
    error: Mapped[dict[str, Any] | None]  # {code, message, params} when it failed
    model_id: Mapped[str | None] = mapped_column(ForeignKey("models.id"))  # what came of it
    node_id: Mapped[str | None]  # where its bytes collect
    claimed_at: Mapped[datetime | None]  # since when somebody is at the next stretch
    attempts: Mapped[int] = mapped_column(default=0)  # at that stretch
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[Created]
    finished_at: Mapped[datetime | None]
    cleared: Mapped[bool] = mapped_column(default=False)  # nothing of it is on disk any more
    hidden: Mapped[bool] = mapped_column(default=False)  # taken off the list once it was over


class ModelImportEvent(Base):
    """A change of state, and who asked for it (None: the platform)."""

    __tablename__ = "model_import_events"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    import_id: Mapped[str] = mapped_column(ForeignKey("model_imports.id"), index=True)
    at: Mapped[Created]
    user_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    old: Mapped[str | None]
    new: Mapped[str]
