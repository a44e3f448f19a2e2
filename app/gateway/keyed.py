"""Who may call what stands beside inference: API keys only, as OpenAI's and DashScope's clients send
them. A browser's cookie opens nothing here, since some of these contracts change things with GET.
"""

from dataclasses import dataclass
from typing import Any

from fastapi import Depends, Request

from app.accounts.auth import Principal, Requirement, bearer, requires
from app.errors import N_, Unauthenticated


@dataclass(frozen=True)
class Keyed(Requirement):
    def __call__(self, request: Request) -> Principal:
        if not bearer(request):
            raise Unauthenticated(
                N_("An API key is needed: send it as Authorization: Bearer dk-…"),
                code="invalid_api_key",
            )
        return super().__call__(request)


def keyed(role: str, scope: str) -> Any:
    """As `requires`, for an API key alone."""
    requires(role, scope)  # which knows roles and scopes
    return Depends(Keyed(role, scope))
