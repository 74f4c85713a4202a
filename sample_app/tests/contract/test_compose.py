"""The compose file: what a schema and a reader would ask of it, where no engine can start it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import sample_app
from sample_app.core.celery_app import HIGH_PRIORITY_QUEUE, MAIN_QUEUE
from sample_app.core.config import Settings

yaml = pytest.importorskip("yaml")

FILE = Path(sample_app.__file__).parent / "compose.yaml"
# What a service of ours may have, of what the specification knows.
KNOWN = {
    "build", "cap_drop", "command", "depends_on", "environment", "healthcheck", "image", "ports",
    "read_only", "restart", "security_opt", "tmpfs", "volumes",
}  # fmt: skip
CONDITIONS = {"service_healthy", "service_completed_successfully"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    known: dict[str, Any] = yaml.safe_load(FILE.read_text("utf-8"))
    return known


def test_its_structure(compose: dict[str, Any]) -> None:
    assert set(compose) == {"name", "x-service", "services", "volumes"}
    assert set(compose["services"]) == {
        "postgres", "redis", "rabbitmq", "setup", "app", "worker",
    }  # fmt: skip
    for name, service in compose["services"].items():
        assert set(service) <= KNOWN, name
        for volume in service.get("volumes", ()):
            assert volume.partition(":")[0] in compose["volumes"]


def test_every_image_is_of_one_version(compose: dict[str, Any]) -> None:
    images = {s["image"] for s in compose["services"].values() if "build" not in s}
    images |= set(
        re.findall(r"^FROM (\S+)", (FILE.parent / "Dockerfile").read_text(), re.MULTILINE)
    )
    assert len(images) == 4
    for image in images:
        assert re.fullmatch(r"[a-z/]+:\d+\.\d+(\.\d+)?(-\w+)?", image)


def test_what_is_waited_for_can_say_that_it_is_ready(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            assert how["condition"] in CONDITIONS, name
            if how["condition"] == "service_healthy":
                assert services[other]["healthcheck"]["test"][0].startswith("CMD")
        assert "healthcheck" in service or name == "setup"


def test_nothing_but_the_service_can_be_reached_and_only_from_here(compose: dict[str, Any]) -> None:
    ports = {name: service.get("ports") for name, service in compose["services"].items()}
    assert ports.pop("app") == ["127.0.0.1:8000:8000"]
    assert set(ports.values()) == {None}


def test_passwords_are_local_or_given() -> None:
    passwords = re.findall(r"(?:PASSWORD|PASS): (.*)|://\w+:(.*?)@", FILE.read_text("utf-8"))
    found = {one or other for one, other in passwords}
    assert found == {"${POSTGRES_PASSWORD:-local-only}", "${RABBITMQ_PASSWORD:-local-only}"}


def test_the_settings_are_those_of_the_service(
    compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for service in ("setup", "app", "worker"):
        for variable, value in compose["services"][service]["environment"].items():
            assert variable.removeprefix("SAMPLE_APP_").lower() in Settings.model_fields
            monkeypatch.setenv(variable, value)
    settings = Settings()
    hosts = (settings.database_url, settings.redis_url, settings.broker_url)
    assert [re.search(r"[@/](\w+):\d+", url or "").group(1) for url in hosts] == [  # type: ignore[union-attr]
        "postgres", "redis", "rabbitmq",
    ]  # fmt: skip
    assert f"{MAIN_QUEUE},{HIGH_PRIORITY_QUEUE}" in compose["services"]["worker"]["command"]


def test_docker_compose_can_read_it() -> None:
    docker = shutil.which("docker")
    if docker is None:
        pytest.skip("docker is not installed")
    version = [docker, "compose", "version"]
    if subprocess.run(version, capture_output=True, check=False).returncode:  # noqa: S603
        pytest.skip("docker has no compose plugin")
    done = subprocess.run(  # noqa: S603 - what the machine calls docker
        [docker, "compose", "--file", str(FILE), "config", "--quiet"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stderr
