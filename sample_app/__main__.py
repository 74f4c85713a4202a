"""``python -m sample_app``: the service on this machine, with data in it.

By default nothing else has to run: the database is a SQLite file, the cache is in the process, and
tasks run where they are asked for. ``SAMPLE_APP_*`` variables name real servers, as for
``uvicorn sample_app.main:app``, which is how it is run elsewhere.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from contextlib import suppress

import uvicorn

from sample_app.core.config import Settings, redacted
from sample_app.main import create_app
from sample_app.seed import prepare

logger = logging.getLogger("uvicorn.error")


def main(arguments: Sequence[str] | None = None) -> None:
    """Migrate the database, fill it if it is empty, and serve until it is stopped."""
    parser = argparse.ArgumentParser(prog="python -m sample_app", description=main.__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0 for any free one (%(default)s)")
    options = parser.parse_args(arguments)
    settings = Settings()
    filled = prepare(settings)
    config = uvicorn.Config(create_app(settings), host=options.host, port=options.port)
    logger.info(
        "%s %s; the docs are at /docs",
        "filled" if filled else "found data in",
        redacted(settings.database_url),
    )
    # By then it has shut down in order.
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run()


if __name__ == "__main__":
    main()
