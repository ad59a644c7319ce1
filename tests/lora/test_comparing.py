"""`diff` compares adapters by what they mean in files of all kinds, and `verify` with what is made of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ggcp_schema import UsageError, convert, export_adapter, open_file
from ggcp_schema.files.key_values import KeyValue
from ggcp_schema.formats.gguf.file import open_gguf
from ggcp_schema.mapping.adapter import adapter_keys, adapter_tensors
from ggcp_schema.mapping.verify import Verification
from ggcp_schema.mapping.verify_adapter import verify_adapter
from tests.helpers import FIXTURES, run_cli
from tests.inspect.comparing import compared, differing, row_of
from tests.lora.lora_files import (
    BASE,
    CHECKPOINTS,
    EVERY,
    FOLDER,
    GGCL,
    PEFT,
    adapter_of,
    base_in,
    ggla,
    stem,
    write,
    write_grouped_base,
    write_grouped_lora,
)

PAIRS = [*((FOLDER / f"{stem(path)}.ggla", path) for path in (*GGCL, *CHECKPOINTS))]


def changed(path: Path, out: Path) -> Path:
    """Write a copy in which one bit of the last number of an element in the first tensor's data is another."""
    content = bytearray(path.read_bytes())
    content[-4 * 8 - 2] ^= 1
    out.write_bytes(content)
    return out


@pytest.mark.parametrize(("one", "other"), PAIRS, ids=[path.name for _, path in PAIRS])
def test_the_adapter_and_the_checkpoint_of_a_run_are_equal(one: Path, other: Path, tmp_path: Path) -> None:
    for a, b in ((one, other), (other, one)):
        found = compared(a, b)
        assert found.equal
        assert found.tensors.total == 42
    assert list(differing(compared(changed(one, tmp_path / "changed.ggla"), other))) == ["blk.1.ffn_up.weight.lora_b"]


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.name)
def test_an_adapter_equals_what_export_makes_of_it(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    export_adapter(path, out, base=BASE, norms=None if path == PEFT else "ignore", sync=False)
    for a, b in ((path, out), (out, path)):
        found = compared(a, b)
        assert found.equal
        reasons = {row.reason for row in found.omitted if ".lora_" in row.name}
        assert any("PEFT" in reason for reason in reasons) == (path == PEFT)
        assert found.tensors.total == (10 if path == PEFT else 32)  # PEFT's without B of wq
    assert not compared(path, changed(out, tmp_path / "changed.gguf")).equal


@pytest.mark.parametrize("path", GGCL, ids=lambda path: path.name)
def test_a_checkpoint_equals_what_convert_makes_of_it(path: Path, tmp_path: Path) -> None:
    convert(path, tmp_path / "out.gguf", sync=False)
    found = compared(path, tmp_path / "out.gguf")
    assert found.equal
    assert {row.name for row in found.omitted} == {"llama.attention.layer_norm_rms_epsilon"}
    assert found.fields.total > 30
    state = [row.name for row in found.tensors if row.name.startswith("optimizer.")]
    assert len(state) == (9 if path.stem == "lbfgs" else 2)


def test_an_alpha_in_gguf_is_a_scale_by_the_rank(tmp_path: Path) -> None:
    with adapter_of(PEFT, scale=1.0, hf_rows=False) as adapter, base_in() as base:
        keys = [*adapter_keys()[:-1], KeyValue("adapter.lora.alpha", "FLOAT32", 16.0)]
        write(tmp_path / "alpha.gguf", keys, adapter_tensors(adapter, base.heads))
    found = compared(PEFT, tmp_path / "alpha.gguf")
    assert found.equal
    assert found.notes == ["A: its pairs were compared with their scale, 4"]


def test_adapters_with_names_of_both_generations_are_compared_by_pair() -> None:
    found = compared(FOLDER / "adam.ggla", FOLDER / "twin-adam.ggla")
    assert set(differing(found).values()) == {"different"}
    assert row_of(found, "blk.0.attn_q.weight.lora_a").differing > 100


@pytest.mark.parametrize("other", [BASE, FOLDER / "base.ggjt", FIXTURES / "alice.ggcp"], ids=lambda path: path.name)
def test_an_adapter_and_a_model_have_nothing_in_common(other: Path) -> None:
    for path in (FOLDER / "adam.ggla", FOLDER / "adam.ggcl"):
        for pair in ((path, other), (other, path)):
            with pytest.raises(UsageError, match="nothing that can be compared"):
                compared(*pair)


def test_nothing_is_not_equal(tmp_path: Path) -> None:
    (tmp_path / "norms.ggla").write_bytes(ggla({"norm": ((1, 32), (1, 1))}))
    write(tmp_path / "none.gguf", adapter_keys(), [])
    result = run_cli("diff", tmp_path / "norms.ggla", tmp_path / "none.gguf")
    assert (result.returncode, result.stderr) == (1, "")
    assert result.stdout.startswith("nothing was compared\nignored in A: output_norm.weight.lora_a")


# verify ----------------------------------------------------------------------------------------------------


def verified(path: Path, out: Path) -> Verification:
    with open_file(path) as file, open_gguf(out) as gguf:
        return verify_adapter(file, gguf)


@pytest.mark.parametrize("verbatim", [False, True])
@pytest.mark.parametrize("path", [PEFT, FOLDER / "adam.ggla", GGCL[1], CHECKPOINTS[0]], ids=lambda path: path.name)
def test_every_bit_of_a_gguf_adapter_is_verified(path: Path, verbatim: bool, tmp_path: Path) -> None:
    is_peft, out = path == PEFT, tmp_path / "out.gguf"
    verbatim = verbatim and is_peft
    export_adapter(path, out, base=BASE, norms=None if is_peft else "ignore", verbatim=verbatim, sync=False)
    found = verified(path, out)
    assert (found.kind, found.same, found.compared.tensors) == ("adapter", True, 12 if is_peft else 32)
    names = [item.name for item in verified(path, changed(out, tmp_path / "changed.gguf")).differences]
    assert names == ["blk.1.ffn_down.weight.lora_b" if is_peft else "blk.1.ffn_up.weight.lora_b"]


def test_rows_of_grouped_queries_tell_both_numbers_of_heads(tmp_path: Path) -> None:
    write_grouped_base(tmp_path / "base.gguf")
    path, out = write_grouped_lora(tmp_path / "a.ggla", by_script=True), tmp_path / "out.gguf"
    export_adapter(path, out, base=tmp_path / "base.gguf", sync=False)
    assert verified(path, out).same


@pytest.mark.parametrize("path", GGCL, ids=lambda path: path.name)
def test_a_checkpoint_of_finetune_is_verified(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    convert(path, out, sync=False)
    found = verified(path, out)
    assert (found.kind, found.same, found.rms_eps) == ("resume", True, pytest.approx(1e-5))
    other = next(other for other in GGCL if other != path)
    assert len(verified(other, out).differences) > 40


def test_what_is_made_with_a_base_model_is_not_compared(tmp_path: Path) -> None:
    path, folder = FOLDER / "adam.ggla", tmp_path / "peft"
    export_adapter(path, folder, base=BASE, to="peft", sync=False)
    for out in (folder, FOLDER / "twin-adam.merged.gguf", CHECKPOINTS[0]):
        result = run_cli("verify", path, out)
        assert result.returncode == 2
        assert f"{out} cannot be compared with {path} alone, because it is not a GGUF adapter\n" in result.stderr
