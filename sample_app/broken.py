"""The traps: each mistake that the guide warns of, kept apart from the code that it breaks.

The service is whole without this module. A trap replaces one part of it by a broken twin, when
and only when its name is switched on; :data:`sample_app.core.traps.KNOWN` says what each does.
"""

from __future__ import annotations

import asyncio
import math
import pickle
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import pbkdf2_hmac
from inspect import unwrap
from itertools import count
from typing import Any, Final, Self, TypeVar

import redis
from fastapi import APIRouter, FastAPI, Request, Response, status
from fastapi.concurrency import run_in_threadpool
from prometheus_client import start_http_server
from pydantic import TypeAdapter
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session, sessionmaker
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from sample_app.api import resources
from sample_app.api.deps import (
    Keyset,
    KeysetFilters,
    ListFilters,
    Pagination,
    ReadSession,
    ReadSessions,
    Resources,
    WriteSession,
    pagination,
    resource_crud,
    user_crud,
)
from sample_app.core.cache import Answer, Cache, CacheDependency, Entry, fake_server, row_name
from sample_app.core.config import Settings
from sample_app.core.database import Database, get_db
from sample_app.core.metrics import Metrics
from sample_app.core.middleware import MetricsMiddleware, route_template
from sample_app.core.monitoring import Monitor
from sample_app.core.traps import Traps
from sample_app.crud.resource import (
    FILTER_FIELDS,
    LOAD_OWNER,
    LOAD_RELATED_ITEMS,
    SORT_FIELDS,
    CRUDResource,
    serialize,
)
from sample_app.crud.user import CRUDUser
from sample_app.models import Resource, User
from sample_app.schemas.common import MAX_PAGE_SIZE, KeysetPage, Page, PaginationParams, SortOrder
from sample_app.schemas.resource import ResourceCreate, ResourceRead
from sample_app.worker.high_priority import post
from sample_app.worker.queue import Tasks
from sample_app.worker.services import Services, lent
from sample_app.worker.tasks import process_data

T = TypeVar("T")


def install(app: FastAPI, traps: Traps) -> None:
    """Put the broken twins in the place of what they imitate."""
    if traps.enabled("unchecked_page") or traps.enabled("unclamped_page_size"):
        app.dependency_overrides[pagination] = broken_pagination(traps)
    if traps.enabled("mean_hides_outlier"):
        app.add_middleware(Sluggish)
    if traps.enabled("slow_checksum"):
        app.add_middleware(Checking)
    for name, router in _ROUTERS.items():
        if traps.enabled(name):
            # Included, they heed the overrides of the application, which others of us make.
            known = len(app.router.routes)
            app.include_router(router)
            app.router.routes[:] = [*app.router.routes[known:], *app.router.routes[:known]]
    for name, (dependency, twin) in _DEPENDENCIES.items():
        if traps.enabled(name):
            app.dependency_overrides[dependency] = twin
    queue = mixed(Tasks, {"task_per_row": TaskPerRow, "one_at_a_time": InTurn}, traps)
    app.state.tasks = queue(app.state.tasks.services)
    crud_traps = ("lazy_owner", "lazy_related", "open_fields", *_TWINS)
    if any(map(traps.enabled, crud_traps)):
        crud = broken_resource_crud(traps)
        app.dependency_overrides[resource_crud] = lambda: crud


def mixed(base: type[T], twins: Mapping[str, type[T]], traps: Traps) -> type[T]:
    """Give a class with what the traps that are on do wrong mixed in, or the class itself."""
    bases = tuple(twin for name, twin in twins.items() if traps.enabled(name))
    return type(f"Broken{base.__name__}", bases, {}) if bases else base


def broken_resource_crud(traps: Traps) -> CRUDResource:
    """Forget to load a relation along; take any attribute for a field."""
    loads = []
    if not traps.enabled("lazy_owner"):
        loads.append(LOAD_OWNER)
    if not traps.enabled("lazy_related"):
        loads.append(LOAD_RELATED_ITEMS)
    any_field = traps.enabled("open_fields")
    return mixed(CRUDResource, _TWINS, traps)(
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


def broken_pagination(traps: Traps) -> Callable[..., Awaitable[PaginationParams]]:
    """Check one of the two at most: ``unchecked_page``, ``unclamped_page_size``."""
    least = -math.inf if traps.enabled("unchecked_page") else 1
    largest = math.inf if traps.enabled("unclamped_page_size") else MAX_PAGE_SIZE

    async def pagination(page: int = 1, page_size: int = 20) -> PaginationParams:
        return PaginationParams.model_construct(
            page=max(page, least), page_size=min(page_size, largest)
        )

    return pagination


def cache_class(traps: Traps) -> type[Cache]:
    """Give the cache, with what it does wrong mixed in."""
    twins: dict[str, type[Cache]] = {
        "blocking_redis": BlockingCache,
        "falsy_is_a_miss": ForgetfulCache,
        "stampede": ImpatientCache,
        "kept_for_ever": EternalCache,
    }
    return mixed(Cache, twins, traps)


class BlockingCache(Cache):
    """``blocking_redis``: all requests of the process wait while one asks Redis."""

    _blocking: redis.Redis

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Prepare a second client, a synchronous one."""
        made = super().from_settings(settings)
        if settings.redis_url:
            made._blocking = redis.Redis.from_url(settings.redis_url)
        else:
            from fakeredis import FakeRedis  # noqa: PLC0415 - as in make_redis

            made._blocking = FakeRedis(server=fake_server())
        return made

    async def aclose(self) -> None:
        """Close the connections of both."""
        self._blocking.close()
        await super().aclose()

    async def _look_up(self, entry: Entry[T]) -> Answer[T] | None:
        content: Any = self._blocking.get(self._key(entry.name))
        return await self._read(entry, content)


class ForgetfulCache(Cache):
    """``falsy_is_a_miss``: ``if result:`` before keeping it, though nothing is an answer, too."""

    async def _keep(self, entry: Entry[T], lease: str, answer: Answer[T]) -> None:
        if answer.value:
            await super()._keep(entry, lease, answer)
        else:
            await self._end_lease(entry, lease)


class ImpatientCache(Cache):
    """``stampede``: as soon as a hot key expires, everybody who asks for it loads it.

    Nobody waits, in this process or for another one, or looks again before loading.
    """

    longest_wait = 0.0

    async def _take_lease(self, entry: Entry[T], deadline: float) -> str | None:
        lease = await super()._take_lease(entry, deadline)
        return lease if isinstance(lease, str) else None

    def _lock(self, name: str) -> asyncio.Lock:  # noqa: ARG002 - one for each is none for all
        return asyncio.Lock()


class EternalCache(Cache):
    """``kept_for_ever``: who wrote it forgot that nobody reads most of it again."""

    async def _keep(self, entry: Entry[T], lease: str, answer: Answer[T]) -> None:
        await self._redis.set(self._key(entry.name), entry.schema.dump_json(answer.value))
        await self._end_lease(entry, lease)


def metrics_middleware(traps: Traps) -> Callable[..., ASGIApp]:
    """Give the middleware that observes requests."""
    by_path = traps.enabled("raw_path_labels")
    if traps.enabled("base_http_middleware"):
        return partial(DispatchingMiddleware, endpoint=raw_path if by_path else route_template)
    return PathMiddleware if by_path else MetricsMiddleware


def raw_path(scope: Scope) -> str:
    """``raw_path_labels``: as many time series as there are ids, or as anybody makes up."""
    path: str = scope["path"]
    return path


class PathMiddleware(MetricsMiddleware):
    """``raw_path_labels``: ``endpoint=request.url.path``."""

    def endpoint(self, scope: Scope) -> str:
        """Give the path."""
        return raw_path(scope)


class DispatchingMiddleware(BaseHTTPMiddleware):
    """``base_http_middleware``: as the guide has it.

    Each request is a task more, and what raises in it passes by the line that observes.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, endpoint: Callable[[Scope], str]) -> None:
        super().__init__(app)
        self._metrics = metrics
        self._endpoint = endpoint

    async def dispatch(
        self, request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        """Serve a request."""
        started = time.time()
        response = await call_next(request)
        labels = (request.method, self._endpoint(request.scope), response.status_code)
        self._metrics.request_duration.labels(*labels).observe(time.time() - started)
        return response


class Sluggish:
    """``mean_hides_outlier``: one request in sixteen waits, as for work that others put off.

    The mean of a hundred is 16 ms more, far from any limit on it. That 6 of them are too slow is
    what the 95th percentile is about.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._numbers = count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, now or later."""
        if scope["type"] == "http" and next(self._numbers) % 16 == 0:
            await asyncio.sleep(0.25)
        await self._app(scope, receive, send)


def compression(traps: Traps) -> Callable[..., ASGIApp]:
    """Give the middleware that compresses responses."""
    return Uncompressed if traps.enabled("uncompressed") else GZipMiddleware


class Uncompressed(GZipMiddleware):
    """``uncompressed``: what a client could take in a fifth of the bytes goes out in full."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass all through."""
        await self.app(scope, receive, send)


class Checking:
    """``slow_checksum``: PBKDF2 is meant to be slow, and one checksum leads to another."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, with checksums of its path."""
        if scope["type"] == "http":
            checksum = partial(pbkdf2_hmac, "sha256", scope["path"].encode(), iterations=300_000)
            await asyncio.gather(
                asyncio.to_thread(checksum, salt=b"etag"),
                asyncio.to_thread(checksum, salt=b"signature"),
            )
        await self._app(scope, receive, send)


keyed_by_session = APIRouter()
_sessions_seen: list[Session] = []


@keyed_by_session.get("/api/resources")
async def get_resources(
    cache: CacheDependency,
    db: ReadSession,
    crud: Resources,
    pagination: Pagination,
    filters: ListFilters,
) -> Page[ResourceRead]:
    """``session_in_key``: ``str`` of a session tells where it is, and it is never there again."""
    # But the place is used again once it is free: keeping it makes sure what is only likely.
    _sessions_seen.append(db)
    args, kwargs = (), {"db": db, "pagination": pagination, "filters": filters}
    schema = TypeAdapter(Page[ResourceRead])
    entry = Entry(f"get_resources:{args!s}:{kwargs!s}", schema, 300, "response", "Resource")

    load = partial(unwrap(resources.list_resources), lambda: db, crud, pagination, filters)
    return await cache.fetch(entry, partial(run_in_threadpool, load))


class PicklingCRUD(CRUDResource):
    """``pickled_rows``: what comes back has no session to load its relations with.

    And whoever can write to Redis decides what code reading it runs.
    """

    async def get_cached(
        self, cache: Cache, sessions: sessionmaker[Session], id_: int
    ) -> ResourceRead | None:
        """Get one row, or its pickle."""
        key = cache._key(row_name("Resource", id_))
        pickled: Any = await cache._redis.get(key)
        if pickled is not None:
            return _shown(pickle.loads(pickled))  # noqa: S301 - the trap

        def load() -> tuple[bytes, ResourceRead | None]:
            with sessions() as db:
                row = self.get(db, id_)
                return pickle.dumps(row), _shown(row)

        content, shown = await run_in_threadpool(load)
        await cache._redis.set(key, content, ex=300)
        return shown


def _shown(row: Resource | None) -> ResourceRead | None:
    return None if row is None else serialize(row)


def left_out_indexes(traps: Traps) -> frozenset[str]:
    """``missing_index``: the listing by status and time has to read the whole table."""
    missing = traps.enabled("missing_index")
    return frozenset({"idx_resource_status_created"} if missing else ())


def monitor_class(traps: Traps) -> type[Monitor]:
    """Give what reads CPU and memory."""
    return UnstoppableMonitor if traps.enabled("unstoppable_monitor") else Monitor


class UnstoppableMonitor(Monitor):
    """``unstoppable_monitor``: ``while True``, from a first reading that is 0.0 by definition.

    And a server of its own for the metrics, in every process. (The guide's port is 8000; a free
    one lets several of these run here.)
    """

    def __enter__(self) -> Self:
        self.read()
        start_http_server(0, "127.0.0.1", self._metrics.registry)
        threading.Thread(target=self._watch, name="monitor", daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass


remembering = APIRouter()
_pages: dict[tuple[object, ...], KeysetPage[ResourceRead]] = {}


@remembering.get("/api/resources/after")
def list_and_remember(
    db: ReadSession, crud: Resources, keyset: Keyset, filters: KeysetFilters
) -> KeysetPage[ResourceRead]:
    """``leaking_dict``: fast for who asks again, and never smaller."""
    key = (keyset.after, keyset.page_size, keyset.sort_order, *filters.values())
    if key not in _pages:
        _pages[key] = resources.list_resources_after(db, crud, keyset, filters)
    return _pages[key]


_unclosed: list[Session] = []


def unclosed_db(request: Request) -> Session:
    """``leaked_session``: ``return`` instead of ``yield``: nobody can close it afterwards."""
    database: Database = request.app.state.database
    session = database.session()
    _unclosed.append(session)
    return session


sleeping = APIRouter()


@sleeping.get("/api/resources/{resource_id:int}")
async def get_resource_later(
    cache: CacheDependency, sessions: ReadSessions, crud: Resources, resource_id: int
) -> ResourceRead:
    """``sleep_in_loop``: it means to be nice to the database, and stops everybody."""
    time.sleep(0.3)  # noqa: ASYNC251 - the trap
    return await resources.get_resource(cache, sessions, crud, resource_id)


class TaskPerRow(Tasks):
    """``task_per_row``: a message, a session and a handful of statements for each."""

    def process(self, ids: Sequence[int]) -> None:
        """Have resources summarized one by one."""
        with lent(self.services):
            for id_ in ids:
                process_data.delay(id_)


class InTurn(Tasks):
    """``one_at_a_time``: announcements come in order, and as slowly as the webhook takes them."""

    def __init__(self, services: Services) -> None:
        super().__init__(services)
        self._lock = threading.Lock()

    def announce(self, resource_id: int) -> None:
        """Wait for the turn, and have the webhook told."""
        with self._lock:
            super().announce(resource_id)


hasty = APIRouter()


@hasty.post("/api/resources", status_code=status.HTTP_201_CREATED)
def create_and_tell(
    request: Request,
    cache: CacheDependency,
    db: WriteSession,
    crud: Resources,
    data: ResourceCreate,
) -> ResourceRead:
    """``http_in_transaction``: rows stay locked for as long as somebody else takes to answer.

    And who is told may look before it is there, or of what is then rolled back.
    """
    resource = crud.create(db, data)
    settings: Settings = request.app.state.tasks.services.settings
    if settings.webhook_url is not None:
        content = {"id": resource.id, "name": resource.name}
        post(settings.webhook_url, content, settings.webhook_timeout)
    db.commit()
    resources.forget(cache, resource)
    return serialize(resource)


def ordered_columns(traps: Traps, name: str, columns: list[str]) -> list[str]:
    """``index_order``: an index is searched by its first columns, and status is not the first."""
    turned = traps.enabled("index_order") and name == "idx_resource_status_created"
    return columns[::-1] if turned else columns


class SkippingCRUD(CRUDResource):
    """``deep_offset``: the last page costs as much as all pages before it."""

    def get_page_after(
        self,
        db: Session,
        *,
        after: int | None = None,
        page_size: int = 20,
        sort_order: SortOrder = "asc",
        filters: Mapping[str, object] | None = None,
    ) -> tuple[Sequence[Resource], int | None]:
        """Get the rows behind as many as have been seen; keys count from 1 without a gap."""
        if after is None or sort_order == "desc":
            return super().get_page_after(
                db, after=after, page_size=page_size, sort_order=sort_order, filters=filters
            )
        query = select(Resource).where(*self._criteria(filters or {})).options(*self.list_loads)
        query = query.order_by(*self._order(None, sort_order)).limit(page_size + 1).offset(after)
        page = db.scalars(query).all()
        return page[:page_size], page[page_size - 1].id if len(page) > page_size else None


class HoardingCRUD(CRUDResource):
    """``counted_in_memory``: ``len(all())`` instead of ``SELECT count(*)``."""

    def _count(self, db: Session, criteria: Sequence[ColumnElement[bool]]) -> int:
        """Load all rows to see how many there are."""
        return len(db.execute(select(*Resource.__table__.columns).where(*criteria)).all())


class LoweringCRUD(CRUDUser):
    """``lower_email``: an index on the column knows nothing of what a function makes of it."""

    def get_by_email(self, db: Session, email: str) -> User | None:
        """Get the user, whatever the case of what is stored."""
        return db.scalar(select(User).where(func.lower(User.email) == email.lower()))


_TWINS: Final[Mapping[str, type[CRUDResource]]] = {
    "pickled_rows": PicklingCRUD,
    "deep_offset": SkippingCRUD,
    "counted_in_memory": HoardingCRUD,
}
# Endpoints that are found before the service's own.
_ROUTERS: Final[Mapping[str, APIRouter]] = {
    "session_in_key": keyed_by_session,
    "leaking_dict": remembering,
    "sleep_in_loop": sleeping,
    "http_in_transaction": hasty,
}
# What endpoints depend on, and what they get instead.
_DEPENDENCIES: Final[Mapping[str, tuple[Callable[..., object], Callable[..., object]]]] = {
    "leaked_session": (get_db, unclosed_db),
    "lower_email": (user_crud, LoweringCRUD),
}
