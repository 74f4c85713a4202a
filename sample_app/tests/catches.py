"""What each trap must be seen to do: the test that turns red, and what its failure must say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
SUITE: Final = "sample_app/tests/performance"
LOAD: Final = "sample_app/tests/load/test_load.py"


class Seen(NamedTuple):
    """What a trap must be seen to do.

    ``line`` is a piece of the source line to blame, in ``file``; empty for what no single line
    does. Runs of blanks count as one, as the columns are as wide as what else is in them.
    """

    test: str
    headline: str
    breach: str
    cause: str
    file: str
    line: str
    advice: str


class Raised(NamedTuple):
    """What a trap that no budget is about must be seen to do: ``error`` is a regular expression.

    ``line`` is a piece of the source line to blame, in ``file``.
    """

    test: str
    error: str
    file: str
    line: str


JUDGED: Final[Mapping[str, Seen]] = {
    "lazy_owner": Seen(
        "test_list.py::test_a_page_takes_three_statements",
        "2 of 5 budgets exceeded in GET /api/resources",
        "sql_n_plus_one 1 > 0",
        "20x Resource.owner lazy-loaded one row at a time",
        "sample_app/crud/resource.py",
        "UserRead.model_validate(resource.owner)",
        "fix: select(Resource).options(selectinload(Resource.owner)) # or joinedload",
    ),
    "lazy_related": Seen(
        "test_list.py::test_a_page_takes_three_statements",
        "2 of 5 budgets exceeded in GET /api/resources",
        "sql_n_plus_one 1 > 0",
        "20x Resource.related_items lazy-loaded one row at a time",
        "sample_app/crud/resource.py",
        "for item in resource.related_items",
        "fix: select(Resource).options(selectinload(Resource.related_items))",
    ),
    "open_fields": Seen(
        "test_refusals.py::test_sorting_by_a_relationship_reaches_no_database",
        "2 of 2 budgets exceeded in GET /api/resources",
        "sql_errors 1 > 0",
        "1x SELECT resources failed: OperationalError: no such column: users.id",
        "sample_app/crud/base.py",
        "Found(db.scalars(query).all(), total, page, page_size)",
        "fix: check what the query is built from before it is sent",
    ),
    "unchecked_page": Seen(
        "test_refusals.py::test_page_zero_reaches_no_database",
        "1 of 2 budgets exceeded in GET /api/resources",
        "sql_queries 3 > 0",
        "1x SELECT resources",
        "sample_app/crud/base.py",
        "db.scalar(select(func.count()).select_from(self.model)",
        "fix: no statement repeats: join what belongs together",
    ),
    "unclamped_page_size": Seen(
        "test_refusals.py::test_the_whole_table_is_no_page",
        "2 of 3 budgets exceeded in GET /api/resources",
        "sql_rows 20,001 > 0",
        "rows fetched by 1x SELECT related_items: 15,000",
        "sample_app/crud/base.py",
        "Found(db.scalars(query).all(), total, page, page_size)",
        "fix: fetch only what is used: a LIMIT, a narrower WHERE, or the count instead of the rows",
    ),
    "missing_index": Seen(
        "test_plans.py::test_newest_of_a_status_is_served_by_an_index",
        "1 of 1 budget exceeded in GET /api/resources",
        "sql_full_scans 2 > 0",
        "SELECT resources: no index could serve it (SCAN resources): resources by status =\n",
        "sample_app/crud/base.py",
        "db.scalar(select(func.count()).select_from(self.model)",
        'fix: op.create_index("ix_resources_status_created_at", "resources", ["status", '
        '"created_at"])\n',
    ),
    "session_in_key": Seen(
        "test_cache.py::test_a_warm_page_takes_no_sql",
        "budgets exceeded in block 'warm'",
        "cache_misses 1 > 0",
        "the key changed between two identical calls: 1 of 3 parts differs: part 3 holds the "
        "address of an object (sqlalchemy.orm.session.Session), another one in each call",
        "sample_app/core/cache.py",
        "await self._redis.get(self._key(entry.name))",
        "fix: build the key from what the result depends on, not from objects that are made for "
        "each call",
    ),
    "blocking_redis": Seen(
        "test_cache.py::test_nobody_waits_while_one_asks_the_cache",
        "1 of 4 budgets exceeded in test_nobody_waits_while_one_asks_the_cache",
        "cache_blocking_calls 3 > 0",
        "2x GET sample_app-list_resources:{…} held up the event loop",
        "sample_app/broken.py",
        "self._blocking.get(self._key(entry.name))",
        "fix: await a client of redis.asyncio, or send it from a thread",
    ),
    "falsy_is_a_miss": Seen(
        "test_cache.py::test_that_there_is_no_row_is_kept",
        "budgets exceeded in block 'warm'",
        "cache_misses 1 > 0",
        "the cold call looked this up and stored nothing under it",
        "sample_app/core/cache.py",
        "await self._redis.get(self._key(entry.name))",
        "fix: store the result",
    ),
    "stampede": Seen(
        "test_cache.py::test_one_loads_for_all_who_ask_at_once[page]",
        "budgets exceeded in block 'stampede'",
        "cache_recomputations 8 > 1",
        "SELECT resources by 8 of 8 concurrent calls; one could have done it for all",
        "sample_app/crud/base.py",
        "db.scalar(select(func.count()).select_from(self.model)",
        "fix: let one call compute while the others wait",
    ),
    "raw_path_labels": Seen(
        "test_metrics.py::test_metrics_do_not_grow_with_the_ids",
        "2 of 3 budgets exceeded in GET /metrics",
        "response_bytes_decoded",
        "largest response: GET /metrics, ",
        "sample_app/tests/performance/test_metrics.py",
        'visited.get("/metrics")',
        "fix: answer with less: fewer rows to a page, or fewer fields",
    ),
    "mean_hides_outlier": Seen(
        "test_times.py::test_list_from_the_cache",
        "1 of 8 budgets exceeded in GET /api/resources",
        "http_p95",
        "GET /api/resources: 100 rounds, measured 3 times, the smallest of each: median ",
        "sample_app/tests/performance/test_times.py",
        "perf.http(warm).get(URL, rounds=ROUNDS)",
        "fix: most rounds are far from that: look for what only some of them do",
    ),
    "leaking_dict": Seen(
        "test_resources.py::test_walking_on_and_on_takes_no_more_memory",
        "1 of 1 budget exceeded in test_walking_on_and_on_takes_no_more_memory.<lambda>",
        "memory_growth",
        "each call leaves ",
        "sample_app/crud/resource.py",
        "items = [RelatedItemRead.model_validate(item) for item in resource.related_items]",
        "fix: bound what is kept, as functools.lru_cache(maxsize=...) does",
    ),
    "leaked_session": Seen(
        "test_resources.py::test_a_listing_gives_its_connection_back",
        "1 of 2 budgets exceeded in GET /api/resources/after",
        "pool_leaks 1 > 0",
        "1x checked out a connection that was not given back",
        "sample_app/crud/base.py",
        "rows = db.scalars(query).all()",
        "fix: close it: with Session(engine) as session: ...",
    ),
    "sleep_in_loop": Seen(
        "test_resources.py::test_nobody_waits_for_what_another_waits_for",
        "1 of 1 budget exceeded in test_nobody_waits_for_what_another_waits_for",
        "loop_stall",
        "the event loop stood still for ",
        "sample_app/broken.py",
        "time.sleep(0.3)",
        "fix: await it, as asyncio.sleep and a client made for asyncio do",
    ),
    "task_per_row": Seen(
        "test_tasks.py::test_fifty_resources_are_one_task",
        "4 of 9 budgets exceeded in POST /api/resources/process",
        "task_n_plus_one 1 > 0",
        "50x sample_app.worker.tasks.process_data published one at a time",
        "sample_app/broken.py",
        "process_data.delay(id_)",
        "fix: publish one process_data for all ids",
    ),
    "http_in_transaction": Seen(
        "test_tasks.py::test_others_are_told_when_it_is_committed",
        "1 of 4 budgets exceeded, 1 of 4 budgets unproven in",
        "tx_calls 1 > 0",
        "1x HTTP POST /announcements inside a transaction that had written: INSERT resources at",
        "sample_app/worker/high_priority.py",
        "response = httpx2.post(url, json=content, timeout=timeout, verify=_certificates())",
        "fix: commit first and call then, or call first and write then",
    ),
    "deep_offset": Seen(
        "test_list.py::TestKeyset::test_near_the_end",
        "1 of 5 budgets exceeded in GET /api/resources/after",
        "sql_deep_offsets 1 > 0",
        "1x SELECT resources behind an OFFSET of 1,000 rows or more, which are read and dropped",
        "sample_app/broken.py",
        "page = db.scalars(query).all()",
        "fix: keyset pagination: WHERE (resources.id) > (that of the last row) ORDER BY ... LIMIT",
    ),
    "index_order": Seen(
        "test_plans.py::test_newest_of_a_status_is_served_by_an_index",
        "1 of 1 budget exceeded in GET /api/resources",
        "sql_full_scans 2 > 0",
        "SELECT resources: no index could serve it (SCAN resources USING INDEX "
        "idx_resource_status_created): resources by status =, ORDER BY created_at DESC, id DESC\n",
        "sample_app/crud/base.py",
        "Found(db.scalars(query).all(), total, page, page_size)",
        'fix: op.create_index("ix_resources_status_created_at", "resources", ["status", '
        '"created_at"]) # idx_resource_status_created has them in another order: created_at, '
        "status\n",
    ),
    "uncompressed": Seen(
        "test_list.py::test_a_page_is_compressed",
        "1 of 2 budgets exceeded in GET /api/resources",
        "response_bytes 7.65 KiB > 3 KiB",
        "largest response: GET /api/resources, ",
        "sample_app/tests/performance/test_list.py",
        'assert reader.get("/api/resources").status_code == 200',
        "fix: compress it, as Starlette's GZipMiddleware does, or answer with less",
    ),
    "kept_for_ever": Seen(
        "test_cache.py::test_what_is_kept_expires",
        "1 of 4 budgets exceeded in test_what_is_kept_expires",
        "cache_writes_without_ttl 2 > 0",
        "1x SET sample_app-list_resources:{…} without an expiry",
        "sample_app/broken.py",
        "await self._redis.set(self._key(entry.name), entry.schema.dump_json(answer.value))",
        "fix: give it one: ex=300 (seconds), or EXPIRE in the same pipeline",
    ),
    "slow_checksum": Seen(
        "test_resources.py::test_twenty_requests_a_second_leave_the_cpu_time_for_others",
        " exceeded in test_twenty_requests_a_second_leave_the_cpu_time_for_others",
        "cpu_time",
        "",
        "",
        "",
        "fix: profile it (--perfguard-profile=failed), and compute less, or once for all",
    ),
    "counted_in_memory": Seen(
        "test_list.py::test_the_largest_page_takes_no_more",
        "1 of 4 budgets exceeded in GET /api/resources",
        "sql_rows 5,395 > 500",
        "rows fetched by 1x SELECT resources: 5,000",
        "sample_app/broken.py",
        "len(db.execute(select(*Resource.__table__.columns).where(*criteria)).all())",
        "fix: fetch only what is used: a LIMIT, a narrower WHERE, or the count instead of the rows",
    ),
    "one_at_a_time": Seen(
        f"{LOAD}::test_writers_do_not_wait_for_each_other",
        "1 of 2 budgets exceeded in load of locustfile.py",
        "load_p95",
        "POST /api/resources: p95 ",
        LOAD,
        'perf.load(LOCUSTFILE, host=url, user="Writer"',
        "fix: compare it with one user (users=1): what is fast then waits for others: look for a "
        "lock",
    ),
    "lower_email": Seen(
        "test_plans.py::test_a_user_is_found_by_an_address_in_any_case",
        "1 of 1 budget exceeded in test_a_user_is_found_by_an_address_in_any_case",
        "sql_full_scans 1 > 0",
        "SELECT users: no index could serve it (SCAN users): users by lower(email) =\n",
        "sample_app/broken.py",
        "select(User).where(func.lower(User.email) == email.lower())",
        'fix: op.create_index("ix_users_email_lower", "users", [sa.text("lower(email)")]) # '
        "idx_user_email is on email, what is compared is lower(email)\n",
    ),
}


RAISED: Final[Mapping[str, Raised]] = {
    # The second answer is none at all, and SQLAlchemy says itself what is wrong.
    "pickled_rows": Raised(
        "test_cache.py::test_a_warm_row_takes_no_sql",
        r"sqlalchemy\.orm\.exc\.DetachedInstanceError: Parent instance <Resource at 0x\w+> is not "
        r"bound to a Session; lazy load operation of attribute 'owner' cannot proceed",
        "sample_app/broken.py",
        "pickle.loads(pickled)",
    ),
    # What it costs is a task for each request; what it misses is what the service counts itself.
    "base_http_middleware": Raised(
        "test_metrics.py::test_what_raises_is_observed_too",
        "AssertionError: requests that raised were not observed: observe in a finally clause",
        "sample_app/tests/performance/test_metrics.py",
        "assert re.search(errors, ",
    ),
    "retry_at_once": Raised(
        "test_tasks.py::test_a_database_that_is_away_is_waited_for_ever_longer",
        r"pytest_perfguard\.errors\.TaskError: perf\.task, \S+: task \S+process_data "
        r"\(\S+\) waits 0, 0, 0 seconds, which is no exponential backoff",
        "sample_app/tests/performance/test_tasks.py",
        "policy = perf.task(",
    ),
    # It is the users that are broken, not the service.
    "locust_without_id": Raised(
        f"{LOAD}::test_users_of_the_api",
        r"pytest_perfguard\.errors\.LoadError: perf\.load, sample_app/tests/load/test_load\.py:\d+:"
        r" the locustfile raises, so its users do not do what they should: AttributeError: "
        r"'APIUser' object has no attribute 'resource_id' \(\d+ times\)\nE +at "
        r"sample_app/tests/load/locustfile\.py:\d+ in update_resource\n",
        LOAD,
        'load = perf.load(LOCUSTFILE, host=one_worker.url, user="APIUser"',
    ),
    # Both are about what the service does besides answering, which it tells itself.
    "task_metrics_per_try": Raised(
        "test_tasks.py::test_a_task_is_counted_when_it_has_ended",
        "AssertionError: a task that succeeded at its third try is counted as 2 failures: count it",
        "sample_app/tests/performance/test_tasks.py",
        "assert failures is None, (",
    ),
    "unstoppable_monitor": Raised(
        "test_resources.py::test_the_monitor_ends_with_the_service",
        "AssertionError: the monitor took a port: serve /metrics by the application",
        "sample_app/tests/performance/test_resources.py",
        "assert _ports() == ports, ",
    ),
}

CATCHES: Final[Mapping[str, Seen | Raised]] = {**JUDGED, **RAISED}

APART: Final[Mapping[str, tuple[str, str]]] = {
    "leaked_session": ("second", "soon no connection is left: every other test fails of that"),
    "pickled_rows": ("second", "rows come back detached, so what others do not keep is not seen"),
    "blocking_redis": ("second", "another line asks the cache, which others are blamed on"),
    "index_order": ("second", "the index that missing_index leaves out has no order"),
    "unchecked_page": ("second", "the rows that it lets through are loaded lazily, told first"),
    "unclamped_page_size": (
        "second",
        "the rows that it lets through are loaded lazily, told first",
    ),
    "counted_in_memory": ("third", "it takes the place of the count that others are blamed on"),
    "uncompressed": ("third", "long responses are then blamed on it"),
    "slow_checksum": ("second", "each request takes so long that what is timed shows nothing else"),
    "one_at_a_time": ("load", "a server by itself, where others would take the time that it takes"),
    "locust_without_id": ("load", "it is about the users of that server"),
}
"""Traps that hide others or are hidden by them: the session that they share, and the reason."""


def node_id(test: str) -> str:
    """Return the whole node id of a test as it stands in the tables."""
    return test if test.startswith("sample_app/") else f"{SUITE}/{test}"


def place_of(seen: Seen | Raised) -> str:
    """Return ``file:line`` of the line to blame, wherever in its file it stands today.

    Empty where there is none.
    """
    if not seen.file:
        return ""
    lines = (ROOT / seen.file).read_text("utf-8").splitlines()
    (number,) = (number for number, line in enumerate(lines, 1) if seen.line in line)
    return f"{seen.file}:{number}"
