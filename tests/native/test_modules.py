"""The list of modules that are compiled is whole, and none of them needs what mypyc cannot do."""

from __future__ import annotations

import ast
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "alto"
sys.path.insert(0, str(ROOT / "tools"))
import native  # noqa: E402


def test_every_module_of_the_core_is_compiled_or_has_a_reason_not_to_be() -> None:
    there = {path.stem for path in (SOURCE / "core").glob("*.py")} - {"__init__"}
    assert there == {*native.CORE, *native.INTERPRETED}
    assert not set(native.CORE) & set(native.INTERPRETED)


@pytest.mark.parametrize("name", native.MODULES)
def test_a_compiled_module_waits_for_nothing_and_derives_from_no_builtin(name: str) -> None:
    tree = ast.parse((SOURCE / name).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        assert not isinstance(node, ast.AsyncFunctionDef), "a coroutine loses tracebacks, compiled"
        if isinstance(node, ast.ClassDef):
            bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
            assert not bases & {"str", "int", "float", "list", "dict", "tuple", "set"}
            methods = {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
            assert not (bases and "__call__" in methods), "it would move the fields of its base"


def test_what_is_built_depends_on_every_source(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "src" / "alto"
    package.mkdir(parents=True)
    (package / "one.py").write_text("x = 1\n")
    monkeypatch.setattr(native, "ROOT", tmp_path)
    monkeypatch.setattr(native, "SOURCE", package)
    monkeypatch.setattr(native, "__file__", str(tmp_path / "native.py"))
    (tmp_path / "native.py").write_text("")
    first = native.key()
    assert native.key() == first
    (package / "one.py").write_text("x = 2\n")
    assert native.key() != first


def test_a_machine_without_a_compiler_is_told_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setenv("ALTO_CACHE_DIR", str(tmp_path))
    with pytest.raises(native.NativeError, match=r"this machine lacks .*no-such-compiler on PATH"):
        native.built()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("asked", "wish"), [(None, "may"), ("", "may"), ("auto", "may"), ("1", "must"), ("0", "never")]
)
def test_a_variable_says_whether_an_installation_is_compiled(
    monkeypatch: pytest.MonkeyPatch, asked: str | None, wish: str
) -> None:
    monkeypatch.delenv("ALTO_COMPILE", raising=False)
    if asked is not None:
        monkeypatch.setenv("ALTO_COMPILE", asked)
    assert native.wish() == wish


def test_another_value_of_that_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALTO_COMPILE", "yes")
    expected = r"ALTO_COMPILE='yes': expected 1 \(compile, or fail\), 0 \(plain Python\) or auto"
    with pytest.raises(native.NativeError, match=expected):
        native.wish()


def test_an_interpreter_that_mypyc_does_not_know_is_not_compiled_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        native.sysconfig, "get_config_var", lambda name: 1 if name == "Py_GIL_DISABLED" else None
    )
    assert "a CPython with its global lock" in str(native.missing_compiler())


def test_old_builds_are_forgotten_and_the_newest_stay(tmp_path: Path) -> None:
    for age in range(6):
        folder = tmp_path / f"native-{age}"
        folder.mkdir()
        os.utime(folder, (1000 - age, 1000 - age))
    native.forget_old(tmp_path / "native-5")
    assert {each.name for each in tmp_path.iterdir()} == {"native-0", "native-1", "native-5"}
