"""What must not be possible, and what must not be seen."""

from __future__ import annotations

import ast
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

import sample_app
from sample_app.core.config import Settings, redacted
from sample_app.core.database import Database
from sample_app.core.limits import MAX_BODY
from sample_app.main import create_app
from sample_app.schemas.common import MAX_PAGE_SIZE
from sample_app.tests.webhook import running
from sample_app.worker import high_priority

PACKAGE = Path(sample_app.__file__).parent
# The broken twins are there to be wrong.
MODULES = [
    path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "broken.py" and "tests" not in path.relative_to(PACKAGE).parts
]
# Modules that run what they read, or start programs, and calls that do.
_RUNNING = {"pickle", "cPickle", "shelve", "marshal", "dill", "subprocess", "ctypes", "yaml"}
_CALLS = {"eval", "exec", "compile", "__import__", "system", "popen"}


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def called(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def name_of(call: ast.Call) -> str:
    return getattr(call.func, "id", getattr(call.func, "attr", ""))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_that_is_read_is_run(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    assert not _RUNNING & set(imported(tree))
    assert not _CALLS & {name_of(call) for call in called(tree)} - {"compile"}


def test_no_attribute_is_reached_by_a_name_that_is_not_ours() -> None:
    """``setattr`` by a schema's own field names is the one place; see ``CRUDBase.update``."""
    found = []
    for path in MODULES:
        for call in called(ast.parse(path.read_text("utf-8"))):
            if name_of(call) in {"getattr", "setattr", "delattr"}:
                name = call.args[1]
                if not isinstance(name, ast.Constant) and ast.unparse(name) != "_STARTED":
                    found.append(f"{path.relative_to(PACKAGE).as_posix()}: {ast.unparse(call)}")
    assert found == ["crud/base.py: setattr(row, name, value)"]


@pytest.mark.parametrize("field", ["id", "owner", "metadata", "__class__", "_sa_instance_state"])
def test_no_field_can_be_written_but_those_of_the_schema(client: TestClient, field: str) -> None:
    for response in (
        client.put("/api/resources/7", json={field: 1}),
        client.post("/api/resources", json={"name": "new", "owner_id": 3, field: 1}),
    ):
        assert response.status_code == 422
        assert response.json()["detail"][0]["type"] == "extra_forbidden"


# -- sizes ----------------------------------------------------------------------------------------

URL = "/api/resources"


@pytest.mark.parametrize("announced", [True, False])
def test_large_bodies_are_refused(client: TestClient, announced: bool) -> None:  # noqa: FBT001
    body = b'{"name": "' + b"x" * MAX_BODY + b'"}'
    parts = (body[start : start + 1_000] for start in range(0, len(body), 1_000))
    headers = {"content-type": "application/json"}
    response = client.post(URL, content=body if announced else parts, headers=headers)
    assert response.status_code == 413
    assert response.json() == {"detail": "a body may have 131,072 bytes"}


def test_the_largest_valid_body_is_taken(client: TestClient) -> None:
    """Each character as it is longest in JSON: two escapes."""
    escaped = "\\ud83d\\ude00"
    name, description = escaped * 200, escaped * 10_000
    body = f'{{"name": "{name}", "description": "{description}", "owner_id": 3}}'
    response = client.post(URL, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 201, response.text


@pytest.mark.parametrize(
    ("method", "url", "body"),
    [
        ("POST", URL, {"name": "x" * 201, "owner_id": 3}),
        ("POST", URL, {"name": "x", "owner_id": 3, "description": "x" * 10_001}),
        ("POST", URL, {"name": "x", "owner_id": 10**30}),
        ("POST", f"{URL}/process", {"ids": list(range(1, MAX_PAGE_SIZE + 2))}),
        ("GET", f"{URL}?page_size={MAX_PAGE_SIZE + 1}", None),
        ("GET", f"{URL}?page=1000001", None),
        ("GET", f"{URL}?sort_by={'x' * 65}", None),
        ("GET", f"{URL}/after?page_size={MAX_PAGE_SIZE + 1}", None),
        ("GET", f"{URL}/{10**30}", None),
        ("GET", f"/api/users/by-email?email={'x' * 321}", None),
    ],
)
def test_what_is_too_long_is_refused(client: TestClient, method: str, url: str, body: Any) -> None:
    assert client.request(method, url, json=body).status_code == 422


def test_deep_json_is_refused(client: TestClient) -> None:
    body = "[" * 30_000 + "]" * 30_000
    response = client.post(URL, content=body, headers={"content-type": "application/json"})
    assert response.status_code in {400, 422}


# -- secrets --------------------------------------------------------------------------------------

SECRET = "geheim"  # noqa: S105 - a word to look for
SETTINGS: dict[str, Any] = {
    "database_url": f"postgresql+psycopg://me:{SECRET}@host:5432/db?sslpassword={SECRET}",
    "redis_url": f"redis://:{SECRET}@host/0",
    "broker_url": f"amqp://me:{SECRET}@host//",
    "result_backend": f"redis://:{SECRET}@host/1",
    "webhook_url": f"https://hooks.example.com/{SECRET}?token={SECRET}#{SECRET}",
}


def test_settings_do_not_show_passwords() -> None:
    settings = Settings(**SETTINGS)
    assert settings.webhook_url == SETTINGS["webhook_url"]
    for shown in (repr(settings), str(settings), f"{settings}"):
        assert "host" in shown
        assert SECRET not in shown


@pytest.mark.parametrize("url", [f"redis://[{SECRET}", f"{SECRET}", "sqlite:///file.db"])
def test_what_is_no_url_with_a_host_is_not_shown_either(url: str) -> None:
    assert SECRET not in redacted(url) or "://" not in url


def test_settings_that_cannot_be_read_do_not_show_what_was_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SAMPLE_APP_POOL_SIZE", SETTINGS["redis_url"])
    with pytest.raises(ValueError, match="pool_size") as raised:
        Settings()
    assert SECRET not in str(raised.value)


def test_errors_of_the_database_do_not_show_what_was_entered(database: Database) -> None:
    with database.engine.connect() as connection, pytest.raises(SQLAlchemyError) as raised:
        connection.execute(text("SELECT * FROM nowhere WHERE name = :name"), {"name": SECRET})
    assert SECRET not in str(raised.value)


def test_the_address_of_the_webhook_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), running() as webhook:
        high_priority.post(f"{webhook.url}?token={SECRET}", {}, 5)
        assert len(webhook.received) == 1
    assert SECRET not in caplog.text


def test_refusals_do_not_echo_what_was_sent(client: TestClient) -> None:
    response = client.post(URL, json={"name": {"password": SECRET}, "owner_id": SECRET})
    assert response.status_code == 422
    assert SECRET not in response.text


# -- defaults -------------------------------------------------------------------------------------


def test_nothing_that_helps_developers_is_on_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PROFILING", "TRAPS"):
        monkeypatch.delenv(f"SAMPLE_APP_{name}", raising=False)
    settings = Settings()
    assert not settings.profiling
    assert not settings.traps
    assert not create_app(settings).debug


def test_what_breaks_is_told_without_details(settings: Settings, isolated: Database) -> None:
    app = create_app(settings, isolated)

    async def broken() -> None:
        raise ValueError(SECRET)

    app.add_api_route("/broken", broken)
    with TestClient(app, raise_server_exceptions=False) as client:
        response = client.get("/broken")
    assert (response.status_code, response.text) == (500, "Internal Server Error")


def test_the_program_listens_on_this_machine_alone_by_default() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sample_app", "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=PACKAGE.parent,
    )
    assert "(127.0.0.1)" in done.stdout
