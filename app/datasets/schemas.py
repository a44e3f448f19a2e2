"""What the API says about datasets."""

from datetime import datetime
from typing import Any

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from app.datasets.rows.browse import Page
from app.datasets.tables import DatasetIssue, DatasetVersion
from app.web import translate

MAX_ERRORS = 100  # in the answer to an upload; the rest is at /errors


class Problem(BaseModel):
    """Why a row was left out, or a warning. `line` is the element's number in a JSON array."""

    level: str = Field(description="error or warning")
    file: str = Field(description="Which file, where there are several")
    line: int
    path: str = Field(description="Where in the row, such as messages[2].role")
    code: str = Field(description="Stable, for programs")
    message: str = Field(description="For people, in the language of Accept-Language")


class Failure(BaseModel):
    """Why it failed: a stable code, and a sentence."""

    code: str
    message: str


class Transfer(BaseModel):
    """How far an import has come. A total that the server does not say is null."""

    received: int = Field(description="Bytes that are here, of all files")
    total: int | None
    file: str = Field(description="The one that is fetched now")
    number: int = Field(description="Which one it is, from 1")
    files: int
    waits: str = Field(description="Why it waits before it tries again; empty if it does not")


class DatasetOut(BaseModel):
    """A version of a dataset."""

    id: str
    name: str
    sample: bool = Field(description="Shipped with the platform, and read-only")
    version: int = Field(description="The version's number; the newest unless one was asked for")
    version_id: str
    status: str = Field(description="validating, draft, publishing, published or failed")
    format: str = Field(
        description="What the file was: messages, alpaca, sharegpt, completion, text, preference, kto"
    )
    file_name: str
    rows: int = Field(description="Rows that can be used")
    bytes: int = Field(description="Of the file as it came")
    error_count: int = Field(description="Rows that cannot be used")
    warning_count: int
    progress: float = Field(description="Of the import or the validation, 0 to 1")
    transfer: Transfer | None = Field(description="While the status is importing")
    error: Failure | None = Field(description="Why the status is failed")
    content_hash: str = Field(description="Of the published rows, in order")
    created_at: datetime
    published_at: datetime | None


class DatasetWithErrors(DatasetOut):
    """A version of a dataset, and the first of what is wrong with its rows."""

    errors: list[Problem] = Field(description="The first 100; all are at /errors")
    warnings: list[Problem]


class DeletedDataset(BaseModel):
    """A deleted dataset that can still be restored."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    name: str
    rows: int = Field(description="Of its newest version")
    bytes: int = Field(description="Of all versions, as they came")
    deleted_at: datetime
    until: datetime = Field(description="When its rows go, and it cannot be restored any more")


class DeletedDatasets(BaseModel):
    """Deleted datasets, the last deleted first."""

    data: list[DeletedDataset]
    has_more: bool


class DatasetList(BaseModel):
    """The newest version of each dataset."""

    data: list[DatasetOut]
    has_more: bool


class RowList(BaseModel):
    """Rows of a version."""

    data: list[dict[str, Any]] = Field(
        description="{index, id, messages, tools?}; `index` is the row's number from 0"
    )
    has_more: bool
    next_offset: int = Field(
        description="The `offset` of the next page. In a search it counts rows, not matches."
    )
    total: int = Field(description="Rows of the version, whatever is looked for")
    matches: int | None = Field(
        description="Rows that a search finds in all; null without one, and while that is not known"
    )


class Publish(BaseModel):
    """Which draft to publish."""

    version: str = Field("", description="A number or an id; the newest if left out")
    skip_invalid: bool = Field(False, description="Agree to leave out the rows with errors")


def transfer(request: Request, version: DatasetVersion) -> Transfer | None:
    if version.status != "importing" or version.recipe.get("made") != "import":
        return None
    files, at = version.cursor.get("files", []), version.cursor.get("at", 0)
    waits = version.cursor.get("waits")
    return Transfer(
        received=version.cursor.get("received", 0),
        total=version.cursor.get("total"),
        file=files[at]["name"] if at < len(files) else "",
        number=at + 1,
        files=len(files),
        waits=translate(request, waits["message"], **waits["params"]) if waits else "",
    )


def progress(version: DatasetVersion) -> float:
    """How far the import or the validation has come, 0 to 1."""
    if version.status == "importing":
        total = version.cursor.get("total")
        done = version.cursor.get("received") or version.cursor.get("at", 0)
        return min(1.0, done / total) if total else 0.0
    if version.status != "validating":
        return 1.0
    return float(version.cursor.get("progress", 0.0))


def failure(request: Request, version: DatasetVersion) -> Failure | None:
    if not version.error:
        return None
    message = translate(request, version.error["message"], **version.error["params"])
    return Failure(code=version.error["code"], message=message)


def dataset_out(request: Request, version: DatasetVersion) -> DatasetOut:
    dataset = version.dataset
    return DatasetOut(
        id=dataset.id,
        name=dataset.name,
        sample=dataset.workspace_id is None,
        version=version.number,
        version_id=version.id,
        status=version.status,
        format=version.format,
        file_name=version.file_name,
        rows=version.rows,
        bytes=version.bytes,
        error_count=version.error_count,
        warning_count=version.warning_count,
        progress=progress(version),
        transfer=transfer(request, version),
        error=failure(request, version),
        content_hash=version.content_hash,
        created_at=version.created_at,
        published_at=version.published_at,
    )


def problem(request: Request, issue: DatasetIssue) -> Problem:
    return Problem(
        level=issue.level,
        file=issue.file,
        line=issue.line,
        path=issue.path,
        code=issue.code,
        message=translate(request, issue.message, **issue.params),
    )


def with_errors(
    request: Request, version: DatasetVersion, issues: list[DatasetIssue]
) -> DatasetWithErrors:
    """`issues` are the first of the version: errors, then warnings."""
    found = [problem(request, issue) for issue in issues]
    return DatasetWithErrors(
        **dataset_out(request, version).model_dump(),
        errors=[one for one in found if one.level == "error"],
        warnings=[one for one in found if one.level == "warning"],
    )


def rows_out(version: DatasetVersion, page: Page) -> RowList:
    return RowList(
        data=[{"index": number} | row for number, row in page.rows],
        has_more=page.has_more,
        next_offset=page.next_offset,
        total=version.rows,
        matches=page.matches,
    )
