"""The tensors of a base with an adapter added, and what all outputs have in common."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize, quantize

from ggcp_schema import UsageError, open_file
from ggcp_schema.formats.gguf.file import open_gguf
from ggcp_schema.llama.rotation import Heads
from ggcp_schema.mapping import adapter as merging
from ggcp_schema.mapping.adapter import adapter_tensors, merged
from ggcp_schema.mapping.lora import base_of
from ggcp_schema.mapping.peft import peft_tensors
from tests.lora import independent
from tests.lora.lora_files import (
    BASE,
    FOLDER,
    GGLA,
    PEFT,
    adapter_of,
    array,
    base_in,
    base_weights,
    quantized,
    same,
    write_model,
)
from tests.lora.test_outputs import rotate_half_rows


@pytest.mark.parametrize("name", ["twin-adam", "feb2024-adam"])
def test_a_merge_by_export_lora(name: str) -> None:
    """It computed in float32, in another order."""
    wanted = {tensor.name: np.array(tensor.data) for tensor in GGUFReader(FOLDER / f"{name}.merged.gguf").tensors}
    with adapter_of(FOLDER / f"{name}.ggla") as adapter, base_in() as base:
        found = {tensor.name: array(tensor) for tensor in merged(adapter, base).values()}
    assert set(found) == set(wanted)
    for key, values in wanted.items():
        assert found[key].shape == values.shape
        assert np.abs(found[key] - values).max() <= 3e-7 * np.abs(values).max()


@pytest.mark.parametrize("path", [FOLDER / "lbfgs.ggla", PEFT], ids=lambda path: path.name)
def test_merged_in_f32_each_value_is_the_nearest(path: Path) -> None:
    lora = independent.read(path)
    wanted = independent.with_adapter(base_weights(), lora)
    with adapter_of(path, hf_rows=False) as adapter, base_in() as base:
        found = merged(adapter, base)
        assert list(found) == [name for name in base.tensors if name in adapter.pairs]
        for tensor in found.values():
            name = independent.plain_name(tensor.name.removesuffix(".weight"))
            values = wanted[name].astype("f4")
            assert np.abs(array(tensor) - values).max() <= 1.2e-7 * np.abs(values).max()


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q5_1", "Q4_0"])
def test_merged_into_a_base_of_another_type(kind: str, tmp_path: Path) -> None:
    """It is what gguf makes of the sum of the base's values and the product."""
    lora, base_path = independent.read(GGLA[0]), quantized(tmp_path / "base.gguf", kind)
    kind_of = GGMLQuantizationType[kind]
    with adapter_of(GGLA[0]) as adapter, base_in(base_path) as base:
        write_model(
            tmp_path / "new.gguf", base_path, {tensor.name: tensor for tensor in merged(adapter, base).values()}
        )
    old = {tensor.name: tensor for tensor in GGUFReader(base_path).tensors}
    for tensor in GGUFReader(tmp_path / "new.gguf").tensors:
        before = old[tensor.name]
        assert tensor.tensor_type == before.tensor_type
        name = independent.plain_name(tensor.name.removesuffix(".weight"))
        if "norm" in name:
            continue
        values = dequantize(before.data, kind_of).astype("f8") + lora.product(name)
        wanted = quantize(values.astype("f4"), kind_of)
        assert np.mean(np.asarray(tensor.data).view("u1") != wanted.view("u1")) < 1e-3  # values at the middle of two
        error = np.abs(dequantize(tensor.data, kind_of) - values).max()
        assert error <= np.abs(dequantize(wanted, kind_of) - values).max() * 1.0001


def test_merged_for_hugging_face_in_its_order_of_rows() -> None:
    wanted = independent.with_adapter(base_weights(), independent.read(GGLA[0]))
    with adapter_of(GGLA[0]) as adapter, base_in() as base:
        for heads in (4, 2):
            for path, tensor in merged(adapter, base._replace(heads=Heads(4, heads)), type="F32", hf_rows=True).items():
                name = independent.plain_name(tensor.name.removesuffix(".weight"))
                rows = {"wq": 4, "wk": heads}.get(path.rpartition(".")[2])
                values = rotate_half_rows(wanted[name], rows) if rows else wanted[name]
                assert np.abs(array(tensor) - values).max() <= 1.2e-7 * np.abs(values).max()


@pytest.mark.parametrize("hf_rows", [False, True])
def test_the_size_of_the_chunks_changes_nothing(hf_rows: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with adapter_of(GGLA[0]) as adapter, base_in() as base:
        whole = {path: b"".join(tensor.chunks()) for path, tensor in merged(adapter, base, hf_rows=hf_rows).items()}
        monkeypatch.setattr(merging, "CHUNK", 3 * 8 * 32)
        for path, tensor in merged(adapter, base, hf_rows=hf_rows).items():
            chunks = list(tensor.chunks())
            assert len(chunks) > 1 or "norm" in path
            found = np.frombuffer(b"".join(chunks), "<f4")
            wanted = np.frombuffer(whole[path], "<f4")
            assert np.abs(found - wanted).max() <= 1.2e-7 * np.abs(wanted).max()


@pytest.mark.parametrize("kind", ["Q4_K", "Q6_K", "IQ4_XS"])
def test_types_that_gguf_cannot_write_are_refused_and_the_adapter_is_named(kind: str) -> None:
    with adapter_of(GGLA[0]) as adapter, base_in() as base:
        size = {"Q4_K": 144, "Q6_K": 210, "IQ4_XS": 136}[kind]
        tensor = replace(base.tensors["output"], shape=(256, 2), nbytes=2 * size, type=kind)
        with pytest.raises(UsageError, match=f"is {kind}, which cannot be written") as error:
            merged(adapter, base._replace(tensors=base.tensors | {"output": tensor}))
        assert "Make an adapter" in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"nbytes": 320 * 20, "is_known": False},  # the blocks until 12 May 2023
        {"nbytes": 320 * 18, "byte_order": "big"},
        {"nbytes": 40 * 18, "shape": (33, 20)},
        {"type": "Q8_1", "nbytes": 320 * 40},
    ],
)
def test_blocks_that_cannot_be_read_are_refused(changes: dict[str, Any]) -> None:
    with adapter_of(GGLA[0]) as adapter, base_in() as base:
        tensor = replace(base.tensors["output"], **{"type": "Q4_0"} | changes)
        with pytest.raises(UsageError, match=f"is {tensor.type} (in the blocks of an older version,|of a kind)"):
            merged(adapter, base._replace(tensors=base.tensors | {"output": tensor}), type="F32")


def test_a_k_quant_can_be_merged_into_f32() -> None:
    with adapter_of(GGLA[0]) as adapter, base_in() as base:
        tensor = replace(base.tensors["output"], shape=(256, 2), nbytes=2 * 144, type="Q4_K")
        assert (
            merged(adapter, base._replace(tensors=base.tensors | {"output": tensor}), type="F32")["output"].type
            == "F32"
        )


def test_no_data_is_read_before_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with adapter_of(GGLA[0]) as adapter, base_in() as base:
        for owner in {tensor.source for tensor in (base.tensors["norm"], adapter.pairs["norm"].a)}:
            monkeypatch.setattr(owner, "read", None)
            monkeypatch.setattr(owner, "map", None)
        assert len(adapter_tensors(adapter, base.heads)) == 32
        assert len(peft_tensors(adapter, base, norms=True)) == 37
        assert len(merged(adapter, base)) == 21


@pytest.mark.filterwarnings("error")
def test_values_that_are_infinite_give_no_warning(tmp_path: Path) -> None:
    content = bytearray(PEFT.read_bytes())
    _, values, end = independent.read_record(content, 16)
    content[end - values.nbytes : end] = np.full(values.size, np.inf, "<f2").tobytes()
    (tmp_path / "infinite.ggla").write_bytes(content)
    with adapter_of(tmp_path / "infinite.ggla", scale=1e300) as adapter, base_in() as base:
        assert not np.isfinite(array(merged(adapter, base)["layers[0].wq"])).any()
        assert np.isinf(array(adapter_tensors(adapter, base.heads)[3])).any()
        assert array(peft_tensors(adapter, base, norms=True)[0]).shape == (4, 32)


def test_a_base_in_ggjt_gives_the_same(tmp_path: Path) -> None:
    with adapter_of(GGLA[0]) as adapter, base_in() as base, open_file(FOLDER / "base.ggjt") as ggjt:
        other = base_of(ggjt)
        found, wanted = merged(adapter, other), merged(adapter, base)
        assert set(found) == set(wanted)
        for path, tensor in wanted.items():
            assert found[path].name == tensor.name
            assert np.array_equal(array(found[path]), array(tensor))


def test_the_helper_copies_what_is_not_replaced(tmp_path: Path) -> None:
    write_model(tmp_path / "same.gguf", BASE, {})
    with open_gguf(tmp_path / "same.gguf") as found, open_gguf(BASE) as wanted:
        assert list(found.key_values.values()) == list(wanted.key_values.values())
        before = same(BASE)
        assert all(np.array_equal(found.tensors[name].array(), array(before[name])) for name in wanted.tensors)
