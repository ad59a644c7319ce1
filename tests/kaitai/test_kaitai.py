"""The specifications for Kaitai Struct: its own parsers must find in a file what this package finds.

Run by hand, or by .ci/run: needs node with kaitai-struct-compiler and kaitai-struct, and the extra `kaitai`.
"""

from __future__ import annotations

import math
import random
import re
import runpy
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import pytest

from ggcp_schema import FORMATS, open_file
from ggcp_schema.errors import MalformedError, NotACheckpointError
from ggcp_schema.inspect.kaitai import specification
from ggcp_schema.inspect.text import json_value
from tests.fuzz.mutate import draw
from tests.fuzz.seeds import SMALL, seed
from tests.helpers import FIXTURES
from tests.kaitai.reading import Node, Reading, compile_all, load, read
from tests.samples import KINDS, sample

SUFFIXES = {".ggcp", ".gguf", ".ggjt", ".ggla", ".ggcl"}
FILES = sorted(path for path in FIXTURES.rglob("*") if path.suffix in SUFFIXES)
CUT = {"truncated-v0-lbfgs.ggcp", "bert-cut.gguf"}
MUTANTS = 2000
KNOWN_TYPES = 43
OF_DATA = ("tensor_data", "end_padding", "trailing")  # of GGUF: Kaitai has the data in tensor_infos[i].data


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kaitai")
    compile_all({name: specification(format_) for name, format_ in FORMATS.items()}, folder)
    return folder


@pytest.fixture(scope="module")
def node():
    process = Node()
    yield process
    process.close()


def expected(path):
    """Return what this package finds: the leaves, the derived values by path, and the places of a GGUF file's data."""
    with open_file(path) as file:
        found, derived = [], {}
        for field in file.root.leaves():
            if field.path.startswith(OF_DATA) and file.format.name == "gguf":
                continue
            if field.type == "derived":
                derived[field.path] = json_value(field)
            elif field.size or field.value is not None:
                value = field.value.decode("utf-8", "surrogateescape") if field.type == "char" else json_value(field)
                found.append((field.path, field.offset, field.size, value))
        infos = file.container.get("tensor_infos") or ()
        places = [file.tensors.get(info["name"]) for info in infos]
        data = [
            (tensor.name, tensor.offset, tensor.nbytes)
            for tensor, info in zip(places, infos, strict=True)
            if tensor is not None and info["type"] < KNOWN_TYPES
        ]
        return file.format.name, found, derived, data


def same(one, other, *, exact):
    """Return True if two values are the same. JavaScript has only doubles, and replaces what is no UTF-8."""
    if isinstance(one, float):
        return one == float(other) or (math.isnan(one) and math.isnan(float(other)))
    if isinstance(one, dict):  # Kaitai has no null
        return {key: value or "" for key, value in one.items()} == other
    if exact or one is None:
        return one == other
    if isinstance(one, int) and abs(one) >= 1 << 53:
        return True  # nor does its parser read these numbers right
    if isinstance(one, str):
        return one.encode("utf-8", "surrogateescape").decode("utf-8", "replace") == other
    return float(one) == float(other)


def assert_agrees(reading: Reading, wanted, *, exact):
    _, fields, derived, data = wanted
    assert not reading.error
    assert [leaf[:3] for leaf in reading.leaves] == [leaf[:3] for leaf in fields]
    for (path, *_, value), (*_, found) in zip(fields, reading.leaves, strict=True):
        assert same(value, found, exact=exact), (path, value, found)
    for (path, value), found in zip(derived.items(), reading.derived, strict=True):
        assert same(value, found, exact=exact), (path, value, found)
    assert [tuple(place) for place in reading.data] == data


@pytest.mark.parametrize("path", [path for path in FILES if path.name not in CUT], ids=lambda path: path.name)
def test_kaitais_parsers_find_the_leaves_of_dump(path, compiled, node):
    wanted = expected(path)
    name, derived = wanted[0], list(wanted[2])
    assert_agrees(read(load(compiled / f"{name}.py"), path, derived), wanted, exact=True)
    assert_agrees(node.read(compiled / f"{name.capitalize()}.js", path, derived), wanted, exact=False)


@pytest.mark.parametrize("kind", KINDS)
def test_kaitais_parsers_find_the_leaves_of_a_file_of_every_kind(kind, tmp_path, compiled, node):
    test_kaitais_parsers_find_the_leaves_of_dump(sample(kind, tmp_path), compiled, node)


def write_block(folder):
    """Write the format of the page that says how to declare one as a module, and return its path."""
    page = (FIXTURES.parent / "docs/FORMATS.md").read_text("utf-8")
    (folder / "toy_format.py").write_text(page.split("```python\n")[1].split("```")[0], "utf-8")
    return folder / "toy_format.py"


def test_the_page_of_another_package_compiles(tmp_path):
    page = runpy.run_path(str(write_block(tmp_path)))
    compile_all({"toy": specification(page["FORMAT"])}, tmp_path)
    (tmp_path / "sample.toy").write_bytes(page["SAMPLE"])
    leaves = read(load(tmp_path / "toy.py"), tmp_path / "sample.toy", []).leaves
    assert [leaf[3] for leaf in leaves][1:] == [1, 3, 1.0, 2.0, 3.0]


def damage_of(path):
    """Return where this package finds the damage of a file, and its message; (None, "") for a whole file."""
    try:
        open_file(path).close()  # not partial: reading past holes says where they are, not where the schema fails
    except (MalformedError, NotACheckpointError) as error:
        return Damage(error.offset, str(error).replace(str(path), ""))
    return Damage(None, "")


class Damage(NamedTuple):
    """Where a parser found the damage of a file, None for a whole file, and its message."""

    offset: int | None
    message: str


DIFFERENCES: dict[str, Callable[[Damage, Damage, str], bool]] = {
    # A count that the file cannot hold: this package refuses the list, Kaitai reads as many elements as there are.
    # A count of more or fewer records than follow each other: this package looks at what follows, Kaitai believes it.
    "count": lambda ours, theirs, _: (
        ("to be at most" in ours.message and after(theirs, ours))
        or bool(re.search(r": (tensor|metadata_kv)_count at .* (more than \d|as many as there are)", ours.message))
    ),
    # The data of a GGUF tensor: this package reads all data in the order of the file, without what two tensors share,
    # and the padding before it; Kaitai reads the data of each tensor by itself.
    "data": lambda ours, theirs, _: ": tensor_data[" in ours.message and theirs.offset is not None,
    # The runtime in JavaScript takes a size of data modulo 2**32.
    "wraps": lambda ours, theirs, language: (
        language == "javascript" and bool(re.search(r"expected \d+(,\d{3}){3}", ours.message))
    ),
    # Models of other programs have llama.cpp's magic, and Kaitai knows no rule that tells them apart.
    "program": lambda ours, theirs, _: "another program" in ours.message,
    # Bytes after the end: this package doubts a file in which they may have been inserted earlier, or are of a tensor.
    "trailing": lambda ours, theirs, _: (
        theirs.offset is None
        and any(words in ours.message for words in ("may belong before it", "may be of its tensors"))
    ),
    # A header that is cut off: to Kaitai, whose lists cannot look ahead, too few bytes for one are bytes after the end.
    "header": lambda ours, theirs, _: (
        ": tensors[" in ours.message and "too short" in ours.message and not theirs.message
    ),
    # A name that is no text, not the one that the rest of the file proves, or of zeros: Kaitai takes names as they are.
    "name": lambda ours, theirs, _: (
        theirs.offset is None and any(words in ours.message for words in ("a name with", "a name, found zeros"))
    ),
    # A file with the magic of another format is read as that.
    "magic": lambda ours, theirs, _: theirs.offset == 0,
}
"""Why Kaitai's parsers may find the damage of a file elsewhere, or not at all."""


def after(one, other):
    return one.offset is not None and one.offset >= other.offset


def test_kaitais_parsers_and_this_package_agree_on_what_is_damaged_and_where(tmp_path, compiled, node):
    rng, path = random.Random(21), tmp_path / "mutant"
    formats = {format_.magic: name for name, format_ in FORMATS.items()}
    seeds = [name for name in SMALL if seed(name)[:4] in formats]
    classes = {name: load(compiled / f"{name}.py") for name in FORMATS}
    recipes = [recipe for recipe in (draw(rng, seeds) for _ in range(2 * MUTANTS)) if not recipe.is_sparse][:MUTANTS]
    reasons = Counter()
    for recipe in recipes:
        path.write_bytes(recipe.make())
        name = formats[seed(recipe.seed)[:4]]
        ours = damage_of(path)
        for language, found in (
            ("python", read(classes[name], path, [])),
            ("javascript", node.read(compiled / f"{name.capitalize()}.js", path, [])),
        ):
            theirs = Damage(found.offset, found.error) if found.error else Damage(None, "")
            if theirs.offset == ours.offset:
                reasons["none" if ours.offset is None else "same"] += 1
                continue
            why = next((key for key, explains in DIFFERENCES.items() if explains(ours, theirs, language)), None)
            assert why, (language, ours, theirs, str(recipe))
            reasons[why] += 1
    assert len(recipes) == MUTANTS
    assert reasons["none"] > MUTANTS / 4
    assert reasons["same"] > MUTANTS  # of two parsers
    assert set(reasons) == {"none", "same", *DIFFERENCES}
