"""`/api/v1/aliases`."""

from fastapi import APIRouter, Request, Response

from app.deployments import aliases, view
from app.deployments.aliases_schemas import Aliases, AliasEvents, AliasOut, AliasPut
from app.deployments.api import Reader, Writer
from app.paging import After, Limit, page
from app.queue import Db

router = APIRouter(prefix="/api/v1/aliases", tags=["deployments"])


@router.get("", name="api:aliases:list")
def list_aliases(who: Reader, db: Db, after: After = "", limit: Limit = 100) -> Aliases:
    """The workspace's aliases, by name."""
    found, more = page(aliases.listed(db, who.workspace_id), after, limit)
    known = aliases.deployments(db, found)
    return Aliases(data=[AliasOut.of(alias, known) for alias in found], has_more=more)


@router.put("", name="api:aliases:put")
def put(body: AliasPut, who: Writer, db: Db) -> AliasOut:
    """Make an alias, or make the one of that name lead elsewhere. Its share of the requests is a
    target's weight divided by all weights; requests that name a `user` stay with one target.
    """
    alias = aliases.save(db, who, body)
    return AliasOut.of(alias, aliases.deployments(db, [alias]))


@router.get("/{alias}", name="api:aliases:get")
def get(alias: str, who: Reader, db: Db) -> AliasOut:
    """By id or name."""
    found = aliases.get(db, who.workspace_id, alias)
    return AliasOut.of(found, aliases.deployments(db, [found]))


@router.delete("/{alias}", status_code=204, name="api:aliases:delete")
def delete(alias: str, who: Writer, db: Db) -> Response:
    """The name no longer answers; the deployments stay."""
    aliases.remove(db, who, alias)
    return Response(status_code=204)


@router.get("/{alias}/events", name="api:aliases:events")
def events(request: Request, alias: str, who: Reader, db: Db) -> AliasEvents:
    """How it was changed, and by whom, newest first."""
    found = aliases.get(db, who.workspace_id, alias)
    return AliasEvents(data=aliases.history(db, found, view.speaker(request)))
