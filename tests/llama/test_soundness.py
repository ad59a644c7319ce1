"""Lost pages and flipped bits are found where the values prove them, and nothing is found in sound files."""

from __future__ import annotations

import struct
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ggcp_schema.errors import UsageError
from ggcp_schema.files.source import Source
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.formats import open_file
from ggcp_schema.formats.state import state_of
from ggcp_schema.inspect.soundness import soundness
from ggcp_schema.llama.adam import AdamParams, largest_root
from ggcp_schema.llama.names import STATE
from ggcp_schema.llama.parameters import permuted_extents
from ggcp_schema.llama.soundness import LEAST, RULES, Watch
from ggcp_schema.llama.state import State, Unsound
from ggcp_schema.mapping.targets import convert
from tests.builder import build_checkpoint
from tests.fuzz.pages import damage
from tests.helpers import FIXTURES, GENUINE, ONE_OF_EACH, ORDERS, run_cli
from tests.llama.trained import adam, trained
from tests.mapping import reference
from tests.strategies import Built, checkpoints

F = np.float32
V1, V0 = FIXTURES / "v1-adam.ggcp", FIXTURES / "v0-adam.ggcp"
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def found_in(path: Path) -> list[Unsound]:
    with open_file(path, partial=True) as file:
        return soundness(file)


def damaged(path: Path, start: int, data: bytes, folder: Path) -> Path:
    content = bytearray(path.read_bytes())
    content[start : start + len(data)] = data
    copy = folder / "damaged.ggcp"
    copy.write_bytes(content)
    return copy


def offset_of(path: Path, field: str, element: int = 0) -> int:
    with open_file(path) as file:
        return file.tensors[field].offset + 4 * element


# Sound files -----------------------------------------------------------------------------------------------


LORA = sorted((FIXTURES / "lora").glob("*.ggcl"))
TRUTH = sorted(path for path in (FIXTURES / "truth").iterdir() if path.suffix in {".ggcp", ".gguf"})


@pytest.mark.parametrize("path", [*GENUINE, *ORDERS, *TRUTH, *LORA], ids=lambda path: path.name)
def test_nothing_is_found_in_a_genuine_file(path: Path) -> None:
    assert found_in(path) == []


@pytest.mark.parametrize("path", ONE_OF_EACH, ids=lambda path: path.name)
def test_nothing_is_found_in_what_a_genuine_file_is_converted_to(path: Path, tmp_path: Path) -> None:
    converted = tmp_path / "resume.gguf"
    run_cli("convert", path, converted, check=True)
    assert found_in(converted) == []


@UNTIMED
@given(data=trained())
def test_nothing_is_found_in_a_training_whose_tokens_did_not_all_occur(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(data)
    assert found_in(path) == []


@UNTIMED
@given(built=checkpoints())
def test_files_of_any_values_can_be_examined(built: Built, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(built.data)
    for finding in found_in(path):
        assert 0 <= finding.start < finding.stop <= len(built.data)
        assert finding.rule in RULES


@UNTIMED
@given(
    g=arrays.arrays(F, st.tuples(st.integers(1, 60), st.just(20)), elements=st.floats(-100, 100, width=32)),
    beta1=st.floats(0, 0.95),
    beta2=st.floats(0.95, 0.9999),
)
def test_m_is_within_the_bound_for_any_gradients(g: np.ndarray, beta1: float, beta2: float) -> None:
    state = adam(iter(g), beta1, beta2, t=len(g), flush=False)
    root = largest_root(AdamParams(len(g), 1e-3, 1.0, beta1, beta2, 1e-8))
    assert np.all(np.abs(state.m) <= 1.01 * root * np.sqrt(state.v + F(1e-38)))


def test_the_bound_is_reached() -> None:
    """By gradients that the inequality of Cauchy and Schwarz has its equality for."""
    gradients = ((0.999 / 0.9) ** i * np.ones(1, F) for i in range(400))  # the first is the smallest ...
    state = adam((g * F(1e-20) for g in gradients), 0.9, 0.999, t=400, flush=False)
    assert abs(state.m[0]) < largest_root(AdamParams(1, 1e-3, 1.0, 0.9, 0.999, 1e-8)) * np.sqrt(state.v[0] + F(1e-38))
    assert largest_root(AdamParams(1, 1e-3, 1.0, 0.9, 0.999, 1e-8)) == pytest.approx(7.27, abs=0.01)


# Damage ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [4096, 512])
@pytest.mark.parametrize(("field", "rule"), [("output", "zeros-in-weights"), ("optimizer.state.v", "m-without-v")])
def test_a_lost_page_is_found_with_its_place(field: str, rule: str, size: int, tmp_path: Path) -> None:
    start = -(-offset_of(V1, field, 0 if field == "output" else 9000) // size) * size  # tokens that all occurred
    (finding,) = found_in(damaged(V1, start, bytes(size), tmp_path))
    assert (finding.path, finding.start, finding.stop, finding.rule) == (field, start, start + size, rule)
    name = {4096: "4 KiB", 512: "512 B"}[size]
    assert finding.message.endswith(f"bytes {start:,} to {start + size - 1:,} of the file, one whole page of {name}")


@pytest.mark.parametrize(
    ("name", "field", "rule"),
    [
        ("adam", f"{STATE}v", "m-without-v"),
        ("adam", "layers[0].wq_a", "zeros-in-weights"),
        ("lbfgs", f"{STATE}x", "zeros-in-x"),
    ],
)
def test_a_lost_page_of_a_lora_checkpoint(name: str, field: str, rule: str, tmp_path: Path) -> None:
    path = FIXTURES / "lora" / f"{name}.ggcl"
    (finding,) = found_in(damaged(path, offset_of(path, field, 32), bytes(256), tmp_path))
    assert (finding.path, finding.rule) == (field, rule)


def test_each_of_very_many_small_tensors_is_looked_at(tmp_path: Path) -> None:
    """Also when they are copied; of two that are refused, the first is named."""
    sound, out = tmp_path / "sound.ggcp", tmp_path / "out.gguf"
    sound.write_bytes(build_checkpoint(n_layer=200, data=lambda count: np.full(count, 0.5, F)))
    assert found_in(sound) == []
    bad = {"layers[0].wq": bytes(64), "layers[120].w3": struct.pack("<f", -1e30), "norm": struct.pack("<f", np.nan)}
    path = sound
    for field, data in bad.items():
        path = damaged(path, offset_of(sound, field), data, tmp_path)
    rules = ["not-finite", "zeros-in-weights", "huge"]  # as they lie in the file
    found = found_in(path)
    assert [(bad.path, bad.rule) for bad in found] == list(zip(["norm", "layers[0].wq", "layers[120].w3"], rules))
    written = convert(path, out, sync=False)
    assert (list(written.unsound), written.not_finite) == (found[1:], {"output_norm.weight": 1})
    with pytest.raises(UsageError, match=r"tensor output_norm.weight has values that are NaN"):
        convert(path, tmp_path / "strict.gguf", strict=True)


def test_a_lora_matrix_of_zeros_is_no_finding(tmp_path: Path) -> None:
    path = FIXTURES / "lora" / "adam.ggcl"
    with open_file(path) as file:
        assert (
            found_in(damaged(path, offset_of(path, "layers[0].wq_b"), bytes(file["layers[0].wq_b"].nbytes), tmp_path))
            == []
        )


@pytest.mark.parametrize("name", ["v0-adam", "rotmax8-v0", "orders/jun-A-3", "truth/jun-ctx-batch"])
def test_mh_is_the_last_step_and_vh_the_root_of_v(name: str) -> None:
    path = FIXTURES / f"{name}.ggcp"
    optimizer, raw = reference.read_optimizer(path), path.read_bytes()
    sched, _, alpha, beta1, beta2, eps = struct.unpack_from("<6f", raw, reference.read_model(path).end + 32)
    t, (m, v, mh, vh) = optimizer.numbers["iter"], (optimizer.vectors[field] for field in ("m", "v", "mh", "vh"))
    root = np.sqrt(v / (1 - beta2**t)) + eps
    np.testing.assert_allclose(vh, root, rtol=1e-3)
    np.testing.assert_allclose(mh, alpha * sched * m / (1 - beta1**t) / root, rtol=1e-3)


def test_a_relation_that_holds_nowhere_in_a_file_is_no_evidence(tmp_path: Path) -> None:
    """So it is in files of a program that keeps something else in v; one value that differs is a finding."""
    path = FIXTURES / "rotmax8-v0.ggcp"
    with open_file(path) as file:
        v = np.concatenate([*file.tensors["optimizer.state.v"].values()])
    at, one = offset_of(path, "optimizer.state.v"), v.copy()
    one[int(np.argmax(v))] *= 100
    assert [bad.rule for bad in found_in(damaged(path, at, one.tobytes(), tmp_path))] == ["v-differs"]
    assert found_in(damaged(path, at, (v * 100).tobytes(), tmp_path)) == []


def test_a_flipped_bit_among_zeros_of_x_is_odd_and_the_zeros_are_not(tmp_path: Path) -> None:
    """Pages that are lost leave whole pages between them: of an x that has some, all the zeros are lost values."""
    path = FIXTURES / "twin-adam.v0.ggcp"
    start, count = offset_of(path, f"{STATE}x"), 1280
    flipped = offset_of(path, f"{STATE}x", 1160)
    (finding,) = found_in(damaged(path, flipped, b"\0\0\0\x40", tmp_path))
    assert (finding.rule, finding.start, finding.stop) == ("nonzero-in-x", flipped, flipped + 4)
    with open_file(V0) as file:
        weights = file.tensors[f"{STATE}x"].array().ravel()[:count].tobytes()
    rules = {finding.rule for finding in found_in(damaged(path, start + 4 * 1024, weights, tmp_path))}
    assert rules == {"zeros-in-x"}


def test_zeros_that_are_no_page_are_not_called_one(tmp_path: Path) -> None:
    start = offset_of(V1, "output", 100)
    (finding,) = found_in(damaged(V1, start, bytes(400), tmp_path))
    assert (finding.start, finding.stop) == (start, start + 400)
    assert "page" not in finding.message


def test_zeros_to_the_end_of_the_file(tmp_path: Path) -> None:
    """As a disk that was full leaves them: in v; or in m, so that the header of v is lost, and m is not whole."""
    size = V1.stat().st_size
    start = offset_of(V1, "optimizer.state.v", 1000)
    rules = Counter(finding.rule for finding in found_in(damaged(V1, start, bytes(size - start), tmp_path)))
    assert rules == {"m-without-v": 1, "loss-zero": 2}
    start = offset_of(V1, "optimizer.state.m", 9000)
    with open_file(damaged(V1, start, bytes(size - start), tmp_path), partial=True) as file:
        assert [path for path in file.tensors if path.startswith(STATE)] == []
        assert str(file.damage).splitlines()[0].endswith(f"all bytes from offset {start} to the end are zeros")


@pytest.mark.parametrize("name", ["v1-lbfgs", "twin-lbfgs.v0"])
def test_zeros_from_within_the_last_vector_of_l_bfgs_to_the_end(name: str, tmp_path: Path) -> None:
    """The headers are all there, and L-BFGS counts no iterations."""
    path = FIXTURES / f"{name}.ggcp"
    start = offset_of(path, "optimizer.state.lmy", 100)
    *steps, loss = found_in(damaged(path, start, bytes(path.stat().st_size - start), tmp_path))
    assert (loss.path, loss.rule) == (f"{STATE}fx_best", "loss-zero")
    assert {(step.path, step.rule) for step in steps} <= {(f"{STATE}lmy", "step-differs")}


@pytest.mark.parametrize(
    "path", [FIXTURES / "v1-lbfgs.ggcp", FIXTURES / "twin-lbfgs.v0.ggcp"], ids=lambda path: path.name
)
@pytest.mark.parametrize("field", ["lms", "lmy", "lmys"])
def test_what_l_bfgs_remembers_of_a_step_is_consistent(path: Path, field: str, tmp_path: Path) -> None:
    """Half of the vectors of step 2, which is not the last, or its product."""
    with open_file(path) as file:
        count, lmy = file.n_params, file.tensors[f"{STATE}lmy"]
    start, size = (2, 1) if field == "lmys" else (2 * count, count // 2)
    (finding,) = found_in(damaged(path, offset_of(path, f"{STATE}{field}", start), bytes(4 * size), tmp_path))
    assert (finding.path, finding.rule) == (f"{STATE}lmy", "step-differs")
    assert (finding.start, finding.stop) == (lmy.offset + 8 * count, lmy.offset + 12 * count)


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("layers[0].wq", np.nan, "not-finite"),
        ("layers[0].wq", -np.inf, "not-finite"),
        ("tok_embeddings", 3e36, "huge"),
        ("optimizer.state.m", np.nan, "not-finite"),
        ("optimizer.state.m", 1e30, "huge"),
        ("optimizer.state.m", 100.0, "m-exceeds-v"),
        ("optimizer.state.v", -1e-9, "negative-v"),
        ("optimizer.state.v", 1e30, "huge"),
        ("optimizer.state.v", np.inf, "not-finite"),
    ],
)
def test_a_single_value_that_cannot_be(field: str, value: float, rule: str, tmp_path: Path) -> None:
    start = offset_of(V1, field, 9000 if "optimizer" in field else 77)
    found = found_in(damaged(V1, start, struct.pack("<f", value), tmp_path))
    assert (field, start, start + 4, rule) in [finding[:4] for finding in found]


@pytest.mark.parametrize("field", ["tok_embeddings", "layers[0].w3", "optimizer.state.x"])
@pytest.mark.parametrize("bit", [0, 13, 22, 31])
def test_any_bit_of_the_weights_is_found_where_x_holds_them(field: str, bit: int, tmp_path: Path) -> None:
    start = offset_of(V0, field, 50) + bit // 8
    old = V0.read_bytes()[start]
    (finding,) = found_in(damaged(V0, start, bytes([old ^ 1 << bit % 8]), tmp_path))
    assert finding.rule == "x-differs"
    if not field.startswith("optimizer"):  # x is compared with the weights, so their place is said
        assert (finding.path, finding.start) == (field, start - bit // 8)


SAMPLED = ("v0-adam.ggcp", "v1-adam.ggcp", "alice.ggcp", "v1-lbfgs.ggcp", "twin-adam.v0.ggcp")


@pytest.mark.parametrize("name", SAMPLED)
def test_a_sample_of_lost_pages_and_flipped_bits(name: str) -> None:
    """`python -m tests.fuzz --pages 1000` does it for all fixtures."""
    missed: Counter[str] = Counter()
    made: Counter[str] = Counter()
    for hit in damage(FIXTURES / name, 60, seed=17):
        made[f"{hit.target} {hit.kind}"] += 1
        missed[f"{hit.target} {hit.kind}"] += not hit.rules
    for what in made:
        target, kind = what.split(" ", 1)
        if kind != "bit" and target in {"weights", "v"}:
            assert not missed[what], what
        if name in {"v0-adam.ggcp", "v1-lbfgs.ggcp"} and target in {"weights", "x"}:
            assert not missed[what], what


# While data is copied --------------------------------------------------------------------------------------


@given(st.integers(20, 150), st.integers(0, 20), st.integers(0, 20), st.sampled_from([0.0, -0.0]))
def test_a_run_of_zeros_is_found_where_a_piece_ends(cut: int, before: int, after: int, zero: float) -> None:
    values = np.ones(200, np.float32)
    values[cut - before : cut + after] = zero
    with closing(Source(V1)) as source:
        watch = Watch(State({"output": Tensor("output", "output", (8, 25), 0, values.nbytes, source)}, {}, 8))
    assert watch.look("output", 0, values[:cut])
    assert watch.look("output", cut, values[cut:])
    runs = [(4 * (cut - before), 4 * (cut + after))] if before + after >= LEAST else []
    assert [(bad.start, bad.stop) for bad in watch.findings()] == runs


@pytest.mark.parametrize("n_blocks", [1 << 20, 2000])
@pytest.mark.parametrize("to_order", ["A", "C"])
def test_a_watch_finds_the_same_pages_while_data_is_copied(
    n_blocks: int, to_order: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ggcp_schema.llama.soundness.BLOCKS", n_blocks)
    for field in ("output", "optimizer.state.m", "optimizer.state.v"):
        path = damaged(V1, offset_of(V1, field, 9055), bytes(4 * 29), tmp_path)
        with open_file(path) as file:
            state = state_of(file)
            assert state is not None
            watch = Watch(state)
            for name in [*state.model, "m", "v"]:
                tensor = state.tensor(name)
                extents = [(tensor.offset, tensor.nbytes)]
                if name in state.vectors:
                    extents = permuted_extents(tensor, "A", to_order, state.model)
                for offset, size in extents:
                    at = (offset - tensor.offset) // 4
                    for chunk in file.source.stream([(offset, size)], offset + 1056):
                        watch.look(name, at, np.frombuffer(chunk, "<f4"))
                        at += len(chunk) // 4
            found = watch.finish()
            assert found == soundness(file)
            assert found
