from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn
from unittest.mock import MagicMock

import pytest

from pytest_perfguard.errors import MissingExtraError
from pytest_perfguard.probes.resident import Limit, Resident, UnreadableError, group_limits

MIB = 2**20


def limits(tmp_path: Path, membership: str, files: dict[str, str]) -> list[Limit]:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cgroup").write_text(membership)
    for name, text in files.items():
        file = tmp_path / "groups" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return list(group_limits(tmp_path / "proc", tmp_path / "groups"))


def test_the_limits_of_version_2_are_found_up_to_the_root(tmp_path: Path) -> None:
    found = limits(
        tmp_path,
        "0::/a.slice/b.scope\n",
        {
            "a.slice/b.scope/memory.max": "max\n",
            "a.slice/memory.max": "1048576\n",
            "memory.max": "2097152\n",
        },
    )
    assert found == [
        Limit(MIB, "memory.max of the control group /a.slice"),
        Limit(2 * MIB, "memory.max of the control group /"),
    ]


def test_the_limits_of_version_1_are_those_of_its_memory_controller(tmp_path: Path) -> None:
    found = limits(
        tmp_path,
        "9:name=systemd:/\n5:cpu,memory:/docker/abc\n3:cpuset:/docker/other\n",
        {
            "memory/docker/abc/memory.limit_in_bytes": "1048576\n",
            "memory/memory.limit_in_bytes": "9223372036854771712\n",
            "cpuset/docker/other/memory.limit_in_bytes": "1\n",
        },
    )
    assert found == [
        Limit(MIB, "memory.limit_in_bytes of the control group /docker/abc"),
        Limit(9223372036854771712, "memory.limit_in_bytes of the control group /"),
    ]


def test_a_path_of_the_host_gives_the_group_that_the_container_sees(tmp_path: Path) -> None:
    found = limits(tmp_path, "0::/../../host/abc\n", {"memory.max": "1048576"})
    assert found == [Limit(MIB, "memory.max of the control group /")]


@pytest.mark.parametrize("membership", ["", "nonsense", "1:memory", "0::/a\n"])
def test_without_a_group_or_a_file_there_is_no_limit(tmp_path: Path, membership: str) -> None:
    assert limits(tmp_path, membership, {}) == []


def test_without_a_list_of_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert list(group_limits(tmp_path, tmp_path)) == []


def test_the_limit_of_this_process_is_at_most_the_memory_of_the_machine() -> None:
    psutil = pytest.importorskip("psutil")
    limit = Resident().limit()
    assert 0 < limit.size <= psutil.virtual_memory().total
    assert limit.what


def test_the_mark_sees_what_is_given_back_and_can_be_set_back() -> None:
    pytest.importorskip("psutil")
    resident = Resident()
    if not resident.has_mark:
        pytest.skip("the kernel keeps no mark here that this process may set back")
    assert resident.reset()
    before = resident.highest()
    del_me = b"x" * (64 * MIB)
    del del_me
    assert resident.highest() - before > 50 * MIB
    assert resident.now() - before < 40 * MIB
    assert resident.reset()
    assert resident.highest() - before < 40 * MIB


def test_a_missing_psutil_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(MissingExtraError, match=r"psutil is not installed: .* extra \[process\]"):
        Resident()


def broken(*_: object, **__: object) -> NoReturn:
    raise PermissionError("no file\nfor you")


def test_memory_that_cannot_be_read_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    psutil = pytest.importorskip("psutil")
    resident = Resident()
    with monkeypatch.context() as replaced:
        replaced.setattr(psutil.Process, "memory_info", broken)
        says = r"could not be read \(PermissionError: no file for you\): .* do not replace open\(\)"
        with pytest.raises(UnreadableError, match=says):
            resident.now()
        with pytest.raises(UnreadableError, match=says):
            Resident()
    assert resident.now() > 0
    for name in ("Process", "virtual_memory"):
        with monkeypatch.context() as replaced:
            replaced.setattr(psutil, name, MagicMock())
            with pytest.raises(UnreadableError, match="TypeError: <MagicMock"):
                Resident()


@pytest.mark.parametrize("error", [PermissionError, RuntimeError])
def test_a_mark_that_cannot_be_read_is_none(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    pytest.importorskip("psutil")
    resident = Resident()

    def fails(*_: object, **__: object) -> NoReturn:
        raise error

    monkeypatch.setattr(Path, "read_text", fails)
    assert resident.highest() == 0
    monkeypatch.setattr(Path, "write_text", fails)
    assert not resident.reset()
    assert resident.limit().size > 0
