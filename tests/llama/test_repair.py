"""What the file holds twice is taken back, bit for bit where it can be, and nothing else is touched."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ggcp_schema.formats import open_file
from ggcp_schema.formats.state import has_values_twice, state_of
from ggcp_schema.llama import repair
from ggcp_schema.llama.state import State
from tests.builder import build_checkpoint
from tests.helpers import FEW, FIXTURES, GENUINE, ONE_OF_EACH, ORDERS, run_cli, thinned
from tests.llama.test_soundness import damaged, offset_of

V0 = FIXTURES / "v0-adam.ggcp"
WITH_X = [path for path in ONE_OF_EACH if path.name.startswith(("v0-adam", "jun-", "v1-lbfgs", "twin-lbfgs"))]


def repaired(path: Path, folder: Path, *, code: int = 0) -> bytes:
    out = folder / "repaired.ggcp"
    result = run_cli("repair", path, out, "--force")
    assert (result.returncode, result.stderr) == (code, "")
    return out.read_bytes()


@pytest.mark.parametrize("path", WITH_X, ids=lambda path: path.name)
def test_a_page_of_weights_and_one_of_x_are_taken_from_each_other(path: Path, tmp_path: Path) -> None:
    with open_file(path) as file:
        places = [file.tensors[field].offset for field in ("output", "layers[0].w2", "optimizer.state.x")]
    for start in places:
        first = -(-start // 512) * 512
        assert repaired(damaged(path, first, bytes(512), tmp_path), tmp_path) == path.read_bytes()
        assert repaired(damaged(path, first, b"\xff" * 512, tmp_path), tmp_path) == path.read_bytes()
    both = damaged(path, -(-places[1] // 512) * 512, bytes(512), tmp_path)  # x begins with other weights than these
    first = -(-places[2] // 512) * 512
    content = both.read_bytes()
    both.write_bytes(content[:first] + bytes(512) + content[first + 512 :])
    assert repaired(both, tmp_path) == path.read_bytes()


@pytest.mark.parametrize("path", [path for path in WITH_X if "lbfgs" not in path.name], ids=lambda path: path.name)
@pytest.mark.parametrize("name", ["m", "v"])
def test_the_moments_are_taken_from_the_corrected_ones_but_for_the_last_bits(
    path: Path, name: str, tmp_path: Path
) -> None:
    genuine = path.read_bytes()
    with open_file(path) as file:
        tensor = file.tensors[f"optimizer.state.{name}"]
        start = (tensor.offset + tensor.nbytes // 2) // 4096 * 4096
    result = repaired(damaged(path, start, bytes(4096), tmp_path), tmp_path)
    assert result[:start] == genuine[:start]
    assert result[start + 4096 :] == genuine[start + 4096 :]
    ours, theirs = (np.frombuffer(data, "<i4", 1024, start).astype(np.int64) for data in (result, genuine))
    assert np.abs(ours - theirs).max() <= 8  # units in the last place


@pytest.mark.parametrize("name", ["mh", "vh"])
@pytest.mark.parametrize("content", [bytes(512), b"\xff" * 512, np.random.default_rng(1).bytes(512)])
def test_m_and_v_are_not_taken_from_what_is_lost(name: str, content: bytes, tmp_path: Path) -> None:
    """Most of the vectors are zeros, of tokens that did not occur, where any vh agrees with m and mh."""
    with open_file(V0) as file:
        tensor = file.tensors[f"optimizer.state.{name}"]
    starts = range(-(-tensor.offset // 512) * 512, tensor.offset + tensor.nbytes - 512, 1024)
    for start in thinned(starts, starts[::3]):
        with open_file(damaged(V0, start, content, tmp_path)) as file:
            state = state_of(file)
            assert state is not None
            assert not repair.value_patches(state), start


@pytest.mark.parametrize("bit", [5, 22, 30])
def test_a_flipped_bit_of_v_is_taken_back(bit: int, tmp_path: Path) -> None:
    start = offset_of(V0, "optimizer.state.v", 9001)
    value = int.from_bytes(V0.read_bytes()[start : start + 4], "little") ^ 1 << bit
    damaged_copy = damaged(V0, start, value.to_bytes(4, "little"), tmp_path)
    if bit == 5:  # no more than the rounding
        assert run_cli("repair", damaged_copy, tmp_path / "x").stdout.startswith("nothing to repair")
        return
    result = repaired(damaged_copy, tmp_path)
    ours, theirs = (int.from_bytes(data[start : start + 4], "little") for data in (result, V0.read_bytes()))
    assert abs(ours - theirs) <= 8


def test_a_bit_of_which_it_is_unknown_whether_x_or_the_weights_are_right_is_left(tmp_path: Path) -> None:
    start = offset_of(V0, "output", 11)
    path = damaged(V0, start, bytes([V0.read_bytes()[start] ^ 1]), tmp_path)
    result = run_cli("repair", path, tmp_path / "out")
    assert result.returncode == 1
    assert "left: output: x equals the weights but for a few places" in result.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", thinned(ONE_OF_EACH, FEW), ids=lambda path: path.name)
def test_headers_names_and_paddings_follow_from_the_hyper_parameters(path: Path, tmp_path: Path) -> None:
    w1 = "w3" if "ff48" in path.name else "w1"  # whose shape tells n_ff where the formula does not
    with open_file(path) as file:
        fields = [file.find(name) for name in ("norm", "layers[0].wq", f"layers[0].{w1}", "optimizer.state.pf")]
        places = [(field.offset, field.child("data").offset) for field in fields]  # type: ignore[union-attr]
    for start, data in places:
        for lost in (bytes(data - start), b"\xa5" * (data - start)):
            hole = damaged(path, start, lost, tmp_path)
            if hole.read_bytes() != path.read_bytes():  # the record of a NULL is zeros
                assert repaired(hole, tmp_path) == path.read_bytes()
    start, data = places[0]
    odd = damaged(path, data - 1, b"\7", tmp_path)  # of the padding alone nothing says that it is wrong
    if odd.read_bytes() != path.read_bytes() and data - start > 12 + 4 + 16:
        assert "nothing to repair" in run_cli("repair", odd, tmp_path / "x").stdout


@pytest.mark.parametrize("path", thinned([*GENUINE, *ORDERS], ONE_OF_EACH), ids=lambda path: path.name)
def test_there_is_nothing_to_repair_in_a_genuine_file(path: Path, tmp_path: Path) -> None:
    result = run_cli("repair", path, tmp_path / "out")
    assert (result.returncode, result.stderr) == (1, "")
    assert "nothing to repair" in result.stdout
    assert not list(tmp_path.iterdir())


def test_a_dry_run_lists_the_changes_and_json_has_them(tmp_path: Path) -> None:
    start = -(-offset_of(V0, "output") // 4096) * 4096
    path, out = damaged(V0, start, bytes(4096), tmp_path), tmp_path / "out"
    dry = run_cli("repair", path, out, "--dry-run", check=True).stdout
    assert f"output: bytes {start:,} to {start + 4095:,}: x holds these weights" in dry
    assert not out.exists()
    report = json.loads(run_cli("repair", path, out, "--json", check=True).stdout)
    assert report["written"] is True
    assert report["left"] == []
    (change,) = report["changes"]
    assert (change["path"], change["offset"], change["size"]) == ("output", start, 4096)
    assert out.read_bytes() == V0.read_bytes()
    refused = run_cli("repair", path, out)
    assert refused.returncode == 2
    assert "already exists" in refused.stderr


@pytest.mark.parametrize("genuine", [V0, FIXTURES / "v1-adam.ggcp"], ids=["v0", "v1"])
def test_a_lost_loss_is_left_and_info_offers_no_repair_that_changes_nothing(genuine: Path, tmp_path: Path) -> None:
    path = damaged(genuine, genuine.stat().st_size - 12, bytes(4), tmp_path)
    result = run_cli("repair", path, tmp_path / "out")
    assert result.returncode == 1
    assert "left: optimizer.state.fx_best: a loss of exactly 0 after training" in result.stdout
    assert "ggcp-schema repair" not in run_cli("info", path, "-v").stdout


@pytest.mark.parametrize("name", ["vocab.gguf", "vocab.ggjt", "truncated-v0-lbfgs.ggcp"])
def test_what_does_not_have_the_size_of_a_checkpoint_is_refused(name: str, tmp_path: Path) -> None:
    result = run_cli("repair", FIXTURES / name, tmp_path / "out")
    assert result.returncode == 2
    assert "cannot be repaired" in result.stderr
    assert len(result.stderr.splitlines()) == 2
    assert not list(tmp_path.iterdir())


def test_numbers_that_the_records_tell_are_taken_back_and_no_others(tmp_path: Path) -> None:
    path, out, whole = tmp_path / "x", tmp_path / "out", build_checkpoint(layout="v0")
    for offset in (0, 4, *range(8, 44, 4)):
        content = bytearray(whole)
        content[offset : offset + 4] = b"\xff\xff\xff\x7f"
        path.write_bytes(content)
        result = run_cli("repair", path, out, "--force")
        assert "Traceback" not in result.stderr
        told = offset in (0, 4, 20, 24, 36)  # the magic, the version, n_vocab, n_embd, n_layer
        assert (out.exists() and out.read_bytes() == whole) == told, offset
        out.unlink(missing_ok=True)


def test_a_byte_after_the_end_keeps_nothing_from_being_taken_back(tmp_path: Path) -> None:
    """The numbers before it are the losses, so that it is no byte of the checkpoint; it stays."""
    path, out = tmp_path / "in.ggcp", tmp_path / "out"
    whole = V0.read_bytes()
    path.write_bytes(whole[:28_672] + bytes(4096) + whole[32_768:] + b"\n")
    run_cli("repair", path, out, check=True)
    assert out.read_bytes() == whole + b"\n"
    path.write_bytes(whole[:28_672] + bytes(4096) + whole[32_768:200_000] + b"\n" + whole[200_000:])
    assert run_cli("repair", path, out, "--force").returncode == 2


def test_the_values_are_read_once_to_know_whether_the_file_holds_them_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[State] = []
    search = repair.value_patches
    monkeypatch.setattr(repair, "value_patches", lambda state: [searched.append(state), search(state)][1])
    with open_file(damaged(V0, offset_of(V0, "output", 0), bytes(2048), tmp_path)) as file:
        assert has_values_twice(file)
    assert len(searched) == 1
