"""`/api/v1/alerts`, of a workspace, and `/api/v1/platform/alerts`, of everything."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response

from app.accounts.auth import PLATFORM, Principal, requires
from app.alerts import rules
from app.alerts.schemas import (
    AlertOut,
    Alerts,
    Deliveries,
    DeliveryOut,
    RuleIn,
    RuleOut,
    Rules,
)
from app.paging import After, Limit, page
from app.queue import Db

State = Annotated[Literal["", "firing", "resolved"], Query(description="Empty: both.")]


def routes(prefix: str, name: str, reader: Any, writer: Any) -> APIRouter:
    """The same of a workspace and of the platform, whose rules belong to no workspace."""
    router = APIRouter(prefix=f"/api/v1{prefix}", tags=["alerts"])

    # a name of its own: paths of either kind stand in one description
    key = "platform_rule_id" if name == "platform_alerts" else "rule_id"
    rule_path: Any = Path(alias=key, max_length=40)

    def place(who: Principal) -> str | None:
        return None if name == "platform_alerts" else who.workspace_id

    @router.get("", name=f"api:{name}:list")
    def list_alerts(
        request: Request,
        db: Db,
        who: Principal = reader,
        state: State = "",
        kind: Annotated[str, Query(max_length=40)] = "",
        after: After = "",
        limit: Limit = 50,
    ) -> Alerts:
        """What fires and what did, newest first."""
        found, more = rules.history(
            db, place(who), state=state, kind=kind, after=after, limit=limit
        )
        return Alerts(data=[AlertOut.of(request, one) for one in found], has_more=more)

    @router.get("/deliveries", name=f"api:{name}:deliveries")
    def list_deliveries(
        request: Request,
        db: Db,
        who: Principal = writer,
        rule: Annotated[str, Query(max_length=40)] = "",
        after: After = "",
        limit: Limit = 50,
    ) -> Deliveries:
        """Who was told, and what came of it, newest first."""
        found, more = rules.deliveries(db, place(who), rule_id=rule, after=after, limit=limit)
        return Deliveries(data=[DeliveryOut.of(request, one) for one in found], has_more=more)

    @router.get("/rules", name=f"api:{name}:rules")
    def list_rules(db: Db, who: Principal = writer, after: After = "", limit: Limit = 100) -> Rules:
        """Whom alerts are told to, by name."""
        found, more = page(rules.listed(db, place(who)), after, limit)
        return Rules(data=[RuleOut.of(one) for one in found], has_more=more)

    @router.post("/rules", status_code=201, name=f"api:{name}:add")
    def add_rule(body: RuleIn, db: Db, who: Principal = writer) -> RuleOut:
        """A webhook's secret is told now and never again."""
        rule, secret = rules.save(db, who, place(who), body)
        return RuleOut.of(rule, secret)

    @router.get(f"/rules/{{{key}}}", name=f"api:{name}:rule")
    def read_rule(db: Db, who: Principal = writer, rule_id: str = rule_path) -> RuleOut:
        """One rule."""
        return RuleOut.of(rules.get(db, place(who), rule_id))

    @router.put(f"/rules/{{{key}}}", name=f"api:{name}:change")
    def change_rule(
        body: RuleIn, db: Db, who: Principal = writer, rule_id: str = rule_path
    ) -> RuleOut:
        """All of it but `url` and `secret`, which stay where they are left out."""
        rule = rules.get(db, place(who), rule_id)
        return RuleOut.of(*rules.save(db, who, place(who), body, rule))

    @router.delete(f"/rules/{{{key}}}", status_code=204, name=f"api:{name}:remove")
    def remove_rule(db: Db, who: Principal = writer, rule_id: str = rule_path) -> Response:
        """Nobody is told by it any more."""
        rules.remove(db, place(who), rule_id)
        return Response(status_code=204)

    @router.post(f"/rules/{{{key}}}/test", status_code=202, name=f"api:{name}:test")
    def test_rule(
        request: Request, db: Db, who: Principal = writer, rule_id: str = rule_path
    ) -> DeliveryOut:
        """Tell the recipients that this is a test; `deliveries` says what came of it."""
        return DeliveryOut.of(request, rules.test(db, place(who), rule_id))

    return router


workspace = routes("/alerts", "alerts", requires("viewer", "account"), requires("admin", "account"))
platform = routes(
    "/platform/alerts",
    "platform_alerts",
    requires(PLATFORM, "admin"),
    requires(PLATFORM, "admin"),
)
