"""`harness train RECIPE`: from a recipe to a checkpoint directory. Run it again after a stop and it goes on."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from harness.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("recipe", metavar="RECIPE", type=Path, help="a recipe file (YAML), such as reference.yaml")
    parser.add_argument("--out", metavar="DIR", type=Path, help="the checkpoint's directory, instead of the recipe's")
    parser.add_argument("--seed", type=int, help="another seed than the recipe's, to see how far a result repeats")


def run(arguments: argparse.Namespace) -> int:
    """Train, then write the checkpoint; returns the exit code. Raises UsageError for a bad recipe or a taken output.

    State and log are kept in `DIR.training` beside the checkpoint until that is complete.
    """
    # Late, so that `--help` needs no torch.
    from harness.train.export import export, require_free
    from harness.train.recipe import load_recipe
    from harness.train.training import Training

    loaded = load_recipe(arguments.recipe, arguments.seed)
    output: Path = (arguments.out or loaded.output).resolve()
    require_free(output)
    training = Training(loaded, output.with_name(f"{output.name}.training"), say)
    try:
        training.run()
    except KeyboardInterrupt:
        say(f"stopped; the same command goes on from the state in {training.folder}")
        return EXIT_INTERRUPTED
    say("measuring the checkpoint on held-out text")
    report = export(training, loaded, output)
    shutil.rmtree(training.folder)
    for name, values in report["figures"]["bits_per_byte"].items():
        say(f"{name}: " + ", ".join(f"{value:.3f} bits/byte at {length}" for length, value in values.items()))
    print(output)
    return EXIT_OK


def say(text: str) -> None:
    """One line of progress on stderr."""
    print(text, file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    """`python -m harness.train.command RECIPE`."""
    parser = argparse.ArgumentParser(prog="harness train", description=__doc__)
    add_arguments(parser)
    try:
        return run(parser.parse_args(argv))
    except UsageError as error:
        say(f"error: {error}")
        return EXIT_USAGE


if __name__ == "__main__":
    sys.exit(main())
