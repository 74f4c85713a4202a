"""Names of requests: ids folded out of paths, templates of routes, and what is put back."""

from __future__ import annotations

import gzip
import zlib
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_perfguard.probes.http import UNCLAIMED, fold_path, open_request, sizes
from pytest_perfguard.probes.routes import name_by_response, rename
from pytest_perfguard.recorder import Recorder
from pytest_perfguard.spans import OpenSpan


@pytest.mark.parametrize(
    ("path", "folded"),
    [
        ("/", "/"),
        ("", ""),
        ("/users", "/users"),
        ("/users/", "/users/"),
        ("/users/42", "/users/{id}"),
        ("/users/42/", "/users/{id}/"),
        ("/users/42/orders/7", "/users/{id}/orders/{id}"),
        ("/items/7d444840-9dc0-11d1-b245-5ffdce74fad2", "/items/{id}"),
        ("/items/7D4448409DC011D1B2455FFDCE74FAD2", "/items/{id}"),
        ("/commits/deadbeefcafebabedeadbeefcafebabedeadbeef", "/commits/{id}"),
        ("/orders/01ARZ3NDEKTSV4RRFFQ69G5FAV", "/orders/{id}"),
        ("/mails/ann@example.org", "/mails/{id}"),
        ("/names/J%C3%BCrgen", "/names/{id}"),
        ("/names/\x1b[31mred", "/names/{id}"),
        ("/names/two\nlines", "/names/{id}"),
        ("/api/v1/users", "/api/v1/users"),
        ("/api/v2beta1/users", "/api/v2beta1/users"),
        ("/oauth2/token", "/oauth2/token"),
        ("/openapi.json", "/openapi.json"),
        ("/a-path-of-many-words/in-it", "/a-path-of-many-words/in-it"),
        ("/days/2024-01-31", "/days/{id}"),
        ("/offsets/-5", "/offsets/{id}"),
        ("/prices/1.50", "/prices/{id}"),
    ],
)
def test_ids_are_folded_and_words_are_not(path: str, folded: str) -> None:
    assert fold_path(path) == folded


@given(st.integers(min_value=0), st.uuids())
def test_every_number_and_every_uuid_is_an_id(number: int, uuid: object) -> None:
    assert fold_path(f"/users/{number}/keys/{uuid}") == "/users/{id}/keys/{id}"


@given(st.lists(st.text(st.characters(codec="ascii", categories=["Ll"]), max_size=30)))
def test_a_path_of_words_stays_as_it_is_unless_it_looks_like_a_hash(words: list[str]) -> None:
    path = "/" + "/".join(words)
    kept = [word for word in words if len(word) < 16 or set(word) - set("abcdef")]
    if kept == words:
        assert fold_path(path) == path


@given(st.text())
def test_folding_twice_changes_nothing_more_and_keeps_the_depth(path: str) -> None:
    once = fold_path(path)
    assert once.count("/") == path.count("/")
    assert fold_path(once) == once


# -- renaming ----------------------------------------------------------------------------------


@pytest.fixture
def recorder() -> Recorder:
    return Recorder(probes=())


def test_the_innermost_request_gets_the_name_of_the_route(recorder: Recorder) -> None:
    test = recorder.open("test_it", "test")
    request = open_request(recorder, "GET /users/{id}", None, UNCLAIMED)
    block = recorder.open("block", "block")
    rename(recorder, "POST", "/users/{number}")
    assert (test.name, request.name, block.name) == ("test_it", "POST /users/{number}", "block")
    recorder.abandon()


def test_where_there_is_no_request_nothing_is_renamed(recorder: Recorder) -> None:
    rename(recorder, "GET", "/users/{number}")
    test = recorder.open("test_it", "test")
    rename(recorder, "GET", "/users/{number}")
    assert test.name == "test_it"
    recorder.abandon()


def test_the_tally_of_a_request_has_its_last_name(recorder: Recorder) -> None:
    with recorder.measure("test_it", "test") as measured:
        span = open_request(recorder, "GET /users/{id}", None, UNCLAIMED)
        rename(recorder, "GET", "/users/{number}")
        recorder.close(span)
    assert measured.span is not None
    (request,) = measured.span.children
    (tally,) = request.tallies
    assert request.name == tally.operation == tally.label == "GET /users/{number}"
    assert measured["http_requests"] == 1


class _Unresolved:
    """What Django's test client gives for a path that no route serves."""

    status_code = 404

    @property
    def resolver_match(self) -> object:
        return _Lazy()


class _Lazy:
    def __getattr__(self, name: str) -> object:
        raise LookupError("Resolver404")


def _span(name: str = "GET /users/7") -> OpenSpan:
    return OpenSpan(name, "request", None)


@pytest.mark.parametrize(
    ("route", "name"),
    [
        ("users/<int:number>", "GET /users/{number}"),
        ("api/v1/<slug:tenant>/items/<uuid:key>", "GET /api/v1/{tenant}/items/{key}"),
        ("files/<path:name>", "GET /files/{name}"),
        ("<name>", "GET /{name}"),
        ("", "GET /"),
        (r"^years/(?P<year>[0-9]{4})/$", "GET /users/7"),
        (None, "GET /users/7"),
        (5, "GET /users/7"),
        ("red/\x1b[31m<int:number>\n", "GET /red/[31m{number}"),
    ],
)
def test_a_response_that_knows_its_route_names_the_request(route: object, name: str) -> None:
    span = _span()
    match = SimpleNamespace(route=route)
    # Django's requests know what they were resolved to, its responses resolve it again.
    request = SimpleNamespace(resolver_match=match)
    name_by_response(span, SimpleNamespace(resolver_match=match, wsgi_request=request))
    assert span.name == name


@pytest.mark.parametrize("response", [None, object(), _Unresolved()])
def test_a_response_that_knows_no_route_changes_nothing_and_is_no_error(response: object) -> None:
    span = _span()
    name_by_response(span, response)
    assert span.name == "GET /users/7"


# -- sizes -------------------------------------------------------------------------------------


class _Httpx(SimpleNamespace):
    """A response of httpx: its raw length is counted while it is read."""

    @property
    def content(self) -> Any:
        if not hasattr(self, "_content"):
            pytest.fail("a stream was read")
        return self._content


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (_Httpx(num_bytes_downloaded=5, is_stream_consumed=True, _content=b"x" * 9), (5, 9)),
        (_Httpx(num_bytes_downloaded=0, is_stream_consumed=True, _content=b""), (0, 0)),
        # Made by hand, as mocks of transports do it: nothing came over a wire.
        (_Httpx(num_bytes_downloaded=0, is_stream_consumed=False, _content=b"abc"), (3, 3)),
        (_Httpx(num_bytes_downloaded=0, is_stream_consumed=False), (None, None)),
        (_Httpx(num_bytes_downloaded=7, is_stream_consumed=True), (None, None)),
        (SimpleNamespace(content=b"abc"), (3, 3)),
        (SimpleNamespace(content=b"abc", streaming=True), (None, None)),
        (SimpleNamespace(get_data=lambda: b"abcd"), (4, 4)),
        (SimpleNamespace(content="text"), (None, None)),
        (object(), (None, None)),
        (
            SimpleNamespace(
                content=gzip.compress(b"x" * 500), headers={"Content-Encoding": "gzip"}
            ),
            (len(gzip.compress(b"x" * 500)), 500),
        ),
        (
            SimpleNamespace(
                content=zlib.compress(b"x" * 500), headers={"Content-Encoding": "deflate"}
            ),
            (len(zlib.compress(b"x" * 500)), 500),
        ),
    ],
)
def test_the_sizes_of_a_response(response: object, expected: tuple[int, int]) -> None:
    assert sizes(response) == expected


def test_a_body_that_is_not_what_its_header_says_has_its_size_on_the_wire() -> None:
    response = SimpleNamespace(content=b"abc", headers={"Content-Encoding": "gzip"})
    assert sizes(response)[0] == 3


def test_the_redirects_before_a_response_are_part_of_its_size() -> None:
    history = [SimpleNamespace(content=b"gone"), SimpleNamespace(content=b"")]
    assert sizes(SimpleNamespace(content=b"here it is", history=history)) == (14, 14)
