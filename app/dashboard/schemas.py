"""What the admin forms take."""

from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, Field

from app.quotas.service import MOST_DEVICES


class QuotaForm(BaseModel):
    """Empty lifts the limit."""

    devices: Annotated[int | None, Field(ge=0, le=MOST_DEVICES)] = None


class PriceForm(BaseModel):
    """Of a device's model, or of all without their own. An empty price takes it away."""

    device: str = Field("", max_length=200)
    hour: Decimal | None = Field(None, ge=0, lt=10**6, max_digits=14, decimal_places=6)
    currency: str = Field("CNY", min_length=1, max_length=8)


class LabelsForm(BaseModel):
    """key=value, one on each line or with commas between; empty takes them all away."""

    labels: str = Field("", max_length=8000)


class DrainForm(BaseModel):
    """How long replicas may wait for another node to take them."""

    minutes: int = Field(30, ge=0, le=1440)
