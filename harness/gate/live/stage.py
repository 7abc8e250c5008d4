"""Progress of a gate: cells tell what they do, and the gate says how far it is, because it alone knows what is left."""

from __future__ import annotations

from harness.run.progress import Progress


class Stage(Progress):
    """What cells and workers report to; passes on words and leaves out their estimates."""

    def __init__(self, shown: Progress) -> None:
        super().__init__(1.0)
        self.shown = shown
        self.name = "first visit"
        """What the gate is at; stands before everything that is said."""

    def step(self) -> None:
        """One of the steps that `shown` counts is done."""
        self.shown.advance(1.0)

    def advance(self, seconds: float) -> None:
        """A cell's own estimate says nothing about the gate."""

    def expect(self, steps: float) -> None:
        """Pass on: so many steps are left at least."""
        self.shown.expect(steps)

    def say(self, text: str) -> None:
        """Pass on, with the stage."""
        self.shown.say(f"{self.name}: {text}")

    def tick(self) -> None:
        """Pass on."""
        self.shown.tick()

    def note(self, line: str) -> None:
        """Pass on."""
        self.shown.note(line)

    def close(self) -> None:
        """Pass on."""
        self.shown.close()

    def _show(self) -> None:
        """Nothing is shown here."""
