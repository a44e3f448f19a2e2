"""Pages: what fires, what did, and who is told; of a workspace, and of the platform."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from app import mail
from app.accounts import platform as settings
from app.accounts.auth import PLATFORM, Principal, requires
from app.alerts import rules
from app.alerts.formats import HOWS, TEST
from app.alerts.kinds import KINDS, offered
from app.alerts.schemas import RuleForm
from app.alerts.tables import AlertRule
from app.errors import DomainError
from app.queue import Db, transaction
from app.web import Parsed, parsed, redirect, render, sentence, translate

SHOWN = 50


def routes(prefix: str, name: str, reader: Any, writer: Any) -> APIRouter:
    """The same of a workspace and of the platform, whose rules belong to no workspace."""
    router = APIRouter(prefix=prefix, include_in_schema=False)
    is_platform = name == "platform_alerts"

    # a name of its own: paths of either kind stand in one description
    key = "platform_rule_id" if name == "platform_alerts" else "rule_id"
    rule_path: Any = Path(alias=key, max_length=40)

    def place(who: Principal) -> str | None:
        return None if is_platform else who.workspace_id

    def may(who: Principal) -> bool:
        return is_platform or who.may("admin")

    @router.get("", name=f"{name}:page")
    def page(
        request: Request, db: Db, who: Principal = reader, after: str = "", told: str = ""
    ) -> Response:
        past, more = rules.history(db, place(who), state="resolved", after=after[:40], limit=SHOWN)
        known = rules.listed(db, place(who)) if may(who) else []
        sent = rules.deliveries(db, place(who), limit=20)[0] if may(who) else []
        return render(
            request,
            "alerts/page.html",
            routes=name,
            key=key,
            kinds=KINDS,
            firing=rules.firing(db, place(who)),
            past=past,
            more=more,
            rules=known,
            names={rule.id: rule.name for rule in known},
            sent=sent,
            told=told[:300],
            may=may(who),
            is_platform=is_platform,
            has_mail=settings.read(db).mail.ready,
        )

    @router.get("/rules/new", name=f"{name}:new")
    def new(request: Request, db: Db, _who: Principal = writer) -> Response:
        return form_page(request, db)

    @router.post("/rules", name=f"{name}:add")
    def add(
        request: Request, db: Db, who: Principal = writer, form: Any = parsed(RuleForm)
    ) -> Response:
        return save(request, db, who, form)

    @router.get(f"/rules/{{{key}}}", name=f"{name}:rule")
    def detail(
        request: Request, db: Db, who: Principal = writer, rule_id: str = rule_path
    ) -> Response:
        return form_page(request, db, rules.get(db, place(who), rule_id))

    @router.post(f"/rules/{{{key}}}", name=f"{name}:change")
    def change(
        request: Request,
        db: Db,
        who: Principal = writer,
        rule_id: str = rule_path,
        form: Any = parsed(RuleForm),
    ) -> Response:
        return save(request, db, who, form, rules.get(db, place(who), rule_id))

    @router.post(f"/rules/{{{key}}}/delete", name=f"{name}:remove")
    def remove(
        request: Request, db: Db, who: Principal = writer, rule_id: str = rule_path
    ) -> Response:
        rules.remove(db, place(who), rule_id)
        return redirect(request, f"{name}:page")

    @router.post(f"/rules/{{{key}}}/test", name=f"{name}:test")
    def test(
        request: Request, db: Db, who: Principal = writer, rule_id: str = rule_path
    ) -> Response:
        rules.test(db, place(who), rule_id)
        return redirect(request, f"{name}:page")

    def save(
        request: Request,
        db: Db,
        who: Principal,
        form: Parsed[RuleForm],
        rule: AlertRule | None = None,
    ) -> Response:
        if form.data:
            try:
                rules.save(db, who, place(who), form.data, rule)
                return redirect(request, f"{name}:page")
            except DomainError as error:
                db.rollback()
                form.refuse(error)
        return form_page(request, db, rule, form)

    def form_page(
        request: Request,
        db: Db,
        rule: AlertRule | None = None,
        form: Parsed[RuleForm] | None = None,
    ) -> Response:
        return render(
            request,
            "alerts/rule.html",
            status=422 if form else 200,
            routes=name,
            key=key,
            kinds=offered(is_platform),
            hows=HOWS,
            rule=rule,
            secret=rule.secret if rule and rule.how == "webhook" else None,
            form=form,
            is_platform=is_platform,
            has_mail=settings.read(db).mail.ready,
        )

    return router


workspace = routes("/alerts", "alerts", requires("viewer", "account"), requires("admin", "account"))
platform = routes(
    "/admin/alerts",
    "platform_alerts",
    requires(PLATFORM, "admin"),
    requires(PLATFORM, "admin"),
)


@platform.post("/mail", name="platform_alerts:mail")
def send_test(request: Request, who: Annotated[Principal, requires(PLATFORM, "admin")]) -> Response:
    """One mail to who asks, and at once what the server said of it. No session is held meanwhile."""
    with transaction() as db:
        server = settings.read(db).mail.server()
    subject = f"[Danlu] {translate(request, 'Test')}"
    failure = ""
    try:
        mail.send(server, [who.email], subject, translate(request, TEST))
    except DomainError as error:
        failure = sentence(request, error)
    return render(
        request, "alerts/mail.html", failure=failure, address=who.email, server=server.host
    )
