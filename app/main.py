"""The web process: every router, behind the guard."""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI
from starlette.middleware import Middleware
from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES, GZipMiddleware
from starlette.routing import Match
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from app import failures, guard, logs, web
from app import tables as _tables  # noqa: F401 - every foreign key is known
from app.accounts import (
    acting,
    audit_api,
    audit_routes,
    invitations_api,
    links_routes,
    oidc_routes,
    people_api,
    people_routes,
    secrets_api,
    secrets_routes,
    services_api,
    services_routes,
    settings_api,
    settings_routes,
    workspaces_api,
    workspaces_routes,
)
from app.accounts import api as accounts_api
from app.accounts import routes as accounts_routes
from app.alerts import api as alerts_api
from app.alerts import routes as alerts_routes
from app.backups import api as backups_api
from app.backups import routes as backups_routes
from app.chat import api as chat_api
from app.chat import routes as chat_routes
from app.cluster import api as cluster_api
from app.config import ROOT
from app.dashboard import api as dashboard_api
from app.dashboard import (
    devices_routes,
    money_routes,
    nodes_api,
    openapi,
    quotas_routes,
    storage_api,
    storage_routes,
    tariffs_api,
    usage_api,
)
from app.dashboard import routes as dashboard_routes
from app.datasets import api as datasets_api
from app.datasets import routes as datasets_routes
from app.datasets.cleaning import api as cleaning_api
from app.datasets.cleaning import routes as cleaning_routes
from app.datasets.drafts import api as drafts_api
from app.datasets.drafts import routes as drafts_routes
from app.datasets.drafts import versions_routes
from app.datasets.export import api as export_api
from app.datasets.export import routes as export_routes
from app.datasets.intake import imports_api, imports_routes
from app.datasets.measures import api as statistics_api
from app.datasets.measures import routes as statistics_routes
from app.datasets.validation import api as problems_api
from app.datasets.validation import mapping_api, mapping_routes
from app.datasets.validation import routes as problems_routes
from app.deployments import (
    adapters_api,
    adapters_routes,
    aliases_api,
    aliases_routes,
    idle_api,
    idle_routes,
    metrics_api,
    metrics_routes,
    models_routes,
    presets_api,
)
from app.deployments import api as deployments_api
from app.deployments import routes as deployments_routes
from app.evaluations import api as evaluations_api
from app.evaluations import overlap_api as overlaps_api
from app.evaluations import overlap_routes as overlaps_routes
from app.evaluations import routes as evaluations_routes
from app.evaluations import runner as evaluations
from app.evaluations import tuning_api as evaluations_of_jobs_api
from app.evaluations import tuning_routes as evaluations_of_jobs
from app.evaluations.rating import api as rating_api
from app.evaluations.rating import routes as rating_routes
from app.gateway import api as gateway_api
from app.gateway import inference_api, key_usage_api, key_usage_routes, upstream
from app.gateway.batches import api as batches_api
from app.gateway.batches import routes as batches_routes
from app.gateway.batches import runner as batches
from app.gateway.dashscope import deployments_api as dashscope_deployments
from app.gateway.dashscope import files_api as dashscope_files
from app.gateway.dashscope import fine_tunes_api as dashscope_fine_tunes
from app.gateway.dashscope import generation_api as dashscope_generation
from app.gateway.dashscope import models_api as dashscope_models
from app.gateway.direct import Direct
from app.gateway.files import api as files_api
from app.gateway.requests import api as requests_api
from app.gateway.requests import routes as requests_routes
from app.gateway.requests import spool as request_log
from app.gateway.tuning import api as tuning_api
from app.gateway.tuning import calls_api, calls_routes
from app.idempotency.middleware import Once
from app.jobs import api as jobs_api
from app.jobs import (
    benchmarks_api,
    benchmarks_routes,
    checkpoints_api,
    checkpoints_routes,
    exports_api,
    exports_routes,
    script_api,
    watching_api,
    watching_routes,
)
from app.jobs import routes as jobs_routes
from app.models import api as models_api
from app.models import imports_api as model_imports_api
from app.models import imports_routes as model_imports_routes
from app.models import routes as model_routes
from app.nodework import api as nodework_api
from app.nodework import routes as nodework_routes
from app.quotas import api as quotas_api
from app.quotas import asking_api, money_api, prices_api
from app.uploads import api as uploads_api

logs.configure()

UNZIPPED = (
    *DEFAULT_EXCLUDED_CONTENT_TYPES,
    "application/octet-stream",
    "application/zstd",
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    threading.Thread(target=warm, args=[app], daemon=True).start()
    async with (
        upstream.lifespan(),
        request_log.lifespan(),
        batches.lifespan(),
        evaluations.lifespan(),
    ):
        yield


def warm(app: FastAPI) -> None:
    """What the first reader would otherwise wait for: half a second of one core."""
    web.warm()
    openapi.describe(app)


class Area(APIRouter):
    """A router that is passed over at once where a path begins as none of its paths does.

    Else each of hundreds of routes would be tried until one fits, which takes milliseconds.
    """

    def __init__(self, router: APIRouter) -> None:
        super().__init__()
        self.include_router(router)
        paths = [getattr(route, "path", "") for route in router.routes]
        self.beginnings = tuple({path.partition("{")[0] for path in paths})

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if not scope["path"].startswith(self.beginnings):
            return Match.NONE, {}
        return super().matches(scope)


app = FastAPI(
    title="Danlu",
    version="0.1.0",
    docs_url=None,
    redoc_url=None,
    openapi_url=None,
    telemetry=guard.NO_TELEMETRY,
    lifespan=lifespan,
    middleware=[
        Middleware(guard.Trace),
        Middleware(guard.Proxies),
        Middleware(acting.Actors),
        Middleware(guard.Aliases),
        Middleware(GZipMiddleware, compresslevel=5, exclude_content_types=UNZIPPED),
        Middleware(guard.Catch),
        Middleware(guard.Hosts),
        Middleware(guard.Bodies),
        Middleware(guard.SameOrigin),
        Middleware(Direct),
        Middleware(Once),
    ],
)
failures.install(app)
app.mount("/static", StaticFiles(directory=ROOT / "static"), name="static")


for module in (
    nodework_routes,  # /admin/nodes/join before /admin/nodes/{node_id}
    nodework_api,
    dashboard_routes,
    devices_routes,
    nodes_api,
    dashboard_api,
    accounts_routes,
    accounts_api,
    workspaces_routes,
    links_routes,
    oidc_routes,
    workspaces_api,
    invitations_api,
    services_routes,
    services_api,
    people_api,
    people_routes,
    audit_routes,
    audit_api,
    secrets_routes,
    secrets_api,
    settings_routes,
    settings_api,
    backups_routes,
    backups_api,
    storage_routes,
    storage_api,
    imports_routes,
    cleaning_routes,
    drafts_routes,
    versions_routes,
    problems_routes,
    datasets_routes,
    export_routes,
    mapping_routes,
    statistics_routes,
    statistics_api,
    imports_api,
    cleaning_api,
    drafts_api,
    problems_api,
    datasets_api,
    export_api,
    mapping_api,
    model_imports_routes,
    model_routes,
    model_imports_api,
    models_api,
    exports_routes,
    exports_api,
    benchmarks_routes,
    benchmarks_api,
    checkpoints_api,
    checkpoints_routes,
    script_api,
    watching_routes,
    watching_api,
    jobs_routes,
    jobs_api,
    aliases_routes,
    aliases_api,
    idle_routes,
    idle_api,
    models_routes,
    presets_api,
    metrics_routes,
    metrics_api,
    deployments_routes,
    adapters_routes,
    deployments_api,
    adapters_api,
    key_usage_routes,
    key_usage_api,
    gateway_api,
    inference_api,
    files_api,
    tuning_api,
    batches_api,
    batches_routes,
    requests_api,
    requests_routes,
    calls_routes,
    calls_api,
    dashscope_files,
    dashscope_fine_tunes,
    dashscope_models,  # before the deployments, one of whose names could be “models”
    dashscope_deployments,
    dashscope_generation,
    chat_routes,
    chat_api,
    rating_routes,
    rating_api,
    evaluations_of_jobs,  # before what is done with one evaluation
    evaluations_of_jobs_api,
    overlaps_routes,
    overlaps_api,
    evaluations_routes,
    evaluations_api,
    cluster_api,
    quotas_api,
    prices_api,
    money_api,
    asking_api,
    usage_api,
    quotas_routes,
    money_routes,
    tariffs_api,
    uploads_api,
):
    app.include_router(Area(module.router))
for module in (alerts_routes, alerts_api):
    app.include_router(Area(module.workspace))
    app.include_router(Area(module.platform))
