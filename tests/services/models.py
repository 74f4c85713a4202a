"""Tables of a small shop, one for each thing the probe must tell apart."""

from __future__ import annotations

from typing import cast

from sqlalchemy import (
    Column,
    ForeignKey,
    Index,
    Integer,
    Sequence,
    String,
    Table,
    func,
    insert,
    select,
    text,
)
from sqlalchemy.engine import Engine
from sqlalchemy.orm import DeclarativeBase, Mapped, deferred, mapped_column, relationship


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    email: Mapped[str] = mapped_column(String(100), unique=True)
    bio: Mapped[str] = deferred(mapped_column(String(1000), default=""))
    resources: Mapped[list[Resource]] = relationship(back_populates="owner")


resource_tags = Table(
    "resource_tags",
    Base.metadata,
    Column("resource_id", ForeignKey("resources.id"), primary_key=True),
    Column("tag_id", ForeignKey("tags.id"), primary_key=True),
)


class Resource(Base):
    __tablename__ = "resources"
    __table_args__ = (
        Index("ix_resources_status_rank", "status", "rank"),
        Index("ix_resources_upper_title", text("upper(title)")),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(100))
    status: Mapped[str] = mapped_column(String(20), default="active")
    rank: Mapped[int] = mapped_column(default=0)
    owner_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    owner: Mapped[User] = relationship(back_populates="resources")
    tags: Mapped[list[Tag]] = relationship(secondary=resource_tags, order_by="Tag.id")


class Tag(Base):
    __tablename__ = "tags"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100))


class Document(Base):
    __tablename__ = "documents"
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "document"}  # noqa: RUF012

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    owner_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    owner: Mapped[User] = relationship()


class Invoice(Document):
    __tablename__ = "invoices"
    __mapper_args__ = {"polymorphic_identity": "invoice"}  # noqa: RUF012

    id: Mapped[int] = mapped_column(ForeignKey("documents.id"), primary_key=True)
    lines: Mapped[list[InvoiceLine]] = relationship()


class InvoiceLine(Base):
    __tablename__ = "invoice_lines"

    id: Mapped[int] = mapped_column(primary_key=True)
    invoice_id: Mapped[int] = mapped_column(ForeignKey("invoices.id"))


class Note(Base):
    """Its columns are filled by the database."""

    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[str] = mapped_column(String(100))
    state: Mapped[str] = mapped_column(String(20), server_default="new")


class Ticket(Base):
    """Its key comes from a sequence that is asked before the INSERT."""

    __tablename__ = "tickets"
    __table_args__ = {"implicit_returning": False}  # noqa: RUF012

    id: Mapped[int] = mapped_column(Integer, Sequence("ticket_ids"), primary_key=True)
    title: Mapped[str] = mapped_column(String(100))


class Place(Base):
    """Its key comes from a SELECT that is run before the INSERT."""

    __tablename__ = "places"
    __table_args__ = {"implicit_returning": False}  # noqa: RUF012

    id: Mapped[int] = mapped_column(
        Integer,
        default=select(func.coalesce(func.max(text("places.id")), 0) + 1)
        .select_from(text("places"))
        .scalar_subquery(),
        primary_key=True,
    )
    title: Mapped[str] = mapped_column(String(100))


class Unrelated(DeclarativeBase):
    """Ten tables that exist only where a test makes them."""


TABLES = tuple(
    Table(
        f"made_{number}",
        Unrelated.metadata,
        Column("id", Integer, primary_key=True),
        Column("name", String(50), index=True),
    )
    for number in range(10)
)


def add_rows(engine: Engine, users: int, *, resources_each: int = 1, tags_each: int = 2) -> None:
    """Fill the tables; keys count from 1, and every resource has tags of its own."""
    resources = users * resources_each
    tags = resources * tags_each
    with engine.begin() as connection:
        connection.execute(
            insert(User),
            [
                {"name": f"name {n}", "email": f"{n}@example.org", "bio": f"bio {n}"}
                for n in range(1, users + 1)
            ],
        )
        connection.execute(
            insert(Resource),
            [
                {"title": f"title {n}", "rank": n // 3, "owner_id": (n - 1) % users + 1}
                for n in range(1, resources + 1)
            ],
        )
        if not tags:
            return
        connection.execute(insert(Tag), [{"name": f"tag {n}"} for n in range(1, tags + 1)])
        connection.execute(
            insert(resource_tags),
            [{"resource_id": (n - 1) // tags_each + 1, "tag_id": n} for n in range(1, tags + 1)],
        )


def add_documents(engine: Engine, users: int) -> None:
    """Give every user one invoice with two lines and one plain document."""
    with engine.begin() as connection:
        documents = [
            {"id": number, "kind": kind, "owner_id": (number - 1) % users + 1}
            for number, kind in enumerate(["invoice"] * users + ["document"] * users, start=1)
        ]
        connection.execute(insert(cast("Table", Document.__table__)), documents)
        connection.execute(
            insert(cast("Table", Invoice.__table__)),
            [{"id": number} for number in range(1, users + 1)],
        )
        connection.execute(
            insert(InvoiceLine),
            [{"invoice_id": number} for number in range(1, users + 1) for _ in range(2)],
        )
