"""The traps: each mistake that the guide warns of, kept apart from the code that it breaks.

The service is whole without this module. A trap replaces one part of it by a broken twin, when
and only when its name is switched on; :data:`sample_app.core.traps.KNOWN` says what each does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import FastAPI
from sqlalchemy.orm import InstrumentedAttribute

from sample_app.api.deps import pagination, resource_crud
from sample_app.core.traps import Traps
from sample_app.crud.resource import (
    FILTER_FIELDS,
    LOAD_OWNER,
    LOAD_RELATED_ITEMS,
    SORT_FIELDS,
    CRUDResource,
)
from sample_app.models import Resource
from sample_app.schemas.common import MAX_PAGE_SIZE, PaginationParams


def install(app: FastAPI, traps: Traps) -> None:
    """Put the broken twins in the place of what they imitate."""
    if traps.enabled("unchecked_page"):
        app.dependency_overrides[pagination] = unchecked_pagination
    if any(map(traps.enabled, ("lazy_owner", "lazy_related", "open_fields"))):
        crud = broken_resource_crud(traps)
        app.dependency_overrides[resource_crud] = lambda: crud


def broken_resource_crud(traps: Traps) -> CRUDResource:
    """Forget to load a relation along; take any attribute for a field."""
    loads = []
    if not traps.enabled("lazy_owner"):
        loads.append(LOAD_OWNER)
    if not traps.enabled("lazy_related"):
        loads.append(LOAD_RELATED_ITEMS)
    any_field = traps.enabled("open_fields")
    return CRUDResource(
        sort_fields=AnyAttribute() if any_field else SORT_FIELDS,
        filter_fields=AnyAttribute() if any_field else FILTER_FIELDS,
        list_loads=loads,
    )


class AnyAttribute(Mapping[str, InstrumentedAttribute[Any]]):
    """``open_fields``: no allow-list but ``getattr(Resource, name)``."""

    def __getitem__(self, name: str) -> Any:
        return getattr(Resource, name)

    def __iter__(self) -> Iterator[str]:
        return iter(dir(Resource))

    def __len__(self) -> int:
        return len(dir(Resource))


async def unchecked_pagination(page: int = 1, page_size: int = 20) -> PaginationParams:
    """``unchecked_page``: the size is clamped, the number of the page is not checked at all."""
    return PaginationParams.model_construct(page=page, page_size=min(page_size, MAX_PAGE_SIZE))


def left_out_indexes(traps: Traps) -> frozenset[str]:
    """``missing_index``: the listing by status and time has to read the whole table."""
    missing = traps.enabled("missing_index")
    return frozenset({"idx_resource_status_created"} if missing else ())
