"""`danlu usage`, and of `danlu admin` what has to do with quotas and money."""

import sys
from typing import Annotated, Any

import typer

from app.cli import complete
from app.cli.client import Api, Row, connect
from app.cli.output import Json, bytes_of, day, say, show, show_table
from app.cli.text import _

SIZES = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
Workspace = Annotated[str, typer.Argument(help=_("Its id."), autocompletion=complete.workspace)]
quotas = typer.Typer(no_args_is_help=True, help=_("Who may use how much of what."))


# -- everybody's -------------------------------------------------------------------------


def usage(
    month: Annotated[
        str, typer.Option(help=_("Such as 2026-11 (UTC); this one, if left out."))
    ] = "",
    by: Annotated[str, typer.Option(help="item, key, member, model, day.")] = "item",
    csv: Annotated[bool, typer.Option("--csv", help=_("The statement as CSV, on stdout."))] = False,
    limits: Annotated[
        bool, typer.Option("--limits", help=_("What is used and left of each limit instead."))
    ] = False,
    workspace: Annotated[
        str,
        typer.Option(help=_("Another's, for platform admins."), autocompletion=complete.workspace),
    ] = "",
    as_json: Json = False,
) -> None:
    api = connect()
    if limits:
        found = api.get("/api/v1/usage/limits", workspace=workspace)
        show(found, as_json, lambda one: show_table(one["data"], LIMITS, _("No limit.")))
        return
    asked = {"month": month, "by": by, "workspace": workspace}
    if csv:
        chosen = {name: value for name, value in asked.items() if value}
        answer = api.send("GET", "/api/v1/usage/statement.csv", params=chosen)
        sys.stdout.write(answer.content.decode("utf-8-sig"))
        return
    show(api.get("/api/v1/usage", **asked), as_json, told_statement)


def told_statement(found: Row) -> None:
    columns = {
        _("What"): lambda row: row["name"] or row["id"],
        _("GPU-hours"): lambda row: f"{float(row['device_hours']):,.4f}",
        _("Requests"): lambda row: f"{row['requests']:,}",
        _("Input tokens"): lambda row: f"{row['prompt_tokens']:,}",
        _("Output tokens"): lambda row: f"{row['completion_tokens']:,}",
        _("Trained tokens"): lambda row: f"{row['trained_tokens']:,}",
        _("Cost"): lambda row: " + ".join(
            f"{amount} {currency}" for currency, amount in row["cost"].items()
        ),
    }
    show_table(found["data"], columns, _("Nothing was used in this month."))
    for currency, amount in found["total"].items():
        say(f"{found['month']}: {amount} {currency}")


def amount_of(name: str, value: float | None) -> str:
    if value is None:
        return _("no limit")
    return (
        bytes_of(value)
        if name == "storage_bytes"
        else f"{value:,.6g}"
        if value % 1
        else f"{value:,.0f}"
    )


LIMITS = {
    _("Limit"): lambda row: f"{row['name']} {row['device']}".rstrip(),
    _("Used"): lambda row: amount_of(row["name"], row["used"]),
    _("Reserved"): lambda row: amount_of(row["name"], row["reserved"]) if row["reserved"] else "",
    _("At most"): lambda row: amount_of(row["name"], row["limit"]),
    _("From"): lambda row: row["source"],
    _("Until"): lambda row: day(row["until"]),
    _("Begins anew"): lambda row: day(row["renews"]),
}


# -- quotas ------------------------------------------------------------------------------


@quotas.command(
    "list", help=_("Every workspace's; of one, or of `default`, each limit and its source.")
)
def index(
    workspace: Annotated[str, typer.Argument(autocompletion=complete.workspace)] = "",
    as_json: Json = False,
) -> None:
    api = connect()
    if workspace:
        show(api.get(f"/api/v1/quotas/{workspace}"), as_json, told_quota)
        return
    show(every(api), as_json, told_quotas)


def every(api: Api) -> Row:
    """All pages, which go by the workspace's id."""
    data: list[Row] = []
    more = True
    while more:
        after = data[-1]["workspace"] if data else ""
        page = api.get("/api/v1/quotas", after=after, limit=100)
        data += page["data"]
        more = bool(page["has_more"])
    return {"data": data, "has_more": False}


def told_quota(found: Row) -> None:
    columns = {
        _("Limit"): lambda row: row[0],
        _("At most"): lambda row: amount_of(row[0], row[1]["amount"]),
        _("From"): lambda row: row[1]["source"],
        _("Until"): lambda row: day(row[1]["until"]),
    }
    show_table(list(found["limits"].items()), columns, _("No limit."))


def told_quotas(found: Row) -> None:
    def words(row: Row) -> str:
        set_ = row["limits"].items()
        return ", ".join(f"{name}={amount_of(name, one['amount'])}" for name, one in set_)

    columns = {
        "ID": lambda row: row["workspace"],
        _("Name"): lambda row: row["name"],
        _("Limits"): words,
    }
    show_table(found["data"], columns, _("No workspace."))


@quotas.command("set", help=_("Set limits of workspaces, of `default`, or of a member in one."))
def set_(
    workspaces: Annotated[
        list[str],
        typer.Argument(metavar="WORKSPACE…", autocompletion=complete.workspace),
    ],
    limits: Annotated[
        list[str],
        typer.Option(
            "-s",
            "--set",
            metavar="LIMIT=AMOUNT",
            help=_(
                "Such as tokens_month=5000000, storage_bytes=500GiB, devices:H100=4. An amount may "
                "be `none` (no limit) or `inherit`."
            ),
        ),
    ],
    until: Annotated[str, typer.Option(help=_("The last day on which they hold, UTC."))] = "",
    member: Annotated[
        str, typer.Option(help=_("A member's id: their own limits."), autocompletion=complete.user)
    ] = "",
    as_json: Json = False,
) -> None:
    body = amounts(limits)
    if until:
        body["until"] = end_of(until)
    api = connect()
    if member or workspaces == ["default"]:
        where = f"{workspaces[0]}/members/{member}" if member else "default"
        show(api.put(f"/api/v1/quotas/{where}", body), as_json, told_quota)
        return
    found = api.put("/api/v1/quotas", body | {"workspaces": workspaces})
    show(found, as_json, told_quotas)


def amounts(given: list[str]) -> Row:
    """LIMIT=AMOUNT, as the API has it. Raises BadParameter."""
    found: Row = {}
    for one in given:
        name, equals, amount = one.partition("=")
        if not equals or not name:
            raise typer.BadParameter(_("LIMIT=AMOUNT"), param_hint="-s")
        kind, _colon, device = name.partition(":")
        if device:
            found.setdefault(f"{kind}_by_model", {})[device] = number(amount)
        else:
            found[kind] = number(amount)
    return found


def number(text: str) -> Any:
    if text in ("none", "inherit"):
        return None if text == "none" else text
    unit = next((unit for unit in SIZES if text.endswith(unit)), "")
    try:
        value = float(text.removesuffix(unit)) * SIZES.get(unit, 1)
    except ValueError:
        raise typer.BadParameter(_("a number, `none` or `inherit`"), param_hint="-s") from None
    return int(value) if value.is_integer() else value


def end_of(last_day: str) -> str:
    from datetime import UTC, datetime, timedelta

    try:
        at = datetime.strptime(last_day, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise typer.BadParameter("2026-12-31", param_hint="--until") from None
    return (at + timedelta(days=1)).isoformat()


# -- money -------------------------------------------------------------------------------


def topup(
    workspace: Workspace,
    amount: Annotated[str, typer.Argument(help=_("Negative (after --) takes it out again."))],
    currency: str = "CNY",
    note: str = "",
    as_json: Json = False,
) -> None:
    body = {"amount": amount, "currency": currency, "note": note}
    made = connect().post(f"/api/v1/balances/{workspace}/top-ups", body)
    show(made, as_json, lambda row: say(f"{row['id']}: {row['amount']} {row['currency']}"))


def balances(as_json: Json = False) -> None:
    columns = {
        _("Workspace"): lambda row: row["workspace"],
        _("Left"): lambda row: f"{row['amount']} {row['currency']}",
        _("After the last top-up"): lambda row: row["full"],
        _("Prepaid"): lambda row: _("yes") if row["prepaid"] else _("no"),
    }
    show(
        connect().get("/api/v1/balances"),
        as_json,
        lambda found: show_table(found["data"], columns, _("No balance.")),
    )


def prices(
    device: Annotated[
        str,
        typer.Option(help=_("A device's model; all without a price of their own, if left out.")),
    ] = "",
    hour: Annotated[str, typer.Option(help=_("The price, or `none` for none."))] = "",
    tokens: Annotated[
        bool, typer.Option("--tokens", help=_("Of 1,000 tokens, by model, instead."))
    ] = False,
    model: Annotated[str, typer.Option(help=_("Of its tokens; of all, if left out."))] = "",
    input_: Annotated[str, typer.Option("--input")] = "",
    cached: str = "",
    output: str = "",
    trained: str = "",
    first_day: Annotated[str, typer.Option(help=_("From then on (UTC); now, if left out."))] = "",
    currency: str = "CNY",
    as_json: Json = False,
) -> None:
    given = {"input": input_, "cached": cached, "output": output, "trained": trained}
    new = {name: None if text == "none" else text for name, text in given.items() if text}
    api = connect()
    if tokens or model or new:
        path = "/api/v1/prices/tokens"
        body: Row = {"model": model, "currency": currency, **new}
        if first_day:
            body["first_day"] = first_day
        show(api.put(path, body) if new else api.get(path), as_json, told_tokens)
        return
    path = "/api/v1/prices"
    if hour:
        price = None if hour == "none" else hour
        found = api.put(path, {"device": device, "hour": price, "currency": currency})
    else:
        found = api.get(path)
    columns = {
        _("Device"): lambda row: row["device"] or "*",
        _("Hour"): lambda row: f"{row['hour']:g} {row['currency']}",
    }
    show(found, as_json, lambda one: show_table(one["data"], columns, _("No price.")))


def told_tokens(found: Row) -> None:
    columns = {
        _("Model"): lambda row: row["model"] or "*",
        _("Tokens"): lambda row: row["kind"],
        _("1,000 tokens"): lambda row: (
            f"{row['amount']} {row['currency']}" if row["amount"] is not None else _("no price")
        ),
        _("Since"): lambda row: day(row["since"]),
    }
    show_table(found["data"], columns, _("No price."))
