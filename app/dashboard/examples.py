"""Examples in the description of the API: made from the schemas, with values as they really look."""

from typing import Any

JSON = ("application/json", "application/problem+json")
AT = "2026-03-01T08:30:00Z"
# What a field of this name holds, wherever it stands.
VALUES: dict[str, Any] = {
    "name": "support-tone",
    "title": "Tone of our answers",
    "email": "lin@example.com",
    "created_at": AT,
    "updated_at": AT,
    "started_at": AT,
    "finished_at": AT,
    "expires_at": AT,
    "seen_at": AT,
    "used_at": AT,
    "published_at": AT,
    "at": AT,
    "since": AT,
    "until": AT,
    "model": "qwen3-0.6b",
    "base": "qwen3-0.6b",
    "dataset": "ds_4m8xw2v9k3hq7tzr6cad",
    "deployment": "dep_9v3kq7h2mzx4c8tdw5ra",
    "workspace": "ws_2kq9v4m7hzx3c8tdw5ra",
    "version": "2",
    "file_name": "support.jsonl",
    "filename": "support.jsonl",
    "size": 1048576,
    "bytes": 1048576,
    "memory": 17179869184,
    "rows": 1200,
    "total": 1200,
    "step": 40,
    "loss": 1.27,
    "state": "running",
    "status": "draft",
    "format": "messages",
    "message": "Line 12 has no answer.",
    "code": "conflict",
    "content": "How do I return a parcel?",
    "question": "How do I return a parcel?",
    "answer": "Bring it to any counter within 30 days.",
    "language": "en",
    "engine": "vllm",
    "url": "http://127.0.0.1:8420/v1",
    "key": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "secret": "dk-Vq3n1W8sT5yB7mK2xR9cH4jL6pD0gF-aZuEoIrXwYbQ",
    "password": "kept-by-nobody-else",
    "current": "what-it-was-before",
    "scopes": ["datasets:read", "jobs:write"],
    "webhook": "https://example.com/hooks/danlu",
    "host": "127.0.0.1",
    "node": "local",
    "hour": 12.5,
    "currency": "CNY",
    "devices": 1,
    "replicas": 1,
    "epoch": 1,
    "progress": 1.0,
    "repository": "Qwen/Qwen3-0.6B",
    "revision": "main",
    "hub": "huggingface",
    "content_hash": "6f1d7a0c2b9e4835",
    "hash": "6f1d7a0c2b9e4835",
    "label": "quick",
    "role": "member",
    "text": "How do I return a parcel?",
    "offset": 0,
    "has_more": False,
}
# Where the fields alone would not make a request that works.
BODIES: dict[str, Any] = {
    "BenchmarkCreate": {"model": "qwen3-0.6b", "tasks": ["ceval", "gsm8k"], "fewshot": 5},
    "EvaluationCreate": {
        "dataset": "ds_4m8xw2v9k3hq7tzr6cad",
        "candidates": [
            {"kind": "model", "target": "qwen3-0.6b"},
            {"kind": "deployment", "target": "support-tone"},
        ],
        "scorers": [{"kind": "accuracy"}, {"kind": "f1"}],
    },
    "JobCreate": {
        "name": "support-tone",
        "model": "qwen3-0.6b",
        "dataset": "ds_4m8xw2v9k3hq7tzr6cad",
        "validation": {"split": 0.1},
        "stage": "sft",
        "method": "lora",
        "hyperparameters": {"epochs": 3, "learning_rate": 0.0002, "lora_rank": 16},
    },
    "app__deployments__schemas__DeploymentCreate": {
        "name": "support",
        "model": "support-tone",
        "replicas": 1,
    },
    "DeploymentChange": {"replicas": 2, "max_model_len": 8192, "priority": "high"},
    "AliasPut": {
        "name": "steady",
        "targets": [{"deployment": "support", "weight": 9}, {"deployment": "next", "weight": 1}],
    },
    "KeyCreate": {"name": "nightly", "scopes": ["datasets:read", "jobs:write"]},
    "PriceIn": {"device": "NVIDIA H200", "hour": 25, "currency": "CNY"},
    "MappingIn": {"format": "alpaca", "columns": {"instruction": "question", "output": "answer"}},
    "FineTuningCreate": {
        "model": "qwen3-0.6b",
        "training_file": "file-7h2kq9v4mzx3c8tdw5ra",
        "suffix": "support",
        "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3}}},
    },
}
DEEPEST = 6
TAIL = "7h2kq9v4mzx3c8tdw5ra"
# How the ids of a thing begin; first come the longer names.
PREFIXES = {
    "DatasetWithErrors": "ds",
    "Dataset": "ds",
    "Deployment": "dep",
    "Replica": "rep",
    "Alias": "als",
    "Model": "mdl",
    "Import": "imp",
    "Conversation": "cnv",
    "Message": "msg",
    "Preset": "pre",
    "Upload": "upl",
    "Key": "key",
    "Workspace": "ws",
    "User": "usr",
    "Member": "usr",
    "Me": "usr",
    "SignIn": "sid",
    "Device": "dev",
    "Act": "act",
    "Audit": "aud",
    "Secret": "sec",
}


def add(schemas: dict[str, Any], operation: dict[str, Any]) -> None:
    """An example for the body of a request, for each answer that is JSON, and for ids in the path."""
    for body, asked in (
        (operation.get("requestBody", {}), True),
        *((answer, False) for answer in operation["responses"].values()),
    ):
        for media, content in body.get("content", {}).items():
            schema = content.get("schema")
            if (
                schema is not None
                and media in JSON
                and not {"example", "examples"} & content.keys()
            ):
                content["example"] = Sampler(schemas, asked).of(schema)
    for parameter in operation.get("parameters", []):
        if parameter["in"] == "path":
            parameter.setdefault("example", parameter_of(parameter))


def parameter_of(parameter: dict[str, Any]) -> Any:
    if parameter["schema"].get("type") == "integer":
        return 40
    name = parameter["name"].removesuffix("_id")
    return VALUES.get(name) or id_of(name.title())


def id_of(model: str) -> str:
    known = (prefix for name, prefix in PREFIXES.items() if model.startswith(name))
    return f"{next(known, model[:3].lower())}_{TAIL}"


class Sampler:
    """Makes values that a schema allows; of a request (`asked`) only what is needed."""

    def __init__(self, schemas: dict[str, Any], asked: bool) -> None:
        self.schemas, self.asked = schemas, asked

    def of(self, schema: dict[str, Any], name: str = "", model: str = "", deep: int = 0) -> Any:
        """A value for the field `name` of a model, or for all of it."""
        if "$ref" in schema:
            full = schema["$ref"].rsplit("/", 1)[1]
            short = full.rsplit("__", 1)[-1]
            if self.asked and (known := BODIES.get(full) or BODIES.get(short)):
                return known
            return self.of(self.schemas[full], name, short, deep + 1)
        if "const" in schema:
            return schema["const"]
        for given in (schema.get("example"), schema.get("default"), *schema.get("examples", [])):
            if given not in (None, "", [], {}):
                return given
        if "enum" in schema:
            return schema["enum"][0]
        options = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
        if options:
            return self.choice(options, name, model, deep)
        return self.plain(schema, name, model, deep)

    def choice(self, options: list[dict[str, Any]], name: str, model: str, deep: int) -> Any:
        """The one of several that a known value fits, else the first that is something."""
        told = [option for option in options if option.get("type") != "null"]
        if deep > DEEPEST or not told:
            return None
        known = VALUES.get(name)
        fitting = [one for one in told if known is not None and fits(one, known)]
        if not fitting and len(told) < len(options) and kind_of(told[0]) != "object":
            return None if "$ref" not in told[0] else self.of(told[0], name, model, deep)
        return known if fitting else self.of(told[0], name, model, deep)

    def plain(self, schema: dict[str, Any], name: str, model: str, deep: int) -> Any:
        """By the type; what the name says, if that fits."""
        kind = kind_of(schema)
        if kind == "object" or "properties" in schema:
            return self.fields(schema, model, deep)
        if kind == "array":
            return self.items(schema, name, model, deep)
        known = id_of(model) if name == "id" and model else VALUES.get(name)
        if known is not None and fits(schema, known):
            return known
        if kind in ("integer", "number"):
            return least(schema)
        if kind == "string":
            return text(schema, name)
        return False if kind == "boolean" else {}

    def fields(self, schema: dict[str, Any], model: str, deep: int) -> dict[str, Any]:
        properties, needed = schema.get("properties", {}), schema.get("required", [])
        wanted = needed if self.asked and needed else properties if deep < 3 else needed
        return {key: self.of(properties[key], key, model, deep + 1) for key in wanted}

    def items(self, schema: dict[str, Any], name: str, model: str, deep: int) -> list[Any]:
        known = VALUES.get(name)
        if isinstance(known, list) or deep > DEEPEST:
            return known or []
        if "prefixItems" in schema:
            return [self.of(one, name, model, deep + 1) for one in schema["prefixItems"]]
        return [self.of(schema.get("items", {}), name.removesuffix("s"), model, deep + 1)]


def kind_of(schema: dict[str, Any]) -> str:
    """The type; the first, where there are several."""
    kind = schema.get("type", "")
    return str(kind[0] if isinstance(kind, list) else kind)


def least(schema: dict[str, Any]) -> float:
    low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
    low = low + 1 if low == schema.get("exclusiveMinimum") else low
    return int(low) if kind_of(schema) == "integer" else low


def text(schema: dict[str, Any], name: str) -> str:
    if schema.get("format") == "date-time":
        return AT
    return name or "text" if schema.get("minLength") else ""


def fits(schema: dict[str, Any], value: Any) -> bool:
    """Whether a known value is of the type, and within the numbers, that the schema allows."""
    kinds: dict[str, Any] = {
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "array": list,
    }
    kind = kinds.get(kind_of(schema))
    if kind is None or not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
        return False
    if isinstance(value, str):
        return len(value) <= schema.get("maxLength", len(value)) and "enum" not in schema
    if isinstance(value, int | float):
        return bool(schema.get("minimum", value) <= value <= schema.get("maximum", value))
    return True
