"""Pages and errors: rendering, languages, forms. What every domain's routes share.

Text is written in English in templates (`_("…")`, `{% trans %}`) and in errors (`N_`);
`app/locale/zh_CN/LC_MESSAGES/danlu.po` is the one catalogue.
"""

import gettext
import hashlib
import io
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import jinja2
from babel.dates import format_timedelta
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from fastapi import Depends, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2.bccache import Bucket
from pydantic import BaseModel, ValidationError
from sqlalchemy.orm import Session

from app.config import ROOT
from app.errors import N_, DomainError

LANGUAGES = {"zh": "zh_CN", "en": None}
T = TypeVar("T", bound=BaseModel)


# -- languages ---------------------------------------------------------------------------


@lru_cache
def catalogue(language: str) -> gettext.NullTranslations:
    """The gettext catalogue of `zh` or `en`; English is the msgids themselves."""
    locale = LANGUAGES[language]
    if locale is None:
        return gettext.NullTranslations()
    with (ROOT / f"app/locale/{locale}/LC_MESSAGES/danlu.po").open("rb") as file:
        catalog = read_po(file, locale=locale)
    buffer = io.BytesIO()
    write_mo(buffer, catalog)
    buffer.seek(0)
    return gettext.GNUTranslations(buffer)


def language_of(request: Request) -> str:
    """What the reader chose here (cookie) or for their account, else what the platform's settings
    say, else what the browser prefers.
    """
    account = getattr(getattr(request.state, "who", None), "language", None)
    for chosen in (request.cookies.get("danlu_lang"), account, general(request, "language")):
        if chosen in LANGUAGES:
            return str(chosen)
    for part in request.headers.get("accept-language", "").split(","):
        tag = part.split(";")[0].strip().lower()[:2]
        if tag in LANGUAGES:
            return tag
    return "en"


def general(request: Request, name: str) -> str:
    """Of the platform's settings (`accounts.platform`), where they were read for this request."""
    settings = getattr(request.state, "platform", None)
    return str(getattr(settings.general, name)) if settings else ""


def translate(request: Request, message: str, **params: Any) -> str:
    """`message` (a msgid) in the reader's language, its places filled.

    What fills a place may itself be a sentence: `{message, params}`.
    """
    params = {
        name: translate(request, value["message"], **value["params"])
        if isinstance(value, dict)
        else value
        for name, value in params.items()
    }
    text = catalogue(language_of(request)).gettext(message) if message else ""
    return text % params if params else text


def said(request: Request, stored: Mapping[str, Any]) -> str:
    """A stored error or event, `{message, params}`, in the reader's language."""
    message, params = stored["message"], stored.get("params") or {}
    try:
        return translate(request, message, **params)
    except (KeyError, TypeError, ValueError):  # not a msgid of ours: somebody else's words
        return str(message)


def sentence(request: Request, error: DomainError) -> str:
    return translate(request, error.message, **error.params)


# -- rendering ---------------------------------------------------------------------------


@lru_cache
def static_version(path: str) -> str:
    """A content hash, so that static files may be cached for ever."""
    return hashlib.sha256((ROOT / "static" / path).read_bytes()).hexdigest()[:10]


def static(path: str) -> str:
    return f"/static/{path}?v={static_version(path)}"


def theme_of(request: Request) -> str:
    """Light or dark if the reader chose; empty follows the system (static/theme.js)."""
    chosen = request.cookies.get("danlu_theme", "")
    return chosen if chosen in ("light", "dark") else ""


def format_bytes(value: float | None) -> str:
    """1.5 GiB. Binary units, as memory is sold."""
    if value is None:
        return "–"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024 or unit == "TiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return ""


def format_count(value: float | None) -> str:
    """6.2M parameters, 12,345 rows."""
    if value is None:
        return "–"
    for limit, unit in ((1e9, "B"), (1e6, "M")):
        if value >= 0.9995 * limit:  # what three digits round up to it
            return f"{value / limit:.3g}{unit}"
    return f"{value:,.0f}"


def format_duration(seconds: float | None) -> str:
    """48s, 3m 12s, 2h 05m."""
    if seconds is None:
        return "–"
    seconds = max(0, int(seconds))
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m {seconds % 60:02d}s"
    return f"{seconds // 3600}h {seconds % 3600 // 60:02d}m"


def format_ago(value: datetime, language: str) -> str:
    """3 minutes ago; 3分钟前."""
    return format_timedelta(
        value - datetime.now(UTC), add_direction=True, locale=LANGUAGES[language] or "en"
    )


def hue(name: str) -> int:
    """One of eight, always the same for the same id: a colour to know a workspace by."""
    return zlib.crc32(name.encode()) % 8


def iso(value: datetime | None) -> str:
    return value.astimezone(UTC).isoformat(timespec="seconds") if value else ""


class Compiled(jinja2.BytecodeCache):
    """Each template is compiled once, whatever the language it is read in."""

    def __init__(self) -> None:
        self.code: dict[str, Any] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        bucket.code = self.code.get(bucket.key)

    def dump_bytecode(self, bucket: Bucket) -> None:
        self.code[bucket.key] = bucket.code


compiled = Compiled()


def warm() -> None:
    """Compile every template, so that the first reader does not wait for it."""
    for language in LANGUAGES:
        env = environment(language)
        for name in env.list_templates():
            env.get_template(name)


@lru_cache
def environment(language: str) -> jinja2.Environment:
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ROOT / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        extensions=["jinja2.ext.i18n", "jinja2.ext.do"],
        trim_blocks=True,
        lstrip_blocks=True,
        bytecode_cache=compiled,
    )
    env.install_gettext_translations(catalogue(language), newstyle=True)  # type: ignore[attr-defined]
    env.filters.update(
        bytes=format_bytes,
        count=format_count,
        duration=format_duration,
        hue=hue,
        iso=iso,
        ago=partial(format_ago, language=language),
    )
    env.globals.update(static=static, now=lambda: datetime.now(UTC), lang=language)
    return env


def here(request: Request) -> str:
    """The address of the page in view, query and all; of a form's answer, the page it stood on."""
    if request.method == "GET":
        query = request.url.query
        return f"{request.scope['path']}?{query}" if query else str(request.scope["path"])
    return urlsplit(request.headers.get("referer", "")).path or "/"


def address(app: Any, route: str, /, **params: Any) -> str:
    """The path of the route with this name. A page asks for a hundred of them."""
    values = {name: str(value) for name, value in params.items()}
    if not all(value and "/" not in value for value in values.values()):
        return str(app.url_path_for(route, **params))  # which says what is wrong with it
    return shape(app, route, tuple(values)).format_map(values)


@lru_cache(maxsize=1024)
def shape(app: Any, route: str, names: tuple[str, ...]) -> str:
    """The path of a route with `{name}` in the place of each parameter: a search for the route
    goes through all there are.
    """
    marks = {name: f"-{at}-" for at, name in enumerate(names)}
    path = str(app.url_path_for(route, **marks))
    for name, mark in marks.items():
        path = path.replace(mark, f"{{{name}}}")
    return path


def render(
    request: Request,
    name: str,
    /,
    *,
    block: str | None = None,
    status: int = 200,
    **context: Any,
) -> HTMLResponse:
    """The page `name`, or one `{% block %}` of it, in the reader's language.

    Templates see `request`, `who` (the Principal or None), `lang`, `theme`, `here`, `site` (its name),
    `url(name, **params)`
    and `said(stored)` for stored errors and events.
    """
    env = environment(language_of(request))
    context |= {
        "request": request,
        "who": getattr(request.state, "who", None),
        "here": here(request),
        "theme": theme_of(request),
        "site": general(request, "name") or "Danlu",
        "said": lambda error: said(request, error),
        "url": partial(address, request.app),
    }
    if block:
        return HTMLResponse(render_block(env, name, block, context), status_code=status)
    return HTMLResponse(env.get_template(name).render(context), status_code=status)


def render_block(env: jinja2.Environment, name: str, block: str, variables: dict[str, Any]) -> str:
    """One block of a template, which sees the imports, macros and sets at the template's top."""
    template = env.get_template(name)
    context = template.new_context(variables)
    try:
        # The top of a template runs before its first output, which is not asked for.
        next(template.root_render_func(context), None)
        return env.concat(context.blocks[block][0](context))
    except Exception:
        env.handle_exception()
        raise


def is_htmx(request: Request) -> bool:
    return request.headers.get("hx-request") == "true"


def redirect(request: Request, to: str, **params: Any) -> Response:
    """After a post: 303 for a browser, HX-Redirect for htmx. `to` is a route name or a path."""
    target = to if to.startswith("/") else address(request.app, to, **params)
    if is_htmx(request):
        return Response(status_code=200, headers={"HX-Redirect": target})
    return RedirectResponse(target, status_code=303)


# -- forms -------------------------------------------------------------------------------

# pydantic's error types, in our words
FORM_ERRORS = {
    "missing": N_("This is needed."),
    "string_too_short": N_("At least %(min_length)s characters."),
    "string_too_long": N_("At most %(max_length)s characters."),
    "string_pattern_mismatch": N_("This has characters that are not allowed here."),
    "too_short": N_("At least %(min_length)s is needed."),
    "too_long": N_("At most %(max_length)s may be given."),
    "string_type": N_("A text is needed."),
    "list_type": N_("A list is needed."),
    "dict_type": N_("An object is needed."),
    "model_attributes_type": N_("An object is needed."),
    "int_parsing": N_("A whole number is needed."),
    "int_from_float": N_("A whole number is needed."),
    "int_type": N_("A whole number is needed."),
    "float_parsing": N_("A number is needed."),
    "float_type": N_("A number is needed."),
    "finite_number": N_("A number is needed."),
    "bool_parsing": N_("Yes or no is needed."),
    "bool_type": N_("Yes or no is needed."),
    "greater_than": N_("Must be above %(gt)s."),
    "greater_than_equal": N_("Must be at least %(ge)s."),
    "less_than": N_("Must be below %(lt)s."),
    "less_than_equal": N_("Must be at most %(le)s."),
    "literal_error": N_("Must be one of %(expected)s."),
    "enum": N_("Must be one of %(expected)s."),
    "extra_forbidden": N_("There is no such field."),
    "json_invalid": N_("The body is not valid JSON."),
}


def field_messages(request: Request, errors: Sequence[Any]) -> dict[str, str]:
    """One sentence per field, keyed by its dotted path, in the reader's language."""
    found: dict[str, str] = {}
    for error in errors:
        path = ".".join(str(part) for part in error["loc"] if part not in ("body", "query"))
        template = FORM_ERRORS.get(error["type"])
        message = (
            translate(request, template, **error.get("ctx", {}))
            if template
            else translate(request, error["msg"].removeprefix("Value error, "))
        )
        found.setdefault(path, message)
    return found


def asks(error: DomainError) -> str:
    """Where to ask for more of the quota, or the balance, that refused; empty if none did."""
    quota = error.params.get("quota")
    own = "&own=true" if error.params.get("own") else ""
    return f"/usage/requests?limit={quota}{own}" if quota else ""


@dataclass
class Parsed(Generic[T]):
    """A form as it was typed, and either `data` or a message per field.

    A service's `Invalid(field=…)` is shown beside the field with `refuse`.
    """

    request: Request
    values: Mapping[str, Any]
    data: T | None = None
    errors: dict[str, str] = field(default_factory=dict)
    more: str = ""  # where to ask for more of the quota that refused

    def refuse(self, error: DomainError) -> None:
        self.errors[error.field or ""] = sentence(self.request, error)
        self.more = asks(error) or self.more

    def carried_out(self, db: Session, act: Callable[[T], object]) -> bool:
        """Whether `act` took the data; else nothing has changed, and the errors say why."""
        if self.data is None:
            return False
        try:
            act(self.data)
        except DomainError as error:
            db.rollback()
            self.refuse(error)
            return False
        return True


def parsed(schema: type[T]) -> Any:
    """A dependency that reads the form. Empty fields count as left out; files are refused."""

    async def read(request: Request) -> Parsed[T]:
        form = await request.form(max_files=0)
        values = {
            name: form.getlist(name) if len(form.getlist(name)) > 1 else form[name]
            for name in form
            if form[name] != ""
        }
        try:
            return Parsed(request, values, schema.model_validate(values))
        except ValidationError as error:
            return Parsed(request, values, None, field_messages(request, error.errors()))

    return Depends(read)
