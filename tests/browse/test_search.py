from __future__ import annotations

import asyncio
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggcp_schema.browse import commands
from ggcp_schema.browse.document import Document
from ggcp_schema.browse.jobs import Cancelled
from ggcp_schema.errors import GgcpError
from ggcp_schema.formats import open_file
from ggcp_schema.formats.rules import Oddity
from ggcp_schema.inspect import search as fuzzy
from ggcp_schema.inspect.findings import next_place
from ggcp_schema.inspect.search import Index, Query, search
from tests.helpers import FIXTURES, TRUNCATED

ALICE = FIXTURES / "alice.ggcp"


def silent(result: Any) -> None:
    """A report that lets the job go on."""


# Search ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "best"),
    [
        ("wq", "layers[0].wq"),
        ("2.w3", "layers[2].w3"),
        ("tokemb", "tok_embeddings"),
        ("nvoc", "hparams.n_vocab"),
        ("opt m", "optimizer.state.m"),
        ("OPTIMIZER.STATE.V", "optimizer.state.v"),
        ("layers.1.attention.wo.weight", "layers[1].wo"),
        ("wk ne 1", "layers[1].wk.ne"),
        ("fx_best", "optimizer.state.fx_best"),
    ],
)
def test_the_best_hit(query: str, best: str) -> None:
    with open_file(ALICE) as file:
        assert search(Index(file), query, silent)[0].path == best


def test_a_gguf_file_is_searched_by_keys_fields_and_names() -> None:
    with open_file(FIXTURES / "alice-vocab.gguf") as file:
        hits = search(Index(file), "metadata key", silent)
        assert hits[0].path.startswith("metadata_kv[")
        for key in ("llama.context_length", "tokenizer.ggml.tokens"):
            assert search(Index(file), key, silent)[0].path == file.find(key).path


def test_words_match_in_any_order_and_case_and_letters_in_order() -> None:
    assert Query("WQ layers").match("layers[0].wq") is not None
    assert Query("lyrs").match("layers[0].wq") is not None
    assert Query("sryl").match("layers[0].wq") is None
    assert Query("wq x").match("layers[0].wq") is None


def test_the_letters_that_matched_are_told() -> None:
    found = Query("wq").match("layers[0].wq")
    assert found is not None
    assert [("layers[0].wq")[place] for place in found[1]] == ["w", "q"]


def test_each_field_is_found_once() -> None:
    with open_file(ALICE) as file:
        paths = [hit.path for hit in search(Index(file), "w", silent)]
    assert len(paths) == len(set(paths)) == fuzzy.SHOWN


def test_a_search_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzzy, "LIMIT", 20)
    with open_file(ALICE) as file:
        index = Index(file)
        assert not search(index, "n_dims", silent)
        assert len(index.entries) <= 2 * len(file.tensors) + 20


def test_a_search_can_be_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzzy, "OFTEN", 1)

    def report(result: Any) -> None:
        raise Cancelled

    with open_file(ALICE) as file, pytest.raises(Cancelled):
        search(Index(file), "wq", report)


# Go to -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "path", "offset"),
    [
        ("layers[0].wq", "layers[0].wq", None),
        (" hparams.n_vocab ", "hparams.n_vocab", None),
        ("blk.1.attn_q.weight", "layers[1].wq", None),
        ("0", "magic", 0),
        ("0x4", "version", 4),
        ("1,000", "tok_embeddings.data", 1000),
    ],
)
def test_go_to(text: str, path: str, offset: int | None) -> None:
    with open_file(ALICE) as file:
        field, at = Document(file).resolve(text)
        assert field is not None
        assert field.path == path
        assert at == (field.offset if offset is None else offset)


def test_go_to_an_element_of_data() -> None:
    with open_file(ALICE) as file:
        field, at = Document(file).resolve("layers[0].wq.data[17]")
        assert field is not None
        assert (field.path, at) == ("layers[0].wq.data", file.tensors["layers[0].wq"].offset + 4 * 17)


@pytest.mark.parametrize(
    "text", ["layers[9].wq", "nonsense", "layers[0].wq.data[99999]", "hparams[3]", "-1", "3104012"]
)
def test_go_to_what_is_not_there(text: str) -> None:
    with open_file(ALICE) as file, pytest.raises(GgcpError):
        Document(file).resolve(text)


def test_go_to_the_moments_of_a_parameter() -> None:
    with open_file(ALICE) as file:
        field, at = Document(file).resolve("optimizer.state.v[output]")
        assert field is not None
        assert (field.path, at) == ("optimizer.state.v.data", file.tensors["optimizer.state.v"].offset)  # order C


# Findings --------------------------------------------------------------------------------------------------


def spoilt(tmp_path: Path, changes: dict[int, bytes]) -> Path:
    content = bytearray(ALICE.read_bytes())
    for offset, data in changes.items():
        content[offset : offset + len(data)] = data
    path = tmp_path / "spoilt.ggcp"
    path.write_bytes(content)
    return path


def walk(path: Path, start: int = 0, steps: int = 5) -> list[Oddity | None]:
    with open_file(path, partial=True) as file:
        found = []
        for _ in range(steps):
            place = next_place(file, start, silent)
            found.append(place)
            start = place.offset if place else start
        return found


def test_findings_are_visited_in_order_and_then_from_the_start(tmp_path: Path) -> None:
    with open_file(ALICE) as file:
        wq, v = file.tensors["layers[1].wq"], file.tensors["optimizer.state.v"]
    nan, inf = struct.pack("<f", float("nan")), struct.pack("<f", float("-inf"))
    path = spoilt(tmp_path, {wq.offset - 3: b"\x01", wq.offset + 40: nan, v.offset + v.nbytes - 4: inf})
    found = walk(path, steps=4)
    assert [place and place.offset for place in found] == [
        wq.offset - 3,
        wq.offset + 40,
        v.offset + v.nbytes - 4,
        wq.offset - 3,
    ]
    messages = [place.message for place in found if place]
    assert "padding" in messages[0]
    assert "element 10 is NaN" in messages[1]
    assert "is infinite" in messages[2]


def test_neighbouring_odd_elements_are_visited_one_by_one(tmp_path: Path) -> None:
    with open_file(ALICE) as file:
        norm = file.tensors["norm"]
    path = spoilt(tmp_path, {norm.offset + 8: np.full(3, np.nan, "<f4").tobytes()})
    found = walk(path, steps=4)
    assert [place and place.offset - norm.offset for place in found] == [8, 12, 16, 8]


def test_a_sound_file_has_no_finding() -> None:
    assert walk(ALICE, 1000, 1) == [None]


def test_damage_and_what_the_reader_found_are_findings() -> None:
    place = walk(TRUNCATED, 0, 1)[0]
    assert place is not None
    assert (place.path, place.offset) == ("layers[0].w3.padding", TRUNCATED.stat().st_size - 1)
    twin = walk(FIXTURES / "twin-ff48.v0.ggcp", 0, 1)[0]
    assert twin is not None
    assert twin.path == "hparams.n_mult"


def test_a_path_is_suggested(tmp_path: Path) -> None:
    for name in ("model-b.gguf", "model-a.gguf", "other"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    for start, found in (("m", "model-a.gguf"), ("f", "folder/"), ("x", None), ("none/x", None)):
        suggested = asyncio.run(commands.Paths().get_suggestion(f"{tmp_path}/{start}"))
        assert suggested == (found and f"{tmp_path}/{found}")
