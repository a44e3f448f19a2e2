"""schemathesis over the whole description of the API: no answer of 5xx, none off its schema.

Requests are made from the schema, and against it: huge numbers, odd texts, wrong types, missing
fields. Every operation is asked for things that are there, and for things that are not.
"""

import contextlib
import os
from typing import Any

import jsonschema_rs
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.core.failures import FailureGroup

from app.dashboard.examples import JSON
from app.dashboard.openapi import describe
from app.main import app
from tests import factories as make
from tests.matrix import LINES, PUBLIC, world

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
# Streams that end with what they follow; tests/gateway/test_dashscope.py reads them.
ENDLESS = ("/stream",)
DEEP = int(os.environ.get("DANLU_TEST_DEEP", "1"))  # how many times as many requests
HERE = "http://127.0.0.1"


@pytest.fixture
def ask(db, anonymous, tmp_path, monkeypatch):
    """Ask an operation `most` times, in one mode; what was wrong: {what: how to repeat it}."""
    monkeypatch.setattr("app.config.settings.hf_endpoint", "http://127.0.0.1:9")
    monkeypatch.setattr("app.config.settings.modelscope_endpoint", "http://127.0.0.1:9")
    made = world(db, tmp_path)
    user = make.make_user(db, is_platform_admin=True)
    make.make_membership(db, made.workspace, user, "owner")
    key = f"Bearer {make.make_key(db, made.workspace, user)}"
    made.ids["token"] = "of-no-link"
    db.commit()

    def send(case: Any) -> Any:
        whole = case.as_transport_kwargs(base_url=HERE)
        whole.pop("cookies", None)
        prepared = requests.Request(**whole).prepare()
        said = {**prepared.headers, "authorization": key}
        headers = {name: text.encode("latin-1", "replace") for name, text in said.items()}
        return anonymous.request(
            prepared.method, prepared.path_url, headers=headers, content=prepared.body
        )

    def look(operation: Any, mode: GenerationMode, known: bool, most: int) -> dict[str, str]:
        ids = {one.name: made.ids[one.name] for one in operation.path_parameters if known}
        found: dict[str, str] = {}

        @hypothesis_settings(
            max_examples=most, derandomize=True, database=None, deadline=None,
            phases=[Phase.generate], suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=operation.as_strategy(mode, path_parameters=ids or None))
        def each(case: Any) -> None:
            answer = send(case)
            try:
                case.validate_response(answer, checks=CHECKS)
            except FailureGroup as wrong:
                for one in wrong.exceptions:
                    found[f"{operation.label}: {answer.status_code} {str(one)[:300]}"] = (
                        f"{case.as_curl_command()[:600]}\n{answer.text[:300]}"
                    )

        with contextlib.suppress(Unsatisfiable):  # nothing of it can be wrong
            each()
        return found

    return look


SCHEMA = schemathesis.openapi.from_dict(describe(app))
OPERATIONS = sorted(
    (found.ok() for found in SCHEMA.get_all_operations() if not found.ok().path.endswith(ENDLESS)),
    key=lambda one: (one.method.lower() == "delete", one.label),  # what is deleted is not there
)
GOOD, BAD = GenerationMode.POSITIVE, GenerationMode.NEGATIVE


def told(found: dict[str, str]) -> str:
    return "\n\n".join(f"{what}\n  {how}" for what, how in found.items())


@pytest.mark.slow
@pytest.mark.timeout(300 * DEEP)
def test_no_answer_is_off_its_schema(ask):
    found: dict[str, str] = {}
    for operation in OPERATIONS:
        found |= ask(operation, GOOD, True, 3 * DEEP)
        found |= ask(operation, GOOD, False, DEEP)
        found |= ask(operation, BAD, True, 2 * DEEP)
    assert not found, told(found)


def test_some_answers_are_as_their_schema_says(ask):
    """A taste of the above, for those who do not wait for it."""
    found: dict[str, str] = {}
    for operation in OPERATIONS:
        if operation.method.lower() == "get" and operation.path.count("/") <= 4:
            found |= ask(operation, GOOD, True, 1)
    assert not found, told(found)


def test_all_of_the_api_is_described():
    """Every route for programs is there, with a text, and an example of each JSON that it takes or
    gives.
    """
    schema = describe(app)
    operations = {
        f"{method.upper()} {path}": one
        for path, methods in schema["paths"].items()
        for method, one in methods.items()
    }
    for_programs = {str(line) for line in LINES if line.machine and line.method != "HEAD"}
    assert for_programs - PUBLIC <= operations.keys()
    missing = []
    for name, one in operations.items():
        bodies = [one.get("requestBody", {}), *one["responses"].values()]
        contents = [each for body in bodies for each in body.get("content", {}).items()]
        if not one.get("description") or not one["summary"]:
            missing.append(f"{name}: no text")
        missing += [
            f"{name}: no example of {kind}"
            for kind, content in contents
            if kind in JSON and "example" not in content
        ]
    missing += [
        f"{name}: no text"
        for name, model in schema["components"]["schemas"].items()
        if not model.get("description") and "enum" not in model
    ]
    assert missing == []


def test_examples_are_as_their_schemas_say():
    schema = describe(app)
    refused = {}
    for path, methods in schema["paths"].items():
        for method, one in methods.items():
            for body in (one.get("requestBody", {}), *one["responses"].values()):
                for content in body.get("content", {}).values():
                    if "example" in content:
                        whole = content["schema"] | {"components": schema["components"]}
                        errors = jsonschema_rs.validator_for(whole).iter_errors(content["example"])
                        if wrong := [error.message for error in errors]:
                            refused[f"{method} {path}"] = wrong
    assert refused == {}
