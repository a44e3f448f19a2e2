"""JSON: the audit log, the platform's and a workspace's."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from sqlalchemy.orm import Session

from app.accounts import audit, audit_list
from app.accounts.audit_list import AuditList, AuditOut, Exported, Paged
from app.accounts.auth import PLATFORM, Principal, requires
from app.queue import Db

router = APIRouter(prefix="/api/v1", tags=["audit"])
Admin = Annotated[Principal, requires(PLATFORM, "admin")]
Manager = Annotated[Principal, requires("admin", "account")]
Wanted = Annotated[Paged, Query()]
Export = Annotated[Exported, Query()]


@router.get("/audit")
def list_audit(_who: Admin, db: Db, wanted: Wanted) -> AuditList:
    """Who did what on the whole platform, the newest first."""
    return listed(db, None, wanted)


@router.get("/audit/export", name="api:audit:export")
def export_audit(_who: Admin, db: Db, wanted: Export) -> Response:
    """All entries that the filter leaves, streamed. An export is itself an entry."""
    return exported(db, None, wanted)


@router.get("/workspace/audit")
def list_own_audit(who: Manager, db: Db, wanted: Wanted) -> AuditList:
    """Who did what in your workspace, the newest first."""
    return listed(db, who.workspace_id, wanted)


@router.get("/workspace/audit/export", name="api:audit:export_own")
def export_own_audit(who: Manager, db: Db, wanted: Export) -> Response:
    """All entries of your workspace that the filter leaves, streamed."""
    return exported(db, who.workspace_id, wanted)


def listed(db: Session, workspace_id: str | None, wanted: Paged) -> AuditList:
    rows, more = audit_list.entries(db, workspace_id, wanted, wanted.after, wanted.limit)
    return AuditList(data=[AuditOut.model_validate(row) for row in rows], has_more=more)


def exported(db: Session, workspace_id: str | None, wanted: Exported) -> Response:
    audit.note(db, "export", "audit", after=wanted.given(), workspace_id=workspace_id)
    return audit_list.download(workspace_id, wanted)
