"""Printing: tables in every format, to a stdout that may be closed by the time (`harness list | head`)."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence

from harness.errors import UsageError


def emit(text: str) -> None:
    """Print to stdout. A reader that has gone away is no error: the command's exit code stays its own.

    Raises UsageError when stdout cannot take it, such as a file on a full disk.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        _drop_the_rest()
    except OSError as error:
        _drop_the_rest()
        raise UsageError(f"cannot be printed: {error.strerror}", "stdout") from None


def _drop_the_rest() -> None:
    """What is still buffered goes nowhere, so that the interpreter's last flush does not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def width() -> int:
    """Columns of the terminal; 120 where there is none."""
    return shutil.get_terminal_size((120, 24)).columns


def format_rows(headers: Sequence[str], rows: Sequence[Sequence[str]], style: str, wrap: int | None = None) -> str:
    """Rows of text as terminal, markdown, csv or json table; `wrap` is the widest last column on a terminal."""
    if style == "json":
        import json

        return json.dumps([dict(zip(headers, row, strict=True)) for row in rows], indent=2, ensure_ascii=False)
    if style == "csv":
        return _csv(headers, rows)
    from tabulate import tabulate

    if style == "markdown":
        return tabulate(rows, headers, tablefmt="github", disable_numparse=True)
    widths = [None] * (len(headers) - 1) + [wrap]
    return tabulate(rows, headers, tablefmt="simple", disable_numparse=True, maxcolwidths=widths)


def _csv(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    import csv
    import io

    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([headers, *rows])
    return text.getvalue().rstrip("\n")
