"""A variant: one choice on every axis. Its id is stable and printable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

AXES = ("engine", "form", "selector", "precision", "cache", "kernels", "decoding")
"""The axes in the order in which they are printed."""


class Variant(msgspec.Struct, frozen=True, order=True):
    """One way of running a model; every field is the name of a registered option."""

    engine: str
    form: str
    selector: str
    precision: str
    cache: str
    kernels: str
    decoding: str

    @property
    def id(self) -> str:
        """Printable and stable: the seven names joined by slashes, in the order of `AXES`.

        >>> Variant("native", "mqa", "dsa", "fp32", "latent", "eager", "plain").id
        'native/mqa/dsa/fp32/latent/eager/plain'
        """
        return "/".join(name for _, name in self.items())

    def items(self) -> Iterator[tuple[str, str]]:
        """(axis, option name) in the order of `AXES`."""
        return ((axis, getattr(self, axis)) for axis in AXES)

    def with_options(self, changes: Mapping[str, str]) -> Variant:
        """The same variant with some axes changed."""
        return msgspec.structs.replace(self, **changes)

    @classmethod
    def from_id(cls, text: str) -> Variant:
        """The variant whose `id` is `text`; raises ValueError when the number of parts is wrong."""
        parts = text.split("/")
        if len(parts) != len(AXES):
            raise ValueError(f"a variant id has {len(AXES)} parts, this has {len(parts)}: {text!r}")
        return cls(*parts)


def differing_axes(variants: Sequence[Variant]) -> list[str]:
    """The axes on which any two variants differ, in the order of `AXES`."""
    return [axis for axis in AXES if len({getattr(variant, axis) for variant in variants}) > 1]
