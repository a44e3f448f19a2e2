"""A pipeline: operators in an order, with their parameters; and what it does to one row.

Its JSON is the recipe that a version made by it carries.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.datasets.cleaning import duplicates, filters
from app.datasets.cleaning.duplicates import Index
from app.datasets.cleaning.filters import Params, Score, Why, why
from app.datasets.cleaning.operators import OPERATORS, TABLE, Operator, Parameter
from app.datasets.cleaning.passages import SIDES, Passage, Row, rewrite
from app.errors import N_, Invalid

MOST_STEPS = 40
MOST_WORDS = 5000  # on a list
WORD_CHARS = 100
MOST_LANGUAGES = 50

Side = Literal["all", "input", "output"]


def known(name: str) -> str:
    if name not in OPERATORS:
        raise ValueError(N_("There is no such operator."))
    return name


class Step(BaseModel):
    """An operator with the parameters that differ from its defaults."""

    model_config = ConfigDict(extra="forbid")

    operator: Annotated[str, AfterValidator(known)]
    of: Side = Field("all", description="Questions (input), answers (output), or both")
    params: dict[str, Any] = Field(default_factory=dict)


class Pipeline(BaseModel):
    """Operators in the order in which each row meets them."""

    model_config = ConfigDict(extra="forbid")

    language: Literal["auto", "zh", "en"] = Field(
        "auto", description="Whose cutoffs apply where none is given; auto: by each row's text"
    )
    steps: list[Step] = Field(min_length=1, max_length=MOST_STEPS)


# -- checking ----------------------------------------------------------------------------


def check(pipeline: Pipeline) -> Pipeline:
    """With each parameter as its operator takes it. Raises Invalid, naming the field."""
    steps = []
    for at, step in enumerate(pipeline.steps):
        operator = OPERATORS[step.operator]
        field_of = f"steps.{at}.params."
        names = {one.name for one in operator.parameters}
        for name in step.params.keys() - names:
            raise Invalid(
                N_("“%(operator)s” has no parameter “%(name)s”."),
                code="cleaning.parameter",
                field=field_of + name[:50],
                operator=label(operator),
                name=name[:50],
            )
        params = {}
        for one in operator.parameters:
            value = step.params.get(one.name)
            if value not in (None, "", []):
                params[one.name] = value_of(operator, one, value, field_of + one.name)
            elif one.required:
                raise refused(operator, one, field_of + one.name, N_("it is needed"))
        if params.get("min", 0) > params.get("max", params.get("min", 0)):
            raise Invalid(
                N_("“%(operator)s”: the least is above the most."),
                code="cleaning.parameter",
                field=field_of + "min",
                operator=label(operator),
            )
        steps.append(step.model_copy(update={"params": params}))
    return pipeline.model_copy(update={"steps": steps})


def label(operator: Operator) -> dict[str, Any]:
    return {"message": operator.label, "params": {}}


def refused(
    operator: Operator, parameter: Parameter, where: str, reason: str, **params: Any
) -> Invalid:
    return Invalid(
        N_("“%(operator)s”, %(parameter)s: %(why)s."),
        code="cleaning.parameter",
        field=where,
        operator=label(operator),
        parameter={"message": parameter.label, "params": {}},
        why={"message": reason, "params": params},
    )


def value_of(operator: Operator, parameter: Parameter, value: Any, where: str) -> Any:
    """Raises Invalid."""
    if parameter.kind in ("words", "languages"):
        if isinstance(value, str):
            separator = "\n" if parameter.kind == "words" else ","
            value = [part.strip() for part in value.split(separator) if part.strip()]
        most = MOST_WORDS if parameter.kind == "words" else MOST_LANGUAGES
        fits = isinstance(value, list) and 0 < len(value) <= most
        if not fits or not all(isinstance(one, str) and len(one) <= WORD_CHARS for one in value):
            reason = N_("a list of up to %(most)s words of up to %(chars)s characters is needed")
            raise refused(operator, parameter, where, reason, most=most, chars=WORD_CHARS)
        return [one.lower() for one in value] if parameter.kind == "languages" else value
    if parameter.kind == "model":
        if not isinstance(value, str) or len(value) > WORD_CHARS:
            raise refused(operator, parameter, where, N_("the id of a base model is needed"))
        return value
    reason = N_("a number from %(low)s to %(high)s is needed")
    error = refused(operator, parameter, where, reason, low=parameter.low, high=parameter.high)
    try:
        number = float(value) if not isinstance(value, bool) else -1.0
    except (TypeError, ValueError, OverflowError):
        raise error from None
    if not parameter.low <= number <= parameter.high:
        raise error
    if parameter.kind == "int":
        if number != int(number):
            raise error
        return int(number)
    return number


def schema() -> dict[str, Any]:
    """JSON schema of a pipeline, each operator with its own parameters."""
    whole = Pipeline.model_json_schema()
    whole.pop("$defs")
    whole["properties"]["steps"]["items"] = {"oneOf": [step_schema(one) for one in TABLE]}
    return whole


def step_schema(operator: Operator) -> dict[str, Any]:
    kinds: dict[str, dict[str, Any]] = {
        "int": {"type": "integer"},
        "number": {"type": "number"},
        "words": {"type": "array", "items": {"type": "string"}, "maxItems": MOST_WORDS},
        "languages": {"type": "array", "items": {"type": "string"}, "maxItems": MOST_LANGUAGES},
        "model": {"type": "string"},
    }
    properties = {}
    for one in operator.parameters:
        found = dict(kinds[one.kind])
        if one.kind in ("int", "number"):
            found |= {"minimum": one.low, "maximum": one.high}
        if one.zh is not None and one.zh == one.en:
            found["default"] = one.zh
        elif one.zh is not None:
            found["description"] = f"Default: {one.zh:g} for Chinese, {one.en:g} for English"
        properties[one.name] = found
    needed = [one.name for one in operator.parameters if one.required]
    params = {"type": "object", "properties": properties, "additionalProperties": False}
    return {
        "type": "object",
        "description": operator.what,
        "properties": {
            "operator": {"const": operator.name},
            "of": {"enum": list(SIDES), "default": "all"},
            "params": params | ({"required": needed} if needed else {}),
        },
        "required": ["operator", *(["params"] if needed else [])],
        "additionalProperties": False,
    }


# -- one row -----------------------------------------------------------------------------


@dataclass
class Outcome:
    """What became of a row: which steps changed it, and which one dropped it, if any."""

    changed: list[int] = field(default_factory=list)
    dropped: int | None = None
    why: Why | None = None


Watch = Callable[[int, Row], None]


class Runner:
    """Applies a checked pipeline to rows in their order; duplicates are told by `index`."""

    def __init__(self, pipeline: Pipeline, index: Index, score: Score | None = None) -> None:
        self.pipeline = pipeline
        self.index = index
        self.score = score
        self.steps = [
            (step, OPERATORS[step.operator], self.defaults(step, chinese=True),
             self.defaults(step, chinese=False))
            for step in pipeline.steps
        ]  # fmt: skip

    def defaults(self, step: Step, *, chinese: bool) -> Params:
        """The step's parameters; those left out as for a Chinese or an English row."""
        params = {}
        for one in OPERATORS[step.operator].parameters:
            default = one.zh if chinese else one.en
            if one.kind == "int" and default is not None:
                default = int(default)
            params[one.name] = step.params.get(one.name, default)
        return params

    def apply(self, number: int, row: Row, watch: Watch | None = None) -> Outcome:
        """Change `row` in place, up to the step that drops it. `watch` sees it before each step."""
        outcome = Outcome()
        passages: dict[str, Passage] = {}
        for at, (step, operator, chinese, english) in enumerate(self.steps):
            if watch:
                watch(at, row)
            if operator.edit:
                calls = operator.group == "privacy"
                changed, emptied = rewrite(row, operator.edit, step.of, calls=calls)
                if changed:
                    passages.clear()
                    outcome.changed.append(at)
                if emptied:
                    outcome.dropped, outcome.why = at, why(N_("it left a text empty"))
                    return outcome
                continue
            if step.of not in passages:
                passages[step.of] = Passage.of(row, step.of)
            passage = passages[step.of]
            wanted = self.pipeline.language
            params = (
                chinese if wanted == "zh" or (wanted == "auto" and passage.chinese) else english
            )
            found = self.judge(at, operator, passage, params, number, row)
            if found:
                outcome.dropped, outcome.why = at, found
                return outcome
        return outcome

    def judge(
        self,
        at: int,
        operator: Operator,
        passage: Passage,
        params: Params,
        number: int,
        row: Row,
    ) -> Why | None:
        if operator.judge:
            return operator.judge(passage, params) if passage.text.strip() else None
        if operator.name == "check_perplexity":
            if self.score is None or not passage.text.strip():
                return None
            return filters.check_perplexity(passage, params, self.score)
        twin: int | None
        if operator.name == "deduplication_exact":
            twin = duplicates.same(row, self.index, at, number)
            return None if twin is None else why(N_("the same as row %(row)s"), row=twin + 1)
        if operator.name == "deduplication_simhash":
            twin = duplicates.alike(passage, self.index, at, number, params["distance"])
        else:
            threshold, size = params["threshold"], params["n"]
            twin = duplicates.near(passage, self.index, at, number, threshold, size)
        return None if twin is None else why(N_("nearly the same as row %(row)s"), row=twin + 1)
