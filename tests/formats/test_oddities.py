"""What is odd in a checkpoint but does not prevent reading it."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from ggcp_schema import CHECKPOINT, open_checkpoint
from ggcp_schema.formats.ggcp.rules import MAX_MISPLACED, place_of
from ggcp_schema.llama.names import field_path, llama_field_path, llama_name, tensor_name
from tests.builder import build_checkpoint
from tests.helpers import GENUINE, ORDERS, TRUNCATED

GGUF_NAMES = {
    "tok_embeddings": "token_embd",
    "norm": "output_norm",
    "attention.wq": "attn_q",
    "attention.wk": "attn_k",
    "attention.wv": "attn_v",
    "attention.wo": "attn_output",
    "attention_norm": "attn_norm",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w2": "ffn_down",
    "feed_forward.w3": "ffn_up",
}


def odd(tmp_path: Path, **options: Any) -> list[tuple[str, str]]:
    path = tmp_path / "odd.ggcp"
    path.write_bytes(build_checkpoint(**options))
    with open_checkpoint(path) as ckpt:
        for finding in ckpt.findings:
            assert ckpt.find(finding.path).is_leaf
        return [tuple(finding) for finding in ckpt.findings]


def renaming(**names: str) -> Any:
    """Return a function that swaps parts of names: `renaming(wq="wk", wk="wq")`."""

    def rename(default: str) -> bytes:
        stem = default.removesuffix(".weight").rpartition(".")[2]
        return default.replace(stem, names.get(stem, stem)).encode()

    return rename


def as_gguf(default: str) -> str:
    """Return the name of late August 2023, by a table of its own."""
    for llama, gguf in GGUF_NAMES.items():
        default = default.replace(f".{llama}.", f".{gguf}.") if "." in llama or "_norm" in llama else default
    default = default.replace("layers.", "blk.")
    for llama in ("tok_embeddings", "norm"):
        default = f"{GGUF_NAMES[llama]}.weight" if default == f"{llama}.weight" else default
    return default


# Names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*GENUINE, *ORDERS, TRUNCATED], ids=lambda path: path.name)
def test_the_names_of_a_genuine_file_agree_with_their_places(path: Path) -> None:
    with open_checkpoint(path, partial=True) as ckpt:
        for place, tensor in ckpt.model_tensors.items():
            name = tensor.name
            assert place_of(name.encode()) == place
            assert name in {llama_name(place), tensor_name(place)}
            assert {llama_field_path(name), field_path(name)} - {None} == {place}
        assert not any("name" in finding.path for finding in ckpt.findings)


def test_names_that_are_no_tensors() -> None:
    layers = ("layers.0", "layers.0.wq.weight", "layers.x.attention.wq.weight", "layers.-1.ffn_norm.weight")
    for name in ("", "x", "norm.bias", *layers):
        assert llama_field_path(name) is None
    assert place_of(b"\xff" * 20) is None
    assert place_of(b"layers.0.attention.wq.weight" * 4) is None


@pytest.mark.parametrize(
    "name",
    [
        "output",
        "token_embd",
        "blk.0.attn_q",
        "blk.007.attn_q.weight",
        "blk.0.attn_q.weight.weight",
        "optimizer.adam.first_moments.weight",
        "tok_embeddings",
        "layers.00.ffn_norm.weight",
        "layers.0.ffn_norm",
    ],
)
def test_a_name_is_a_tensor_s_only_if_it_is_the_whole_name(name: str) -> None:
    assert field_path(name) is None
    assert llama_field_path(name) is None


@pytest.mark.parametrize("path", ["layers[0].a.wq", "layers[0.wq", "layers[00].wq", "layers[0]wq", "layers[].wq"])
def test_a_path_that_is_none_has_no_name(path: str) -> None:
    assert tensor_name(path) is None
    assert llama_name(path) is None


@pytest.mark.parametrize("gguf", [False, True])
def test_swapped_names_are_found_with_both_names(tmp_path: Path, gguf: bool) -> None:
    rename = renaming(wq="wk", wk="wq")
    found = odd(tmp_path, name=lambda default: as_gguf(rename(default).decode()).encode() if gguf else rename(default))
    q, k = (
        ("blk.0.attn_q.weight", "blk.0.attn_k.weight")
        if gguf
        else ("layers.0.attention.wq.weight", "layers.0.attention.wk.weight")
    )
    assert found == [
        ("layers[0].wq.name", f"expected the name {q!r}, found {k!r}, which is that of layers[0].wk"),
        ("layers[0].wk.name", f"expected the name {k!r}, found {q!r}, which is that of layers[0].wq"),
    ]


@pytest.mark.parametrize(
    ("rename", "paths"),
    [
        (renaming(tok_embeddings="output", output="tok_embeddings"), ["tok_embeddings.name", "output.name"]),
        (renaming(w1="w3"), ["layers[0].w1.name", "layers[1].w1.name"]),
        (renaming(attention_norm="ffn_norm"), ["layers[0].attention_norm.name", "layers[1].attention_norm.name"]),
        (renaming(wq="query"), []),
        (lambda default: b"", []),
        (lambda default: b"\xff\x00" * 300, []),
        (lambda default: as_gguf(default).encode(), []),
    ],
)
def test_which_names_contradict_their_places(tmp_path: Path, rename: Any, paths: list[str]) -> None:
    """Names that nobody gave to another tensor contradict nothing."""
    assert [path for path, _ in odd(tmp_path, n_layer=2, name=rename)] == paths


def test_records_that_were_swapped_with_their_names(tmp_path: Path) -> None:
    """The bytes of wq and wk exchanged, header, name, padding and data, so that the file is well-formed."""
    data = build_checkpoint(n_embd=8)
    layer = CHECKPOINT.parse(data).layers[0]
    (a, a_size), (b, b_size) = ((layer[name]["_offset"], layer[name]["_size"]) for name in ("wq", "wk"))
    assert (b, a_size) == (a + a_size, b_size)
    path = tmp_path / "swapped.ggcp"
    path.write_bytes(data[:a] + data[b : b + b_size] + data[a : a + a_size] + data[b + b_size :])
    with open_checkpoint(path) as ckpt:
        assert [finding.path for finding in ckpt.findings] == ["layers[0].wq.name", "layers[0].wk.name"]


def test_swapped_layers_are_listed_up_to_a_limit(tmp_path: Path) -> None:
    def renumber(default: str) -> bytes:
        return default.replace("layers.0", "layers.9").replace("layers.1", "layers.0").encode()

    found = odd(tmp_path, n_layer=2, name=renumber)
    assert len(found) == MAX_MISPLACED + 1
    assert found[0][0] == "layers[0].attention_norm.name"
    assert found[0][1].endswith("found 'layers.9.attention_norm.weight', which is that of layers[9].attention_norm")
    assert found[-1] == ("layers[1].wv.name", "6 more tensors from here on have the name of another one")


# Values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "path", "message"),
    [
        ({"n_head": 0}, "hparams.n_head", "is 0"),
        ({"n_mult": 0, "n_ff": 4}, "hparams.n_mult", "is 0"),
        ({"n_embd": 16, "n_head": 3}, "hparams.n_head", "n_embd 16 is not divisible by n_head 3"),
        ({"n_embd": 16, "n_rot": 9}, "hparams.n_rot", "n_rot is 9, but a head has only 8 dimensions"),
        ({"n_embd": 16, "n_rot": 3}, "hparams.n_rot", "n_rot is 3, but dimensions are rotated in pairs"),
        ({"n_ff": 5}, "hparams.n_mult", "n_ff is 5 according to w1, but 12 according to n_embd and n_mult (4)"),
        ({"nx": 11}, "optimizer.nx", "the optimizer is for 11 parameters, but the model has 260"),
        ({"state": {"iter": -1}}, "optimizer.iter", "is -1; a negative count cannot be stored in GGUF"),
        (
            {"state": {"n_no_improvement": -7}},
            "optimizer.state.n_no_improvement",
            "is -7; a negative count cannot be stored in GGUF",
        ),
        ({"state": {"fx_best": float("nan")}}, "optimizer.state.fx_best", "is NaN"),
        ({"state": {"fx_prev": float("-inf")}}, "optimizer.state.fx_prev", "is -Infinity"),
        ({"optimizer": "lbfgs", "state": {"step": float("inf")}}, "optimizer.state.step", "is Infinity"),
    ],
)
def test_odd_values(tmp_path: Path, options: dict[str, Any], path: str, message: str) -> None:
    assert odd(tmp_path, **options) == [(path, message)]


def test_nothing_is_odd_in_a_plain_file(tmp_path: Path) -> None:
    for optimizer in ("adam", "lbfgs"):
        assert odd(tmp_path, optimizer=optimizer, n_layer=2, past=3) == []
    assert odd(tmp_path, optimizer="lbfgs", state={"j": -1, "k": -1, "end": -1}) == []  # i32 in GGUF too
    assert odd(tmp_path, state={"fx_prev": -1e-6}) == []  # a loss of 0, rounded


def test_a_damaged_file_is_examined_up_to_the_damage(tmp_path: Path) -> None:
    data = build_checkpoint(n_head=0, name=renaming(tok_embeddings="norm"), state={"iter": -1})
    path = tmp_path / "cut.ggcp"
    start = CHECKPOINT.parse(data).optimizer["_offset"]
    for size, count in ((20, 0), (44, 1), (len(data) - 4, 3), (start, 2)):
        path.write_bytes(data[:size])
        with open_checkpoint(path, partial=True) as ckpt:
            assert len(ckpt.findings) == count, ckpt.findings


def test_all_oddities_come_in_file_order(tmp_path: Path) -> None:
    options: dict[str, Any] = {"n_head": 0, "n_rot": 3, "n_ff": 5, "nx": 7, "name": renaming(norm="output")}
    path = tmp_path / "odd.ggcp"
    path.write_bytes(build_checkpoint(**options, state={"iter": -2, "fx_best": float("nan"), "n_no_improvement": -1}))
    with open_checkpoint(path) as ckpt:
        offsets = [ckpt.find(finding.path).offset for finding in ckpt.findings]
        assert offsets == sorted(offsets)
        assert len(offsets) == 8


def test_a_signalling_nan_is_a_nan(tmp_path: Path) -> None:
    data = build_checkpoint()
    path = tmp_path / "nan.ggcp"
    path.write_bytes(data[:-12] + struct.pack("<I", 0x7FA00001) + data[-8:])
    with open_checkpoint(path) as ckpt:
        assert [tuple(finding) for finding in ckpt.findings] == [("optimizer.state.fx_best", "is NaN")]
