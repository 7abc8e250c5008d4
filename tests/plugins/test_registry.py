"""The one place where names become options: what it finds, and how it says that a plugin is wrong."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.contract import MachineFacts, ModelConfig, Query
from harness.contract.registry import BUILT_IN, Registry
from harness.errors import UsageError
from harness.suite.variant import AXES

HEAD = "from harness.contract import Option, hookimpl\n"
OPTION = 'Option("selector", "{name}", factory=lambda: "{name}", summary="test")'

Plugin = Callable[..., str]


def offering(*names: str) -> str:
    """Source of a plugin that adds selectors of these names."""
    options = ", ".join(OPTION.format(name=name) for name in names)
    return f"{HEAD}@hookimpl\ndef harness_options():\n    return [{options}]\n"


@pytest.fixture
def plugin(tmp_path: Path) -> Plugin:
    """Write a plugin file and return its path."""

    def write(source: str, name: str = "plugin.py") -> str:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)
        return str(path)

    return write


def error_of(*plugins: str) -> str:
    with pytest.raises(UsageError) as caught:
        Registry(plugins, entry_points=False)
    return str(caught.value)


# --- what is found -------------------------------------------------------------------------------------


def test_a_plugin_file_adds_its_options_and_names_itself_as_their_source(plugin: Plugin) -> None:
    path = plugin(offering("near", "far"))
    registry = Registry([path], entry_points=False)
    assert registry.option("selector", "far").load() == "far"
    assert registry.source("selector", "far") == path
    assert [option.name for option in registry.options("selector")][-2:] == ["near", "far"]


def test_two_plugins_with_one_file_name_live_side_by_side_and_name_their_own_attributes(plugin: Plugin) -> None:
    def naming_itself(name: str) -> str:
        option = f'Option("selector", "{name}", factory=f"{{__name__}}:built", summary="")'
        return f'{HEAD}built = "{name}"\n@hookimpl\ndef harness_options():\n    return [{option}]\n'

    first, second = plugin(naming_itself("near"), "a/plugin.py"), plugin(naming_itself("far"), "b/plugin.py")
    registry = Registry([first, second], entry_points=False)
    assert registry.source("selector", "near") == first
    assert registry.source("selector", "far") == second
    assert [registry.option("selector", name).load() for name in ("near", "far")] == ["near", "far"]


def test_a_module_on_the_path_is_a_plugin(plugin: Plugin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(plugin(offering("near"), "near_plugin.py")).parent)
    assert Registry(["near_plugin"], entry_points=False).source("selector", "near") == "near_plugin"
    sys.modules.pop("near_plugin")


def test_an_installed_entry_point_is_a_plugin(plugin: Plugin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(plugin(offering("near"), "installed_plugin.py")).parent)
    point = importlib.metadata.EntryPoint("near-plugin", "installed_plugin", "harness.plugins")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point] if group == point.group else [])
    assert Registry().source("selector", "near") == "near-plugin"
    with pytest.raises(UsageError, match="is already there under another name"):
        Registry(["installed_plugin"])
    sys.modules.pop("installed_plugin")


def test_built_ins_come_through_the_same_door() -> None:
    registry = Registry(entry_points=False)
    for axis in AXES:
        assert all(registry.source(axis, option.name) in BUILT_IN for option in registry.options(axis))
    assert registry.options("engine")


# --- names that are wrong ------------------------------------------------------------------------------


def test_an_option_that_is_taken_is_an_error(plugin: Plugin) -> None:
    first, second = plugin(offering("near"), "first.py"), plugin(offering("near"), "second.py")
    assert error_of(first, second) == f"plugin {second!r} adds selector=near, which {first!r} already adds"


def test_an_option_that_a_built_in_has_is_an_error(plugin: Plugin) -> None:
    source = HEAD + '@hookimpl\ndef harness_options():\n    return [Option("engine", "hf", "a:b", "")]\n'
    assert "adds engine=hf, which 'harness_plugins.hf' already adds" in error_of(plugin(source))


def test_unknown_names_are_errors_with_the_nearest_one(plugin: Plugin) -> None:
    registry = Registry([plugin(offering("near", "far"))], entry_points=False)
    with pytest.raises(UsageError, match=r"^s\.yaml:3: unknown selector 'neat'; did you mean 'near'\? allowed: .*far"):
        registry.option("selector", "neat", where="s.yaml:3")
    with pytest.raises(UsageError, match=r"unknown axis 'selectr'; did you mean 'selector'\?"):
        registry.option("selectr", "near")
    with pytest.raises(UsageError, match="unknown axis 'selectr'"):
        registry.variant({"selectr": "near"})
    with pytest.raises(UsageError, match=r"unknown engine 'hff'; did you mean 'hf'\?"):
        registry.variant({"engine": "hff"})


def test_an_engine_without_a_default_for_an_axis_wants_it_named(plugin: Plugin) -> None:
    source = HEAD + '@hookimpl\ndef harness_options():\n    return [Option("engine", "bare", "a:b", "")]\n'
    with pytest.raises(UsageError, match="form must be named: engine 'bare' has no default for it"):
        Registry([plugin(source)], entry_points=False).variant({"engine": "bare"})


def test_an_option_on_an_unknown_axis_is_an_error(plugin: Plugin) -> None:
    message = error_of(plugin(offering("near").replace('"selector"', '"selectors"')))
    assert "unknown axis 'selectors'; did you mean 'selector'?" in message


# --- hooks that are wrong ------------------------------------------------------------------------------


def test_a_misspelt_hook_is_an_error(plugin: Plugin) -> None:
    message = error_of(plugin(HEAD + "@hookimpl\ndef harness_option():\n    return []\n"))
    assert "unknown hook 'harness_option'; did you mean 'harness_options'?" in message


def test_a_hook_without_its_mark_is_an_error(plugin: Plugin) -> None:
    message = error_of(plugin("def harness_options():\n    return []\n"))
    assert "harness_options is not decorated with harness.contract.hookimpl" in message


def test_a_hook_with_wrong_arguments_is_an_error(plugin: Plugin) -> None:
    path = plugin(HEAD + "@hookimpl\ndef harness_wrap_cell(cells):\n    ...\n")
    message = error_of(path)
    assert message.startswith(f"plugin {path!r}: hookimpl definition: harness_wrap_cell(cells)")
    assert "{'cells'} are declared in the hookimpl but can not be found in the hookspec" in message


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ('return ["near"]', "harness_options returned 'near'; allowed: Option"),
        ("return 1 / 0", "fails in harness_options: ZeroDivisionError: division by zero"),
        ("return None", "fails in harness_options: TypeError"),
    ],
)
def test_a_hook_that_fails_or_returns_something_else_is_an_error(plugin: Plugin, body: str, text: str) -> None:
    assert text in error_of(plugin(f"{HEAD}@hookimpl\ndef harness_options():\n    {body}\n"))


# --- plugins that do not load --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "line", "text"),
    [
        ("import os\n\nimport no_such_module\n", 3, "ModuleNotFoundError: No module named 'no_such_module'"),
        ("x = 1\nx +\n", 2, "SyntaxError: invalid syntax"),
        ("import sys\nsys.exit('no')\n", 2, "SystemExit: no"),
        ("def f():\n    return {}['key']\n\nf()\n", 2, "KeyError: 'key'"),
    ],
)
def test_a_plugin_that_fails_at_import_names_file_and_line(plugin: Plugin, source: str, line: int, text: str) -> None:
    path = plugin(source)
    assert error_of(path) == f"{path}:{line}: plugin file {path!r} fails at import: {text}"


def test_a_relative_plugin_file_keeps_its_name_in_the_message(plugin: Plugin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(plugin("1 / 0\n")).parent)
    assert error_of("plugin.py").startswith("plugin.py:1: plugin file 'plugin.py' fails at import: ZeroDivisionError")


def test_a_module_that_fails_at_import_names_file_and_line(plugin: Plugin, monkeypatch: pytest.MonkeyPatch) -> None:
    path = plugin("x = 1\n1 / 0\n", "broken_plugin.py")
    monkeypatch.syspath_prepend(Path(path).parent)
    assert error_of("broken_plugin").startswith(f"{path}:2: plugin 'broken_plugin' fails at import: ZeroDivisionError")
    assert "No module named 'brokn_plugin'" in error_of("brokn_plugin")


def test_an_entry_point_that_fails_at_import_is_named(plugin: Plugin, monkeypatch: pytest.MonkeyPatch) -> None:
    path = plugin("1 / 0\n", "broken_installed.py")
    monkeypatch.syspath_prepend(Path(path).parent)
    point = importlib.metadata.EntryPoint("broken", "broken_installed", "harness.plugins")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point])
    with pytest.raises(
        UsageError, match=r"broken_installed\.py:1: plugin 'broken' \(broken_installed\) fails at import"
    ):
        Registry()


def test_a_plugin_file_that_does_not_exist_is_an_error() -> None:
    assert error_of("no/such/plugin.py") == "plugin file 'no/such/plugin.py' does not exist"


def test_a_plugin_given_twice_is_an_error(plugin: Plugin) -> None:
    path = plugin(offering("near"))
    assert error_of(path, path) == f"plugin {path!r} is given twice"


# --- reasons -------------------------------------------------------------------------------------------


def test_reasons_of_all_options_are_collected_once(plugin: Plugin) -> None:
    reason = "'this selector needs a GPU', 'a second reason'"
    source = offering("near").replace('summary="test"', f'summary="", unsupported=lambda query: [{reason}]')
    registry = Registry([plugin(source)], entry_points=False)
    config = ModelConfig("deepseek_v3", 8, 8, 8, 1, 1, 8, 8, 8, 8, 8, mlp_layer_types=("dense",))
    facts = MachineFacts("Linux", "x86_64", "cpu", 1, 1, "cpu")
    variant = registry.variant({"engine": "hf", "selector": "near", "precision": "fp32"})
    reasons = registry.unsupported(Query(variant, config, facts))
    assert reasons[0].startswith("hf takes selector dense, dsa, not near")
    assert reasons[1:] == ["this selector needs a GPU", "a second reason"]
