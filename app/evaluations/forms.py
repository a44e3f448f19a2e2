"""The form of a new evaluation, and what it offers."""

from collections.abc import Mapping
from typing import Any

import orjson
from pydantic import ValidationError
from sqlalchemy.orm import Session

from app.accounts import user_secrets
from app.accounts.auth import Principal
from app.datasets import service as datasets
from app.deployments import service as deployments
from app.errors import N_, Invalid
from app.evaluations import outside
from app.evaluations.judging import prompts as judging
from app.evaluations.prompts import KINDS as ROW_KINDS
from app.evaluations.schemas import EvaluationCreate
from app.evaluations.scorers.schemas import KINDS
from app.evaluations.trying import EndpointAsked
from app.jobs import starts
from app.models import service as models
from app.web import Parsed, field_messages

SHOWN = 4  # candidates in the form; the API takes more
SETTINGS = ("max_tokens", "temperature", "limit", "seed", "system")
OPTIONS = {  # of a scorer: the form's field and the scorer's own
    "regex": {"pattern": "pattern", "compare": "compare"},
    "numeric": {"absolute": "absolute", "relative": "relative"},
    "contains": {"texts": "texts"},
    "json": {"json_schema": "schema"},
    "embedding": {"embedding_model": "model"},
    "judge": {
        "judge_model": "model",
        "judge_prompt": "prompt",
        "judge_scale": "scale",
        "judge_language": "language",
        "judge_tokens": "max_tokens",
        "dimensions": "dimensions",
        "own_dimensions": "dimensions",
    },
    "pairwise": {
        "judge_model": "model",
        "pair_prompt": "prompt",
        "judge_language": "language",
        "judge_tokens": "max_tokens",
        "dimensions": "dimensions",
        "own_dimensions": "dimensions",
    },
}
LISTS = ("texts", "own_dimensions")  # one a line
OF_SCORERS = {  # fields of the form that are called otherwise than a scorer's own
    "schema": "json_schema",
    "model": "judge_model",
    "prompt": "judge_prompt",
    "scale": "judge_scale",
    "language": "judge_language",
    "max_tokens": "judge_tokens",
    "dimensions": "own_dimensions",
}
DEFAULT = ("accuracy", "f1")


def body_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the form as the API takes them. Raises Invalid for a schema that is no JSON, and
    for a verdict by a scorer that is not chosen.
    """
    chosen = values.get("scorers") or []
    kinds = [chosen] if isinstance(chosen, str) else list(chosen)
    first = values.get("first")
    if first and kinds and first not in kinds:
        raise Invalid(N_("Tick this scorer too, or choose one that is ticked."), field="first")
    kinds.sort(key=lambda kind: (kind != first, KINDS.index(kind) if kind in KINDS else 99))
    candidates = []
    for at in range(SHOWN):
        kind, _, target = str(values.get(f"candidate.{at}", "")).partition(":")
        if kind == "endpoint":
            candidates.append(endpoint_of(values))
        elif target:
            candidates.append({"kind": kind, "target": target})
    return {
        "name": values.get("name", ""),
        "dataset": values.get("dataset", ""),
        "candidates": candidates,
        "scorers": [scorer_of(kind, values) for kind in kinds],
        "settings": {name: values[name] for name in SETTINGS if name in values},
    }


def endpoint_of(values: Mapping[str, Any]) -> dict[str, Any]:
    found = {"kind": "endpoint", "target": values.get("endpoint_url", "")}
    given = {name: values.get(f"endpoint_{name}") for name in ("model", "secret", "per_minute")}
    return found | {name: value for name, value in given.items() if value}


def endpoint(form: Parsed[Any]) -> EndpointAsked | None:
    """The endpoint that is typed; None if something is wrong, which then stands in the errors."""
    given = endpoint_of(form.values)
    names = ("target", "model", "secret")
    try:
        return EndpointAsked.model_validate({name: given.get(name, "") for name in names})
    except ValidationError as error:
        form.errors.update(field_messages(form.request, error.errors()))
    return None


def scorer_of(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": kind}
    if kind in ("judge", "pairwise"):
        found["dimensions"] = []
    for field, name in OPTIONS.get(kind, {}).items():
        if field not in values:
            continue
        value = values[field]
        if field in LISTS:
            value = [one.strip() for one in str(value).splitlines() if one.strip()]
            value = found.get(name, []) + value
        elif field == "dimensions":
            value = [value] if isinstance(value, str) else list(value)
        elif field == "judge_scale":
            value = int(value) if str(value).isdecimal() else value
        elif field == "json_schema":
            try:
                value = orjson.loads(value)
            except orjson.JSONDecodeError:
                raise Invalid(N_("This is not valid JSON."), field="json_schema") from None
        found[name] = value
    return found


def read(form: Parsed[Any]) -> EvaluationCreate | None:
    """What the form asks for; None if something is wrong, which then stands beside its field."""
    try:
        return EvaluationCreate.model_validate(body_of(form.values))
    except Invalid as error:
        error.field = OF_SCORERS.get(error.field or "", error.field)
        form.refuse(error)
    except ValidationError as error:
        for path, message in field_messages(form.request, error.errors()).items():
            form.errors.setdefault(field_of(path), message)
    return None


def field_of(path: str) -> str:
    """The form's field for a path of the API's body."""
    parts = path.split(".")
    match parts[0]:
        case "candidates" if parts[-1] in ("model", "secret", "per_minute"):
            return f"endpoint_{parts[-1]}"
        case "candidates":
            return f"candidate.{parts[1]}" if len(parts) > 1 else "candidate.0"
        case "settings":
            return parts[-1]
        case "scorers" if parts[-1] in ("pattern", "absolute", "relative", "texts"):
            return parts[-1]
        case "scorers" if parts[-1] in OF_SCORERS:
            return OF_SCORERS[parts[-1]]
    return parts[0]


def offered(db: Session, who: Principal) -> dict[str, Any]:
    """What can be chosen."""
    versions = [
        one for one in datasets.list_published(db, who.workspace_id) if one.kind in ROW_KINDS
    ]
    known = deployments.names(db, who.workspace_id)
    names = [one.name for one in known if not one.embeds]
    registry = models.visible(db, who.workspace_id, limit=200)
    return {
        "versions": versions,
        "deployments": names,
        "judges": [(one, one) for one in names],
        "embedders": [(one.name, one.name) for one in known if one.embeds],
        "models": [one for one in registry if not one.scores],
        "checkpoints": [
            (starts.name_of(row), f"{job.name} · {row.step}")
            for row, job in starts.offered(db, who.workspace_id)
        ],
        "secrets": user_secrets.every(db, who, outside.SECRET),
        "shown": SHOWN,
        "kinds": KINDS,
        "presets": judging.PRESETS,
        "dimensions": judging.DIMENSIONS,
        "default": DEFAULT,
    }
