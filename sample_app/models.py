"""The tables as classes."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum

from sqlalchemy import (
    DateTime,
    Dialect,
    Enum,
    ForeignKey,
    Index,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class UTCDateTime(TypeDecorator[datetime]):
    """A point in time, always aware and in UTC, also on SQLite, which stores no time zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse a naive time: nobody knows what it means."""
        if value is None:
            return None
        if value.tzinfo is None:
            msg = f"a time without a time zone: {value.isoformat()}"
            raise ValueError(msg)
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give back an aware time."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if dialect.name == "sqlite" else value.astimezone(UTC)


def utcnow() -> datetime:
    """Tell the time in Python, so that no statement is needed to read it back."""
    return datetime.now(UTC)


class ResourceStatus(StrEnum):
    """Where a resource is in its life."""

    DRAFT = "draft"
    ACTIVE = "active"
    ARCHIVED = "archived"


class Base(DeclarativeBase):
    """Names every constraint, so that migrations can drop it on every database."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )

    id: Mapped[int] = mapped_column(primary_key=True, sort_order=-1)


class User(Base):
    """Someone who owns resources."""

    __tablename__ = "users"
    __table_args__ = (Index("idx_user_email", "email", unique=True),)

    email: Mapped[str] = mapped_column(String(320))
    name: Mapped[str] = mapped_column(String(200))

    resources: Mapped[list[Resource]] = relationship(back_populates="owner")


class Resource(Base):
    """What the service is about."""

    __tablename__ = "resources"
    __table_args__ = (
        Index("idx_resource_owner", "owner_id", "created_at"),
        Index("idx_resource_status_created", "status", "created_at"),
    )

    name: Mapped[str] = mapped_column(String(200))
    description: Mapped[str | None] = mapped_column(Text)
    status: Mapped[ResourceStatus] = mapped_column(
        Enum(
            ResourceStatus,
            name="status",
            native_enum=False,
            create_constraint=True,
            length=16,
            values_callable=lambda statuses: [status.value for status in statuses],
        ),
        default=ResourceStatus.DRAFT,
    )
    owner_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=utcnow)
    updated_at: Mapped[datetime] = mapped_column(UTCDateTime, default=utcnow, onupdate=utcnow)

    owner: Mapped[User] = relationship(back_populates="resources")
    related_items: Mapped[list[RelatedItem]] = relationship(
        back_populates="resource",
        cascade="all, delete-orphan",
        passive_deletes=True,
        # In the order of the unique constraint's index: a batch load needs no sort of its own.
        order_by="(RelatedItem.resource_id, RelatedItem.position)",
    )


class ResourceSummary(Base):
    """What a background task has found out about a resource."""

    __tablename__ = "resource_summaries"
    __table_args__ = (UniqueConstraint("resource_id"),)

    resource_id: Mapped[int] = mapped_column(ForeignKey("resources.id", ondelete="CASCADE"))
    words: Mapped[int]
    items: Mapped[int]
    processed_at: Mapped[datetime] = mapped_column(UTCDateTime)


class RelatedItem(Base):
    """One of the things that belong to a resource, in their order."""

    __tablename__ = "related_items"
    __table_args__ = (UniqueConstraint("resource_id", "position"),)

    resource_id: Mapped[int] = mapped_column(ForeignKey("resources.id", ondelete="CASCADE"))
    label: Mapped[str] = mapped_column(String(200))
    position: Mapped[int]

    resource: Mapped[Resource] = relationship(back_populates="related_items")
