"""How what a request costs grows with the data: not at all, but for the rows that it shows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import delete

from pytest_perfguard import Perf
from sample_app.core.database import Database
from sample_app.models import RelatedItem, Resource, User
from sample_app.tests.running import RunningClient

pytestmark = [pytest.mark.performance, pytest.mark.perf_baseline]

URL = "/api/resources"


@pytest.fixture
def make_resources(isolated: Database) -> Callable[[int], None]:
    """Bring the number of resources to n, each with an owner and an item of its own."""
    with isolated.session() as db:
        db.execute(delete(RelatedItem))
        db.execute(delete(Resource))
        db.commit()
    made = 0

    def populate(n: int) -> None:
        nonlocal made
        with isolated.session() as db:
            for number in range(made + 1, n + 1):
                owner = User(email=f"growth-{number}@example.com", name=f"owner {number}")
                item = RelatedItem(label="item", position=1)
                resource = Resource(id=number, name="new", owner=owner, related_items=[item])
                db.add(resource)
            db.commit()
        made = n

    return populate


def test_no_endpoint_asks_more_often_when_there_is_more(
    client: RunningClient, perf: Perf, make_resources: Callable[[int], None]
) -> None:
    """Trap: lazy_owner, lazy_related."""
    found = perf.scales_endpoints(
        client.app,
        make_resources,
        client=client,
        flush=client.flush,
        urls={
            URL: f"{URL}?page_size=100",
            f"{URL}/after": f"{URL}/after?page_size=100",
            f"{URL}/{{resource_id}}": f"{URL}/1",
            "/api/users/by-email": "/api/users/by-email?email=growth-1@example.com",
        },
    )
    assert len(found.judged) == 5


@pytest.mark.perf_budget(sql_n_plus_one=0)
def test_walking_by_key_costs_the_same_from_anywhere(
    client: RunningClient, perf: Perf, make_resources: Callable[[int], None]
) -> None:
    """The rows before the first one are not read: not even one by one."""
    perf.scales(
        make_resources,
        lambda: client.get(f"{URL}/after?page_size=100"),
        sizes=(2, 10, 50),
        sql_queries="O(1)",
        cache_commands="O(1)",
    )
