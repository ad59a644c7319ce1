"""The adapter in a file: its pairs, its scale, who wrote it, and the base models that it fits."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ggcp_schema import MalformedError, UnfitError, UsageError, open_file
from ggcp_schema.files.output import WHOLE, WriteOptions
from ggcp_schema.formats.gguf.file import open_gguf
from ggcp_schema.formats.gguf.meanings import adapter_of_gguf
from ggcp_schema.formats.lora.files import GgclFile
from ggcp_schema.llama.adapter import FINETUNE, SCRIPT, Base, fit
from ggcp_schema.llama.rotation import Heads, order_of_halves
from ggcp_schema.mapping.gguf import Gguf
from tests.builder import build_checkpoint
from tests.helpers import FIXTURES
from tests.lora import independent
from tests.lora.lora_files import (
    BASE,
    CHECKPOINTS,
    EVERY,
    FOLDER,
    GGCL,
    GGLA,
    PEFT,
    adapter_of,
    base_in,
    base_weights,
    ggla,
    opened,
    stem,
)
from tests.mapping.gguf_files import read_gguf
from tests.writing import write_parts

HEADS = Heads(4, 4)


def ids(path: Path) -> str:
    return path.name


def plain(path: str) -> str:
    """Return `wq.0` for `layers[0].wq`."""
    layer, _, name = path.removeprefix("layers[").partition("].")
    return f"{name}.{layer}" if name else path


# Reading ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", EVERY, ids=ids)
def test_the_products_are_those_of_an_independent_reader(path: Path) -> None:
    lora = independent.read(path)
    with adapter_of(path, hf_rows=False) as adapter:
        assert {plain(name) for name in adapter.pairs} == set(lora.a)
        assert adapter.scale == lora.scale
        for name in adapter.pairs:
            wanted = lora.product(plain(name))
            assert np.array_equal(adapter.product(name, HEADS), wanted.reshape(-1) if "norm" in name else wanted)


@pytest.mark.parametrize("path", EVERY, ids=ids)
def test_who_wrote_it(path: Path) -> None:
    with adapter_of(path) as adapter:
        by_script = path == PEFT
        assert adapter.writer == (SCRIPT if by_script else FINETUNE)
        assert adapter.hf_rows == by_script
        assert adapter.n_layer == 2
        assert len(adapter.norms) == (0 if by_script else 5)
        assert (adapter.r, adapter.alpha) == ((4, 16 if by_script else 4) if path in GGLA else (None, None))


@pytest.mark.parametrize("path", [*GGCL, *CHECKPOINTS], ids=ids)
def test_a_checkpoint_has_the_pairs_of_the_adapter_of_its_run(path: Path) -> None:
    with adapter_of(path) as one, adapter_of(FOLDER / f"{stem(path)}.ggla") as other:
        assert list(one.pairs) == list(other.pairs)
        for name in one.pairs:
            for found, wanted in zip(one.factors(name, HEADS), other.factors(name, HEADS), strict=True):
                assert found.tobytes() == wanted.tobytes()


def test_ranks_that_differ() -> None:
    with adapter_of(FOLDER / "lbfgs.ggla") as adapter:
        assert {name: rank for name, rank in adapter.ranks.items() if rank != [4]} == {
            "norm": [1],
            "attention_norm": [1],
            "wq": [2],
            "ffn_norm": [1],
            "w1": [1],
        }


def test_an_adapter_is_told_in_a_line() -> None:
    path = FIXTURES / "lora" / "adam.ggla"
    with open_file(path) as file:
        assert repr(file.adapter()) == f"<Adapter {path}: 21 pairs, scale 1>"


def test_an_adapter_that_lacks_pairs_is_neither_finetunes_nor_the_scripts(tmp_path: Path) -> None:
    path = tmp_path / "part.ggla"
    path.write_bytes(ggla({"output_norm": ((2, 8), (2,)), "output": ((2, 8), (2, 5))}))
    with adapter_of(path) as adapter:
        assert adapter.writer is None
        assert not adapter.hf_rows


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ({"output": ((2, 8), ())}, r"output\.weight\.loraA: expected tensors A and B, found no tensor B"),
        ({"output": ((2, 8), (3, 5))}, r"output\.weight\.loraB: expected \[2, n_out\], found \[3, 5\]"),
        ({"output": ((2, 8), (2,))}, r"expected \[2, n_out\], found \[2\]"),
        ({"output": ((2,), (2, 8))}, r"expected two dimensions, \[r, n_in\], found \[2\]"),
        ({"output_norm": ((2, 8), (2, 8))}, r"expected \[2, 1\], found \[2, 8\]"),
        ({"output": ((2, 0), (2, 5))}, r"found \[2, 0\]"),
        ({"blk.0.attn_q": ((2, 8), (2, 8)), "layers.0.attention.wq": ((2, 8), (2, 8))}, "expected one tensor"),
    ],
)
def test_tensors_that_do_not_make_up_pairs(pairs: dict[str, tuple], said: str, tmp_path: Path) -> None:
    (tmp_path / "bad.ggla").write_bytes(ggla(pairs))
    with pytest.raises(MalformedError, match=said), adapter_of(tmp_path / "bad.ggla"):
        pass


@pytest.mark.parametrize("name", ["transformer.h.0.attn.c_attn", "blk.0.attn_qkv", "optimizer.adam.first_moments"])
def test_tensors_of_another_architecture(name: str, tmp_path: Path) -> None:
    (tmp_path / "other.ggla").write_bytes(ggla({name: ((2, 8), (2, 8))}))
    with pytest.raises(UsageError, match="no part of an adapter of a llama model"), adapter_of(tmp_path / "other.ggla"):
        pass


def test_a_scale_that_cannot_be_told(tmp_path: Path) -> None:
    (tmp_path / "zero.ggla").write_bytes(ggla({"output": ((2, 8), (2, 5))}, r=0))
    with pytest.raises(UsageError, match="r is 0"), adapter_of(tmp_path / "zero.ggla"):
        pass


def test_a_gguf_that_is_no_checkpoint_of_finetune() -> None:
    with open_gguf(BASE) as gguf, pytest.raises(UsageError, match=r"training\.type is missing"):
        adapter_of_gguf(gguf)


def test_a_damaged_file_has_no_adapter(tmp_path: Path) -> None:
    (tmp_path / "cut.ggla").write_bytes(PEFT.read_bytes()[:-1])
    with opened(tmp_path / "cut.ggla", partial=True) as file, pytest.raises(MalformedError, match="expected 512 bytes"):
        file.adapter()  # type: ignore[attr-defined]


def test_rows_of_hugging_face_follow_its_converter() -> None:
    """transformers' conversion script of Llama: (heads, 2, half) from (heads, half, 2)."""
    order = order_of_halves(16, 2)
    assert order.tolist() == [0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15]
    with pytest.raises(UsageError, match="not 3 heads"):
        order_of_halves(16, 3)


# Fitting ---------------------------------------------------------------------------------------------------


def same_base_in_ggcp(path: Path) -> Path:
    values = np.concatenate([w.ravel() for w in ggjt_weights().values()]).astype("<f4")
    at = 0

    def draw(count: int) -> np.ndarray:
        nonlocal at
        at += count
        return np.resize(values[at - count : at], count)

    sizes = {"n_vocab": 320, "n_embd": 32, "n_mult": 32, "n_head": 4, "n_layer": 2, "n_rot": 8, "n_ff": 96}
    path.write_bytes(build_checkpoint(**sizes, data=draw))  # type: ignore[arg-type]
    return path


def ggjt_weights() -> dict[str, np.ndarray]:
    raw, at = (FOLDER / "base.ggjt").read_bytes(), 36
    for _ in range(320):
        at += 8 + struct.unpack_from("<I", raw, at)[0]
    found = {}
    while at < len(raw):
        name, values, at = independent.read_record(raw, at)
        found[independent.plain_name(name.removesuffix(".weight"))] = values
    return found


@pytest.mark.parametrize("path", EVERY, ids=ids)
def test_the_base_in_each_format_fits(path: Path, tmp_path: Path) -> None:
    with adapter_of(path) as adapter:
        for base in (BASE, FOLDER / "base.ggjt", same_base_in_ggcp(tmp_path / "base.ggcp")):
            with base_in(base) as model:
                fit(adapter, model)
                assert model.heads == (4, 4)
                for name, values in base_weights().items():
                    found = next(tensor for key, tensor in model.tensors.items() if plain(key) == name)
                    assert np.array_equal(found.array(), values)


@pytest.mark.parametrize("path", EVERY, ids=ids)
def test_each_pair_that_does_not_fit_is_named(path: Path) -> None:
    with adapter_of(path) as adapter, base_in() as base:
        for name in adapter.pairs:
            tensor = base.tensors[name]
            for other in (replace(tensor, shape=(tensor.shape[0] + 2, *tensor.shape[1:])), None):
                tensors = {key: tensor for key, tensor in base.tensors.items() if key != name}
                if other is not None:
                    tensors[name] = other
                with pytest.raises(UsageError) as error:
                    fit(adapter, base._replace(tensors=tensors))
                wants = list(tensor.shape)
                has = "missing" if other is None else list(other.shape)
                assert f"{name} of the adapter is {wants}, of the base {has}" in str(error.value)


def test_a_base_with_more_layers_does_not_fit_an_adapter_by_finetune() -> None:
    with adapter_of(GGLA[0]) as adapter, adapter_of(PEFT) as script, base_in() as base:
        third = {
            name.replace("[1]", "[2]"): tensor for name, tensor in base.tensors.items() if name.startswith("layers[1]")
        }
        larger = base._replace(tensors={**base.tensors, **third})
        with pytest.raises(UsageError, match=r"layers\[2\]\.attention_norm of the adapter is missing"):
            fit(adapter, larger)
        fit(script, larger)


def test_heads_that_the_rows_of_the_base_cannot_have() -> None:
    with (
        adapter_of(PEFT) as adapter,
        base_in() as base,
        pytest.raises(UsageError, match=r"32 rows .* not 5 heads"),
    ):
        fit(adapter, Base(base.path, base.tensors, Heads(5, 5)))


@pytest.mark.parametrize("name", ["vocab.gguf", "lora/adam.resume.json"])
def test_a_file_without_a_model_is_no_base(name: str) -> None:
    with pytest.raises((UsageError, MalformedError)), base_in(FOLDER.parent / name):
        pass


# The checkpoint to resume from -----------------------------------------------------------------------------


@pytest.mark.parametrize("path", GGCL, ids=ids)
def test_the_checkpoint_is_that_of_the_converter_of_2023(path: Path, tmp_path: Path) -> None:
    with opened(path) as file:
        assert isinstance(file, GgclFile)
        write_parts(tmp_path / "out.gguf", {WHOLE: Gguf(*file.converted())}, WriteOptions(verify=True, sync=False))
    found = read_gguf(tmp_path / "out.gguf")
    expected = json.loads((FOLDER / f"{path.stem}.resume.json").read_text())
    assert found == expected
    assert list(found["kv"]) == list(expected["kv"])
    with open_file(tmp_path / "out.gguf") as gguf:
        assert adapter_of_gguf(gguf).writer == FINETUNE  # type: ignore[arg-type]


def test_it_equals_what_finetune_saved_from_the_same_memory(tmp_path: Path) -> None:
    with opened(FOLDER / "twin-adam.ggcl") as file:
        assert isinstance(file, GgclFile)
        write_parts(tmp_path / "out.gguf", {WHOLE: Gguf(*file.converted())}, WriteOptions(sync=False))
    found, expected = read_gguf(tmp_path / "out.gguf"), json.loads((FOLDER / "twin-adam.trainer.json").read_text())
    assert found["tensors"] == expected["tensors"]
    for key in ("llama.context_length", "llama.rope.freq_base", "llama.rope.scale_linear"):
        del expected["kv"][key]
    assert found["kv"] == expected["kv"]


def test_a_count_that_the_key_cannot_hold(tmp_path: Path) -> None:
    content = bytearray(GGCL[0].read_bytes())
    with opened(GGCL[0]) as file:
        offset = file.find("optimizer.iter").offset
    struct.pack_into("<i", content, offset, -1)
    (tmp_path / "negative.ggcl").write_bytes(content)
    with opened(tmp_path / "negative.ggcl") as file, pytest.raises(UnfitError, match=r"iteration_count: -1"):
        file.converted()
