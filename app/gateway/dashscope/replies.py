"""The envelope of DashScope's answers, its times, and its pages. Errors are `app.failures`' to say."""

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Query, Request

PREFIX = "/dashscope/api/v1"
PageNo = Annotated[int, Query(ge=1, le=1_000_000)]
PageSize = Annotated[int, Query(ge=1, le=100)]


def reply(request: Request, output: Any, field: str = "output") -> dict[str, Any]:
    """Never with a `code`: to these clients that is an error, whatever the status says."""
    return {"request_id": request.state.request_id, field: output}


def paged(
    name: str, items: list[dict[str, Any]], total: int, page_no: int, page_size: int
) -> dict[str, Any]:
    return {name: items, "page_no": page_no, "page_size": page_size, "total": total}


def moment(at: datetime | None) -> str | None:
    """UTC, as DashScope writes times."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S") if at else None
