from __future__ import annotations

import json
import subprocess
import sys

import pytest

import pytest_perfguard

_LAZY = (
    "sqlalchemy",
    "redis",
    "httpx",
    "httpx2",
    "pyinstrument",
    "psutil",
    "jinja2",
    "celery",
    "kombu",
    "locust",
    "gevent",
)


def _as_sorted_by_linters(name: str) -> tuple[int, str]:
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


def test_the_public_names_are_sorted() -> None:
    assert pytest_perfguard.__all__ == sorted(pytest_perfguard.__all__, key=_as_sorted_by_linters)


@pytest.mark.parametrize("name", pytest_perfguard.__all__)
def test_every_public_name_can_be_imported_and_is_listed(name: str) -> None:
    value = getattr(pytest_perfguard, name)
    assert name in dir(pytest_perfguard)
    if isinstance(value, type):
        assert value.__name__ == name
        assert value.__doc__
    exec(f"from pytest_perfguard import {name}")  # noqa: S102 - the import statement is tested


def test_every_error_is_public_and_of_one_family() -> None:
    from pytest_perfguard import errors

    own = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert own <= set(pytest_perfguard.__all__)
    for name in own:
        assert issubclass(getattr(errors, name), pytest_perfguard.PerfguardError)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'pytest_perfguard' has no attribute 'nothing'"):
        pytest_perfguard.nothing  # noqa: B018 - the access is tested


def test_a_missing_extra_says_what_to_install() -> None:
    error = pytest_perfguard.MissingExtraError("sqlalchemy", "sql")
    assert str(error) == (
        "sqlalchemy is not installed: install pytest-perfguard with the extra [sql]"
    )
    assert error.name == "sqlalchemy"
    assert isinstance(error, ImportError)


def _modules_after(code: str) -> set[str]:
    code += "\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_plugin_module_loads_nothing_that_an_unmeasured_session_would_not_need() -> None:
    modules = _modules_after("import pytest_perfguard.plugin")
    assert not modules & set(_LAZY)
    assert {name for name in modules if name.startswith("pytest_perfguard")} == {
        "pytest_perfguard",
        "pytest_perfguard.errors",
        "pytest_perfguard.options",
        "pytest_perfguard.plugin",
    }


def test_the_package_itself_loads_none_of_its_modules() -> None:
    modules = _modules_after("import pytest_perfguard")
    assert {name for name in modules if name.startswith("pytest_perfguard")} == {"pytest_perfguard"}


def test_a_session_without_a_measured_test_loads_nothing_more(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        f"""
        import sys

        def test_it():
            assert not set(sys.modules) & set({_LAZY!r})
            loaded = {{name for name in sys.modules if name.startswith("pytest_perfguard.")}}
            assert loaded == {{f"pytest_perfguard.{{n}}" for n in ("errors", "options", "plugin")}}
        """
    )
    pytester.runpytest_subprocess("-p", "no:anyio", "-p", "no:hypothesispytest").assert_outcomes(
        passed=1
    )


def test_a_recorder_does_not_load_the_library_before_something_is_measured() -> None:
    modules = _modules_after("from pytest_perfguard import Recorder; Recorder()")
    assert not modules & set(_LAZY)
