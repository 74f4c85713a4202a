"""The endpoints: what they answer."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from sample_app.models import ResourceStatus
from sample_app.seed import Size

URL = "/api/resources"


def _list(client: TestClient, **params: Any) -> dict[str, Any]:
    response = client.get(URL, params=params)
    assert response.status_code == 200, response.text
    page: dict[str, Any] = response.json()
    return page


def test_a_page_tells_where_it_is(client: TestClient) -> None:
    page = _list(client, page=2, page_size=30)
    assert (page["total"], page["page"], page["page_size"]) == (Size().resources, 2, 30)
    assert page["pages"] == 167
    assert [item["id"] for item in page["items"]] == list(range(31, 61))


def test_the_last_page_is_short_and_the_next_one_empty(client: TestClient) -> None:
    assert len(_list(client, page=167, page_size=30)["items"]) == 20
    assert _list(client, page=168, page_size=30)["items"] == []


def test_a_resource_comes_with_its_owner_and_related_items(client: TestClient) -> None:
    for item in _list(client)["items"]:
        assert item == client.get(f"{URL}/{item['id']}").json()
        assert set(item["owner"]) == {"id", "email", "name"}
        positions = [related["position"] for related in item["related_items"]]
        assert positions == list(range(1, len(positions) + 1))


def test_filters_narrow_the_page_and_the_total(client: TestClient) -> None:
    drafts = _list(client, status="draft")
    assert {item["status"] for item in drafts["items"]} == {"draft"}
    totals = [_list(client, status=status.value)["total"] for status in ResourceStatus]
    assert sum(totals) == Size().resources
    both = _list(client, status="draft", owner_id=drafts["items"][0]["owner"]["id"])
    assert 0 < both["total"] < drafts["total"]


@pytest.mark.parametrize("field", ["id", "name", "status", "created_at", "updated_at"])
def test_sorting_both_ways(client: TestClient, field: str) -> None:
    up = _list(client, sort_by=field, owner_id=1, page_size=100)["items"]
    down = _list(client, sort_by=field, sort_order="desc", owner_id=1, page_size=100)["items"]
    assert len(up) > 10
    assert [item["id"] for item in up] == [item["id"] for item in reversed(down)]
    if field.endswith("_at"):
        assert up == sorted(up, key=lambda item: item[field])


@pytest.mark.parametrize("sort_order", ["asc", "desc"])
def test_keyset_pages_equal_numbered_pages(client: TestClient, sort_order: str) -> None:
    wanted = {"status": "draft", "sort_order": sort_order, "page_size": 100}
    numbered = [
        item for page in range(1, 7) for item in _list(client, page=page, **wanted)["items"]
    ]
    walked: list[dict[str, Any]] = []
    params: dict[str, Any] = dict(wanted)
    while True:
        page = client.get(f"{URL}/after", params=params).json()
        walked += page["items"]
        if page["next_after"] is None:
            break
        params["after"] = page["next_after"]
    assert walked == numbered
    assert len(walked) > 400


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("page=0", "page"),
        ("page=-1", "page"),
        ("page=x", "page"),
        ("page_size=0", "page_size"),
        ("page_size=101", "page_size"),
        ("sort_by=owner", "sort_by"),
        ("sort_by=__class__", "sort_by"),
        ("sort_order=up", "sort_order"),
        ("status=lost", "status"),
        ("owner_id=0", "owner_id"),
        ("owner_id=99999999999999999999", "owner_id"),
        ("metadata=1", "metadata"),
        ("nmae=x", "nmae"),
    ],
)
def test_a_bad_query_is_refused(client: TestClient, query: str, parameter: str) -> None:
    response = client.get(f"{URL}?{query}")
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["query", parameter]


def test_a_keyset_page_is_always_sorted_by_id(client: TestClient) -> None:
    assert client.get(f"{URL}/after?sort_by=name").status_code == 422


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_what_does_not_exist_is_not_found(client: TestClient, method: str) -> None:
    json = {"name": "new"} if method == "PUT" else None
    response = client.request(method, f"{URL}/999999", json=json)
    assert response.status_code == 404


def test_create(client: TestClient) -> None:
    response = client.post(URL, json={"name": "new", "status": "active", "owner_id": 3})
    assert response.status_code == 201
    created = response.json()
    assert (created["name"], created["description"], created["status"]) == ("new", None, "active")
    assert (created["owner"]["id"], created["related_items"]) == (3, [])
    assert created["created_at"].endswith("Z")
    assert client.get(f"{URL}/{created['id']}").json() == created
    assert _list(client)["total"] == Size().resources + 1


@pytest.mark.parametrize(
    "body",
    [
        b'{"name": "new", "owner_id": 999999}',
        b'{"name": "", "owner_id": 1}',
        b'{"name": "a\\u0000b", "owner_id": 1}',
        b'{"name": "\\ud800", "owner_id": 1}',
        b'{"name": "new", "owner_id": NaN}',
        b'{"name": "new"}',
        b'{"name": "new", "owner_id": 1, "id": 7}',
    ],
)
def test_a_bad_body_is_refused(client: TestClient, body: bytes) -> None:
    response = client.post(URL, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 422
    assert "input" not in response.json()["detail"][0]


def test_update_changes_what_was_sent_and_nothing_else(client: TestClient) -> None:
    before = client.get(f"{URL}/7").json()
    response = client.put(f"{URL}/7", json={"name": "new", "description": None})
    assert response.status_code == 200
    after = response.json()
    assert after == client.get(f"{URL}/7").json()
    assert after["updated_at"] > before["updated_at"]
    changed = {"name": "new", "description": None, "updated_at": after["updated_at"]}
    assert after == before | changed


def test_a_new_owner_is_shown(client: TestClient) -> None:
    other = 1 + client.get(f"{URL}/7").json()["owner"]["id"] % Size().users
    assert client.put(f"{URL}/7", json={"owner_id": other}).json()["owner"]["id"] == other
    assert client.get(f"{URL}/7").json()["owner"]["id"] == other


@pytest.mark.parametrize("change", [{"owner_id": 999_999}, {"name": None}, {"status": None}])
def test_a_bad_change_is_refused(client: TestClient, change: dict[str, object]) -> None:
    before = client.get(f"{URL}/7").json()
    assert client.put(f"{URL}/7", json=change).status_code == 422
    assert client.get(f"{URL}/7").json() == before


def test_health_needs_no_database(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}


def test_a_user_is_found_by_address_in_any_case(client: TestClient) -> None:
    owner = client.get(f"{URL}/7").json()["owner"]
    for email in (owner["email"], owner["email"].upper()):
        assert client.get("/api/users/by-email", params={"email": email}).json() == owner


@pytest.mark.parametrize(
    ("email", "status"), [("nobody@example.com", 404), ("", 422), ("a\0b", 422), ("a" * 321, 422)]
)
def test_an_address_that_nobody_has(client: TestClient, email: str, status: int) -> None:
    assert client.get("/api/users/by-email", params={"email": email}).status_code == status
