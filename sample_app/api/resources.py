"""The endpoints on resources."""

from __future__ import annotations

from typing import Annotated, TypeVar

from anyio import from_thread
from fastapi import APIRouter, HTTPException, Path, status

from sample_app.api.deps import (
    Keyset,
    KeysetFilters,
    ListFilters,
    Pagination,
    Queue,
    ReadSession,
    ReadSessions,
    Resources,
    WriteSession,
)
from sample_app.core.cache import Cache, CacheDependency, cache_response
from sample_app.crud.resource import serialize
from sample_app.models import Resource
from sample_app.schemas.common import BAD_BODY, NOT_FOUND, DbId, KeysetPage, Page
from sample_app.schemas.resource import (
    Queued,
    ResourceCreate,
    ResourceIds,
    ResourceRead,
    ResourceUpdate,
)

T = TypeVar("T")

router = APIRouter(prefix="/api/resources", tags=["resources"])

ResourceId = Annotated[DbId, Path()]


@router.get("")
@cache_response(ttl=300, collection=Resource.__name__)
def list_resources(
    sessions: ReadSessions, crud: Resources, pagination: Pagination, filters: ListFilters
) -> Page[ResourceRead]:
    """List resources by page number, sorted and filtered."""
    with sessions() as db:
        found = crud.get_multi(
            db,
            page=pagination.page,
            page_size=pagination.page_size,
            sort_by=filters.sort_by,
            sort_order=filters.sort_order,
            filters=filters.filters,
        )
        return Page(
            items=[serialize(resource) for resource in found.items],
            total=found.total,
            page=found.page,
            page_size=found.page_size,
            pages=found.pages,
        )


@router.get("/after")
def list_resources_after(
    db: ReadSession, crud: Resources, keyset: Keyset, filters: KeysetFilters
) -> KeysetPage[ResourceRead]:
    """List resources after the last one seen, sorted by id: for walking through all of them.

    Not cached: who walks comes by once, and would only push out what others ask for again.
    """
    rows, next_after = crud.get_page_after(
        db,
        after=keyset.after,
        page_size=keyset.page_size,
        sort_order=keyset.sort_order,
        filters=filters,
    )
    return KeysetPage(items=[serialize(resource) for resource in rows], next_after=next_after)


@router.get("/{resource_id}", responses=NOT_FOUND)
async def get_resource(
    cache: CacheDependency, sessions: ReadSessions, crud: Resources, resource_id: ResourceId
) -> ResourceRead:
    """Show one resource."""
    return _found(await crud.get_cached(cache, sessions, resource_id))


@router.post("", status_code=status.HTTP_201_CREATED, responses=BAD_BODY)
def create_resource(
    cache: CacheDependency, db: WriteSession, crud: Resources, queue: Queue, data: ResourceCreate
) -> ResourceRead:
    """Add a resource. What others are told of it, they are told once it is there to be found."""
    resource = crud.create(db, data)
    db.commit()
    forget(cache, resource)
    queue.announce(resource.id)
    return serialize(resource)


@router.post("/process", status_code=status.HTTP_202_ACCEPTED, responses=BAD_BODY)
def process_resources(queue: Queue, data: ResourceIds) -> Queued:
    """Have resources summarized in the background. Those that are not there are passed over."""
    ids = list(dict.fromkeys(data.ids))
    queue.process(ids)
    return Queued(queued=len(ids))


@router.put("/{resource_id}", responses=NOT_FOUND | BAD_BODY)
def update_resource(
    cache: CacheDependency,
    db: WriteSession,
    crud: Resources,
    resource_id: ResourceId,
    data: ResourceUpdate,
) -> ResourceRead:
    """Change a resource."""
    resource = crud.update(db, _found(crud.get_with_relations(db, resource_id)), data)
    db.commit()
    forget(cache, resource)
    return serialize(resource)


def forget(cache: Cache, resource: Resource) -> None:
    """Make the write seen by the next reader. A new row, too, may be cached: as not there."""
    from_thread.run(cache.invalidate, Resource.__name__, resource.id)


def _found(resource: T | None) -> T:
    if resource is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, "there is no such resource")
    return resource
