"""The gateway alone: `/v1`, `/dashscope`, `/inference`, health and metrics; no pages.

`danlu gateway`, or `uvicorn app.edge:app`. Several of them behind a proxy are one gateway: limits and
loads are shared through Valkey, and each has a spool of its own.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI
from starlette.middleware import Middleware

from app import embedded, failures, guard, logs
from app import tables as _tables  # noqa: F401 - every foreign key is known
from app.config import settings
from app.dashboard import api as system_api
from app.gateway import api as gateway_api
from app.gateway import inference_api, upstream
from app.gateway.batches import api as batches_api
from app.gateway.batches import runner as batches
from app.gateway.dashscope import deployments_api as dashscope_deployments
from app.gateway.dashscope import files_api as dashscope_files
from app.gateway.dashscope import fine_tunes_api as dashscope_fine_tunes
from app.gateway.dashscope import generation_api as dashscope_generation
from app.gateway.dashscope import models_api as dashscope_models
from app.gateway.direct import Direct
from app.gateway.files import api as files_api
from app.gateway.requests import spool as request_log
from app.gateway.tuning import api as tuning_api

logs.configure()


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with upstream.lifespan(), request_log.lifespan(), batches.lifespan():
        yield


app = FastAPI(
    title="Danlu's gateway",
    docs_url=None,
    redoc_url=None,
    openapi_url=None,
    telemetry=guard.NO_TELEMETRY,
    lifespan=lifespan,
    middleware=[
        Middleware(guard.Trace),
        Middleware(guard.Proxies),
        Middleware(guard.Aliases),
        Middleware(guard.Catch),
        Middleware(guard.Hosts),
        Middleware(guard.Bodies),
        Middleware(guard.SameOrigin),
        Middleware(Direct),
    ],
)
failures.install(app)

for module in (
    gateway_api,
    inference_api,
    files_api,
    batches_api,
    tuning_api,
    dashscope_files,
    dashscope_fine_tunes,
    dashscope_models,  # before the deployments, one of whose names could be “models”
    dashscope_deployments,
    dashscope_generation,
):
    app.include_router(module.router)
for path in ("healthz", "readyz", "metrics"):
    app.add_api_route(f"/{path}", getattr(system_api, path))


def main() -> None:
    """Serve on `DANLU_HOST` and `DANLU_PORT` until a signal comes.

    Without DATABASE_URL or REDIS_URL: beside a `danlu up` that has the same home, over its servers.
    """
    if not (settings.database_url and settings.redis_url):
        at = embedded.place(settings.home)
        settings.database_url = settings.database_url or at.database_url
        settings.redis_url = settings.redis_url or at.redis_url
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http="app.protocol:Protocol",
        proxy_headers=False,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=30,
    )


if __name__ == "__main__":
    main()
