"""Reading and writing of any model, in as few statements as it takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel
from sqlalchemy import ColumnElement, UnaryExpression, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session
from sqlalchemy.sql.base import ExecutableOption

from sample_app.models import Base
from sample_app.schemas.common import SortOrder

ModelT = TypeVar("ModelT", bound=Base)
CreateT = TypeVar("CreateT", bound=BaseModel)
UpdateT = TypeVar("UpdateT", bound=BaseModel)

Fields = Mapping[str, InstrumentedAttribute[Any]]
"""An allow-list: the names that a client may use, and the columns they stand for."""


class UnknownFieldError(ValueError):
    """A client asked to sort or filter by a name that is not on the allow-list."""

    def __init__(self, use: Literal["sort_by", "filter"], name: str, allowed: Fields) -> None:
        super().__init__(f"unknown {use} field {name!r}; allowed: {', '.join(sorted(allowed))}")
        self.parameter = "sort_by" if use == "sort_by" else name


@dataclass(frozen=True, slots=True)
class Found(Generic[ModelT]):
    """One page of rows, and how many rows there are in all."""

    items: Sequence[ModelT]
    total: int
    page: int
    page_size: int

    @property
    def pages(self) -> int:
        """The number of pages; the last one may be short."""
        return -(-self.total // self.page_size)


class CRUDBase(Generic[ModelT, CreateT, UpdateT]):
    """What all models have in common. Writes are flushed; committing is up to the caller."""

    def __init__(
        self,
        model: type[ModelT],
        *,
        sort_fields: Fields,
        filter_fields: Fields,
        list_loads: Sequence[ExecutableOption] = (),
        detail_loads: Sequence[ExecutableOption] = (),
    ) -> None:
        """Take the allow-lists and what to load along with the rows of a listing or with one."""
        self.model = model
        self.sort_fields = sort_fields
        self.filter_fields = filter_fields
        self.list_loads = list_loads
        self.detail_loads = detail_loads

    def get(self, db: Session, id_: int) -> ModelT | None:
        """Get one row by its primary key, without its relations."""
        return db.get(self.model, id_)

    def get_with_relations(self, db: Session, id_: int) -> ModelT | None:
        """Get one row by its primary key, with its relations."""
        query = select(self.model).where(self.model.id == id_).options(*self.detail_loads)
        return db.scalars(query).one_or_none()

    def get_multi(
        self,
        db: Session,
        *,
        page: int = 1,
        page_size: int = 20,
        sort_by: str | None = None,
        sort_order: SortOrder = "asc",
        filters: Mapping[str, object] | None = None,
    ) -> Found[ModelT]:
        """Get one page by its number: one statement for the total, the rest for the rows."""
        # Names are looked up first: an unknown one must not cost a statement.
        criteria = self._criteria(filters or {})
        order = self._order(sort_by, sort_order)
        total = self._count(db, criteria)
        query = (
            select(self.model)
            .where(*criteria)
            .options(*self.list_loads)
            .order_by(*order)
            .offset((page - 1) * page_size)
            .limit(page_size)
        )
        return Found(db.scalars(query).all(), total, page, page_size)

    def _count(self, db: Session, criteria: Sequence[ColumnElement[bool]]) -> int:
        return db.scalar(select(func.count()).select_from(self.model).where(*criteria)) or 0

    def get_page_after(
        self,
        db: Session,
        *,
        after: int | None = None,
        page_size: int = 20,
        sort_order: SortOrder = "asc",
        filters: Mapping[str, object] | None = None,
    ) -> tuple[Sequence[ModelT], int | None]:
        """Get the rows after a primary key, and the key to go on from (``None`` at the end).

        The database seeks to the key, where an OFFSET would read and drop all rows before it.
        """
        key = self.model.id
        query = (
            select(self.model)
            .where(*self._criteria(filters or {}))
            .options(*self.list_loads)
            .order_by(*self._order(None, sort_order))
            .limit(page_size + 1)  # the one more row tells whether there is another page
        )
        if after is not None:
            query = query.where(key > after if sort_order == "asc" else key < after)
        rows = db.scalars(query).all()
        items = rows[:page_size]
        return items, items[-1].id if len(rows) > page_size else None

    def check_fields(self, sort_by: str | None, filters: Iterable[str]) -> None:
        """Refuse what no query could use."""
        if sort_by is not None:
            _lookup("sort_by", self.sort_fields, sort_by)
        for name in filters:
            _lookup("filter", self.filter_fields, name)

    def create(self, db: Session, data: CreateT) -> ModelT:
        """Add a row."""
        row = self.model(**data.model_dump())
        db.add(row)
        db.flush()
        return row

    def update(self, db: Session, row: ModelT, data: UpdateT) -> ModelT:
        """Change what was sent, and nothing else."""
        for name, value in data.model_dump(exclude_unset=True).items():
            setattr(row, name, value)
        db.flush()
        return row

    def _criteria(self, filters: Mapping[str, object]) -> list[ColumnElement[bool]]:
        return [
            _lookup("filter", self.filter_fields, name) == value for name, value in filters.items()
        ]

    def _order(
        self, sort_by: str | None, sort_order: SortOrder
    ) -> list[UnaryExpression[Any] | InstrumentedAttribute[Any]]:
        """Sort by the field and then by the primary key, so that no row is on two pages."""
        fields = [self.model.id]
        if sort_by is not None:
            fields.insert(0, _lookup("sort_by", self.sort_fields, sort_by))
        return [field.desc() if sort_order == "desc" else field for field in fields]


def _lookup(
    use: Literal["sort_by", "filter"], fields: Fields, name: str
) -> InstrumentedAttribute[Any]:
    try:
        return fields[name]
    except KeyError:
        raise UnknownFieldError(use, name, fields) from None
