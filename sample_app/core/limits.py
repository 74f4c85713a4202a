"""How much a client may send: a body that is larger is refused before all of it is there."""

from __future__ import annotations

from typing import Final

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.status import HTTP_413_CONTENT_TOO_LARGE
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY: Final = 128 * 1024
"""Bytes: a description of 10,000 characters, each of them escaped as two, takes 120,000."""

_TOO_LARGE: Final = f"a body may have {MAX_BODY:,} bytes"


class BodyLimit:
    """Refuses bodies that are too large, whether they say so beforehand or not.

    The server reads on what is sent, so a client that is refused can read why.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > MAX_BODY:
            refusal = JSONResponse({"detail": _TOO_LARGE}, HTTP_413_CONTENT_TOO_LARGE)
            await refusal(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_BODY:
                # The application answers by it as by an exception of an endpoint's own.
                raise HTTPException(HTTP_413_CONTENT_TOO_LARGE, _TOO_LARGE)
            return message

        await self._app(scope, counted, send)
