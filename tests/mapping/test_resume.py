"""The GGUF checkpoint to resume from: as the programs of 2023 wrote it, and with the optimizer's state put right."""

from __future__ import annotations

import os
import shlex
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggcp_schema import UnfitError, UsageError, convert, open_checkpoint, open_file
from ggcp_schema.inspect.summary import summarize
from tests.builder import build_checkpoint
from tests.helpers import FIXTURES, GENUINE, ONE_OF_EACH, ORDERS, expected_resume, run_cli, thinned
from tests.mapping import independent_order, reference
from tests.mapping.flat_files import DECIDED
from tests.mapping.gguf_files import data, read_gguf, value, vector_name, write_as_trainer
from tests.strategies import KINDS

EXPECTED = [path for path in GENUINE if (FIXTURES / f"{path.name.split('.')[0]}.resume.json").exists()]
TWINS = [path for path in EXPECTED if "twin" in path.name]
EVERY = [*GENUINE, *ORDERS]
HEAD_COUNT_KV, VOCAB_SIZE = "llama.attention.head_count_kv", "llama.vocab_size"
EPSILON, DIMENSIONS, FREQ_BASE = (
    "llama.attention.layer_norm_rms_epsilon",
    "llama.rope.dimension_count",
    "llama.rope.freq_base",
)


def ids(path: Path) -> str:
    return path.stem


def converted(content: bytes, folder: Path, **options: Any) -> Path:
    (folder / "in.ggcp").write_bytes(content)
    convert(folder / "in.ggcp", folder / "out.gguf", sync=False, force=True, **options)
    return folder / "out.gguf"


# As in 2023 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", thinned(EXPECTED, ONE_OF_EACH[:6]), ids=ids)
def test_verbatim_is_exactly_what_the_programs_of_2023_wrote(path: Path, tmp_path: Path) -> None:
    convert(path, tmp_path / "out.gguf", verbatim=True, verify=True, sync=False)
    found, expected = read_gguf(tmp_path / "out.gguf"), expected_resume(path)
    assert found == expected
    if path not in TWINS:  # those were written by the C++ program, whose keys have another order
        assert list(found["kv"]) == list(expected["kv"])


def test_there_are_expectations_for_all_files_that_were_there_in_2023() -> None:
    assert len(EXPECTED) == 11
    assert len(TWINS) == 6


@pytest.mark.parametrize("path", TWINS, ids=ids)
def test_twins_equal_what_the_trainer_itself_saved(path: Path, tmp_path: Path) -> None:
    convert(path, tmp_path / "out.gguf", verify=True, sync=False)
    found, expected = read_gguf(tmp_path / "out.gguf"), expected_resume(path)
    added = {key: found["kv"].pop(key) for key in list(found["kv"]) if key not in expected["kv"]}
    assert found == expected
    heads = expected["kv"]["llama.attention.head_count"]["value"]
    assert added == {
        HEAD_COUNT_KV: {"type": "UINT32", "value": heads},
        VOCAB_SIZE: {"type": "UINT32", "value": 320},
        "ggcp.writers": {"type": "STRING", "value": "compatibility"},
        "ggcp.rms_epsilon_certain": {"type": "BOOL", "value": False},
    }


@pytest.mark.parametrize("twin", ["twin-adam", "twin-lbfgs", "twin-ff48"])
def test_both_layouts_of_one_training_give_the_same_file(twin: str, tmp_path: Path) -> None:
    for layout in ("v0", "v1"):
        convert(FIXTURES / f"{twin}.{layout}.ggcp", tmp_path / layout, sync=False)
    assert (tmp_path / "v0").read_bytes() == (tmp_path / "v1").read_bytes()


def test_verbatim_allows_no_other_choice(tmp_path: Path) -> None:
    choices: list[dict[str, Any]] = [{"rms_eps": 1e-6}, {"order": "A"}, {"n_batch": 4}, {"fresh_optimizer": True}]
    for choice in choices:
        with pytest.raises(UsageError, match="verbatim"):
            convert(GENUINE[0], tmp_path / "out.gguf", verbatim=True, **choice)
    assert os.listdir(tmp_path) == []


# The order and the scale of the optimizer's vectors --------------------------------------------------------


def scale_of(path: Path, order: str | None) -> int:
    """Return s, if the bytes prove summed gradients: of the batches that the counts allow, the likeliest."""
    found = independent_order.read(path)
    ratio = independent_order.gradient_ratio(found, order) if order is not None and "v" in found.state else 0
    if ratio <= 1:
        return 1
    n_ctx, rest = divmod(found.train_tokens, found.train_samples)
    assert not rest
    allowed = [
        n_batch
        for n_batch in range(1, found.train_samples + 1)
        if found.train_samples % n_batch == 0
        and found.train_its / (found.n_iter or 1) <= found.train_samples / n_batch <= found.train_its
    ]
    return n_ctx * min(allowed, key=lambda n_batch: abs(np.log(ratio / (n_ctx * n_batch) / 0.08)))


def expected_vectors(path: Path) -> dict[str, np.ndarray]:
    """Return the optimizer's tensors in order C and divided by s and s², as the independent implementation has them."""
    found, order = independent_order.read(path), DECIDED.get(path.stem)
    sizes, scale = independent_order.sizes_of(found), scale_of(path, order)
    vectors = {}
    for field, tensor in found.state.items():
        name = vector_name(field, "lbfgs" if "lmal" in found.state else "adam")
        if name is not None and len(tensor.data):
            values = tensor.data
            if tensor.shape[0] == sum(sizes.values()) and order is not None:
                values = independent_order.change_order(values, order, "C", sizes)
            vectors[name] = values / np.float32({"m": scale, "v": scale**2}.get(field, 1))
    return vectors


@pytest.mark.parametrize("path", thinned(EVERY, ONE_OF_EACH), ids=ids)
def test_the_vectors_are_those_of_the_independent_implementation(path: Path, tmp_path: Path) -> None:
    convert(path, tmp_path / "out.gguf", verify=True, sync=False)
    found = {name: values for name, values in data(tmp_path / "out.gguf").items() if name.startswith("optimizer.")}
    expected = expected_vectors(path)
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name].tobytes() == values.tobytes(), name


def test_the_scales_are_those_that_are_known() -> None:
    scales = {path.stem: scale_of(path, DECIDED.get(path.stem)) for path in EVERY}
    assert {name: scale for name, scale in scales.items() if scale != 1} == {
        "eb5-A-2": 128,
        "jun-A-3": 128,
        "jun-B-3": 128,
        "v0-adam": 96,
        "v1-adam-raw-params": 64,
        "rotmax8-v0": 128,
    }


def test_what_was_done_is_recorded(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    convert(FIXTURES / "orders/jun-B-3.ggcp", out, sync=False)
    assert [value(out, f"ggcp.{key}") for key in ("parameter_order", "gradient_scale")] == ["B", 128]
    convert(FIXTURES / "orders/jun-B-3.ggcp", out, sync=False, force=True, n_batch=2)
    assert value(out, "ggcp.gradient_scale") == 64
    convert(FIXTURES / "alice.ggcp", out, sync=False, force=True)
    assert value(out, "ggcp.writers") == "branch-june branch-july branch-rebased branch-august branch-last-day"
    recorded = {key for key in read_gguf(out)["kv"] if key.startswith("ggcp.")}
    assert recorded == {"ggcp.writers", "ggcp.rms_epsilon_certain"}
    convert(FIXTURES / "v0-adam.ggcp", out, sync=False, force=True)
    assert value(out, "ggcp.n_threads") == 2


@pytest.mark.parametrize(("name", "is_ready"), [("rotmax8-v0", False), ("twin-adam.v1", True)])
def test_no_trainer_goes_on_from_a_verbatim_copy_of_summed_gradients(name: str, is_ready: bool, tmp_path: Path) -> None:
    """Both are in order C already; the gradients of the first were summed."""
    out = tmp_path / "out.gguf"
    convert(FIXTURES / f"{name}.ggcp", out, verbatim=True, sync=False)
    with open_file(out) as file:
        assert bool(summarize(file).resume) is is_ready


@pytest.mark.parametrize("n_threads", [0, -5])
def test_threads_that_no_program_had_are_not_recorded(n_threads: int, tmp_path: Path) -> None:
    path = FIXTURES / "v0-adam.ggcp"
    content = bytearray(path.read_bytes())
    struct.pack_into("<i", content, reference.read_model(path).end + 8, n_threads)
    assert "ggcp.n_threads" not in read_gguf(converted(bytes(content), tmp_path))["kv"]


@pytest.mark.parametrize("order", ["A", "B", "C"])
def test_an_order_that_is_stated_is_taken(order: str, tmp_path: Path) -> None:
    path, out = FIXTURES / "orders/17a-B-3.ggcp", tmp_path / "out.gguf"  # its order is undecidable
    convert(path, out, order=order, verify=True, sync=False)
    found = independent_order.read(path)
    expected = independent_order.change_order(found.state["m"].data, order, "C", independent_order.sizes_of(found))
    # A stated order allows the scale to be measured, and a wrong order makes it look wrong.
    scale = value(out, "ggcp.gradient_scale") or 1
    assert data(out)["optimizer.adam.first_moments"].tobytes() == (expected / np.float32(scale)).tobytes()
    assert value(out, "ggcp.parameter_order") == (None if order == "C" else order)


def test_an_order_cannot_be_stated_for_vectors_of_another_model(tmp_path: Path) -> None:
    content = build_checkpoint(nx=7)
    assert value(converted(content, tmp_path), "optimizer.parameter_count") == 7
    with pytest.raises(UsageError, match=r"in\.ggcp: m holds 7 values, but the model has 260 parameters"):
        converted(content, tmp_path, order="A")


def test_past_losses_as_many_as_parameters_are_not_reordered(tmp_path: Path) -> None:
    """pf has the length of a flat vector then."""
    content = build_checkpoint(past=260)
    pf = independent_order.read(converted(content, tmp_path).with_name("in.ggcp")).state["pf"].data
    found = data(converted(content, tmp_path, order="A"))
    assert found["optimizer.adam.past_loss_values"].tobytes() == pf.tobytes()


# A new optimizer -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["v1-adam-past5", "orders/jun-A-3"])
def test_a_fresh_optimizer_is_all_zeros(name: str, tmp_path: Path) -> None:
    path, out = FIXTURES / f"{name}.ggcp", tmp_path / "out.gguf"
    convert(path, out, fresh_optimizer=True, verify=True, sync=False)
    convert(path, tmp_path / "usual.gguf", sync=False)
    found, usual = data(out), data(tmp_path / "usual.gguf")
    assert list(found) == list(usual)
    for tensor, values in usual.items():
        expected = np.zeros_like(values) if tensor.startswith("optimizer.") else values
        assert found[tensor].tobytes() == expected.tobytes(), tensor
    keys = read_gguf(out)["kv"]
    for key in ("training.iteration_count", "optimizer.iteration_count"):
        assert keys[key] == {"type": "UINT32", "value": 0}
    assert keys["training.sample_count"] == read_gguf(tmp_path / "usual.gguf")["kv"]["training.sample_count"]


@pytest.mark.parametrize("odd", [("STRING", "x"), ("FLOAT32", 1.5), ("UINT64", 3)])
def test_a_fresh_optimizer_replaces_a_count_of_any_type(odd: tuple[str, Any], tmp_path: Path) -> None:
    key, out = "optimizer.adam.no_improvement_count", tmp_path / "out.gguf"
    source = write_as_trainer(tmp_path / "in.gguf", FIXTURES / "v1-adam.ggcp", changes={key: odd})
    convert(source, out, fresh_optimizer=True, verify=True, sync=False)
    assert read_gguf(out)["kv"][key] == {"type": "UINT64" if odd[0] == "UINT64" else "UINT32", "value": 0}


def test_a_fresh_optimizer_does_not_write_more_zeros_than_a_trainer_can_count(tmp_path: Path) -> None:
    changes = {"optimizer.convergence_past_count": ("UINT64", (1 << 63) + 5)}
    source = write_as_trainer(tmp_path / "in.gguf", FIXTURES / "v1-adam.ggcp", changes=changes)
    with pytest.raises(UnfitError, match=r"convergence_past_count is 9223372036854775813, more than .* count"):
        convert(source, tmp_path / "out.gguf", fresh_optimizer=True, sync=False)


def test_moments_of_unequal_lengths_are_copied_as_they_are(tmp_path: Path) -> None:
    source = write_as_trainer(tmp_path / "in.gguf", FIXTURES / "v1-adam.ggcp", cut=["optimizer.adam.first_moments"])
    convert(source, tmp_path / "out.gguf", verify=True, sync=False)
    found, expected = data(tmp_path / "out.gguf"), data(source)
    assert all(found[name].tobytes() == values.tobytes() for name, values in expected.items())


@pytest.mark.parametrize("name", ["v1-lbfgs", "twin-lbfgs.v0", "orders/aug-lbfgs-B-1"])
def test_a_fresh_optimizer_of_l_bfgs_is_adam_s(name: str, tmp_path: Path) -> None:
    """It has the keys and tensors that a fresh Adam has of the same model."""
    path, adam = FIXTURES / f"{name}.ggcp", tmp_path / "adam.gguf"
    convert(path, tmp_path / "out.gguf", fresh_optimizer=True, verify=True, sync=False)
    convert(FIXTURES / "v1-adam-past5.ggcp", adam, fresh_optimizer=True, sync=False)
    found, expected = read_gguf(tmp_path / "out.gguf"), read_gguf(adam)
    state = {tensor["name"]: tensor for tensor in found["tensors"] if tensor["name"].startswith("optimizer.")}
    n_params = found["kv"]["optimizer.parameter_count"]["value"]
    assert [tensor["shape"] for tensor in state.values()][:2] == [[n_params], [n_params]]
    assert list(state)[:2] == ["optimizer.adam.first_moments", "optimizer.adam.second_moments"]
    types = {key: entry["type"] for key, entry in found["kv"].items() if key.startswith("optimizer.")}
    assert types == {key: entry["type"] for key, entry in expected["kv"].items() if key.startswith("optimizer.")}
    assert found["kv"]["optimizer.type"]["value"] == "adam"
    assert all(not values.any() for tensor, values in data(tmp_path / "out.gguf").items() if tensor in state)


def test_the_state_of_l_bfgs_is_converted_with_a_warning(tmp_path: Path) -> None:
    plan = convert(FIXTURES / "v1-lbfgs.ggcp", tmp_path / "out.gguf", sync=False).plan
    assert any("no trainer goes on from the state of L-BFGS" in finding.message for finding in plan.warnings)


@pytest.mark.parametrize("choice", [{"order": "A"}, {"n_batch": 4}])
def test_a_fresh_optimizer_has_no_order_and_no_scale(choice: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a fresh optimizer has zeros"):
        convert(GENUINE[0], tmp_path / "out.gguf", fresh_optimizer=True, **choice)


# The epsilon and the rotation ------------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [1e-6, 5e-6, 1e-5])
def test_the_epsilon_is_the_nearest_float32(eps: float, tmp_path: Path) -> None:
    convert(GENUINE[0], tmp_path / "out.gguf", rms_eps=eps, sync=False)
    found = read_gguf(tmp_path / "out.gguf")["kv"][EPSILON]
    assert found == {"type": "FLOAT32", "value": float(np.float32(eps))}


@pytest.mark.parametrize("eps", [1e39, -1.0, 0.0, float("nan"), float("inf"), 1e-50])
def test_an_impossible_epsilon_is_refused(eps: float, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="RMS epsilon must be between"):
        convert(GENUINE[0], tmp_path / "out.gguf", rms_eps=eps)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["rotmax8-v0", "rotmax8-v1"])
def test_a_partial_rotation_is_stated_by_the_base(name: str, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    convert(FIXTURES / f"{name}.ggcp", out, sync=False)
    keys = read_gguf(out)["kv"]
    assert keys[DIMENSIONS] == {"type": "UINT32", "value": 16}
    assert keys[FREQ_BASE] == {"type": "FLOAT32", "value": 1e8}
    assert "rope_freqs.weight" not in data(out)
    convert(FIXTURES / f"{name}.ggcp", out, sync=False, force=True, verbatim=True)
    assert (value(out, DIMENSIONS), value(out, FREQ_BASE)) == (8, None)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"n_embd": 40, "n_head": 2, "n_rot": 2}, "too large for a float32"),
        ({"n_embd": 8, "n_head": 2, "n_rot": 3}, "must be even"),
        ({"n_embd": 8, "n_head": 2, "n_rot": 0}, "between 2 and the head size"),
        ({"n_embd": 8, "n_head": 2, "n_rot": 6}, "between 2 and the head size"),
        ({"n_embd": 8, "n_head": 0, "n_rot": 4}, "not divisible by n_head 0"),
        ({"n_embd": 8, "n_head": 3, "n_rot": 4}, "not divisible by n_head 3"),
    ],
)
def test_a_rotation_that_gguf_cannot_state_is_kept_and_reported(
    options: dict[str, int], why: str, tmp_path: Path
) -> None:
    (tmp_path / "in.ggcp").write_bytes(build_checkpoint(**options))
    written = convert(tmp_path / "in.ggcp", tmp_path / "out.gguf", sync=False)
    assert (value(tmp_path / "out.gguf", DIMENSIONS), value(tmp_path / "out.gguf", FREQ_BASE)) == (
        options["n_rot"],
        None,
    )
    assert why in written.plan.fact("rotation").text
    assert {finding.path for finding in written.plan.warnings} & {"hparams.n_rot", "hparams.n_head"}
    with pytest.raises(UsageError, match=r"hparams\.n_"):
        convert(tmp_path / "in.ggcp", tmp_path / "out.gguf", force=True, strict=True)


# Any checkpoint --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layout", "optimizer"), KINDS)
@pytest.mark.parametrize("past", [0, 3])
def test_every_layout_gives_the_bytes_it_holds(layout: str, optimizer: str, past: int, tmp_path: Path) -> None:
    content = build_checkpoint(layout=layout, optimizer=optimizer, past=past, n_layer=2)
    found = data(converted(content, tmp_path, verify=True))
    source = independent_order.read(tmp_path / "in.ggcp")
    assert len(found) == 3 + 2 * 9 + (2 if optimizer == "adam" else 9) + (past > 0)
    assert found["blk.1.ffn_down.weight"].tobytes() == source.model["layers[1].w2"].data.tobytes()
    for field in {"adam": ("m", "v"), "lbfgs": ("x", "lmal", "lmy")}[optimizer]:
        assert found[str(vector_name(field, optimizer))].tobytes() == source.state[field].data.tobytes()
    assert (vector_name("pf", optimizer) in found) == (past > 0)


def test_a_model_without_layers(tmp_path: Path) -> None:
    out = converted(build_checkpoint(n_layer=0, n_embd=16, n_mult=32), tmp_path, verify=True)
    assert list(data(out))[:3] == ["token_embd.weight", "output_norm.weight", "output.weight"]
    assert value(out, "llama.feed_forward_length") == 64
    with pytest.raises(UsageError, match="n_ff is unknown"):
        converted(build_checkpoint(n_layer=0, n_mult=0, n_ff=0), tmp_path)


def test_names_in_the_checkpoint_do_not_matter(tmp_path: Path) -> None:
    """But for what they show of the program that wrote it."""
    usual = read_gguf(converted(build_checkpoint(), tmp_path, rms_eps=1e-5))
    odd = read_gguf(converted(build_checkpoint(name=lambda default: b"\x1b[31m\0"), tmp_path, rms_eps=1e-5))
    for key in ("ggcp.writers", "ggcp.rms_epsilon_certain", "ggcp.n_threads"):
        usual["kv"].pop(key, None)
    assert odd == usual


def test_the_largest_counts(tmp_path: Path) -> None:
    top = 0xFFFFFFFF
    found = read_gguf(converted(build_checkpoint(train=(top, top, top), n_head=top, n_rot=top), tmp_path))["kv"]
    for key in ("training.iteration_count", "training.token_count", "llama.attention.head_count", DIMENSIONS):
        assert found[key] == {"type": "UINT32", "value": top}


@pytest.mark.parametrize("count", [-(1 << 31), -1, 0, (1 << 31) - 1])
def test_the_line_search_counts_are_signed(count: int, tmp_path: Path) -> None:
    content = build_checkpoint(optimizer="lbfgs", state={"j": count, "k": count, "end": count})
    found = read_gguf(converted(content, tmp_path))["kv"]
    for name in ("line_search_j", "line_search_k", "line_search_end"):
        assert found[f"optimizer.lbfgs.{name}"] == {"type": "INT32", "value": count}


@pytest.mark.parametrize("bits", [0x7FC00000, 0xFFC00000, 0x7FC12345, 0x7F800000, 0xFF800000, 1])
def test_losses_that_are_not_finite_are_kept_bit_for_bit(bits: int, tmp_path: Path) -> None:
    loss = np.array([bits], "<u4").tobytes()
    content = build_checkpoint()
    found = converted(content[:-12] + loss + content[-8:], tmp_path)
    place = found.read_bytes().index(b"optimizer.adam.best_loss") + len("optimizer.adam.best_loss") + 4
    assert found.read_bytes()[place : place + 4] == loss


def test_a_signalling_nan_becomes_a_quiet_one(tmp_path: Path) -> None:
    content = build_checkpoint()
    found = converted(content[:-12] + b"\x01\x00\xa0\x7f" + content[-8:], tmp_path).read_bytes()
    place = found.index(b"optimizer.adam.best_loss") + len("optimizer.adam.best_loss") + 4
    assert found[place : place + 4] == b"\x01\x00\xe0\x7f"


@pytest.mark.parametrize(
    ("optimizer", "field", "path", "key"),
    [
        ("adam", "iter", "optimizer.iter", "optimizer.iteration_count"),
        ("adam", "n_no_improvement", "optimizer.state.n_no_improvement", "optimizer.adam.no_improvement_count"),
        ("lbfgs", "iter", "optimizer.iter", "optimizer.iteration_count"),
        ("lbfgs", "n_no_improvement", "optimizer.state.n_no_improvement", "optimizer.lbfgs.no_improvement_count"),
    ],
)
def test_a_negative_count_is_refused_with_a_remedy_that_works(
    optimizer: str, field: str, path: str, key: str, tmp_path: Path
) -> None:
    source = tmp_path / "with space.ggcp"
    source.write_bytes(build_checkpoint(optimizer=optimizer, state={field: -1}))
    with pytest.raises(UnfitError) as caught:
        convert(source, tmp_path / "out.gguf")
    assert caught.value.message == f"{source}: {path} is -1, but {key} (UINT32) holds 0 to 4294967295"
    assert os.listdir(tmp_path) == ["with space.ggcp"]
    command = shlex.split(caught.value.hint.partition(": ")[2])
    run_cli(*command[1:], cwd=tmp_path, check=True)
    convert(tmp_path / "OUTPUT", tmp_path / "out.gguf", sync=False)
    assert value(tmp_path / "out.gguf", key) == 0


# What is read ----------------------------------------------------------------------------------------------


def test_tensors_that_are_not_written_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But x, in which the order of the parameters is looked for."""
    path = FIXTURES / "twin-adam.v0.ggcp"
    extents: list[tuple[int, int]] = []
    preadv = os.preadv

    def watched(fd: int, buffers: list[memoryview], offset: int) -> int:
        count = preadv(fd, buffers, offset)
        if os.path.samestat(os.fstat(fd), path.stat()):
            extents.append((offset, offset + count))
        return count

    monkeypatch.setattr(os, "preadv", watched)
    convert(path, tmp_path / "out.gguf", verify=True, sync=False)
    with open_checkpoint(path) as ckpt:
        for name, tensor in ckpt.tensors.items():
            end = tensor.offset + tensor.nbytes
            read = sum(max(0, min(end, stop) - max(tensor.offset, start)) for start, stop in extents)
            if name.removeprefix("optimizer.state.") in ("g1", "g2", "mh", "vh"):
                assert read == 0, name
            elif not name.startswith("optimizer."):
                assert read >= 2 * tensor.nbytes, name  # once to copy, once to compare


def test_progress_counts_every_byte_once(tmp_path: Path) -> None:
    done: list[int] = []
    convert(FIXTURES / "v0-adam.ggcp", tmp_path / "out.gguf", progress=done.append, sync=False)
    total = sum(values.nbytes for values in data(tmp_path / "out.gguf").values())
    assert sum(done) == total
    done.clear()
    convert(FIXTURES / "v0-adam.ggcp", tmp_path / "out.gguf", progress=done.append, verify=True, force=True, sync=False)
    assert sum(done) == 2 * total


def test_an_order_that_the_bytes_disprove_is_refused(tmp_path: Path) -> None:
    source, out = FIXTURES / "orders" / "aug-C-3.ggcp", tmp_path / "out.gguf"
    for order in "ABD":
        with pytest.raises(UsageError, match=f"order {order} was stated, but the bytes prove C"):
            convert(source, out, order=order)
    assert not out.exists()
    assert not convert(source, out, order="C", strict=True).plan.warnings


def test_where_the_trainer_does_not_find_its_order_a_fresh_optimizer_is_named(tmp_path: Path) -> None:
    for number, (name, options, is_fresh) in enumerate(
        [
            ("truth/jan24-D.gguf", {}, True),
            ("truth/jan24-D.gguf", {"order": "D"}, False),
            ("truth/jan24-D.gguf", {"fresh_optimizer": True}, False),
            ("orders/aug-lbfgs-B-1.ggcp", {}, True),
            ("orders/aug-C-3.ggcp", {}, False),
        ]
    ):
        (command,) = convert(FIXTURES / name, tmp_path / f"{number}.gguf", **options, sync=False).next
        assert ("--fresh-optimizer" in command.words) is is_fresh, (name, options)
