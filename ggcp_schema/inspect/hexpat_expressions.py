"""Expressions of Kaitai's language in that of ImHex, in which `&&` and `||` evaluate both sides, and `? :` does not."""

from __future__ import annotations

import re
from itertools import groupby

TABLE = re.compile(r"\[([\d, ]+)\]\[type\.to_i\]")


def translated(text: str) -> str:
    """Return an expression in ImHex's language."""
    if table := TABLE.fullmatch(text):
        return _choice([int(number) for number in table[1].split(",")])
    text = re.sub(r"-_io\.pos % (\w+)", r"(\1 - $ % \1) % \1", text)
    text = re.sub(r"\btensors\[(\d+)\]", r"tensors_\1", text)
    text = re.sub(r"\(([^()]*)\)\.to_i", r"(\1 ? 1 : 0)", text).replace(".to_i", "")
    text = text.replace("_io.eof", "$ >= sizeof($)").replace("_io.pos", "$").replace("_io.size", "sizeof($)")
    text = re.sub(r"(\w+)::(\w+)", lambda found: f"{found[1]}::{found[2].upper()}", text)
    return _lazy(text.replace("_parent.", "parent."))


def _choice(numbers: list[int]) -> str:
    """Return the number at the place `type` of a list as conditions on ranges of types."""
    runs, after = [], 0
    for number, run in groupby(numbers):
        after += len(list(run))
        runs.append((number, after))
    text = str(runs.pop()[0])
    for number, after in reversed(runs):
        text = f"type < {after} ? {number} : {f'({text})' if '?' in text else text}"
    return text


def _lazy(text: str) -> str:
    """Return an expression in which what need not be evaluated is not."""
    if parts := _parts(text, " ? "):
        chosen, *others = _parts(" ? ".join(parts[1:]), " : ")
        other = _lazy(" : ".join(others))
        return f"{_lazy(parts[0])} ? {_lazy(chosen)} : {f'({other})' if ' ? ' in other else other}"
    for word, shape in ((" or ", "({} ? true : {})"), (" and ", "({} ? {} : false)")):
        if parts := _parts(text, word):
            return shape.format(_lazy(parts[0]), _lazy(word.join(parts[1:])))
    if text.startswith("not "):
        return f"!({_lazy(text[4:])})"
    return re.sub(r"\((?:[^()]|\([^()]*\))*\)", lambda found: f"({_lazy(found[0][1:-1])})", text)


def _parts(text: str, word: str) -> list[str]:
    """Return the parts between a word outside of parentheses; none if the word is not there."""
    parts, depth, start = [], 0, 0
    for index, character in enumerate(text):
        depth += (character in "([") - (character in ")]")
        if not depth and text.startswith(word, index):
            parts.append(text[start:index])
            start = index + len(word)
    return [*parts, text[start:]] if parts else []
