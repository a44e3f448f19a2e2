"""What the description says of other people's contracts, OpenAI's and DashScope's, whose bodies are
made to the letter by `app.gateway` rather than from models; and of answers that are no JSON.
"""

from typing import Any

from app import failures

Schema = dict[str, Any]


def fields(description: str, needed: str = "", **properties: Any) -> Schema:
    """An object that may hold more than is named here."""
    schema: Schema = {"type": "object", "description": description, "properties": properties}
    return schema | ({"required": needed.split()} if needed else {})


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def many(of: Schema) -> Schema:
    return {"type": "array", "items": of}


def listed(name: str, what: str) -> Schema:
    return fields(
        f"{what}; `after` goes on behind the last of them.",
        "object data",
        object={"const": "list"},
        data=many(ref(name)),
        has_more=YES,
        first_id=MAYBE,
        last_id=MAYBE,
    )


TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "integer"}
YES: Schema = {"type": "boolean"}
MAYBE: Schema = {"type": ["string", "null"]}
MAYBE_NUMBER: Schema = {"type": ["integer", "null"]}
ANYTHING: Schema = {"type": "object", "additionalProperties": True}
FILE_CODE = {"enum": ["fine-tune", "batch", "fine-tune-results", "batch_output"], "type": "string"}
FIELD = fields("A field, and what is wrong with it.", "field message", field=TEXT, message=TEXT)
OPENAI = {"message": TEXT, "type": TEXT, "param": MAYBE, "code": MAYBE}
MESSAGE = fields("What somebody said.", "role", role=TEXT, content=TEXT)
ASKED: dict[str, Any] = {
    "model": TEXT | {"description": "A deployment, an alias, or a tuned model's ft: name."},
    "stream": {"type": ["boolean", "null"]},
    "max_tokens": MAYBE_NUMBER,
    "temperature": {"type": ["number", "null"]},
}

SCHEMAS: dict[str, Schema] = {
    "ProblemDetails": fields(
        "An error, as RFC 9457 has it.",
        "type title status detail code request_id",
        type={"const": "about:blank", "type": "string"},
        title=TEXT,
        status=NUMBER,
        detail=TEXT | {"description": "A sentence, in the language of Accept-Language."},
        code=TEXT | {"description": "Stable, for programs."},
        request_id=TEXT,
        errors=many(FIELD),
    ),
    "OpenAIError": fields("An error, as OpenAI words it.", "error", error=fields("", "message type", **OPENAI)),
    "DashScopeError": fields(
        "An error, as DashScope words it.",
        "code message request_id",
        code=TEXT, message=TEXT, request_id=TEXT,
    ),
    "OpenAIModel": fields(
        "A name that can be called.", "id object",
        id=TEXT, object={"const": "model"}, created=NUMBER, owned_by=TEXT,
    ),
    "OpenAIModels": listed("OpenAIModel", "Names that can be called"),
    "OpenAIDeleted": fields(
        "What is gone.", "id object deleted", id=TEXT, object=TEXT, deleted={"const": True}
    ),
    "OpenAIFile": fields(
        "An uploaded file.", "id object bytes created_at filename purpose status",
        id=TEXT, object={"const": "file"}, bytes=NUMBER, created_at=NUMBER,
        expires_at=MAYBE_NUMBER, filename=TEXT, purpose=TEXT, status=TEXT, status_details=MAYBE,
    ),
    "OpenAIFiles": listed("OpenAIFile", "Files"),
    "OpenAIUpload": fields(
        "A file that comes in parts.", "id object bytes status",
        id=TEXT, object={"const": "upload"}, bytes=NUMBER, created_at=NUMBER, expires_at=NUMBER,
        filename=TEXT, purpose=TEXT, status=TEXT,
        file={"anyOf": [ref("OpenAIFile"), {"type": "null"}]},
    ),
    "OpenAIUploadPart": fields(
        "A part of a file.", "id object upload_id",
        id=TEXT, object={"const": "upload.part"}, created_at=NUMBER, upload_id=TEXT,
    ),
    "FineTuningJob": fields(
        "A tuning run.", "id object model status created_at training_file",
        id=TEXT, object={"const": "fine_tuning.job"}, model=TEXT, created_at=NUMBER,
        finished_at=MAYBE_NUMBER, fine_tuned_model=MAYBE, status=TEXT, training_file=TEXT,
        validation_file=MAYBE, trained_tokens=MAYBE_NUMBER, hyperparameters=ANYTHING,
        method=ANYTHING, result_files=many(TEXT),
        error={"type": ["object", "null"], "description": "code, message and param"},
    ),
    "FineTuningJobs": listed("FineTuningJob", "Tuning runs, the newest first"),
    "FineTuningEvent": fields(
        "Something that happened to a tuning run.", "id object created_at message",
        id=TEXT, object={"const": "fine_tuning.job.event"}, created_at=NUMBER, level=TEXT,
        message=TEXT, type=TEXT,
    ),
    "FineTuningEvents": listed("FineTuningEvent", "Events, the newest first"),
    "FineTuningCheckpoint": fields(
        "A checkpoint of a tuning run.", "id object step_number",
        id=TEXT, object={"const": "fine_tuning.job.checkpoint"}, created_at=NUMBER,
        step_number=NUMBER, metrics=ANYTHING,
    ),
    "FineTuningCheckpoints": listed("FineTuningCheckpoint", "Checkpoints, the newest first"),
    "ChatCompletionRequest": fields(
        "As OpenAI's; more of its fields, and vLLM's sampling extras, are taken.",
        "model messages", **ASKED, messages=many(MESSAGE) | {"minItems": 1},
    ),
    "CompletionRequest": fields(
        "As OpenAI's.", "model prompt", **ASKED, prompt={"type": ["string", "array"], "items": TEXT}
    ),
    "ChatCompletion": fields(
        "An answer, as the engine gave it.", "choices",
        id=TEXT, object=TEXT, created=NUMBER, model=TEXT, choices=many(ANYTHING),
        usage={"type": ["object", "null"]},
    ),
    "DashScopeReply": fields(
        "DashScope's envelope; `output` or, in lists of files, `data`.",
        "request_id", request_id=TEXT, output={"type": ["object", "array", "boolean", "null"], "items": {}},
    ),
    "GenerationRequest": fields(
        "As DashScope's.", "model input",
        model=TEXT,
        input=fields("prompt, or messages.", prompt=TEXT, messages=many(MESSAGE)),
        parameters=ANYTHING,
    ),
}  # fmt: skip

ERRORS = {
    "ProblemDetails": "application/problem+json",
    "OpenAIError": "application/json",
    "DashScopeError": "application/json",
}


def error_of(path: str) -> str:
    """The form in which errors under a path are told: a name in ERRORS."""
    if path.startswith(("/v1/", "/inference/")):
        return "OpenAIError"
    return "DashScopeError" if path.startswith("/dashscope/") else "ProblemDetails"


def example(kind: str, status: int, text: str) -> dict[str, Any]:
    """An error in one of the forms."""
    if kind == "ProblemDetails":
        return {
            "type": "about:blank",
            "title": failures.TITLES[status],
            "status": status,
            "detail": text,
            "code": CODES[status],
            "request_id": REQUEST,
        }
    if kind == "OpenAIError":
        default = "server_error" if status >= 500 else "invalid_request_error"
        kind_of_error = failures.OPENAI_TYPES.get(status, default)
        return {
            "error": {"message": text, "type": kind_of_error, "param": None, "code": CODES[status]}
        }
    code = failures.DASHSCOPE_CODES.get(status, "InvalidParameter")
    return {"code": code, "message": text, "request_id": REQUEST}


REQUEST = "req-4f1d7a0c2b9e48351a2b"
CODES = {
    400: "invalid",
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    409: "conflict",
    413: "too_large",
    422: "invalid",
    429: "too_many_requests",
    500: "internal_error",
    503: "unavailable",
}
TUNING = "/v1/fine_tuning/jobs"
ONE = f"{TUNING}/{{fine_tuning_job_id}}"
ANSWERS = {
    "get /v1/models": "OpenAIModels",
    "get /v1/models/{name}": "OpenAIModel",
    "delete /v1/models/{name}": "OpenAIDeleted",
    "post /v1/chat/completions": "ChatCompletion",
    "post /v1/completions": "ChatCompletion",
    "post /v1/files": "OpenAIFile",
    "get /v1/files": "OpenAIFiles",
    "get /v1/files/{file_id}": "OpenAIFile",
    "delete /v1/files/{file_id}": "OpenAIDeleted",
    "post /v1/uploads": "OpenAIUpload",
    "post /v1/uploads/{incoming_id}/parts": "OpenAIUploadPart",
    "post /v1/uploads/{incoming_id}/complete": "OpenAIUpload",
    "post /v1/uploads/{incoming_id}/cancel": "OpenAIUpload",
    f"post {TUNING}": "FineTuningJob",
    f"get {TUNING}": "FineTuningJobs",
    f"get {ONE}": "FineTuningJob",
    f"post {ONE}/cancel": "FineTuningJob",
    f"post {ONE}/pause": "FineTuningJob",
    f"post {ONE}/resume": "FineTuningJob",
    f"get {ONE}/events": "FineTuningEvents",
    f"get {ONE}/checkpoints": "FineTuningCheckpoints",
}
GENERATION = "post /dashscope/api/v1/services/aigc/text-generation/generation"
REQUESTS = {
    "post /v1/chat/completions": "ChatCompletionRequest",
    "post /v1/completions": "CompletionRequest",
    GENERATION: "GenerationRequest",
}
EVENTS = "text/event-stream"
TAR = "application/octet-stream"
STREAMED = ("post /v1/chat/completions", "post /v1/completions", GENERATION)
# Answers that are no JSON.
MEDIA = {
    "get /api/v1/audit/export": "application/jsonl text/csv",
    "get /api/v1/workspace/audit/export": "application/jsonl text/csv",
    "get /api/v1/models/{model_id}/download": TAR,
    "get /api/v1/models/{model_id}/card": "text/markdown",
    "get /api/v1/jobs/{job_id}/download": TAR,
    "get /api/v1/jobs/{job_id}/tensorboard.zip": "application/zip",
    "get /api/v1/jobs/{job_id}/train.py": "text/x-python",
    "get /api/v1/jobs/{job_id}/rows": "application/jsonl",
    "get /api/v1/jobs/{job_id}/log": "text/plain",
    "get /api/v1/jobs/{job_id}/events": EVENTS,
    "get /api/v1/deployments/{deployment_id}/log": "text/plain",
    "get /api/v1/datasets/{dataset_id}/download": "application/jsonl",
    "get /api/v1/conversations/{conversation_id}/export": "application/json text/markdown",
    "get /api/v1/datasets/{dataset_id}/export": "application/jsonl text/csv",
    "get /api/v1/datasets/{dataset_id}/errors/download": "application/jsonl text/csv",
    "post /api/v1/conversations/{conversation_id}/answers": EVENTS,
    "get /v1/files/{file_id}/content": "application/octet-stream",
    "get /dashscope/api/v1/fine-tunes/{fine_tune_id}/stream": EVENTS,
    "get /dashscope/api/v1/deployments/{deployed_model}/stream": EVENTS,
}


def fill(path: str, method: str, operation: dict[str, Any]) -> None:
    """Put what is known here into an operation."""
    line = f"{method} {path}"
    good = next(one for status, one in operation["responses"].items() if status.startswith("2"))
    if line in MEDIA:
        kinds = MEDIA[line].split()
        good["content"] = {
            kind: {"schema": TEXT if kind.startswith("text/") and kind != EVENTS else {}}
            for kind in kinds
        }
    elif line in ANSWERS:
        good["content"] = {"application/json": {"schema": ref(ANSWERS[line])}}
    elif path.startswith("/dashscope/"):
        good["content"] = {"application/json": {"schema": ref("DashScopeReply")}}
    if line in STREAMED:
        good["content"][EVENTS] = {"schema": {}}
    if line in REQUESTS:
        body = {"application/json": {"schema": ref(REQUESTS[line])}}
        operation["requestBody"] = {"required": True, "content": body}
