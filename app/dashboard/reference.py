"""The API reference, made from the OpenAPI description."""

import json
from typing import Any

from app.config import settings

METHODS = ("get", "post", "put", "patch", "delete")


def groups(schema: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Tag → [{method, path, text, parameters, fields}], in the order the routes were declared."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path, methods in schema["paths"].items():
        for method in METHODS:
            if method in methods:
                operation = methods[method]
                tag = (operation.get("tags") or ["other"])[0]
                found.setdefault(tag, []).append(described(schema, method, path, operation))
    return found


def described(
    schema: dict[str, Any], method: str, path: str, operation: dict[str, Any]
) -> dict[str, Any]:
    return {
        "method": method.upper(),
        "path": path,
        "text": operation.get("description", operation.get("summary", "")),
        "parameters": [
            {
                "name": parameter["name"],
                "required": parameter.get("required", False),
                "type": type_of(parameter.get("schema", {})),
                "text": parameter.get("description", ""),
            }
            for parameter in operation.get("parameters", [])
            if parameter["in"] in ("path", "query")
        ],
        "fields": fields_of(schema, operation.get("requestBody", {}).get("content", {})),
        "call": call_of(method, path, operation),
        "answer": answer_of(operation),
    }


def call_of(method: str, path: str, operation: dict[str, Any]) -> str:
    """The operation as a curl command, with the example's ids and body."""
    for parameter in operation.get("parameters", []):
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", str(parameter.get("example", "")))
    lines = [f"curl -X {method.upper()} {settings.url}{path}"]
    if operation.get("security"):
        lines.append('-H "Authorization: Bearer $DANLU_API_KEY"')
    content = operation.get("requestBody", {}).get("content", {})
    if "application/json" in content and "multipart/form-data" not in content:
        body = dumps(content["application/json"].get("example", {})).replace("'", "'\\''")
        lines += ['-H "Content-Type: application/json"', f"-d '{body}'"]
    elif "multipart/form-data" in content:
        lines.append("-F file=@rows.jsonl")
    elif content:
        lines.append("--data-binary @piece")
    return " \\\n  ".join(lines)


def answer_of(operation: dict[str, Any]) -> str:
    """An example of the answer when all is well; empty where that is no JSON."""
    good = next(one for status, one in operation["responses"].items() if status.startswith("2"))
    content = good.get("content", {}).get("application/json", {})
    return dumps(content["example"]) if "example" in content else ""


def dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


def fields_of(schema: dict[str, Any], content: dict[str, Any]) -> list[dict[str, Any]]:
    """The fields of a JSON or multipart body."""
    body: dict[str, Any] = next((one["schema"] for one in content.values()), {})
    if "$ref" in body:
        body = schema["components"]["schemas"][body["$ref"].rsplit("/", 1)[1]]
    needed = body.get("required", [])
    return [
        {
            "name": name,
            "required": name in needed,
            "type": type_of(field),
            "text": field.get("description", ""),
        }
        for name, field in body.get("properties", {}).items()
    ]


def type_of(field: dict[str, Any]) -> str:
    """`integer`, `string | null`, `JobCreate`, `string[]`."""
    if "$ref" in field:
        return str(field["$ref"].rsplit("/", 1)[1])
    if "enum" in field:
        return " | ".join(f'"{value}"' for value in field["enum"])
    if "const" in field:
        return f'"{field["const"]}"'
    for many in ("anyOf", "oneOf", "allOf"):
        if many in field:
            return " | ".join(type_of(option) for option in field[many])
    if field.get("type") == "array":
        return f"{type_of(field.get('items', {}))}[]"
    return str(field.get("type", "any"))
