"""What there is to say to a person, as data: the command line and the cards of models make sentences of it."""

from __future__ import annotations

from typing import Any, NamedTuple


class Remedy(NamedTuple):
    """What a person who knows better can state: a parameter of the Python API, and its values in words."""

    parameter: str
    values: str


class Line(NamedTuple):
    """A line of a summary."""

    label: str
    text: str


class Fact(NamedTuple):
    """Something that is known of a file, or was decided about an output, in words.

    Attributes:
        label: what it is about: epsilon, order, scale, …
        text: what was found or is written.
        reason: on what evidence, or where it is from; empty if `text` says it.
        effect: what follows for the output; empty if `text` says it.
        remedy: what would replace the decision.
        short: all three in a few words, where they are long.
        value: the same for programs, where the JSON of a command has a key of its own for it.
    """

    label: str
    text: str
    reason: str = ""
    effect: str = ""
    remedy: Remedy | None = None
    value: Any = None
    short: str = ""
