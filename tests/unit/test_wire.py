from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from pytest_perfguard.wire import Wire, WireClosed, WireSilent


@pytest.fixture
def ends() -> Iterator[tuple[Wire, socket.socket]]:
    ours, theirs = socket.socketpair()
    wire = Wire(ours)
    yield wire, theirs
    wire.close()
    theirs.close()


def test_messages_arrive_one_by_one_however_they_are_cut(ends: tuple[Wire, socket.socket]) -> None:
    wire, other = ends
    other.sendall(b'{"did": "arr')
    other.sendall(b'ive"}\n{"did": "end"}\n{"did"')

    assert wire.receive(5) == {"did": "arrive"}
    assert wire.has_message()
    assert wire.receive() == {"did": "end"}
    assert not wire.has_message()


def test_both_ends_speak_alike(ends: tuple[Wire, socket.socket]) -> None:
    wire, other = ends
    Wire(other).send(do="run", calls=3, name="line\nbreak … ü")

    assert wire.receive(5) == {"do": "run", "calls": 3, "name": "line\nbreak … ü"}


def test_silence_is_not_waited_out(ends: tuple[Wire, socket.socket]) -> None:
    with pytest.raises(WireSilent):
        ends[0].receive(0.001)


def test_the_end_of_the_other_process_is_noticed(ends: tuple[Wire, socket.socket]) -> None:
    wire, other = ends
    other.sendall(b'{"did": "half')
    other.close()

    with pytest.raises(WireClosed):
        wire.receive()
    with pytest.raises(WireClosed):
        wire.send(do="run")
