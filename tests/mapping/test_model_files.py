"""Model files as input of `export`: ggjt, ggmf, ggml, and GGUF, in any element type."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader

from ggcp_schema import UsageError, export_model
from ggcp_schema.files.key_values import KeyValue
from ggcp_schema.files.tensor_entries import TensorEntry, Zeros
from tests.builder import build_ggml
from tests.helpers import FIXTURES
from tests.mapping import llama
from tests.mapping.gguf_files import read_gguf, tensor_name
from tests.writing import write_gguf

BASE = FIXTURES / "lora" / "base.ggjt"  # of a trainer, 23 August 2023
SAME = FIXTURES / "lora" / "base.gguf"  # what `export` makes of the checkpoint that the trainer saved with it
TOKENS = [(b"", 0.0), (b"", -1.0), (b"", -2.0), (b"a", -3.0), (b" b", -4.0)]
N_EMBD, N_FF = 32, 64
LAYER = {
    "attention_norm": (N_EMBD,),
    **{f"attention.{name}": (N_EMBD, N_EMBD) for name in ("wq", "wk", "wv", "wo")},
    "ffn_norm": (N_EMBD,),
    "feed_forward.w1": (N_EMBD, N_FF),
    "feed_forward.w2": (N_FF, N_EMBD),
    "feed_forward.w3": (N_EMBD, N_FF),
}
SHAPES = {
    "tok_embeddings": (N_EMBD, len(TOKENS)),
    "norm": (N_EMBD,),
    "output": (N_EMBD, len(TOKENS)),
    **{f"layers.0.{name}": shape for name, shape in LAYER.items()},
}
GGJT_3 = ["F32", "F16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]
OLD_SIZES = {"Q4_0": 20, "Q4_1": 24, "Q8_0": 36}  # bytes of a block until version 2


def old_model(
    path: Path, magic: bytes, version: int | None, kind: str, extra: tuple[str, ...] = ()
) -> dict[str, bytes]:
    """Write a model with matrices of that type, and return the data of its tensors."""
    rng, tensors = np.random.default_rng(5), []
    for name, shape in SHAPES.items():
        number = GGMLQuantizationType[kind if len(shape) == 2 else "F32"]
        block, size = GGML_QUANT_SIZES[number]
        size = size if version == 3 else OLD_SIZES.get(number.name, size)
        data = rng.bytes(int(np.prod(shape)) // block * size)
        if number.name in ("F32", "F16"):
            data = rng.standard_normal(int(np.prod(shape))).astype("<f4" if size == 4 else "<f2").tobytes()
        tensors.append((f"{name}.weight", shape, int(number), data))
    tensors += [(name, (4,), 0, bytes(16)) for name in extra]
    content = bytearray(build_ggml(magic, version, tokens=TOKENS, tensors=tensors, n_embd=N_EMBD, ftype=2))
    struct.pack_into("<I", content, 24 + 4 * (version is not None), 16)  # n_rot
    path.write_bytes(content)
    return {name: data for name, _, _, data in tensors}


def exported(path: Path) -> dict[str, tuple[str, bytes]]:
    return {tensor.name: (tensor.tensor_type.name, tensor.data.tobytes()) for tensor in GGUFReader(path).tensors}


def gguf_name(name: str) -> str:
    *layer, field = name.removesuffix(".weight").split(".")
    return str(tensor_name(f"layers[0].{field}" if layer else field))


def without_texts(keys: dict[str, Any]) -> dict[str, Any]:
    """Return the keys that a vocabulary of 2023 has too: it lost the text of byte 0, and has no types of tokens."""
    lost = ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type")
    return {key: entry for key, entry in keys.items() if key not in lost}


def test_a_genuine_model_is_that_of_the_checkpoint(tmp_path: Path) -> None:
    out, context = tmp_path / "out.gguf", read_gguf(SAME)["kv"]["llama.context_length"]["value"]
    written = export_model(BASE, out, context_length=context, rms_eps=1e-5, verify=True, name="base")
    found, expected = read_gguf(out), read_gguf(SAME)
    assert found["tensors"] == expected["tensors"]
    assert without_texts(found["kv"]) == without_texts(expected["kv"])
    assert written.plan.fact("vocabulary").value["kind"] == "ggjt version 3"


@pytest.mark.skipif(not llama.HAS_WHEEL, reason="xllamacpp has wheels for Linux x86-64 alone")
def test_llama_cpp_computes_the_same(tmp_path: Path) -> None:
    export_model(BASE, tmp_path / "out.gguf", context_length=64, rms_eps=1e-5)
    found, expected = (llama.run(path, [1, 259, 279, 262, 68]) for path in (tmp_path / "out.gguf", SAME))
    assert np.array_equal(found.log_probabilities, expected.log_probabilities)
    assert found.greedy == expected.greedy


def test_the_epsilon_is_that_of_the_programs_of_the_time(tmp_path: Path) -> None:
    epsilon = export_model(BASE, tmp_path / "out.gguf", context_length=64).plan.fact("epsilon")
    assert epsilon.value in (1e-6, 5e-6, 1e-5)
    assert "used 1e-6" in epsilon.reason


@pytest.mark.parametrize(
    ("magic", "version", "kind"),
    [
        *((b"tjgg", 3, kind) for kind in GGJT_3),
        *((b"tjgg", 2, kind) for kind in ("F32", "F16", "Q5_0", "Q5_1")),
        *((b"tjgg", 1, kind) for kind in ("F32", "F16")),
        *((magic, version, kind) for magic, version in ((b"fmgg", 1), (b"lmgg", None)) for kind in ("F32", "F16")),
    ],
)
def test_data_that_gguf_stores_alike_is_copied(magic: bytes, version: int | None, kind: str, tmp_path: Path) -> None:
    expected = old_model(tmp_path / "old", magic, version, kind)
    export_model(tmp_path / "old", tmp_path / "out.gguf", context_length=16, verify=True)
    found = exported(tmp_path / "out.gguf")
    assert {name: data for name, (_, data) in found.items()} == {
        gguf_name(name): data for name, data in expected.items()
    }
    assert {found_type for found_type, _ in found.values()} == {"F32", kind}
    assert read_gguf(tmp_path / "out.gguf")["kv"]["general.file_type"]["value"] == (0 if kind == "F32" else 2)


@pytest.mark.parametrize(
    ("version", "kind"), [(1, "Q4_0"), (1, "Q4_1"), (1, "Q5_0"), (1, "Q8_0"), (2, "Q4_0"), (2, "Q4_1"), (2, "Q8_0")]
)
def test_blocks_that_changed_are_refused(version: int, kind: str, tmp_path: Path) -> None:
    old_model(tmp_path / "old", b"tjgg", version, kind)
    with pytest.raises(UsageError, match=rf"tok_embeddings.weight is {kind} as ggjt version {version} stores it"):
        export_model(tmp_path / "old", tmp_path / "out.gguf", context_length=16)
    assert not (tmp_path / "out.gguf").exists()


def test_a_model_with_other_tensors_is_refused(tmp_path: Path) -> None:
    old_model(tmp_path / "old", b"tjgg", 3, "F32", extra=("layers.0.attention.wq.bias",))
    with pytest.raises(UsageError, match=r"tensor layers\.0\.attention\.wq\.bias is none of a llama model"):
        export_model(tmp_path / "old", tmp_path / "out.gguf", context_length=16)


# GGUF ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["F16", "Q4_0", "Q8_0"])
def test_a_gguf_model_keeps_its_types_and_keys(kind: str, tmp_path: Path) -> None:
    first, again = tmp_path / "first.gguf", tmp_path / "again.gguf"
    old_model(tmp_path / "old", b"tjgg", 3, kind)
    export_model(tmp_path / "old", first, context_length=16, name="mine")
    export_model(first, again, verify=True)
    assert again.read_bytes() == first.read_bytes()
    export_model(first, again, context_length=99, rms_eps=1e-4, force=True)
    assert exported(again) == exported(first)
    changed = {"llama.context_length": 99, "llama.attention.layer_norm_rms_epsilon": float(np.float32(1e-4))}
    expected = {key: entry["value"] for key, entry in read_gguf(first)["kv"].items()} | changed
    assert {key: entry["value"] for key, entry in read_gguf(again)["kv"].items()} == expected


def test_the_vocabulary_of_a_gguf_model_is_replaced_and_unknown_keys_stay(tmp_path: Path) -> None:
    reader, keys = GGUFReader(SAME), read_gguf(SAME)["kv"]
    kept = [KeyValue(key, entry["type"], entry["value"]) for key, entry in keys.items() if "tokenizer" not in key]
    kept.append(KeyValue("general.author", "STRING", "me"))
    tensors = [TensorEntry(tensor.name, tuple(tensor.shape.tolist()), Zeros()) for tensor in reader.tensors]
    write_gguf(tmp_path / "bare.gguf", [*kept, *tensors], sync=False)
    with pytest.raises(UsageError, match="contains no vocabulary"):
        export_model(tmp_path / "bare.gguf", tmp_path / "out.gguf")
    export_model(tmp_path / "bare.gguf", tmp_path / "out.gguf", vocab=BASE)
    expected = keys | {"general.author": {"type": "STRING", "value": "me"}}
    assert without_texts(read_gguf(tmp_path / "out.gguf")["kv"]) == without_texts(expected)


def test_a_gguf_model_with_other_tensors_is_refused(tmp_path: Path) -> None:
    keys = [
        KeyValue(key, entry["type"], entry["value"]) for key, entry in read_gguf(SAME)["kv"].items() if "tok" not in key
    ]
    tensors = [TensorEntry(tensor.name, tuple(tensor.shape.tolist()), Zeros()) for tensor in GGUFReader(SAME).tensors]
    extra = TensorEntry("rope_freqs.weight", (4,), Zeros())
    write_gguf(tmp_path / "in.gguf", [*keys, *tensors, extra], sync=False)
    with pytest.raises(UsageError, match=r"tensor rope_freqs\.weight is none of a llama model"):
        export_model(tmp_path / "in.gguf", tmp_path / "out.gguf", vocab=BASE)
