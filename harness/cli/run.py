"""`harness run SUITE`: measure every cell, store every record as it comes, print the tables."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from harness.cli import flags, output
from harness.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from harness.cli.planning import Planning
    from harness.records.store import RunFolder

EXAMPLES = """  harness run suites/quickstart.yaml
  harness run suites/quickstart.yaml --fresh              measure again what is stored already
  harness run suites/longctx.yaml --checkpoint /models/my-v32 --only table=trained
  harness run suites/accuracy.yaml --limit 50 --set sampling.timeout=600 --json result.json
  harness run suites/peers.yaml --plugin my_backend.py --only kernels=mine"""


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = flags.subcommand(commands, "run", "measure a suite, store the results and print its tables", EXAMPLES)
    flags.add_suite_flags(parser)
    flags.add_fresh_flag(parser)
    flags.add_json_flag(parser)
    flags.add_format_flag(parser)
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from harness.cli.planning import choices, plan_from
    from harness.run.suite_run import create_folder

    planning = plan_from(args)
    if args.json:
        _refuse_unwritable(args.json)
    store = create_folder(planning.plan, args.out, choices(args))
    finished = _measure(planning, store)
    records = store.records()
    if args.json:
        _write_document(args.json, store)
    if records:
        from harness.report import render

        output.emit(render([store], args.format, output.width(), planning.registry.columns()))
        print(f"stored in {store.path}", file=sys.stderr)
        print(_where_time_went(store), file=sys.stderr)
    if not finished:
        print(f"harness: interrupted; {len(records)} finished cells are stored", file=sys.stderr)
        return EXIT_INTERRUPTED
    return EXIT_FAILED if any(record.status.fails_the_run for record in records) else EXIT_OK


def _measure(planning: Planning, store: RunFolder) -> bool:
    from harness.run.progress import open_progress
    from harness.run.suite_run import run_plan

    plan = planning.plan
    print("\n".join([plan.suite.suite.question, *_outlook(planning)]), file=sys.stderr)
    try:
        return run_plan(plan, planning.identities, store, open_progress(plan.seconds))
    except UsageError:
        if store.path.exists():
            print(f"finished cells are stored in {store.path}", file=sys.stderr)
        raise


def _outlook(planning: Planning) -> list[str]:
    """What is going to be measured, what is not and why."""
    from harness.run.progress import duration

    plan = planning.plan
    measured = sum(planned.measured for planned in plan.cells)
    lines = [f"{measured} of {len(plan.cells)} cells, about {duration(plan.seconds)}"]
    former = [planned.former for planned in plan.cells if planned.former]
    if former:
        runs = ", ".join(dict.fromkeys(one.measured_in for one in former))
        lines.append(f"{len(former)} are taken over unchanged from {runs}; --fresh measures them again")
    return lines + [f"measured again, because it changed: {change}" for change in planning.changes()]


def _where_time_went(store: RunFolder) -> str:
    """Whether the time went into measuring, and what else took it."""
    from harness.run.progress import duration

    end = store.end()
    if end is None:
        return "how the time was spent could not be stored"
    if not end.seconds:
        return f"took {duration(end.wall_seconds)}: nothing was measured"
    setup, checks = (end.seconds.get(name, 0.0) / end.working_seconds for name in ("setup", "checks"))
    loading = duration(end.seconds.get("loading", 0.0))
    parts = [
        f"{end.measuring:.0%} in measured blocks ({end.warming:.0%} of that warm-up)",
        f"{setup:.0%} setting up, {checks:.0%} checking answers",
        f"{max(0.0, 1 - end.measuring - setup - checks):.0%} otherwise",
    ]
    return f"took {duration(end.wall_seconds)}, {loading} of it starting workers; of the rest {', '.join(parts)}"


def _refuse_unwritable(path: Path) -> None:
    """Find out before the run, not after it, that the result document cannot be written."""
    existed = path.exists()
    try:
        path.open("ab").close()
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror}", f"--json {path}") from None
    if not existed:
        path.unlink()


def _write_document(path: Path, store: RunFolder) -> None:
    import msgspec

    from harness.records.document import result_document

    document = result_document(store.header.suite, store.header.context, store.records())
    draft = path.with_name(path.name + ".part")
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(document)) + b"\n")
    draft.replace(path)
