"""Shapes that every listing shares."""

from __future__ import annotations

from typing import Annotated, Any, Final, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

T = TypeVar("T")

MAX_PAGE_SIZE: Final = 100

DbId = Annotated[int, Field(ge=1, le=2**31 - 1)]
"""A primary key; a number that the column cannot hold is refused before it reaches SQL."""

SortOrder = Literal["asc", "desc"]


class PaginationParams(BaseModel):
    """Which page. Bounds are checked here, so no bad OFFSET can reach the database."""

    model_config = ConfigDict(frozen=True)

    page: int = Field(default=1, ge=1, le=1_000_000)
    page_size: int = Field(default=20, ge=1, le=MAX_PAGE_SIZE)


class KeysetParams(BaseModel):
    """Which page, told by the last row seen: as fast for the last page as for the first."""

    model_config = ConfigDict(frozen=True)

    after: DbId | None = None
    page_size: int = Field(default=20, ge=1, le=MAX_PAGE_SIZE)
    sort_order: SortOrder = "asc"


class FilterParams(BaseModel):
    """How to sort and filter, as asked for: the CRUD layer decides which names it allows."""

    model_config = ConfigDict(frozen=True)

    sort_by: str | None = None
    sort_order: SortOrder = "asc"
    filters: dict[str, object] = Field(default_factory=dict)


class Page(BaseModel, Generic[T]):
    """One page of a listing, and how many there are."""

    items: list[T]
    total: int
    page: int
    page_size: int
    pages: int


class Problem(BaseModel):
    """Why a request was refused, where it was not for its form."""

    detail: str


# What endpoints may answer besides, for the document.
NOT_FOUND: Final[dict[int | str, dict[str, Any]]] = {
    404: {"model": Problem, "description": "There is none"}
}
BAD_BODY: Final[dict[int | str, dict[str, Any]]] = {
    400: {"model": Problem, "description": "The body is not text"},
    413: {"model": Problem, "description": "The body is too large"},
}


class KeysetPage(BaseModel, Generic[T]):
    """One page of a listing, and where the next one starts; ``None`` on the last."""

    items: list[T]
    next_after: int | None
