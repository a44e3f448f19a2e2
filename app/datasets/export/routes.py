"""The page that offers a version in each format that can carry it."""

from typing import Annotated

from fastapi import APIRouter, Request, Response

from app.accounts.auth import Principal, requires
from app.datasets.export import api
from app.datasets.export import service as export
from app.datasets.routes import show

router = APIRouter(prefix="/datasets", include_in_schema=False)
Reader = Annotated[Principal, requires("viewer", "datasets:read")]


@router.get("/{dataset_id}/exports", name="datasets:exports")
def exports(request: Request, dataset_id: str, who: Reader, version: str = "") -> Response:
    """What stands in the way of a format is found by trying the rows, for half a second."""
    found = api.find(who, dataset_id, version)
    export.chosen(found, "")
    seen = export.survey(found)
    offers = [(api.offer(request, one), one["suffix"]) for one in export.offers(found, seen)]
    return show(
        request,
        "datasets/exports.html",
        found,
        offers=offers,
        seen=seen,
        asked={"version": version},
    )
