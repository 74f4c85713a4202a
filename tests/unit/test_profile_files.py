from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_perfguard.cli import main
from pytest_perfguard.errors import ProfileFileError
from pytest_perfguard.profile_files import read_profile, write_profile
from pytest_perfguard.reports.speedscope import speedscope
from pytest_perfguard.stacks import PROFILE_SCHEMA, Frame
from tests.unit.drawings import read
from tests.unit.profiles import library, profile, user

_SERIALIZE = user("serialize", 31)
_DUMPS = library("dumps", file="json/__init__.py")
_BASE = profile(((_SERIALIZE, _DUMPS), 0.1), notes=["3 rounds"])
_HEAD = profile(((_SERIALIZE, _DUMPS), 0.138))
# A session as pyinstrument saves it, as far as it is read.
_SESSION: dict[str, Any] = {
    "duration": 0.5,
    "frame_records": [
        [
            [
                "MainThread\x00<thread>\x00140204179581824",
                "view\x00/srv/shop/app/api.py\x003\x01cResources\x01l7",
                "dumps\x00/usr/lib/python3.12/json/__init__.py\x00183\x01l231",
            ],
            0.25,
        ],
        [
            [
                "get\x00C:\\py\\Lib\\site-packages\\sqlalchemy\\orm\\session.py\x001",
                "sort\x00<built-in>\x000",
            ],
            0.125,
        ],
    ],
}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    write_profile(_BASE, tmp_path / "base.json")
    return tmp_path / "base.json"


@pytest.fixture
def head(tmp_path: Path) -> Path:
    write_profile(_HEAD, tmp_path / "head.json")
    return tmp_path / "head.json"


def test_what_is_written_is_read(base: Path) -> None:
    assert read_profile(base) == _BASE


def test_a_session_of_pyinstrument_is_read(tmp_path: Path) -> None:
    path = tmp_path / "slow.pyisession"
    path.write_text(json.dumps(_SESSION))
    found = read_profile(path)
    assert (found.name, found.seconds) == ("slow", 0.5)
    assert [(stack.frames, stack.seconds) for stack in found.stacks] == [
        (
            (
                Frame("Resources.view", "/srv/shop/app/api.py", 7, user=True),
                Frame("dumps", "json/__init__.py", 231, user=False),
            ),
            0.25,
        ),
        (
            (
                Frame("get", "sqlalchemy/orm/session.py", 1, user=False),
                Frame("sort", "<built-in>", 0, user=False),
            ),
            0.125,
        ),
    ]


def test_files_below_the_current_folder_are_shown_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here = f"view\x00{Path.cwd().as_posix()}/app/api.py\x003"
    path = tmp_path / "s.pyisession"
    path.write_text(json.dumps({"duration": 1, "frame_records": [[[here], 1]]}))
    assert read_profile(path).stacks[0].frames == (Frame("view", "app/api.py", 3, user=True),)


def test_a_real_session_is_read(tmp_path: Path) -> None:
    pyinstrument = pytest.importorskip("pyinstrument")
    profiler = pyinstrument.Profiler(interval=0.0001)
    with profiler:
        json.dumps([list(range(100))] * 2000, indent=1)
    profiler.last_session.save(tmp_path / "s.pyisession")
    found = read_profile(tmp_path / "s.pyisession")
    (hot,) = found.hottest(1)
    assert hot.frame.function == "test_a_real_session_is_read"
    assert hot.share > 0.5


def test_a_file_of_speedscope_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.speedscope.json"
    path.write_text(speedscope(_BASE), encoding="utf-8")
    found = read_profile(path)
    assert found.name == "GET /"
    assert [frame.name for frame in found.stacks[0].frames] == ["serialize", "json.dumps"]
    assert found.seconds == 0.1


def test_units_of_speedscope_become_seconds(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(speedscope(_BASE).replace('"seconds"', '"milliseconds"'), encoding="utf-8")
    assert read_profile(path).seconds == pytest.approx(0.0001)


_WRITTEN = json.dumps(_BASE.to_dict())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory: check the path, or write it again"),
        (_WRITTEN[:-9], "is not JSON: .*it was cut off, or is something else; write it again"),
        ("", "is not JSON"),
        ("\xff\xfe", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "is not a profile: a profile of perfguard, a session of pyinstrument or a file"),
        ('{"records": []}', "is not a profile"),
        (
            _WRITTEN.replace(f'"schema": {PROFILE_SCHEMA}', '"schema": 99'),
            "has schema 99, this version reads up to 1: update pytest-perfguard, or write it",
        ),
        (
            _WRITTEN.replace(f'"schema": {PROFILE_SCHEMA}', '"schema": "x"'),
            r"has schema 'x', this version reads 1: write it again",
        ),
        (_WRITTEN.replace('"stacks": ', '"stack": '), "is a broken profile .KeyError: 'stacks'"),
        (_WRITTEN.replace("0.1, [", "-0.1, ["), "is a broken profile .ValueError: -0.1 is not a"),
        (_WRITTEN.replace("0.1, [", "NaN, ["), "is a broken profile .ValueError: nan is not a"),
        (_WRITTEN.replace("0.1, [1, 0]", "0.1, [1, 7]"), "is a broken profile"),
        ('{"frame_records": [[["f"], 1]], "duration": 1}', "is a broken profile"),
        ('{"frame_records": 3}', "is a broken profile"),
        ('{"shared": {"frames": []}, "profiles": [{}]}', "is a broken profile"),
        (
            '{"shared": {"frames": []}, "profiles": [{"type": "evented", "unit": "seconds"}]}',
            "evented in seconds where samples in seconds are needed",
        ),
    ],
)
def test_what_cannot_be_read_is_told_with_a_remedy(
    content: str | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "other.json"
    if content is not None:
        path.write_text(content, encoding="latin-1")
    with pytest.raises(ProfileFileError, match=message) as caught:
        read_profile(path)
    assert str(caught.value).startswith(f"{path} ")


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    tmp_path.joinpath("file").write_text("")
    with pytest.raises(ProfileFileError, match=r"cannot be written: .*: name another place"):
        write_profile(_BASE, tmp_path / "file" / "base.json")


def test_flamediff_prints_the_movers_and_draws_a_picture(
    base: Path, head: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = base.parent / "new" / "diff.svg"
    assert main(["flamediff", str(base), str(head), "-o", str(picture)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "100 ms became 138 ms: +38 ms, +38 %.",
        "  +38 ms in `json.dumps` under `serialize`",
        "base: 3 rounds",
        f"picture: {picture}",
    ]
    assert read(picture.read_text("utf-8")).named("json.dumps").kind == "g3"


def test_flamediff_of_the_same_says_so_and_writes_where_it_says(
    base: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(base.parent)
    assert main(["flamediff", "base.json", "base.json", "--normalised"]) == 0
    assert "  nothing moved" in capsys.readouterr().out.splitlines()
    drawing = read(base.with_name("flamediff.svg").read_text("utf-8"))
    assert "Colours: change in share of time (normalised)." in drawing.head


@pytest.mark.parametrize("arguments", [[], ["a"], ["a", "b", "c"], ["a", "b", "--top=x"]])
def test_wrong_arguments_are_wrong_usage(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["flamediff", *arguments])
    assert caught.value.code == 2


def test_a_file_that_cannot_be_used_is_a_fault(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["flamediff", str(base), "missing.json"]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("perfguard: missing.json cannot be read: ")
