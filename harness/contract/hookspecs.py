"""The hooks: the whole surface that a plugin can touch, in the order in which they are called.

A plugin is a module (or any object) with functions of these names, decorated with `harness.contract.hookimpl`.
It is found through the entry-point group `harness.plugins`, or named with `--plugin FILE_OR_MODULE`.
Hooks are called while names become objects, and around cells; never inside a measured region.
A function whose name starts with `harness_` and is not listed here is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from harness.contract.columns import Column
    from harness.contract.options import Option
    from harness.suite.cell import CellId

hookspec = pluggy.HookspecMarker("harness")
hookimpl = pluggy.HookimplMarker("harness")


# --- When the registry is built: parent process and every worker, before any clock starts ----------


@hookspec
def harness_options() -> Sequence[Option]:
    """Return the options (engines included) that this plugin adds.

    Must import no torch: each option names its factory. Two options with one name on one axis are an error.
    """
    raise NotImplementedError


@hookspec
def harness_report_columns() -> Sequence[Column]:
    """Return further columns for report tables; each is a header and a function from a record to a value."""
    raise NotImplementedError


# --- In the worker ---------------------------------------------------------------------------------


@hookspec
def harness_context() -> dict[str, Any]:
    """Return facts to store with every record of this worker (driver versions, clock settings, ...).

    Keys must be new: a key that another plugin or the harness already gives is an error.
    """
    raise NotImplementedError


@hookspec
def harness_wrap_cell(cell: CellId) -> AbstractContextManager[None]:
    """Return a context manager entered before a cell's first warm-up and left after its last sample.

    For profilers and power meters. It is entered and left outside every timed block.
    """
    raise NotImplementedError
