"""`diff`: checkpoints of all layouts, GGUF files and models, mapped onto each other."""

from __future__ import annotations

import json
import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ggcp_schema.gguf.opening import open_any
from ggcp_schema.inspect.diff import compare
from tests.builder import build_checkpoint
from tests.golden import assert_golden
from tests.helpers import FIXTURES, GENUINE, TRUNCATED, assert_no_traceback, run_cli, run_pty

ADAM, LBFGS = FIXTURES / "v1-adam.ggcp", FIXTURES / "v1-lbfgs.ggcp"
TWINS = ["twin-adam", "twin-ff48", "twin-lbfgs"]


def diff(a, b, *options, code):
    result = run_cli("diff", a, b, "--json", *options)
    assert_no_traceback(result)
    assert result.returncode == code, result.stderr
    return json.loads(result.stdout)


def differing(found):
    return {row["name"]: row["verdict"] for row in found["fields"] + found["tensors"] if row["verdict"] != "equal"}


def converted(path, tmp_path, *options):
    out = tmp_path / f"{path.name}.gguf"
    run_cli("convert", path, out, *options, check=True)
    return out


def exported(path, tmp_path, *options):
    out = tmp_path / f"{path.name}.model.gguf"
    run_cli("export", path, out, "--vocab", FIXTURES / "vocab.gguf", "--context-length", "32", *options, check=True)
    return out


@pytest.fixture
def changed(tmp_path):
    """v1-adam with another iteration count, one weight of the embeddings NaN and one of the output 1 larger."""
    data = bytearray(ADAM.read_bytes())
    with open_any(ADAM) as ckpt:
        nan, weight = ckpt["tok_embeddings"].offset + 400, ckpt["output"].offset + 4
    struct.pack_into("<I", data, 8, 13)
    struct.pack_into("<f", data, nan, math.nan)
    struct.pack_into("<f", data, weight, struct.unpack_from("<f", data, weight)[0] + 1)
    path = tmp_path / "changed.ggcp"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("path", GENUINE, ids=lambda path: path.name)
def test_a_file_and_its_gguf_are_equal_both_ways(path, tmp_path):
    gguf = converted(path, tmp_path, "--rms-eps", "1e-6")
    for pair in ((path, gguf), (gguf, path)):
        found = diff(*pair, code=0)
        assert found["equal"]
        assert not differing(found)
        assert {row["name"] for row in found["not_compared"] if not row["name"].startswith("optimizer.state.")} == {
            "llama.attention.layer_norm_rms_epsilon"
        }
    for same in (path, gguf):
        found = diff(same, same, code=0)
        assert not found["not_compared"]


@pytest.mark.parametrize("twin", TWINS)
def test_one_training_in_two_layouts_is_equal(twin):
    old, new = FIXTURES / f"{twin}.v0.ggcp", FIXTURES / f"{twin}.v1.ggcp"
    found = diff(old, new, code=0)
    dropped = [] if twin == "twin-lbfgs" else [f"optimizer.state.{name}" for name in ("x", "g1", "g2", "mh", "vh")]
    assert [row["name"] for row in found["not_compared"]] == dropped
    assert all(row["side"] == "A" for row in found["not_compared"])
    assert {row["name"] for row in found["tensors"]} >= {"token_embd.weight", "blk.0.ffn_up.weight"}


@pytest.mark.parametrize("twin", TWINS)
def test_a_model_has_the_weights_of_its_checkpoint(twin, tmp_path):
    path = FIXTURES / f"{twin}.v0.ggcp"
    model = exported(path, tmp_path)
    for pair in ((path, model), (model, path), (converted(path, tmp_path), model)):
        found = diff(*pair, code=0)
        assert {row["name"] for row in found["fields"]} >= {"llama.embedding_length", "llama.block_count"}
        assert len(found["tensors"]) == len(json.loads(run_cli("tensors", model, "--json").stdout))
        assert any(row["name"].startswith("optimizer.") for row in found["not_compared"])
        assert any(row["name"] == "tokenizer.ggml.tokens" for row in found["not_compared"])


def test_a_model_that_rotates_a_part_of_each_head(tmp_path):
    path = tmp_path / "part.ggcp"
    path.write_bytes(build_checkpoint(n_vocab=320, n_embd=16, n_head=1, n_rot=8))
    found = diff(path, exported(path, tmp_path), code=0)
    omitted = {row["name"] for row in found["not_compared"]}
    assert {"rope_freqs.weight", "llama.rope.dimension_count"} <= omitted


@pytest.mark.parametrize("to_gguf", [(), ("a",), ("b",), ("a", "b")])
def test_a_changed_file_differs_on_either_side(to_gguf, changed, tmp_path):
    a = converted(ADAM, tmp_path) if "a" in to_gguf else ADAM
    b = converted(changed, tmp_path) if "b" in to_gguf else changed
    names = ("training.iteration_count", "token_embd.weight", "output.weight")
    if not to_gguf:
        names = ("train_its", "tok_embeddings", "output")
    found = diff(a, b, code=1)
    assert differing(found) == dict.fromkeys(names, "different")
    counts, nan, one = (
        next(row for row in found["fields"] + found["tensors"] if row["name"] == name) for name in names
    )
    assert (counts["a"], counts["b"]) == (12, 13)
    assert (nan["differing"], nan["largest"], nan["rms"]) == (1, "Infinity", "Infinity")
    assert one["differing"] == 1
    assert one["largest"] == pytest.approx(1, rel=1e-6)
    assert one["rms"] == pytest.approx(math.sqrt(1 / (16 * 320)), rel=1e-6)


def test_output(changed):
    result = run_cli("diff", ADAM.name, changed, cwd=FIXTURES)
    assert_golden("diff/changed.txt", result.stdout.replace(str(changed), "changed.ggcp"))
    assert result.returncode == 1
    assert not result.stderr


@pytest.mark.parametrize(
    ("a", "b", "code"),
    [
        ("twin-adam.v0.ggcp", "twin-adam.v1.ggcp", 0),
        ("v1-adam.ggcp", "v1-lbfgs.ggcp", 1),
        ("v0-adam.ggcp", "v1-adam.ggcp", 1),
        ("truncated-v0-lbfgs.ggcp", "twin-lbfgs.v0.ggcp", 4),
    ],
)
def test_output_of_genuine_files(a, b, code):
    result = run_cli("diff", a, b, cwd=FIXTURES)
    assert_golden(f"diff/{a}-{b}.txt", result.stdout)
    assert result.returncode == code
    assert ("offset 52147" in result.stderr) == (code == 4)


def test_model_output(tmp_path):
    model = exported(FIXTURES / "twin-adam.v1.ggcp", tmp_path)
    result = run_cli("diff", FIXTURES / "twin-adam.v1.ggcp", model, check=True)
    assert_golden("diff/model.txt", result.stdout)


def test_names_in_the_records_are_compared_but_padding_is_not(tmp_path):
    a, b, c = (tmp_path / f"{name}.ggcp" for name in "abc")
    a.write_bytes(build_checkpoint())
    b.write_bytes(build_checkpoint(padding=lambda count: b"x" * count))
    c.write_bytes(build_checkpoint(name=lambda name: name.replace("norm", "Norm!").encode()))
    assert diff(a, b, code=0)["equal"]
    assert set(differing(diff(a, c, code=1))) == {
        "norm.name",
        "layers[0].attention_norm.name",
        "layers[0].ffn_norm.name",
    }


def test_only_here_and_other_shapes():
    found = differing(diff(ADAM, LBFGS, code=1))
    assert found["layers[1].wq"] == "only in A"
    assert found["optimizer.state.d"] == "only in B"
    assert found["norm"] == "different"
    row = next(row for row in diff(ADAM, LBFGS, code=1)["tensors"] if row["name"] == "norm")
    assert (row["a"], row["b"], row["differing"], row["largest"]) == ([16], [8], None, None)


def arrays_of(path, values):
    """A checkpoint whose embeddings are these values."""
    draws = iter([np.asarray(values, np.float32)])
    path.write_bytes(
        build_checkpoint(n_vocab=1, n_embd=len(values), n_layer=0, data=lambda count: next(draws, np.zeros(count)))
    )
    return path


FLOATS = st.floats(width=32) | st.sampled_from([0.0, -0.0, math.inf, -math.inf, math.nan, 1.0, 1.0000001])
PAIRS = st.integers(1, 12).flatmap(lambda n: st.tuples(*[arrays.arrays(np.float32, n, elements=FLOATS)] * 2))


@given(PAIRS, st.sampled_from([0.0, 1e-6, 0.1, 2.0]), st.sampled_from([0.0, 1e-3, 10.0]))
def test_tolerances_are_those_of_numpy(tmp_path_factory, pair, rtol, atol):
    folder = tmp_path_factory.getbasetemp()
    a, b = (arrays_of(folder / f"{name}.ggcp", values) for name, values in zip("ab", pair, strict=True))
    with open_any(a) as left, open_any(b) as right:
        row = next(row for row in compare(left, right, rtol=rtol, atol=atol).tensors if row.name == "tok_embeddings")
    x, y = (values.astype(np.float64) for values in pair)
    same = pair[0].view(np.uint32) == pair[1].view(np.uint32)
    with np.errstate(invalid="ignore"):
        close = same | np.isclose(x, y, rtol=rtol, atol=atol)
        apart = np.where(same, 0, np.nan_to_num(abs(x - y), nan=math.inf, posinf=math.inf))
    assert row.differing == (~close).sum()
    assert row.largest == apart.max()
    assert row.rms == pytest.approx(math.sqrt(np.mean(np.square(apart))))
    assert (row.verdict == "equal") == close.all()


def test_a_tolerance_holds_for_fields_too(tmp_path):
    a, b = tmp_path / "a.ggcp", tmp_path / "b.ggcp"
    a.write_bytes(build_checkpoint(state={"fx_best": 5.0}))
    b.write_bytes(build_checkpoint(state={"fx_best": 5.5}))
    assert differing(diff(a, b, code=1)) == {"optimizer.state.fx_best": "different"}
    assert diff(a, b, "--atol", "0.5", code=0)["equal"]
    assert diff(a, b, "--rtol", "0.1", code=0)["equal"]
    assert not diff(a, b, "--rtol", "0.05", code=1)["equal"]


def test_equal_within_a_tolerance_says_how_near(tmp_path):
    a, b = arrays_of(tmp_path / "a.ggcp", [1, 2]), arrays_of(tmp_path / "b.ggcp", [1, 2.25])
    assert "largest difference is 0.25" in run_cli("diff", a, b, "--atol", "0.25", check=True).stdout
    assert run_cli("diff", a, b, "--atol", "0.24").returncode == 1


@pytest.mark.parametrize("value", ["-1", "nan"])
def test_a_tolerance_that_is_none(value):
    result = run_cli("diff", ADAM, ADAM, f"--rtol={value}")
    assert result.returncode == 2
    assert "tolerance" in result.stderr


def test_more_than_a_piece_and_where_it_ends(tmp_path):
    values = np.random.default_rng(0).standard_normal((1 << 19) + 5).astype(np.float32)
    other = values.copy()
    other[[0, 1 << 19, -1]] += 1
    a, b = arrays_of(tmp_path / "a.ggcp", values), arrays_of(tmp_path / "b.ggcp", other)
    row = next(row for row in diff(a, b, code=1)["tensors"] if row["name"] == "tok_embeddings")
    assert row["differing"] == 3


def test_damage_hides_what_is_behind_it():
    found = diff(TRUNCATED, TRUNCATED, code=4)
    assert found["equal"]
    found = diff(FIXTURES / "twin-lbfgs.v0.ggcp", TRUNCATED, code=4)
    assert "only in A" not in differing(found).values()
    assert all(row["reason"] == "hidden by B's damage" for row in found["not_compared"])


def test_a_damaged_checkpoint_and_a_gguf(tmp_path):
    path = tmp_path / "cut.ggcp"
    path.write_bytes(ADAM.read_bytes()[:100_000])
    found = diff(path, converted(ADAM, tmp_path), code=4)
    assert found["equal"]
    assert [row["name"] for row in found["tensors"]][:3] == ["token_embd.weight", "output_norm.weight", "output.weight"]


def test_quiet(changed):
    for a, b, code in ((ADAM, ADAM, 0), (ADAM, changed, 1), (ADAM, TRUNCATED, 4)):
        result = run_cli("diff", "-q", a, b)
        assert (result.returncode, result.stdout) == (code, "")
        assert bool(result.stderr) == (code == 4)


def test_what_cannot_be_read_is_trouble(tmp_path):
    result = run_cli("diff", ADAM, tmp_path / "missing.ggcp")
    assert result.returncode == 2
    assert_no_traceback(result)
    (tmp_path / "text").write_text("not a checkpoint")
    assert run_cli("diff", ADAM, tmp_path / "text").returncode == 4


def test_narrow_and_wide_terminals(changed):
    wide = run_cli("diff", ADAM, changed).stdout
    assert run_pty("diff", ADAM, changed, columns=200, env={"NO_COLOR": "1"}) == (1, wide)
    code, narrow = run_pty("diff", ADAM, changed, columns=44, env={"NO_COLOR": "1"})
    assert code == 1
    assert [word for line in wide.splitlines()[3:] for word in line.split() if word not in narrow.split()] == []
    assert max(len(line) for line in narrow.splitlines()[2:]) <= 44


def test_names_do_not_reach_the_terminal_as_they_are(tmp_path):
    hostile = "\x1b[31mred[/bold]\n"
    a, b = tmp_path / "a.ggcp", tmp_path / "b\x1b[5m.ggcp"
    a.write_bytes(build_checkpoint())
    b.write_bytes(build_checkpoint(name=lambda name: hostile.encode()))
    code, text = run_pty("diff", a, b, columns=200, env={"NO_COLOR": "1"})
    assert code == 1
    assert "\x1b" not in text
    assert r"\x1b[31mred[/bold]\n" in text
    assert r"b\x1b[5m.ggcp" in text
