"""Puts the tables of stored runs into the documents: `make tables`.

A document says where a table belongs and which command makes it; what stands between the two comments is
replaced by the command's output, and a test holds it to that:

    <!-- harness report results/cpu/peers --format markdown -->
    ...
    <!-- end of report -->
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", "docs/results.md", "docs/fp8.md")
PLACE = re.compile(r"(<!-- harness (report [^\n]*?) -->\n).*?(<!-- end of report -->)", re.DOTALL)


def filled(text: str) -> str:
    """The document with every table made anew."""
    return PLACE.sub(lambda place: f"{place[1]}\n{output(place[2])}\n{place[3]}", text)


def output(command: str) -> str:
    """What `harness COMMAND` prints, with its headings two levels down so that they nest in the document."""
    arguments = [sys.executable, "-m", "harness", *shlex.split(command)]
    result = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True)
    return re.sub(r"^(#+ )", r"##\1", result.stdout, flags=re.MULTILINE)


def main() -> None:
    """Rewrite the documents in place."""
    for name in DOCUMENTS:
        path = ROOT / name
        path.write_text(filled(path.read_text()))


if __name__ == "__main__":
    main()
