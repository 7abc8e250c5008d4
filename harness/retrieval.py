"""Documents with facts to be found again, in RULER's sense (arXiv 2404.06654): made here for training and for tasks.

A document is real source text into which fact lines are set, each on a line of its own, and a question at its end:

    # anchor 4821       a fact: this name has this value
    # falcon anchor     a fact: this name has the value of that one
    ? anchor            the question, answered by ` 4821`
    ? falcon            answered by the chain that leads to the value, ` anchor 4821`

Names are drawn at random for every document from a fixed list, values are four random digits. What answers a name
stands right behind it: with a `=` between them, a small model needs many times the training to learn to look up.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

NAMES = tuple(
    """
    acorn alley amber anchor anvil apple apron arrow aspen atlas badge bagel bamboo banjo barley barrel basil basket
    beacon beaver berry birch biscuit bishop blanket blossom boulder bracelet branch brass bridge bronze broom bucket
    buffalo bugle butter button cabin cactus camel candle canoe canyon carbon carpet carrot castle cedar cellar chalk
    cherry chimney cinder citrus clover cobalt cobra coffee comet copper coral cotton cradle crayon cricket crystal
    cushion cypress daisy dagger denim desert diamond dolphin donkey dragon drawer dune eagle ebony ember emerald
    engine fabric falcon feather fennel ferry fiddle finch flint flower forest fossil fountain galaxy gallon garden
    garlic gazelle geyser ginger glacier goblet gondola granite grape gravel guitar hammer hammock harbor harvest hawk
    hazel helmet heron hickory hinge honey hornet igloo indigo iris island ivory jacket jaguar jasmine jungle juniper
    kayak kernel kettle kitten ladder lagoon lantern lava lemon lily linen lizard lobster locust lotus magnet magpie
    mango maple marble meadow melon mirror mitten monsoon moss mustard napkin nectar needle nickel nutmeg oasis ocean
    olive onion orange orbit orchid otter oyster paddle panther paprika parrot peach pebble pelican pepper piano pigeon
    pillow planet plum pocket polar poppy prairie puddle pumpkin quail quartz quill rabbit radish raven ribbon river
    robin rocket rose ruby saddle saffron salmon sandal sapphire scarf shadow shovel silver socket sparrow spider
    spruce squash stable statue summit sunset swallow tablet teapot temple thistle thunder ticket tiger timber toffee
    tulip tunnel turtle umbrella valley vanilla velvet violet walnut walrus willow window winter zebra
    """.split()  # noqa: SIM905 - a list of this length reads best as a text
)
"""Names of facts."""

ALIKE = 5
"""About how many values share their first two digits where values are drawn alike."""

FACT_MARK, QUESTION_MARK = "#", "?"

VALUE = re.compile(r"\d{4}")


@dataclass(frozen=True)
class Fact:
    """A name and what it is set to: four digits, or another name."""

    name: str
    value: str

    @property
    def start(self) -> str:
        """What its line begins with, whatever the value."""
        return f"{FACT_MARK} {self.name} "

    @property
    def line(self) -> str:
        """How it stands in a document."""
        return f"{self.start}{self.value}\n"


def question(name: str) -> str:
    """What asks for the value of a name; the answer follows it at once."""
    return f"{QUESTION_MARK} {name}"


def answer(name: str, facts: list[Fact]) -> str:
    """What follows `question(name)`: a space before each, the names that lead from `name` to a value, and the value."""
    values = {fact.name: fact.value for fact in facts}
    links = [values[name]]
    while links[-1] in values:
        links.append(values[links[-1]])
    return "".join(f" {link}" for link in links)


def draw_facts(rng: random.Random, count: int, alike: bool = False) -> list[Fact]:
    """`count` facts with different names and different values; `alike` as for `draw_values`."""
    names = rng.sample(NAMES, count)
    return [Fact(name, value) for name, value in zip(names, draw_values(rng, count, alike), strict=True)]


def draw_chains(rng: random.Random, chains: int, links: int, alike: bool = False) -> list[list[Fact]]:
    """`chains` chains: a fact with a value, then `links` facts that each name the one before; `alike` as above."""
    names = rng.sample(NAMES, chains * (links + 1))
    drawn = []
    for value in draw_values(rng, chains, alike):
        own = [names.pop() for _ in range(links + 1)]
        drawn.append([Fact(name, former) for name, former in zip(own, [value, *own], strict=False)])
    return drawn


def draw_values(rng: random.Random, count: int, alike: bool = False) -> list[str]:
    """Different four-digit values, 1000 to 9999; `alike` ones share their first two digits with several others."""
    if not alike:
        return [str(value) for value in rng.sample(range(1000, 10_000), count)]
    beginnings = rng.sample(range(10, 100), 1 + count // ALIKE)
    return rng.sample([f"{first}{last:02}" for first in beginnings for last in range(100)], count)


def shuffled_together(rng: random.Random, chains: list[list[Fact]]) -> list[Fact]:
    """The facts of all chains in one random order that keeps each chain's own."""
    order = [which for which, chain in enumerate(chains) for _ in chain]
    rng.shuffle(order)
    left = [iter(chain) for chain in chains]
    return [next(left[which]) for which in order]
