"""The corpus, and random recipes from a fixed seed. `python -m tests.fuzz` goes on for as long as you like."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.layout import walk
from tests.fuzz.little import LITTLE
from tests.fuzz.mutate import Recipe, draw, load
from tests.fuzz.oracle import Oracle
from tests.fuzz.seeds import SMALL, seed
from tests.fuzz.targets import TARGETS, good, kept

CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.json"))
PARTS = 8
SEED, INPUTS = 20230613, 16  # of each part
COMMANDS = 4  # of each input, beside those that a recipe of the corpus names
PATIENCE = 30.0  # seconds: what is slow is found by `python -m tests.fuzz`; here only what hangs


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    return Oracle(tmp_path_factory.mktemp("fuzz"), seconds=PATIENCE)


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_corpus(oracle: Oracle, path: Path) -> None:
    found = list(oracle.examine(load(path), commands=COMMANDS))
    assert not found, "\n".join(map(str, found))


@pytest.mark.parametrize("target", TARGETS)
def test_what_searches_kept(target: str) -> None:
    for data in (*good(target), *kept(target)):
        TARGETS[target](data)  # if it raises, pytest shows the data


PLACES = st.integers(0, 7) | st.integers(0, 120) | st.floats(0, 1, exclude_max=True)  # or a share of the file


@settings(derandomize=True)  # it searches for what nobody knows yet: `python -m tests.fuzz` looks further
@given(
    base=st.sampled_from(sorted(LITTLE)),
    damages=st.lists(st.tuples(PLACES, st.binary(max_size=12), st.integers(0, 12)), min_size=1, max_size=3),
)
def test_damage_in_several_places(base: str, damages: list[tuple[int | float, bytes, int]]) -> None:
    data = bytearray(LITTLE[base]())
    for place, put_in, taken_out in damages:
        at = place if isinstance(place, int) else int(place * len(data))
        data[at : at + taken_out] = put_in
    TARGETS["files"](bytes(data))


@pytest.mark.parametrize("name", SMALL)
def test_good_files(oracle: Oracle, name: str) -> None:
    """The seeds as they are: a finding would be a mistake of the oracle, or of the seed."""
    found = list(oracle.examine(Recipe(name, []), commands=3 * COMMANDS))
    assert not found, "\n".join(map(str, found))


@pytest.mark.parametrize("part", range(PARTS))
def test_random_recipes(oracle: Oracle, part: int) -> None:
    rng = random.Random(SEED + part)
    found = [found for _ in range(INPUTS) for found in oracle.examine(draw(rng), commands=COMMANDS)]
    assert not found, "\n".join(map(str, found))


@pytest.mark.parametrize("name", SMALL)
def test_pieces_make_the_whole_file(name: str) -> None:
    """The walker takes nothing away and adds nothing, so a change is a change of what the recipe names."""
    walker = walk(seed(name))
    assert b"".join(piece.content for piece in walker.pieces) == seed(name)
    names = [piece.name for piece in walker.pieces]
    assert len(set(names)) == len(names)


def test_drawing_is_repeatable() -> None:
    one, two = ([str(draw(rng)) for _ in range(50)] for rng in (random.Random(1), random.Random(1)))
    assert one == two
    assert len(set(one)) > 45


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_corpus_differs_from_its_seed(path: Path) -> None:
    recipe = load(path)
    assert recipe.is_sparse or recipe.make() != seed(recipe.seed)
