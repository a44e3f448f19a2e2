"""Whether the process lives and can work, and the API's own description."""

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from app.accounts.auth import public
from app.dashboard import prometheus, readiness
from app.dashboard.openapi import describe

router = APIRouter(tags=["system"])
Anybody = Annotated[None, public()]


@router.get("/healthz")
def healthz(_: Anybody) -> dict[str, str]:
    """The process lives. Asks nothing of anybody."""
    return {"status": "ok"}


@router.get("/readyz", responses={503: {"model": dict[str, str]}})
def readyz(response: Response, _: Anybody) -> dict[str, str]:
    """It can work: the database answers and is migrated, Redis answers. 503 says what is missing."""
    checks = readiness.checks()
    ready = all(found == "ok" for found in checks.values())
    response.status_code = 200 if ready else 503
    return {"status": "ready" if ready else "not ready", **checks}


@router.get("/metrics", include_in_schema=False)
def metrics(request: Request, _: Anybody) -> Response:
    """For Prometheus, and nobody else: see `prometheus.refusal`."""
    if refused := prometheus.refusal(request):
        status, words = refused
        headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
        return PlainTextResponse(f"{words}\n", status, headers)
    return Response(prometheus.text(), media_type=CONTENT_TYPE_LATEST)


@router.get("/api/v1/openapi.json", include_in_schema=False)
def openapi(request: Request, _: Anybody) -> dict[str, Any]:
    """OpenAPI 3.1, for generators of clients. The page that people read is /api."""
    return describe(request.app)
