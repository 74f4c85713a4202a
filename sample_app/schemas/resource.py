"""Resources on the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

from sample_app.models import ResourceStatus
from sample_app.schemas.common import MAX_PAGE_SIZE, DbId

# PostgreSQL stores no NUL character in text: refuse it here, not with a server error there.
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]
Description = Annotated[str, Field(max_length=10_000, pattern=r"^[^\x00]*$")]


class UserRead(BaseModel):
    """The owner, as shown with a resource."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    email: str
    name: str


class RelatedItemRead(BaseModel):
    """A related item, as shown with its resource."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    label: str
    position: int


class ResourceRead(BaseModel):
    """A resource with its owner and its related items."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    name: str
    description: str | None
    status: ResourceStatus
    created_at: datetime
    updated_at: datetime
    owner: UserRead
    related_items: list[RelatedItemRead]


class ResourceCreate(BaseModel):
    """A new resource."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    description: Description | None = None
    status: ResourceStatus = ResourceStatus.DRAFT
    owner_id: DbId


class ResourceUpdate(BaseModel):
    """Changes to a resource; what is left out stays as it is."""

    model_config = ConfigDict(extra="forbid")

    name: Name | None = None
    description: Description | None = None
    status: ResourceStatus | None = None
    owner_id: DbId | None = None

    @field_validator("name", "status", "owner_id")
    @classmethod
    def _not_null(cls, value: object) -> object:
        """Runs only on what was sent, so that leaving out differs from sending null."""
        if value is None:
            msg = "may be left out, but not be null"
            raise ValueError(msg)
        return value


class ResourceIds(BaseModel):
    """Resources that something is to be done with, as many as fit on a page."""

    model_config = ConfigDict(extra="forbid")

    ids: list[DbId] = Field(min_length=1, max_length=MAX_PAGE_SIZE)


class Queued(BaseModel):
    """How much work has been put into the queue."""

    queued: int
