"""The web process: every router, behind the guard."""

import importlib
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES, GZipMiddleware
from starlette.staticfiles import StaticFiles

from app import failures, guard
from app import tables as _tables  # noqa: F401 - every foreign key is known
from app.config import ROOT

# Plain tracebacks: the pretty ones print local variables, passwords and keys among them.
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
        structlog.dev.ConsoleRenderer(
            colors=False, exception_formatter=structlog.dev.plain_traceback
        ),
    ]
)

UNZIPPED = (
    *DEFAULT_EXCLUDED_CONTENT_TYPES,
    "application/octet-stream",
    "application/zstd",
)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    yield


app = FastAPI(
    title="Danlu",
    version="0.1.0",
    docs_url=None,
    redoc_url=None,
    openapi_url=None,
    lifespan=lifespan,
    middleware=[
        Middleware(guard.Trace),
        Middleware(guard.Proxies),
        Middleware(GZipMiddleware, compresslevel=5, exclude_content_types=UNZIPPED),
        Middleware(guard.Catch),
        Middleware(guard.Hosts),
        Middleware(guard.Bodies),
        Middleware(guard.SameOrigin),
    ],
)
failures.install(app)
app.mount("/static", StaticFiles(directory=ROOT / "static"), name="static")


def router_of(module: str) -> Any:
    try:
        return importlib.import_module(module).router
    except ImportError as error:
        sys.stderr.write(f"left out {module}: {error}\n")
        return None


for name in (
    "app.dashboard.routes app.dashboard.api app.accounts.routes app.accounts.api "
    "app.datasets.routes app.datasets.api app.models.routes app.models.api app.jobs.routes "
    "app.jobs.api app.deployments.routes app.deployments.api app.gateway.api app.chat.routes "
    "app.cluster.api app.quotas.api"
).split():
    if router := router_of(name):
        app.include_router(router)
