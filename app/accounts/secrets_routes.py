"""Pages: tokens of other services."""

from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field, SecretStr
from sqlalchemy.orm import Session

from app.accounts import user_secrets
from app.accounts.auth import Principal, requires
from app.errors import DomainError
from app.queue import Db, transaction
from app.web import Parsed, parsed, redirect, render

router = APIRouter(prefix="/secrets", include_in_schema=False)
Member = Annotated[Principal, requires("member", "account")]


class SecretForm(BaseModel):
    kind: str = Field(max_length=40)
    name: str = Field("", max_length=60)
    value: SecretStr
    shared: bool = False


class ValueForm(BaseModel):
    value: SecretStr


def show(
    request: Request, who: Principal, db: Session, form: Parsed[SecretForm] | None = None
) -> Response:
    return render(
        request,
        "accounts/secrets.html",
        form=form,
        secrets=user_secrets.every(db, who),
        kinds=user_secrets.KINDS,
        testable=user_secrets.CHECKS,
        status=422 if form else 200,
    )


@router.get("", name="secrets:list")
def read(request: Request, who: Member, db: Db) -> Response:
    return show(request, who, db)


@router.post("", name="secrets:create")
def create(
    request: Request, who: Member, form: Annotated[Parsed[SecretForm], parsed(SecretForm)], db: Db
) -> Response:
    if form.data is None:
        return show(request, who, db, form)
    value = form.data.value.get_secret_value()
    try:
        user_secrets.create(db, who, value=value, **form.data.model_dump(exclude={"value"}))
    except DomainError as error:
        form.refuse(error)
        return show(request, who, db, form)
    return redirect(request, "secrets:list")


@router.post("/{secret_id}/replace", name="secrets:replace")
def replace(
    request: Request,
    secret_id: str,
    who: Member,
    form: Annotated[Parsed[ValueForm], parsed(ValueForm)],
    db: Db,
) -> Response:
    value = form.data.value.get_secret_value() if form.data else ""
    user_secrets.replace(db, who, secret_id, value)
    return redirect(request, "secrets:list")


@router.post("/{secret_id}/test", name="secrets:test")
def test(request: Request, secret_id: str, who: Member) -> Response:
    user_secrets.test(who, secret_id)
    with transaction() as db:
        return show(request, who, db)


@router.post("/{secret_id}/delete", name="secrets:delete")
def delete(request: Request, secret_id: str, who: Member, db: Db) -> Response:
    user_secrets.remove(db, who, secret_id)
    return redirect(request, "secrets:list")
