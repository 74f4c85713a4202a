"""An engine that answers as Docker does, and whose containers are servers that run already.

testcontainers and docker-py talk to it as they talk to a real one: only what a container does is
not there.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Engine:
    """What the engine has, and what it has been asked.

    Attributes:
        images: those that can be had.
        port: of this machine, which each port of a container leads to.
    """

    images: set[str]
    port: int
    url: str = ""
    asked: list[str] = field(default_factory=list)
    created: list[dict[str, Any]] = field(default_factory=list)
    running: set[str] = field(default_factory=set)


def _answer(  # noqa: C901, PLR0911, PLR0912 - an answer for each request
    engine: Engine, method: str, path: str, body: Any
) -> tuple[int, Any]:
    path, _, query = path.partition("?")
    path = re.sub(r"^/v[\d.]+", "", path)
    engine.asked.append(f"{method} {path}")
    match method, path.strip("/").split("/"):
        case "GET", ["version"]:
            return 200, {"ApiVersion": "1.44", "Version": "25.0"}
        case "GET", ["images", *name, "json"]:
            found = "/".join(name) in engine.images
            return (200, {"Id": "sha256:1"}) if found else (404, {"message": "No such image"})
        case "POST", ["images", "create"]:
            return 404, {"message": f"manifest unknown: {query}"}
        case "POST", ["containers", "create"]:
            if body["Image"] not in engine.images:
                return 404, {"message": f"No such image: {body['Image']}"}
            engine.created.append(body)
            return 201, {"Id": f"c{len(engine.created)}"}
        case "POST", ["containers", name, "start"]:
            engine.running.add(name)
            return 204, None
        case "GET", ["containers", "json"]:
            bridge = {"bridge": {"Gateway": "127.0.0.1", "IPAddress": "127.0.0.1"}}
            return 200, [
                {
                    "Id": name,
                    "HostConfig": {"NetworkMode": "bridge"},
                    "NetworkSettings": {"Networks": bridge},
                }
                for name in engine.running
            ]
        case "GET", ["networks"]:
            return 200, []
        case "GET", ["containers", name, "json"]:
            ports = engine.created[int(name[1:]) - 1]["ExposedPorts"]
            leads = [{"HostIp": "127.0.0.1", "HostPort": str(engine.port)}]
            return 200, {
                "Id": name,
                "Name": f"/{name}",
                "State": {"Status": "running", "Running": True},
                "NetworkSettings": {"Ports": dict.fromkeys(ports, leads)},
                "Config": {},
            }
        case "POST", ["containers", _, "exec"]:
            return 201, {"Id": "e1"}
        case "POST", ["exec", _, "start"]:
            return 200, b""
        case "GET", ["exec", _, "json"]:
            return 200, {"ExitCode": 0, "Running": False}
        case "DELETE", ["containers", name]:
            engine.running.discard(name)
            return 204, None
        case _:
            return 500, {"message": f"nobody wrote an answer to {method} {path}"}


@contextmanager
def fake_docker(*images: str, port: int = 1) -> Iterator[Engine]:
    """Run the engine until the end of the block."""
    engine = Engine(set(images), port)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, answer = _answer(
                engine, self.command, self.path, json.loads(sent) if sent else None
            )
            raw = json.dumps(answer).encode() if isinstance(answer, dict | list) else b""
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            if isinstance(answer, bytes):
                # A stream, which ends with the connection.
                self.close_connection = True
            else:
                self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_POST = do_DELETE = _any  # noqa: N815 - as http.server calls them

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    engine.url = f"tcp://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield engine
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
