"""Documents as tests: their blocks are written to files and run, in the order in which they stand.

- A `python`, `yaml` or `toml` block whose first line is `# NAME` is the content of the file NAME, without that line.
- A `console` block is a list of commands (`$ ...`) with lines that their output must contain, where runs of
  spaces are as good as one and `...` stands for anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class File:
    """A block that is a file."""

    name: str
    content: str


@dataclass(frozen=True)
class Command:
    """A command and the lines that it must print."""

    text: str
    expected: list[str]

    def missing_from(self, output: str) -> list[str]:
        """The expected lines that `output` does not contain."""
        plain = re.sub(r"[ \t]+", " ", output)
        return [line for line in self.expected if not _pattern(line).search(plain)]


def steps(document: Path) -> Iterator[File | Command]:
    """The blocks of a document, in order; raises AssertionError for one that nothing can be done with."""
    for language, body in FENCE.findall(document.read_text()):
        if language == "console":
            yield from _commands(body)
        else:
            first, _, rest = body.partition("\n")
            assert first.startswith("# "), f"{document.name}: a {language} block must begin with its file name: {first}"
            yield File(first[2:].strip(), rest)


def _commands(body: str) -> Iterator[Command]:
    for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
        text, *expected = part.rstrip("\n").split("\n")
        yield Command(text, expected)


def _pattern(line: str) -> re.Pattern[str]:
    words = re.sub(r"[ \t]+", " ", line.strip())
    return re.compile(re.escape(words).replace(r"\.\.\.", ".*"))
