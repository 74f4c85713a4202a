"""What endpoints depend on."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Query, Request
from sqlalchemy.orm import Session, sessionmaker

from sample_app.core.cache import NotInKey
from sample_app.core.database import get_db, get_sessions, get_writing_db
from sample_app.crud.resource import CRUDResource
from sample_app.crud.user import CRUDUser
from sample_app.models import ResourceStatus
from sample_app.schemas.common import (
    DbId,
    FilterParams,
    KeysetParams,
    PaginationParams,
    SortOrder,
)
from sample_app.worker.queue import Tasks

# Closed before the response is sent: a slow client must not hold a pooled connection.
ReadSession = Annotated[Session, Depends(get_db, scope="function")]
WriteSession = Annotated[Session, Depends(get_writing_db, scope="function")]
# Making and closing a session costs a hop to a thread each, which a cached answer does not need.
ReadSessions = Annotated[sessionmaker[Session], Depends(get_sessions), NotInKey]


# Dependencies that do no I/O are async: a plain function would cost a hop to a thread each.
async def resource_crud() -> CRUDResource:
    """Give the queries on resources."""
    return CRUDResource()


Resources = Annotated[CRUDResource, Depends(resource_crud), NotInKey]


async def user_crud() -> CRUDUser:
    """Give the queries on users."""
    return CRUDUser()


Users = Annotated[CRUDUser, Depends(user_crud)]


async def pagination(params: Annotated[PaginationParams, Query()]) -> PaginationParams:
    """Read and check the page asked for."""
    return params


async def keyset(params: Annotated[KeysetParams, Query()]) -> KeysetParams:
    """Read and check where the page asked for starts."""
    return params


class ResourceFilters:
    """Collects the filters: every parameter that is not one of ``others`` is meant as one.

    The known ones are declared, so that they are documented and have a type. Unknown ones are
    passed on for the CRUD layer to refuse: dropping them would answer another question.
    """

    def __init__(self, *others: str) -> None:
        """Name the parameters of the endpoint that are no filters."""
        self._others = frozenset(others)

    async def __call__(
        self,
        request: Request,
        status: ResourceStatus | None = None,
        owner_id: DbId | None = None,
    ) -> dict[str, object]:
        """Give the filters by name."""
        typed: dict[str, object] = {"status": status, "owner_id": owner_id}
        return {
            name: typed.get(name, text)
            for name, text in request.query_params.items()
            if name not in self._others
        }


_list_filters = ResourceFilters(*PaginationParams.model_fields, "sort_by", "sort_order")
_keyset_filters = ResourceFilters(*KeysetParams.model_fields)


async def list_filters(
    crud: Resources,
    filters: Annotated[dict[str, object], Depends(_list_filters)],
    sort_by: Annotated[str | None, Query(max_length=64)] = None,
    sort_order: SortOrder = "asc",
) -> FilterParams:
    """Read how to sort and filter; unknown names must not reach the cache either."""
    crud.check_fields(sort_by, filters)
    return FilterParams(sort_by=sort_by, sort_order=sort_order, filters=filters)


async def tasks(request: Request) -> Tasks:
    """Give the queue of background tasks."""
    return cast("Tasks", request.app.state.tasks)


Queue = Annotated[Tasks, Depends(tasks)]
Pagination = Annotated[PaginationParams, Depends(pagination)]
Keyset = Annotated[KeysetParams, Depends(keyset)]
ListFilters = Annotated[FilterParams, Depends(list_filters)]
KeysetFilters = Annotated[dict[str, object], Depends(_keyset_filters)]
