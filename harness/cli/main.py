"""The `harness` command: one module per subcommand, imported before anything slow, so that --help answers at once.

Exit codes: 0 everything passed or cannot run here, 1 a cell failed or a gate found a regression, 2 bad input, a broken
gate or an error of harness itself, 3 a gate that could not decide, 130 interrupted.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from harness.cli import accept, check, compare, compile, doctor, gate, plan, report, run, train
from harness.cli import list as list_command
from harness.errors import EXIT_INTERRUPTED, EXIT_USAGE, UsageError

EPILOG = """examples:
  harness run suites/quickstart.yaml                     measure a suite and print its tables
  harness run suites/longctx.yaml --checkpoint ~/model   the same questions asked of your own model
  harness plan suites/peers.yaml --only engine=native    which cells would run, and how long
  harness list                                           every option of every axis
  harness gate suites/quickstart.yaml --against HEAD~1   fail when a change made something slower or wrong
  harness report results/quickstart-20260101T000000Z     the tables of a stored run again

`harness COMMAND --help` says more about one command."""


class Parser(argparse.ArgumentParser):
    """argparse, with the nearest match for a misspelt command, choice or option, and the usage of the command."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse, but what a command does not know ends there, where its options are known."""
        known, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}{self._nearest(rest)}")
        return known, rest

    def _nearest(self, given: Sequence[str]) -> str:
        """The option that was meant, for the first that is none."""
        options = [option for option in self._option_string_actions if option.startswith("--")]
        misspelt = [argument.split("=")[0] for argument in given if argument.startswith("--")]
        near = difflib.get_close_matches(misspelt[0], options, n=1) if misspelt else []
        return f"; did you mean {near[0]!r}?" if near else ""

    def error(self, message: str) -> NoReturn:
        """Print one message and exit with 2."""
        found = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if found:
            near = difflib.get_close_matches(found.group(1), re.findall(r"[\w.-]+", found.group(2)), n=1)
            message += f"; did you mean {near[0]!r}?" if near else ""
        super().error(message)


class Version(argparse.Action):
    """Prints the version; looks it up only when asked."""

    def __call__(self, *_: Any) -> NoReturn:
        """Print and exit."""
        import harness

        print(f"harness {harness.__version__}")
        sys.exit(0)


def make_parser() -> Parser:
    """The parser of all commands."""
    parser = Parser(
        prog="harness",
        description="Is it right, is it as accurate, is it faster: compare ways of running a DeepSeek-style model.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in (run, gate, compare, accept, plan, list_command, doctor, report, check, compile, train):
        module.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the installed command; returns the exit code."""
    args = make_parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = args.main
    try:
        return command(args)
    except UsageError as error:
        print(f"harness: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("harness: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception:  # Python's own exit code for it is 1, which would say "a regression"
        traceback.print_exc()
        print("harness: this is an error of harness itself, or of a plugin; nothing is known", file=sys.stderr)
        return EXIT_USAGE


if __name__ == "__main__":
    sys.exit(main())
