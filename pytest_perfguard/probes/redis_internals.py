"""The places in redis-py 5 to 8 that the cache probe has to know, each named once.

``execute_command`` and a pipeline's ``execute`` are public; the classes are wrapped, so clients
made before and after are seen alike, those of fakeredis too, which are subclasses. What is sent
passes ``send_packed_command`` of a connection, be it one command or a pipeline of many.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple


class Seam(NamedTuple):
    """A method to wrap.

    Attributes:
        role: ``command``, ``pipeline``, ``send``, or ``aside`` for what clients do on their own
            account.
    """

    owner: type
    method: str
    role: str
    is_async: bool


def seams() -> Iterator[Seam]:
    """Yield every method to wrap that this version of redis-py has."""
    with warnings.catch_warnings():
        # What redis-py has to say of itself is not the measured test's affair.
        warnings.simplefilter("ignore")
        from redis import _parsers, client, cluster, connection, sentinel  # noqa: PLC0415 - optional
        from redis.asyncio import client as async_client  # noqa: PLC0415
        from redis.asyncio import cluster as async_cluster  # noqa: PLC0415
        from redis.asyncio import connection as async_connection  # noqa: PLC0415
        from redis.asyncio import sentinel as async_sentinel  # noqa: PLC0415

    for is_async, clients, clusters, connections, sentinels, parser in (
        (False, client, cluster, connection, sentinel, _parsers.CommandsParser),
        (
            True,
            async_client,
            async_cluster,
            async_connection,
            async_sentinel,
            _parsers.AsyncCommandsParser,
        ),
    ):
        # The inner one, where there are two; neither is called while a connection is open.
        on_connect = (
            "on_connect_check_health"
            if hasattr(connections.AbstractConnection, "on_connect_check_health")
            else "on_connect"
        )
        for owner, method, role in (
            (clients.Redis, "execute_command", "command"),
            (clients.Pipeline, "immediate_execute_command", "command"),
            (clients.Pipeline, "execute", "pipeline"),
            (clusters.RedisCluster, "execute_command", "command"),
            (clusters.ClusterPipeline, "execute", "pipeline"),
            (connections.AbstractConnection, "send_packed_command", "send"),
            # What follows a connect (AUTH, SELECT, ...) is no round trip of the command's, nor is
            # asking where a server is, or loading scripts that a server happens not to know yet.
            (connections.AbstractConnection, on_connect, "aside"),
            (connections.AbstractConnection, "_send_ping", "aside"),
            (clusters.RedisCluster, "on_connect", "aside"),
            (sentinels.SentinelManagedConnection, "connect", "aside"),
            (clusters.NodesManager, "initialize", "aside"),
            (parser, "initialize", "aside"),
            (parser, "get_keys", "aside"),
            (clients.Pipeline, "load_scripts", "aside"),
        ):
            if callable(vars(owner).get(method)):
                yield Seam(owner, method, role, is_async)


def queued(pipeline: Any) -> list[Sequence[Any]]:
    """Return the commands that a pipeline holds, each as its words."""
    strategy = getattr(pipeline, "_execution_strategy", None)
    stack = next(
        (
            held
            for owner, name in (
                (strategy, "_command_queue"),
                (pipeline, "command_stack"),
                (pipeline, "_command_stack"),
            )
            if (held := getattr(owner, name, None))
        ),
        (),
    )
    return [item[0] if isinstance(item, tuple) else item.args for item in list(stack)]
