"""Resources: what may be asked for, what is loaded along, and how they are shown."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Final

from pydantic import TypeAdapter
from sqlalchemy.orm import Session, joinedload, selectinload, sessionmaker
from sqlalchemy.sql.base import ExecutableOption

from sample_app.core.cache import Cache, get_cached
from sample_app.crud.base import CRUDBase, Fields
from sample_app.models import Resource, User
from sample_app.schemas.resource import (
    RelatedItemRead,
    ResourceCreate,
    ResourceRead,
    ResourceUpdate,
    UserRead,
)

SORT_FIELDS: Final[Fields] = MappingProxyType(
    {
        "id": Resource.id,
        "name": Resource.name,
        "status": Resource.status,
        "created_at": Resource.created_at,
        "updated_at": Resource.updated_at,
    }
)
FILTER_FIELDS: Final[Fields] = MappingProxyType(
    {"status": Resource.status, "owner_id": Resource.owner_id}
)

_ROW: Final[TypeAdapter[ResourceRead | None]] = TypeAdapter(ResourceRead | None)

# The one owner comes in the same row; the many related items in one more statement.
LOAD_OWNER: Final = joinedload(Resource.owner)
LOAD_RELATED_ITEMS: Final = selectinload(Resource.related_items)


class UnknownOwnerError(ValueError):
    """A resource was to be given to somebody who does not exist."""

    def __init__(self, owner_id: int) -> None:
        super().__init__(f"there is no user {owner_id}")


class CRUDResource(CRUDBase[Resource, ResourceCreate, ResourceUpdate]):
    """Resources, each read with its owner and its related items."""

    def __init__(
        self,
        *,
        sort_fields: Fields = SORT_FIELDS,
        filter_fields: Fields = FILTER_FIELDS,
        list_loads: Sequence[ExecutableOption] = (LOAD_OWNER, LOAD_RELATED_ITEMS),
    ) -> None:
        super().__init__(
            Resource,
            sort_fields=sort_fields,
            filter_fields=filter_fields,
            list_loads=list_loads,
            detail_loads=(LOAD_OWNER, LOAD_RELATED_ITEMS),
        )

    async def get_cached(
        self, cache: Cache, sessions: sessionmaker[Session], id_: int
    ) -> ResourceRead | None:
        """Get one row as it is shown, from the cache if it is there; so is that there is none."""

        def load() -> ResourceRead | None:
            with sessions() as db:
                row = self.get_with_relations(db, id_)
                return None if row is None else serialize(row)

        return await get_cached(cache, self.model.__name__, id_, load, _ROW)

    def create(self, db: Session, data: ResourceCreate) -> Resource:
        """Add a resource; what the response shows of it is known without reading it again."""
        owner = _owner(db, data.owner_id)
        row = Resource(**data.model_dump(exclude={"owner_id"}), owner=owner, related_items=[])
        db.add(row)
        db.flush()
        return row

    def update(self, db: Session, row: Resource, data: ResourceUpdate) -> Resource:
        """Change what was sent; a new owner must exist."""
        if data.owner_id is not None and data.owner_id != row.owner_id:
            row.owner = _owner(db, data.owner_id)
        return super().update(db, row, data)


def _owner(db: Session, owner_id: int) -> User:
    owner = db.get(User, owner_id)
    if owner is None:
        raise UnknownOwnerError(owner_id)
    return owner


def serialize(resource: Resource) -> ResourceRead:
    """Show a resource. Its relations should be loaded: each one that is not is a statement."""
    owner = UserRead.model_validate(resource.owner)
    items = [RelatedItemRead.model_validate(item) for item in resource.related_items]
    return ResourceRead(
        id=resource.id,
        name=resource.name,
        description=resource.description,
        status=resource.status,
        created_at=resource.created_at,
        updated_at=resource.updated_at,
        owner=owner,
        related_items=items,
    )
