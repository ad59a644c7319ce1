"""Damaged headers, and bytes inserted or lost: nothing is lost that can be read, or called whole that is not."""

from __future__ import annotations

import os
import random
import struct
from contextlib import closing
from pathlib import Path

import gguf
import numpy as np
import pytest

from ggcp_schema import MalformedError, convert, export_model, open_checkpoint, open_file
from ggcp_schema.files.source import Source
from ggcp_schema.formats.numbers import FLOATS, RANGES
from ggcp_schema.inspect.damage import condition_of
from ggcp_schema.inspect.validate import validate
from ggcp_schema.schema.ggml import GGML_TYPES, GGML_TYPES_UNTIL_V2, data_size
from tests.fuzz.holes import FILLS, Damage, Damaged, Whole, check, opened, sizes_of
from tests.gguf_writer import written_by_gguf
from tests.helpers import FIXTURES

NAMES = (
    *("v0-adam.ggcp", "v1-adam-past5.ggcp", "v1-lbfgs.ggcp", "v1-adam-raw-params.ggcp"),
    *("lora/twin-adam.ggcl", "lora/lbfgs.ggcl", "lora/adam.ggla", "lora/feb2024-adam.ggla", "lora/base.ggjt"),
)


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_of_damage(name: str) -> None:
    """All positions: `python -m tests.fuzz --holes 1`."""
    whole, chance = Whole(FIXTURES / name), random.Random(name)
    found: list[str] = []
    for kind, size in [*((fill, 512) for fill in FILLS), ("inserted", 1), ("removed", 1)]:
        for offset in chance.sample(whole.at_headers(size), 12):
            found += check(Damaged(whole, Damage(kind, size, offset)))
    assert not [result for result in found if result.startswith("WRONG")]
    assert found.count("recovered") > 100
    assert sum(result.startswith("lost") for result in found) < 2  # by a byte inserted after the last tensor


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_of_damage_of_other_sizes(name: str) -> None:
    """Several bytes that were inserted or lost, also at the edge of a header; zeros up to the end; the end cut off."""
    whole, chance = Whole(FIXTURES / name), random.Random(name)
    size, runs = len(whole.data), [(kind, size) for kind in ("inserted", "removed") for size in (4, 8, 10, 13)]
    damages = [Damage(kind, n, at) for kind, n in runs for at in chance.sample(whole.at_headers(n)[:-n], 8)]
    damages += [Damage(kind, n, at) for kind, n in runs for at in chance.sample(range(size - 999, size - n), 3)]
    for offset in [*chance.sample(range(100, size), 16), *chance.sample(whole.at_edges(0), 16)]:
        damages += [Damage("zeros", size - offset, offset), Damage("removed", size - offset, offset)]
    found = [(damage, result) for damage in damages for result in check(Damaged(whole, damage))]
    assert not [one for one in found if one[1].startswith("WRONG")]
    assert [result for _, result in found].count("recovered") > 700


TRAINED = ("truth/jan24-D.gguf", "truth/aug28-B-then-jul24-C.gguf")
FINETUNED = ("lora/feb2024-adam.checkpoint.gguf", "lora/master-adam.checkpoint.gguf")


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(("kind", "size"), [*((fill, 512) for fill in FILLS), ("inserted", 1), ("removed", 1)])
def test_no_tensor_of_a_few_is_wrong_wherever_its_headers_are_damaged(
    kind: str, size: int, count: int, tmp_path: Path
) -> None:
    path, values = tmp_path / "few.gguf", np.random.default_rng(1)
    with written_by_gguf(path) as writer:
        writer.add_block_count(count)
        for index in range(count):
            writer.add_tensor(f"blk.{index}.attn_q.weight", values.normal(size=(64, 64)).astype(np.float32))
    whole = Whole(path)
    offsets = {*range(8, whole.head)}
    if (kind, count) == ("inserted", 1):  # its type may become another, and no other tensor contradicts its size
        offsets -= {*range(at := whole.data.find(b"attn_q.weight") + 13 + 4 + 16, at + 4)}
    found = [(at, result) for at in offsets for result in check(Damaged(whole, Damage(kind, size, at)))]
    assert not [one for one in found if one[1].startswith("WRONG")]


@pytest.mark.parametrize("name", ["lora/base.gguf", *TRAINED, *FINETUNED])
def test_a_sample_of_damage_in_gguf(name: str) -> None:
    """The order of the others tells the headers in a hole, the numbers where it ends; none is in a wrong place."""
    whole, chance = Whole(FIXTURES / name), random.Random(name)
    offsets = [24, *chance.sample(range(24, whole.head - 512), 12), *range(whole.head - 600, whole.head, 83)]
    found = [
        (damage, result)
        for damage in (Damage(fill, 512, at) for fill in FILLS for at in offsets)
        for result in check(Damaged(whole, damage))
    ]
    assert not [one for one in found if one[1].startswith("WRONG")]
    assert not [one for one in found if one[1].startswith("lost") and one[0].stop <= whole.head]
    assert [result for _, result in found].count("recovered") > 200


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("name", [*TRAINED, *FINETUNED])
def test_the_headers_of_all_tensors_may_be_lost(name: str, fill: str) -> None:
    """The keys of a training tell names and shapes, and the size of the file that they are right."""
    whole = Whole(FIXTURES / name)
    with open_file(FIXTURES / name) as file:
        start, stop = (file.container[place][-1] for place in ("metadata_kv", "tensor_infos"))
    start, stop = (record["_offset"] + record["_size"] for record in (start, stop))
    found = list(check(Damaged(whole, Damage(fill, stop - start, start))))
    assert [*dict.fromkeys(found)] == ["recovered"] + ["models"] * (name in TRAINED)


@pytest.mark.parametrize("name", [*TRAINED, *FINETUNED])
def test_the_last_keys_may_be_lost_too(name: str) -> None:
    """Trainers write the same last keys, so that it is known where they end. Noise may end in the next tensor."""
    whole = Whole(FIXTURES / name)
    random_state, headers = whole.data.find(b"shuffle.rng_state") + 40, whole.data.find(b"token_embd.weight")
    offsets = range(max(random_state, headers - 4000), headers - 8, 97)
    damages = [Damage(fill, 4096, at) for fill in FILLS for at in offsets]
    found = [(damage, result) for damage in damages for result in check(Damaged(whole, damage))]
    assert not [one for one in found if one[1].startswith("WRONG")]
    assert not [one for one in found if one[1].startswith("lost") and one[0].kind != "noise"]
    assert {damage for damage, result in found if result == "recovered"} == {*damages}


@pytest.mark.parametrize("name", FINETUNED)
def test_noise_that_ends_in_a_tensor_costs_no_other(name: str) -> None:
    """The last numbers of that tensor are zeros, as most of B are after a short training: those before tell the end."""
    whole = Whole(FIXTURES / name)
    for offset in range(whole.head - 4096 + 200, whole.head, 811):
        found = [*check(Damaged(whole, Damage("noise", 4096, offset)))]
        assert not [result for result in found if result.startswith(("WRONG", "lost"))], offset


def test_numbers_that_contradict_the_size_of_the_file_tell_no_headers() -> None:
    """The count of parameters is not that of the shapes, or data is missing: then nothing is where it should be."""
    whole = Whole(FIXTURES / "lora" / "master-adam.checkpoint.gguf")
    at, first = whole.data.find(b"optimizer.parameter_count") + 29, whole.data.find(b"token_embd.weight.lora_a")
    whole.data = whole.data[:at] + b"\0" + whole.data[at + 1 :]
    assert not opened(Damaged(whole, Damage("noise", whole.head - first, first))).tensors
    whole = Whole(FIXTURES / "lora" / "master-adam.checkpoint.gguf")
    whole.data = whole.data[:-96]
    assert not opened(Damaged(whole, Damage("noise", whole.head - first, first))).tensors


def test_the_vectors_of_the_optimizer_do_not_tell_how_norms_are_stored() -> None:
    whole = Whole(FIXTURES / "lora" / "master-adam.checkpoint.gguf")
    assert {*check(Damaged(whole, Damage("zeros", 512, 8249)))} == {"recovered"}


@pytest.mark.parametrize("fill", FILLS)
def test_headers_of_other_programs_are_told_by_their_order(fill: str, tmp_path: Path) -> None:
    """What follows in a layer is learned from those before; a tensor's name is never guessed from the usual order."""
    layer = ("attn_k", "attn_norm", "attn_output", "attn_q", "attn_v", "ffn_down", "ffn_gate", "ffn_norm", "ffn_up")
    names = ["output", "token_embd", *(f"blk.{index}.{part}" for index in range(4) for part in layer), "output_norm"]
    path, values = tmp_path / "other.gguf", np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, "other")
    writer.add_block_count(4)
    writer.add_embedding_length(32)
    writer.add_eos_token_id(2)
    for name in names:
        shape = (32,) if "norm" in name else (64, 32) if name in names[:2] else (32, 32)
        writer.add_tensor(
            f"{name}.weight", values.normal(size=shape).astype(np.float32 if "norm" in name else np.float16)
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    whole, found = Whole(path), []
    for at in range(24, whole.head, 43):
        found += [(at, result) for result in check(Damaged(whole, Damage(fill, 512, at)))]
    second = whole.data.find(b"blk.1.attn_norm")  # before which the order is not known
    assert not [one for one in found if one[1].startswith("WRONG")]
    assert not [one for one in found if one[1].startswith("lost") and one[0] > second]
    assert [result for _, result in found].count("recovered") > 1200


@pytest.mark.parametrize("name", ["truth/jan24-D.gguf", "lora/base.gguf", "lora/feb2024-adam.checkpoint.gguf"])
@pytest.mark.parametrize("size", [1, 6, 15])
def test_bytes_inserted_into_gguf_or_lost(name: str, size: int) -> None:
    """The numbers tell where the tensors are that follow, unless they are moved by whole numbers."""
    whole, chance = Whole(FIXTURES / name), random.Random(name)
    places = [*chance.sample(range(len(whole.data) - 16), 8), *chance.sample(whole.at_headers(1)[whole.head :], 4)]
    damages = [Damage(kind, size, at) for at in places for kind in ("inserted", "removed")]
    found = [(damage, result) for damage in damages for result in check(Damaged(whole, damage))]
    assert not [one for one in found if one[1].startswith("WRONG")]
    assert [result for _, result in found].count("recovered") > 125


def model_of(kind: str, path: Path, order: gguf.GGUFEndian = gguf.GGUFEndian.LITTLE) -> Whole:
    """Write a model of elements of a type, with norms near 1 before some of its tensors."""
    values, writer = np.random.default_rng(1), gguf.GGUFWriter(path, "llama", endianess=order)
    for index in range(6):
        if index % 2:
            writer.add_tensor(f"{index}.norm", values.normal(1, 0.1, 64).astype(np.float32))
        weights, block = values.normal(0, 0.02, (64, 64)).astype(np.float32), gguf.GGMLQuantizationType[kind]
        writer.add_tensor(f"{index}.weight", gguf.quantize(weights, block), raw_dtype=block)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Whole(path)


@pytest.mark.parametrize("kind", ["inserted", "removed"])
def test_a_byte_inserted_into_a_header_or_lost_costs_its_tensor_only(kind: str, tmp_path: Path) -> None:
    """The names are of no known program, so that the damaged header cannot be made again."""
    whole = model_of("Q8_0", tmp_path / "model.gguf")
    last = whole.data.find(b"5.weight")
    for at in [*range(whole.data.find(b"1.weight"), last - 8, 5), *range(last - 7, last + 40, 5)]:
        found = [*check(Damaged(whole, Damage(kind, 1, at)))]
        assert not [result for result in found if result.startswith("WRONG")]
        assert found.count("recovered") >= 8, (at, found)


@pytest.mark.parametrize("kind", ["Q8_0", "F32", "F16"])
@pytest.mark.parametrize("order", gguf.GGUFEndian)
def test_a_byte_changed_in_the_last_header_costs_its_tensor_only(
    kind: str, order: gguf.GGUFEndian, tmp_path: Path
) -> None:
    """The offset that it ends with follows from the other tensors; and it is known where only that is changed."""
    whole = model_of(kind, tmp_path / "model.gguf", order)
    last = whole.data.find(b"5.weight")
    for at in (*range(last - 8, last), *range(last + 8, last + 12)):
        found = [*check(Damaged(whole, Damage("ones", 1, at)))]
        assert found.count("recovered") == 8, (at, found)
        assert not [result for result in found if result.startswith("WRONG")]
    for at in range(last + 32, last + 40):
        assert {*check(Damaged(whole, Damage("ones", 1, at)))} == {"recovered"}, at


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
@pytest.mark.parametrize(("size", "least"), [(1, 250), (4, 190), (8, 190)])
def test_bytes_inserted_into_elements_of_a_type_or_lost(kind: str, size: int, least: int, tmp_path: Path) -> None:
    """Scales of blocks, and norms among F32 that are moved by whole numbers, tell what is whole; the end does not."""
    whole, chance = model_of(kind, tmp_path / "model.gguf"), random.Random(kind)
    places = chance.sample(range(whole.head, len(whole.data) - 16), 15) + [
        len(whole.data) - 9 - n for n in (0, 40, 400)
    ]
    damages = [Damage(kind, size, at) for at in places for kind in ("inserted", "removed")]
    found = [(damage, result) for damage in damages for result in check(Damaged(whole, damage))]
    assert not [one for one in found if one[1].startswith("WRONG")]
    assert [result for _, result in found].count("recovered") >= least


@pytest.mark.parametrize(("kind", "least"), [("F32", 190), ("F16", 190), ("BF16", 0), ("Q8_0", 0)])
def test_bytes_inserted_into_big_endian_elements_or_lost(kind: str, least: int, tmp_path: Path) -> None:
    """The last byte of a number is often zero, as one that was added after the end."""
    whole, chance = model_of(kind, tmp_path / "model.gguf", gguf.GGUFEndian.BIG), random.Random(kind)
    places = chance.sample(range(whole.head, len(whole.data) - 8), 24)
    found = [
        one for at in places for kind in ("inserted", "removed") for one in check(Damaged(whole, Damage(kind, 1, at)))
    ]
    assert not [one for one in found if one.startswith("WRONG")]
    assert found.count("recovered") >= least


@pytest.mark.parametrize("size", [32, 512, 4096])
@pytest.mark.parametrize("kind", ["again", "noise", "zeros"])
@pytest.mark.parametrize("name", ["truth/jan24-D.gguf", "lora/base.gguf", "lora/feb2024-adam.checkpoint.gguf"])
def test_a_block_that_was_put_into_the_data_of_gguf_is_no_tail(name: str, kind: str, size: int, tmp_path: Path) -> None:
    """As by a download that went on at a wrong place: the file ends with numbers, those of the last tensor."""
    whole, path, chance = Whole(FIXTURES / name), tmp_path / "x.gguf", random.Random(name)
    for at in chance.sample(range(whole.head, len(whole.data) - size), 6):
        block = {"again": whole.data[at - size : at], "noise": chance.randbytes(size), "zeros": bytes(size)}[kind]
        path.write_bytes(whole.data[:at] + block + whole.data[at:])
        with open_file(path, partial=True) as file:
            assert file.damage is not None, at
            for found, tensor in file.tensors.items():
                start, stop, _ = whole.tensors[found]
                assert file.source.read(tensor.offset, tensor.nbytes) == whole.data[start:stop], (at, found)


@pytest.mark.parametrize("name", ["truth/jan24-D.gguf", "lora/base.gguf", "lora/feb2024-adam.checkpoint.gguf"])
def test_a_tail_that_is_no_number_costs_nothing_in_gguf(name: str, tmp_path: Path) -> None:
    whole, path = Whole(FIXTURES / name), tmp_path / "x.gguf"
    other = (FIXTURES / "strange" / "bert.gguf").read_bytes()
    for tail in (random.Random(name).randbytes(999), b"\xff" * 4096, b"text " * 300, bytes(4096), other):
        path.write_bytes(whole.data + tail)
        with open_file(path) as file:
            assert [finding.path for finding in file.findings] == ["trailing"]


@pytest.mark.parametrize("name", ["truth/jan24-D.gguf", "truth/aug28-B-then-jul24-C.gguf", "strange/bert.gguf"])
def test_numbers_moved_by_whole_numbers_are_not_called_whole(name: str) -> None:
    whole, chance = Whole(FIXTURES / name), random.Random(name)
    places = [*chance.sample(range(whole.head, len(whole.data) - 16), 8), len(whole.data) - 20]
    damages = [Damage("inserted", size, at) for at in places for size in (4, 8, 12)]
    found = [(damage, result) for damage in damages for result in check(Damaged(whole, damage))]
    assert not [one for one in found if one[1].startswith("WRONG")]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8, 12, 15, 16, 31])
@pytest.mark.parametrize("name", ["lora/base.gguf", "strange/bert.gguf", "strange/bert-cut.gguf"])
def test_a_cut_costs_only_the_tensors_that_it_reaches(name: str, size: int, tmp_path: Path) -> None:
    data = (FIXTURES / name).read_bytes()
    (tmp_path / "cut.gguf").write_bytes(data[:-size])
    with open_file(FIXTURES / name, partial=True) as file:
        ends = {tensor.path: tensor.offset + tensor.nbytes for tensor in file.tensors.values()}
    with open_file(tmp_path / "cut.gguf", partial=True) as file:
        assert file.damage is not None
        kept = {tensor.path for tensor in file.tensors.values()}
        assert kept == {path for path, end in ends.items() if end <= len(data) - size}


@pytest.mark.parametrize("n_zeros", [0, 1, 5])
@pytest.mark.parametrize("n_elements", range(1, 24))
def test_a_file_without_padding_at_its_end_is_whole(n_elements: int, n_zeros: int, tmp_path: Path) -> None:
    writer, values = gguf.GGUFWriter(tmp_path / "x.gguf", "llama"), np.linspace(1, 2, n_elements, dtype=np.float32)
    values[n_elements - n_zeros :] = 0
    writer.add_tensor("a", np.ones((3, 5), np.float32))
    writer.add_tensor("b", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.truncate(tmp_path / "x.gguf", (tmp_path / "x.gguf").stat().st_size - -4 * n_elements % 32)
    with open_file(tmp_path / "x.gguf") as file:
        assert file.damage is None
        assert not file.findings


@pytest.mark.parametrize("kind", gguf.quants._type_traits)
def test_scales_are_where_ggufs_own_reader_has_them(kind: gguf.GGMLQuantizationType) -> None:
    """Blocks in which all that is looked at is 0 are of zeros, whatever else is in them."""
    if kind.name not in RANGES or kind.name in FLOATS:
        return
    blocks = np.random.default_rng(1).integers(1, 255, (4, gguf.GGML_QUANT_SIZES[kind][1]), dtype=np.uint8)
    layout = struct.Struct(RANGES[kind.name][0])
    count = len(layout.unpack(blocks[0].tobytes()))
    scales = np.frombuffer(layout.pack(*[float("nan")] * count), np.uint8)
    assert layout.size == blocks.shape[1]
    blocks[:, scales != 0] = 0
    blocks[:, np.flatnonzero(scales) - 1] = 0
    assert not gguf.dequantize(blocks, kind).any()


def test_zeros_from_the_last_header_on_are_no_tensors() -> None:
    """They read as the offset of a tensor that shares the data of the first, all of which is zero."""
    whole = Whole(FIXTURES / "strange" / "bert.gguf")
    for offset in range(whole.head - 48, whole.head - 32, 5):
        file = opened(Damaged(whole, Damage("zeros", len(whole.data) - offset, offset)))
        assert file.damage is not None
        assert not file.tensors


@pytest.mark.parametrize("name", ["align-64", "five-dims", "gap", "ints", "q8_1-36", "type-4-q4_2"])
def test_zeros_from_within_a_header_to_the_end_are_no_tensors(name: str) -> None:
    """A name has no NUL at its end, and no tensor without dimensions has zeros after it."""
    whole = Whole(FIXTURES / "strange" / f"{name}.gguf")
    with open_file(FIXTURES / "strange" / f"{name}.gguf") as file:
        last = file["tensor_infos"][-1]
    for offset in range(last["_offset"] + 8, last["_offset"] + 8 + len(last["name"]) + 1):
        assert opened(Damaged(whole, Damage("zeros", len(whole.data) - offset, offset))).damage is not None, offset


@pytest.mark.parametrize("tail", [b"\n", b"\r\n", b"\0", b"text"])
@pytest.mark.parametrize("name", ["truth/jan24-D.gguf", "lora/base.gguf", "lora/master-adam.checkpoint.gguf"])
def test_bytes_after_the_end_of_gguf_are_a_finding(name: str, tail: bytes, tmp_path: Path) -> None:
    path = tmp_path / "tail.gguf"
    path.write_bytes((FIXTURES / name).read_bytes() + tail)
    with open_file(path) as file:
        assert [finding.path for finding in file.findings] == ["trailing"]


@pytest.mark.parametrize("tail", [b"\n", b"\r\n", bytes(4), b"text", b"1234567"])
@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q4_0", "Q8_0"])
def test_text_and_zeros_after_elements_of_a_type_are_a_finding(kind: str, tail: bytes, tmp_path: Path) -> None:
    whole = model_of(kind, tmp_path / "model.gguf")
    (tmp_path / "tail.gguf").write_bytes(whole.data + tail)
    with open_file(tmp_path / "tail.gguf") as file:
        assert [finding.path for finding in file.findings] == ["trailing"]


def test_a_nul_after_a_tensor_that_ends_in_zero_is_no_byte_of_it(tmp_path: Path) -> None:
    """The numbers before the last are where they must be, and would not be if a byte were inserted before them."""
    path = tmp_path / "tail.gguf"
    path.write_bytes((FIXTURES / "lora/base.gguf").read_bytes()[:-4] + bytes(5))
    with open_file(path) as file:
        assert [finding.path for finding in file.findings] == ["trailing"]


def quantized_model(magic: bytes, version: int | None, path: Path) -> Whole:
    """Write a model as programs before GGUF did, of random blocks; `output` is the only tensor of its type."""
    with open_file(FIXTURES / "lora/base.ggjt") as base:
        names, hparams = {**base.tensors}, base.source.read(8, 28)
        tokens = [(token["text"], token["score"]) for token in base.container["tokens"]]
    out = bytearray(magic + (struct.pack("<I", version) if version else b"") + hparams)
    for text, score in tokens:
        out += struct.pack("<I", len(text)) + text + (struct.pack("<f", score) if version else b"")
    chance, types = random.Random(version), GGML_TYPES if version == 3 else GGML_TYPES_UNTIL_V2
    for name, tensor in names.items():
        kind = {"output": 8, "layers.1.feed_forward.w2": 6}.get(name.removesuffix(".weight"), 2)
        kind = kind if len(tensor.shape) > 1 else 0
        shape = [*tensor.shape]
        out += struct.pack(f"<{3 + len(shape)}I", len(shape), len(name), kind, *shape) + name.encode()
        out += bytes(-len(out) % 32 if magic == b"tjgg" else 0) + chance.randbytes(data_size(types[kind], shape))
    path.write_bytes(out)
    return Whole(path)


@pytest.mark.parametrize(("magic", "version"), [(b"fmgg", 1), (b"tjgg", 3)])
def test_a_sample_of_damage_in_a_quantized_model(magic: bytes, version: int, tmp_path: Path) -> None:
    """The type of a tensor whose header is lost follows from its size."""
    whole, chance = quantized_model(magic, version, tmp_path / "quantized"), random.Random(version)
    found: list[str] = []
    for kind, size in [*((fill, 512) for fill in FILLS), ("inserted", 1), ("removed", 1)]:
        headers = [offset for offset in whole.at_headers(size) if offset > whole.edges[2]]  # of what the types follow
        for offset in chance.sample(headers, 8):
            found += check(Damaged(whole, Damage(kind, size, offset)))
    assert not [result for result in found if result.startswith(("WRONG", "lost"))]
    assert found.count("recovered") > 700


MODELS_OF_2023 = [(b"tjgg", 3), (b"tjgg", 2), (b"tjgg", 1), (b"fmgg", 1), (b"lmgg", None)]


@pytest.mark.parametrize(("magic", "version"), MODELS_OF_2023)
def test_a_quantized_model_is_recognised_without_its_first_bytes(
    magic: bytes, version: int | None, tmp_path: Path
) -> None:
    """The sizes of tensors tell version 3 of ggjt from others; where the hyper-parameters are, ggmf from ggml."""
    whole = quantized_model(magic, version, tmp_path / "quantized")
    damages = [Damage(fill, size, at) for fill in FILLS for size in (4, 512) for at in (0, 3, 4, 7)]
    damages += [Damage(kind, 1, at) for kind in ("inserted", "removed") for at in range(1, 8)]
    for damage in [*damages, Damage("noise", 4096, 0)]:
        damaged = Damaged(whole, damage)
        assert not [one for one in check(damaged) if one.startswith(("WRONG", "lost", "unidentified"))], damage
        file = opened(damaged)
        assert file.get("version") in {version, None}, damage
        if damage.stop < (8 if version else 5) and damage.kind in FILLS:
            assert file.format.magic == magic, damage
            assert len(file.container["tokens"]) == file.get("hparams.n_vocab"), damage


def test_a_hole_in_the_tokens_is_no_vocabulary(tmp_path: Path) -> None:
    """Zeros are tokens without a text: those after them were read as the first tensors."""
    whole, path = Whole(FIXTURES / "lora/base.ggjt"), tmp_path / "damaged.ggjt"
    for offset in (300, whole.head - 600, whole.head - 500):
        path.write_bytes(Damage("zeros", 512, offset).apply(whole.data))
        with open_file(path, partial=True) as file:
            assert len(file.tensors) > 19
            with pytest.raises(MalformedError, match=r"tokens"):
                file.vocabulary()


def test_each_header_may_be_lost_alone() -> None:
    """A hole from the second number of a header to its padding costs no tensor."""
    whole = Whole(FIXTURES / "v1-lbfgs.ggcp")
    for name, (start, stop, _) in whole.tensors.items():
        if start < stop:
            edge = max(edge for edge in whole.edges if edge < start)
            damaged = Damaged(whole, Damage("noise", start - edge - 12, edge + 8))
            assert "touched" not in check(damaged), name
            assert {*opened(damaged).tensors} == {*whole.tensors}, name


@pytest.mark.parametrize("name", ["lora/adam.ggla", "lora/feb2024-adam.ggla", "lora/base.ggjt"])
def test_a_wrong_length_in_a_header_costs_no_other_tensor(name: str) -> None:
    """The data would end elsewhere, as after the header of the next, or after the end of the file."""
    whole = Whole(FIXTURES / name)
    for start, _ in list(whole.headers)[3:-1:4]:
        for damage in (Damage(kind, 1, at) for kind in ("ones", "noise") for at in range(start + 12, start + 16)):
            found = list(check(Damaged(whole, damage)))
            assert not [result for result in found if result.startswith("WRONG")], damage
            assert sum(result.startswith("lost") for result in found) < 2, damage


@pytest.mark.parametrize("kind", ["inserted", "removed"])
def test_each_byte_of_a_header_may_be_inserted_or_removed(kind: str) -> None:
    """That costs the tensors beside it only if it is not told from one in their data."""
    whole = Whole(FIXTURES / "twin-ff48.v0.ggcp")
    for start, stop in list(whole.headers)[::9]:
        for offset in range(start, stop, 5):
            found = list(check(Damaged(whole, Damage(kind, 1, offset))))
            assert not [result for result in found if result.startswith(("WRONG", "lost"))], offset


@pytest.mark.parametrize(
    ("name", "size", "fill"),
    [
        *(("v1-lbfgs.ggcp", size, "zeros") for size in (4, 44, 64, 4096)),
        *(("lora/lbfgs.ggcl", size, "zeros") for size in (4, 92, 512)),
        *(("lora/lbfgs.ggcl", 4096, fill) for fill in FILLS),  # which alone tell the rank of two tensors
        *(("lora/adam.ggla", size, "zeros") for size in (4, 64, 4096)),
    ],
)
def test_the_first_bytes_may_be_lost(name: str, size: int, fill: str, tmp_path: Path) -> None:
    whole = Whole(FIXTURES / name)
    damage = Damage(fill, size, 0)
    found = list(check(Damaged(whole, damage)))
    assert found.count("recovered") == sum(start < stop and start >= size for start, stop, _ in whole.tensors.values())
    path = tmp_path / "damaged.ggcp"
    path.write_bytes(damage.apply(whole.data))
    with closing(Source(path)) as source:
        result = validate(source)
    assert next(error.path for error in result.errors) == "magic"
    assert result.damage is None
    with open_file(path, partial=True) as file:
        condition = condition_of(file)
    assert condition is not None
    assert condition.verdict.startswith("its first bytes are lost; ")


STATED = "hparams", "n_rank", "n_ff", "r", "alpha", "train_its", "train_samples", "train_tokens"


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("name", ["v0-adam.ggcp", "v1-lbfgs.ggcp", "lora/lbfgs.ggcl", "lora/adam.ggla"])
def test_no_wrong_number_is_shown_of_a_hole_over_the_first_header(name: str, fill: str) -> None:
    """Where it begins before the header, no shape tells the numbers there; where it is large, none tells any."""
    whole = Whole(FIXTURES / name)
    with open_file(FIXTURES / name) as file:
        genuine = {leaf.path: leaf.value for leaf in file.root.leaves() if leaf.steps[0] in STATED}
    for size in (512, 4096, len(whole.data)):
        for at in range(8, whole.head, 3):
            file = opened(Damaged(whole, Damage(fill, size, at)))
            for path, value in genuine.items():
                assert path not in file or file.get(path) in {value, None}, (size, at, path)


@pytest.mark.parametrize("tail", [b"\xff" * 100, b"text " * 30, random.Random(1).randbytes(5000)])
@pytest.mark.parametrize("name", ["adam", "feb2024-adam"])
def test_bytes_after_an_adapter_cost_no_tensor(name: str, tail: bytes) -> None:
    """Nothing can follow its last tensor but another layer, whose records have other sizes."""
    whole = Whole(FIXTURES / "lora" / f"{name}.ggla")
    tensors = {**whole.tensors}
    whole.data += tail
    file = opened(Damaged(whole, Damage("removed", 0, 0)))
    assert {found: (t.offset, t.offset + t.nbytes, t.shape) for found, t in file.tensors.items()} == tensors


@pytest.mark.parametrize("name", ["v0-adam.ggcp", "v1-lbfgs.ggcp"])
@pytest.mark.parametrize("kind", ["inserted", "removed"])
def test_a_model_is_whole_where_its_counts_are_lost(kind: str, name: str) -> None:
    """The numbers of samples and tokens tell the length of the context only, which may be given."""
    whole = Whole(FIXTURES / name)
    for at in (*range(1, 20, 3), *range(21, 28, 2), 37, 39):  # also where a number of a shape is split
        assert {*check(Damaged(whole, Damage(kind, 1, at)))} == {"recovered", "models"}, at


@pytest.mark.parametrize("name", ["v0-adam.ggcp", "v1-lbfgs.ggcp", "truth/jan24-D.gguf", "lora/base.ggjt"])
def test_a_model_that_is_called_whole_can_be_exported(name: str) -> None:
    whole, chance = Whole(FIXTURES / name), random.Random(name)
    damages = [Damage(kind, 1, at) for kind in ("inserted", "removed") for at in range(8, 44, 3)]
    damages += [Damage("zeros", size, chance.randrange(min(whole.head, 4096))) for size in (1, 4, 16, 512)]
    for damage in damages:
        file = opened(Damaged(whole, damage))
        condition = condition_of(file)
        if condition is not None and condition.model_is_whole:
            assert sizes_of(file) == whole.hparams, damage
            assert "model whole" in condition.verdict


def test_a_damaged_optimizer_is_replaced_by_a_fresh_one(tmp_path: Path) -> None:
    whole = Whole(FIXTURES / "v1-adam.ggcp")
    path, output = tmp_path / "damaged.ggcp", tmp_path / "fresh.gguf"
    path.write_bytes(Damage("noise", 200, whole.optimizer + 4).apply(whole.data))
    with pytest.raises(MalformedError, match=r"All tensors of the model are whole\. Use partial=True to convert it"):
        convert(path, output)
    convert(path, output, partial=True, verify=True)
    convert(FIXTURES / "v1-adam.ggcp", tmp_path / "genuine.gguf", fresh_optimizer=True)
    options = {"vocab": FIXTURES / "vocab.gguf", "context_length": 16, "rms_eps": 1e-6, "name": "same"}
    for source in (output, tmp_path / "genuine.gguf"):
        export_model(source, source.with_suffix(".model"), **options)
    export_model(path, tmp_path / "partial.model", **options, partial=True)
    models = [(tmp_path / name).read_bytes() for name in ("fresh.model", "genuine.model", "partial.model")]
    assert models[0] == models[1] == models[2]


@pytest.mark.parametrize("tail", [b"\n", b"\0", b"text " * 300, "v1-adam.ggcp", "v1-lbfgs.ggcp", "lora/adam.ggcl"])
@pytest.mark.parametrize("name", ["v1-lbfgs.ggcp", "lora/adam.ggcl"])
def test_bytes_after_the_end_are_a_finding(name: str, tail: bytes | str, tmp_path: Path) -> None:
    """Another checkpoint too, which ends as if its end were that of the first."""
    path = tmp_path / "tail"
    tail = tail if isinstance(tail, bytes) else (FIXTURES / tail).read_bytes()
    path.write_bytes((FIXTURES / name).read_bytes() + tail)
    with open_file(path) as file:
        found = [finding.path for finding in file.findings if finding.path != "optimizer.type"]  # as the size suggests
        assert found == ["trailing"]
    assert convert(path, tmp_path / "out.gguf").size == convert(FIXTURES / name, tmp_path / "2.gguf").size


@pytest.mark.parametrize("name", ["lora/adam.ggla", "lora/base.ggjt"])
def test_bytes_that_end_in_no_number_were_added(name: str, tmp_path: Path) -> None:
    """The last byte of a number is its exponent, and that of a weight where a byte was inserted before it."""
    data, path, chance = (FIXTURES / name).read_bytes(), tmp_path / "file", random.Random(name)
    for tail in (b"\x7b", b"\xd0\x91", b"end", chance.randbytes(5) + b"z"):
        path.write_bytes(data + tail)
        with open_file(path) as file:
            assert [finding.path for finding in file.findings] == ["trailing"]
    for at in range(len(data) - 9, len(data)):
        for byte in (0x00, 0x7B, 0xD0, 0xFF):
            path.write_bytes(data[:at] + bytes([byte]) + data[at:])
            with open_file(path, partial=True) as file:
                assert file.damage is not None or data[at:].strip(bytes([byte])) == b""


def test_a_byte_inserted_into_the_last_tensor_is_no_trailing_byte(tmp_path: Path) -> None:
    whole = Whole(FIXTURES / "v1-lbfgs.ggcp")
    start, stop, _ = whole.tensors["optimizer.state.lmy"]
    path = tmp_path / "inserted.ggcp"
    path.write_bytes(Damage("inserted", 1, (start + stop) // 2).apply(whole.data))
    with pytest.raises(MalformedError):
        open_checkpoint(path)
    with open_checkpoint(path, partial=True) as ckpt:
        assert {*whole.tensors} - {*ckpt.tensors} == {"optimizer.state.lmy"}


@pytest.mark.parametrize("name", ["name64", "bool2", "shared-data", "ints", "align-64", "bert"])
def test_zeros_from_a_name_on_are_no_tensor(name: str) -> None:
    """Of a file with few tensors they read as a number of a tensor without dimensions, and then as its padding."""
    whole = Whole(FIXTURES / "strange" / f"{name}.gguf")
    with open_file(FIXTURES / "strange" / f"{name}.gguf") as file:
        first = file.container["tensor_infos"][0]
    for offset in range(first["_offset"], first["_offset"] + 8 + len(first["name"])):
        file = opened(Damaged(whole, Damage("zeros", len(whole.data) - offset, offset)))
        assert file.damage is not None, offset
        assert not file.tensors, offset


def test_ggjt_without_its_first_bytes_is_recognised(tmp_path: Path) -> None:
    """By the headers of its tensors, which tell where the hyper-parameters and the tokens are."""
    whole, path, output = Whole(FIXTURES / "lora" / "base.ggjt"), tmp_path / "base.ggjt", tmp_path / "model.gguf"
    for damage in [Damage(fill, 512, offset) for fill in FILLS for offset in (0, 3, 4, 7)]:
        assert {*check(Damaged(whole, damage))} <= {"recovered", "unsized"}, damage
    changed = [Damage(kind, 1, at) for kind in ("inserted", "removed") for at in range(1, 8)]
    for damage in [*changed, Damage("zeros", 4, 0), Damage("ones", 4, 4)]:
        assert {*check(Damaged(whole, damage))} == {"recovered", "models"}, damage
    path.write_bytes(whole.data)
    export_model(path, tmp_path / "genuine.gguf", context_length=64)
    path.write_bytes(Damage("removed", 1, 5).apply(whole.data))
    export_model(path, output, context_length=64, partial=True)
    assert output.read_bytes() == (tmp_path / "genuine.gguf").read_bytes()
    with closing(Source(path)) as source:
        assert [error.path for error in validate(source).errors] == ["version", "tensors[0].n_dims"]


@pytest.mark.parametrize("name", [TRAINED[0], FINETUNED[0], "lora/base.gguf"])
def test_gguf_without_its_first_bytes_is_recognised(name: str, tmp_path: Path) -> None:
    """By the headers of its tensors; the byte order too is not taken from a damaged version."""
    whole, path = Whole(FIXTURES / name), tmp_path / "model.gguf"
    damages = [Damage(fill, 512, offset) for fill in FILLS for offset in range(0, 8, 3)]
    for damage in [*damages, *(Damage(kind, 1, at) for kind in ("inserted", "removed") for at in range(1, 6))]:
        damaged = Damaged(whole, damage)
        assert {*check(damaged)} <= {"recovered", "models", "unsized"}, damage
        path.write_bytes(damaged.read(0, damaged.size))
        with open_file(path, partial=True) as file:
            assert file.format.name == "gguf"
            assert file.kind != "gguf-vocabulary"


@pytest.mark.parametrize("name", ["v1-adam.ggcp", "lora/adam.ggcl"])
@pytest.mark.parametrize("fill", [b"\xff", b"\x5a\xf1"])
def test_no_loss_is_read_out_of_a_hole_over_the_end(name: str, fill: bytes, tmp_path: Path) -> None:
    path, whole = tmp_path / "x", (FIXTURES / name).read_bytes()
    for size in (60, 1000):
        path.write_bytes(whole[:-size] + (fill * size)[:size])
        with open_file(path, partial=True) as file:
            assert file.damage is not None
            assert file.loss is None
            assert not [finding for finding in file.findings if "loss" in finding.message]
