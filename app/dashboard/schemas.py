"""What the admin forms take."""

from typing import Annotated

from pydantic import BaseModel, Field

from app.quotas.service import MOST_DEVICES


class QuotaForm(BaseModel):
    """Empty lifts the limit."""

    devices: Annotated[int | None, Field(ge=0, le=MOST_DEVICES)] = None
