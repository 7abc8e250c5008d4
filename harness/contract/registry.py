"""The one place where names become options. Built-ins and outside plugins come through the same door."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from harness.contract import hookspecs
from harness.contract.columns import Column
from harness.contract.facts import MachineFacts
from harness.contract.options import Option, Query
from harness.errors import UsageError, unknown
from harness.suite.variant import AXES, Variant

BUILT_IN = (
    "harness_plugins.native",
    "harness_plugins.eager",
    "harness_plugins.triton",
    "harness_plugins.torch_compile",
    "harness_plugins.scaled_mm",
    "harness_plugins.hf",
)
"""Modules of the installed plugins that ship with the project."""

ENTRY_POINT_GROUP = "harness.plugins"


class Registry:
    """Every option of every plugin, by axis and name, with where it came from."""

    def __init__(self, plugins: Sequence[str] = (), *, entry_points: bool = True) -> None:
        """Load built-ins, then entry points, then `plugins` (files or module names), in that order.

        Raises UsageError when a plugin fails at import, misspells a hook, or claims a name that is taken.
        """
        self.manager = pluggy.PluginManager("harness")
        self.manager.add_hookspecs(hookspecs)
        for name in BUILT_IN:
            self._register(importlib.import_module(name), name)
        if entry_points:
            self._register_entry_points()
        for plugin in plugins:
            self._register(_import_plugin(plugin), plugin)
        self._options: dict[str, dict[str, Option]] = {axis: {} for axis in AXES}
        self._sources: dict[tuple[str, str], str] = {}
        self._collect()

    # --- lookup ----------------------------------------------------------------------------------

    def option(self, axis: str, name: str, where: str | None = None) -> Option:
        """The option `name` of `axis`; UsageError with the nearest name when there is none."""
        if axis not in self._options:
            raise unknown("axis", axis, AXES, where)
        if name not in self._options[axis]:
            raise unknown(axis, name, self._options[axis], where)
        return self._options[axis][name]

    def options(self, axis: str) -> list[Option]:
        """All options of an axis, in the order in which they were registered."""
        return list(self._options[axis].values())

    def source(self, axis: str, name: str) -> str:
        """The plugin (module, entry point or file) that an option comes from."""
        return self._sources[axis, name]

    def variant(self, choices: Mapping[str, str], where: str | None = None) -> Variant:
        """Complete `choices` with the engine's defaults; UsageError for unknown axes and names."""
        for axis in choices:
            if axis not in AXES:
                raise unknown("axis", axis, AXES, where)
        engine = self.option("engine", choices.get("engine", "native"), where)
        completed = {"engine": engine.name, **engine.defaults, **choices}
        for axis in AXES:
            if axis not in completed:
                raise UsageError(f"{axis} must be named: engine {engine.name!r} has no default for it", where)
            self.option(axis, completed[axis], where)
        return Variant(**completed)

    def unsupported(self, query: Query) -> list[str]:
        """Every reason, from every option of the variant, why it cannot run; empty when it can."""
        reasons: list[str] = []
        for axis, name in query.variant.items():
            try:
                found = self.option(axis, name).unsupported(query)
            except Exception as error:
                what = f"plugin {self.source(axis, name)!r} fails in unsupported() of {axis}={name}: {_one_line(error)}"
                raise UsageError(what, _line_in(error)) from error
            reasons += [reason for reason in found if reason not in reasons]
        return reasons

    def environment(self, variant: Variant, facts: MachineFacts) -> dict[str, str]:
        """Variables that the variant's worker is started with. Raises UsageError when two options disagree."""
        given: dict[str, str] = {}
        for axis, name in variant.items():
            for variable, value in self.option(axis, name).environment(facts).items():
                if given.setdefault(variable, value) != value:
                    raise UsageError(f"{axis}={name} needs {variable}={value}, another option {given[variable]!r}")
        return given

    def load(self, variant: Variant) -> dict[str, Any]:
        """Import what every option of the variant names: axis to object. Called in workers, before any clock."""
        return {axis: self.option(axis, name).load() for axis, name in variant.items() if axis != "engine"}

    def columns(self) -> list[Column]:
        """Every report column that plugins add, in the order in which they were registered."""
        return [column for columns in reversed(self.manager.hook.harness_report_columns()) for column in columns]

    # --- registration ----------------------------------------------------------------------------

    def _register_entry_points(self) -> None:
        from importlib.metadata import entry_points

        for point in entry_points(group=ENTRY_POINT_GROUP):
            try:
                module = point.load()
            except (Exception, SystemExit) as error:
                raise UsageError(
                    f"plugin {point.name!r} ({point.value}) fails at import: {_one_line(error)}", _line_in(error)
                ) from error
            self._register(module, point.name)

    def _register(self, plugin: Any, name: str) -> None:
        if self.manager.has_plugin(name):
            raise UsageError(f"plugin {name!r} is given twice")
        _refuse_wrong_hooks(plugin, name)
        try:
            self.manager.register(plugin, name)
            self.manager.check_pending()
        except pluggy.PluginValidationError as error:
            what = "; ".join(str(error).splitlines()[1:])  # the first line repeats the plugin's name
            raise UsageError(what or str(error), f"plugin {name!r}") from None
        except ValueError:
            raise UsageError(f"plugin {name!r} is already there under another name") from None

    def _collect(self) -> None:
        for implementation in self.manager.hook.harness_options.get_hookimpls():
            source = implementation.plugin_name
            try:
                options: list[object] = [*implementation.function()]  # type: ignore[misc]
            except Exception as error:
                raise UsageError(
                    f"plugin {source!r} fails in harness_options: {_one_line(error)}", _line_in(error)
                ) from error
            for option in options:
                if not isinstance(option, Option):
                    raise UsageError(f"plugin {source!r}: harness_options returned {option!r}; allowed: Option")
                self._add(option, source)

    def _add(self, option: Option, source: str) -> None:
        if option.axis not in self._options:
            raise unknown("axis", option.axis, AXES, f"plugin {source!r}")
        taken = self._sources.get((option.axis, option.name))
        if taken:
            raise UsageError(f"plugin {source!r} adds {option.axis}={option.name}, which {taken!r} already adds")
        self._options[option.axis][option.name] = option
        self._sources[option.axis, option.name] = source


def _refuse_wrong_hooks(plugin: Any, name: str) -> None:
    """Every function named like a hook must be one, spelt right and marked; pluggy would ignore it silently."""
    specs = [spec for spec in dir(hookspecs) if spec.startswith("harness_")]
    for attribute in dir(plugin):
        function = getattr(plugin, attribute)
        if not attribute.startswith("harness_") or not callable(function):
            continue
        if attribute not in specs:
            raise unknown("hook", attribute, specs, f"plugin {name!r}")
        if not hasattr(function, "harness_impl"):
            raise UsageError(f"{attribute} is not decorated with harness.contract.hookimpl", f"plugin {name!r}")


def _import_plugin(plugin: str) -> ModuleType:
    """Import a plugin named by file or by module. UsageError says what failed and where."""
    if plugin.endswith(".py"):
        return _import_file(Path(plugin))
    try:
        return importlib.import_module(plugin)
    except (Exception, SystemExit) as error:
        raise UsageError(f"plugin {plugin!r} fails at import: {_one_line(error)}", _line_in(error)) from error


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"plugin file {str(path)!r} does not exist")
    # The digest keeps two files of one name apart; the module is found again by `factory=f"{__name__}:build"`.
    name = f"harness_plugin_file_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UsageError(
            f"plugin file {str(path)!r} fails at import: {_one_line(error)}", _line_in(error, path)
        ) from error
    return module


def _line_in(error: BaseException, path: Path | None = None) -> str | None:
    """`file:line` of the deepest frame of `error` inside `path`, or outside the import machinery."""
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        places.append((error.filename or "", error.lineno))
    if path:
        places = [place for place in places if Path(place[0]).resolve() == path.resolve()]
    machinery = ("<", __file__, str(Path(importlib.__file__).parent))
    places = [place for place in places if place[0] and not place[0].startswith(machinery)]
    return f"{path or places[-1][0]}:{places[-1][1]}" if places else None


def _one_line(error: BaseException) -> str:
    text = (error.msg if isinstance(error, SyntaxError) else str(error)).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"
