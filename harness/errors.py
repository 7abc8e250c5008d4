"""The one way this project says that its input is wrong.

Every message names what was given, what is allowed and the nearest match, and the file and line when
there is one. The command line prints it without a traceback and exits with `EXIT_USAGE`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


class UsageError(Exception):
    """Bad input from the user: a suite, an option, a checkpoint, a plugin, a folder."""

    def __init__(self, message: str, where: str | None = None) -> None:
        self.message = message
        self.where = where
        super().__init__(f"{where}: {message}" if where else message)


class UnsupportedError(UsageError):
    """A variant cannot run here; carries *every* reason, each a short sentence."""

    def __init__(self, subject: str, reasons: Iterable[str]) -> None:
        self.reasons = list(reasons)
        super().__init__(f"{subject} cannot run here: " + "; ".join(self.reasons))


def unknown(what: str, given: str, allowed: Iterable[str], where: str | None = None) -> UsageError:
    """An error for a name that is not among `allowed`, with the nearest one first.

    >>> str(unknown("form", "mqq", ["mha", "mqa"]))
    "unknown form 'mqq'; did you mean 'mqa'? allowed: mha, mqa"
    """
    names = sorted(allowed)
    near = difflib.get_close_matches(given, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    return UsageError(f"unknown {what} {given!r}{hint} allowed: {', '.join(names) or 'none'}", where)
