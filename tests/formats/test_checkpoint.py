"""What a program, a REPL or a notebook sees of a checkpoint."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest

import ggcp_schema
from ggcp_schema import CHECKPOINT, PathError, TruncatedError, UsageError, open_checkpoint
from tests.builder import build_checkpoint
from tests.helpers import FIXTURES, GENUINE, ONE_OF_EACH, ORDERS, TRUNCATED, thinned

PATH = FIXTURES / "v1-adam.ggcp"


@pytest.mark.parametrize("path", thinned([*GENUINE, *ORDERS], ONE_OF_EACH), ids=lambda path: path.name)
def test_a_genuine_file_opens_without_a_complaint(path: Path) -> None:
    with open_checkpoint(path) as ckpt:
        assert ckpt.size == path.stat().st_size == ckpt.expected_size
        assert ckpt.damage is None
        assert ckpt.optimizer.nx == ckpt.n_params
        is_v0 = "v0" in path.name or path.name.startswith(("jun", "eb5"))
        layout = "v0" if is_v0 else "v1-raw-params" if "raw-params" in path.name else "v1"
        assert ckpt.optimizer.layout == layout
        odd = [finding.path for finding in ckpt.findings]
        assert odd == (["hparams.n_mult"] if "ff48" in path.name else [])


def test_the_fields_of_a_genuine_file() -> None:
    """The numbers are those of its fixture's description and of the GGUF that was made from it in 2023."""
    with open_checkpoint(FIXTURES / "v1-adam-past5.ggcp") as ckpt:
        assert (ckpt.hparams.n_vocab, ckpt.hparams.n_embd, ckpt.hparams.n_layer) == (320, 24, 1)
        assert (ckpt.past, ckpt.lbfgs_m, ckpt.optimizer.type, ckpt.version) == (5, 0, "adam", 0)
        assert ckpt.tensor("optimizer.state.pf").shape == (5,)
        assert ckpt.tensor("optimizer.state.m[layers[0].wq]").shape == (24, 24)
        for other in ("hparams", "hparams.n_rot"):
            with pytest.raises(UsageError, match="is not a tensor"):
                ckpt.tensor(other)
        assert ckpt["layers[0].wq"] == ckpt.layers[0].wq == ckpt.tensor("blk.0.attn_q.weight")
        assert ckpt[ckpt.layers[0].wq.name] == ckpt["layers.0.attention.wq.weight"] == ckpt.layers[0].wq
        assert ckpt.layers[0].wq.shape == (24, 24)
        assert ckpt.tok_embeddings.name == "tok_embeddings.weight"
        assert ckpt["hparams.n_rot"] == ckpt.hparams.n_rot == ckpt.find("hparams.n_rot").value
        assert list(ckpt.model_tensors)[:4] == ["tok_embeddings", "norm", "output", "layers[0].attention_norm"]
        assert len(ckpt.model_tensors) == 12
        assert list(ckpt.state_tensors) == ["m", "v", "pf"]


def test_the_attributes_are_what_the_schema_parses() -> None:
    """Every field of every record of a v0 file, compared with construct's containers."""
    path = FIXTURES / "v0-adam.ggcp"
    parsed = CHECKPOINT.parse_file(path)
    with open_checkpoint(path) as ckpt:
        assert {name: getattr(ckpt.hparams, name) for name in ckpt.hparams._fields} == _values(parsed.hparams)
        for names in ("train_its", "train_samples", "train_tokens", "n_ff"):
            assert getattr(ckpt, names) == parsed[names]
        params, raw = ckpt.optimizer.params, parsed.optimizer.params
        assert params is not None
        assert {name: getattr(params.adam, name) for name in params.adam._fields} == _values(raw.adam)
        assert {name: getattr(params.lbfgs, name) for name in params.lbfgs._fields} == _values(raw.lbfgs)
        for layer, record in zip(ckpt.layers, parsed.layers, strict=True):
            for name, tensor in record.items():
                if not name.startswith("_"):
                    assert getattr(layer, name).offset == tensor.data.offset
        state = parsed.optimizer.state
        assert {name: tensor.offset for name, tensor in ckpt.state_tensors.items()} == {
            name: record.data.offset for name, record in state.items() if hasattr(record, "data")
        }
        assert ckpt.optimizer.state.fx_prev == state.fx_prev


def _values(record: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in record.items() if not name.startswith("_")}


def test_the_width_that_the_shapes_state_outweighs_the_formula() -> None:
    with open_checkpoint(FIXTURES / "twin-ff48.v1.ggcp") as ckpt:
        assert (ckpt.n_ff, ckpt.hparams.n_mult) == (48, 256)
        assert ckpt.findings[0].message == "n_ff is 48 according to w1, but 256 according to n_embd and n_mult (256)"


def test_a_model_without_layers(tmp_path: Path) -> None:
    path = tmp_path / "no-layers.ggcp"
    for n_mult, n_ff in ((32, 64), (0, None)):
        path.write_bytes(build_checkpoint(n_layer=0, n_embd=16, n_mult=n_mult, n_ff=0))
        with open_checkpoint(path) as ckpt:
            assert (len(ckpt.layers), ckpt.n_ff) == (0, n_ff)
            assert "0 layers" in repr(ckpt)


# As a value ------------------------------------------------------------------------------------------------


def test_repr_says_what_it_is() -> None:
    with open_checkpoint(PATH) as ckpt:
        assert repr(ckpt) == (
            f"<Checkpoint {PATH}: 2 layers, n_embd 16, n_vocab 320, 16,976 parameters, Adam at iteration 12>"
        )
    with open_checkpoint(FIXTURES / "v1-lbfgs.ggcp") as ckpt:
        assert ": 1 layer, n_embd 8, n_vocab 320, 5,976 parameters, L-BFGS>" in repr(ckpt)


def test_html_is_a_table_and_escapes(tmp_path: Path) -> None:
    path = tmp_path / "<b>.ggcp"
    path.write_bytes(build_checkpoint(name=lambda default: b"<script>"))
    with open_checkpoint(path) as ckpt:
        html = ckpt._repr_html_()
    assert html.count("<tr>") == 1 + len(ckpt.tensors)
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_it_can_be_asked_and_listed_like_a_mapping() -> None:
    with open_checkpoint(PATH) as ckpt:
        assert "norm" in ckpt
        assert "nrom" not in ckpt
        assert {"train_its", "hparams", "layers", "optimizer", "tok_embeddings"} <= {*ckpt}
        assert {"layers[1].wq", "optimizer"} <= set(ckpt._ipython_key_completions_())
        assert ckpt["optimizer.nx"] == ckpt.optimizer.nx == 16976
        assert ckpt["layers[0].wq.ne[1]"] == 16
        assert ckpt["hparams"].n_layer == ckpt.hparams.n_layer == 2
        field = ckpt.find("optimizer.nx")
        raw = PATH.read_bytes()[field.offset : field.end]
        assert int.from_bytes(raw, "little") == field.value == 16976


def test_an_unknown_name_says_what_there_is() -> None:
    with open_checkpoint(PATH) as ckpt:
        with pytest.raises(PathError, match="Did you mean layers"):
            ckpt["layers[0].wqq"]
        with pytest.raises(UsageError, match="hparams is not a tensor"):
            ckpt.tensor("hparams")
        with pytest.raises(AttributeError, match="embd"):
            _ = ckpt.hparams.embd


def test_layers_are_a_sequence() -> None:
    with open_checkpoint(PATH) as ckpt:
        assert len(ckpt.layers) == 2
        assert ckpt.layers[-1] == ckpt.layers[1] != ckpt.layers[0]
        assert list(ckpt.layers) == ckpt.layers[:] == [ckpt.layers[0], ckpt.layers[1]]


def test_what_was_parsed_outlives_the_file(tmp_path: Path) -> None:
    path = tmp_path / "moved.ggcp"
    path.write_bytes(PATH.read_bytes())
    with open_checkpoint(path) as ckpt:
        layer = ckpt.layers[1]
    path.unlink()
    assert ckpt.layers[1] == layer
    assert ckpt["layers[1].wq"] == ckpt.tensors["layers[1].wq"] == layer.wq
    assert ckpt.find("layers[1].wq").offset < layer.wq.offset


def test_it_is_read_only() -> None:
    with open_checkpoint(PATH) as ckpt:
        for part, name in ((ckpt.hparams, "n_embd"), (ckpt.optimizer, "iter"), (ckpt.norm, "offset")):
            with pytest.raises(AttributeError):
                setattr(part, name, 3)
        for name in ("path", "train_its", "norm"):
            with pytest.raises(AttributeError):
                setattr(ckpt, name, 3)
        with pytest.raises(ValueError, match="read-only"):
            ckpt["norm"].array()[0] = 1


def test_its_parts_can_be_copied() -> None:
    with open_checkpoint(PATH) as ckpt:
        for part in (ckpt.hparams, ckpt.layers[0], ckpt.optimizer, ckpt.norm):
            assert copy.copy(part) == part
        assert copy.deepcopy(ckpt.hparams) == ckpt.hparams
        assert copy.deepcopy(ckpt.container) == ckpt.container


def test_two_openings_are_equal() -> None:
    with open_checkpoint(PATH) as a, open_checkpoint(PATH) as b:
        assert a.container == b.container
        assert a.hparams == b.hparams
        assert a.optimizer == b.optimizer
        assert list(a.layers) == list(b.layers)
        assert dict(a.tensors) == dict(b.tensors)
        assert {*a.tensors.values()} == {*b.tensors.values()}


def test_tensors_of_two_files_are_not_equal() -> None:
    """Although these have all names, shapes and places in common."""
    orders = FIXTURES / "orders"
    with open_checkpoint(orders / "aug-B-3.ggcp") as a, open_checkpoint(orders / "aug-C-3.ggcp") as b:
        assert repr(a["norm"]) == repr(b["norm"])
        assert a["norm"] != b["norm"]
        assert len({a["norm"], b["norm"]}) == 2
        assert list(a.layers) != list(b.layers)


def test_rows_of_a_tensor() -> None:
    with open_checkpoint(PATH) as ckpt:
        assert np.array_equal([*ckpt["layers[0].wq"]], ckpt["layers[0].wq"].array())


def test_a_path_is_in_the_file_if_it_leads_to_something() -> None:
    with open_checkpoint(PATH) as ckpt:
        for path in ("layers[0].wq", "blk.0.attn_q.weight", "layers[0].wq[2,0]", "norm.data[0:2]", "hparams"):
            assert path in ckpt
            assert ckpt[path] is not None
        for path in ("layers[9].wq", "layers[0].wq[99,0]", "layers[0].wqq", "]", 5, None):
            assert path not in ckpt


def test_mistakes_in_python_are_told_in_a_sentence() -> None:
    with open_checkpoint(PATH) as ckpt:
        for use in (lambda: ckpt[0], lambda: ckpt.get(5), lambda: ckpt.moments(0)):
            with pytest.raises(TypeError, match="a path is a text such as"):
                use()
        with pytest.raises(PathError, match="a layer has no 'zz'") as caught:
            ckpt.layers[0]["zz"]
        assert "attention_norm, wq, wk" in str(caught.value.hint)
        with pytest.raises(PathError, match="no tensor has the path 'blk"):
            ckpt.tensors["blk.0.attn_q.weight"]
        for copied in (copy.deepcopy, pickle.dumps):
            for value in (ckpt, ckpt["norm"]):
                with pytest.raises(TypeError, match="is open, and cannot be copied or pickled: pass its path"):
                    copied(value)
        assert "closed" not in repr(ckpt)
    assert "closed" in repr(ckpt)


def test_one_line_shows_what_a_meaning_is() -> None:
    with open_checkpoint(PATH) as ckpt:
        for meaning in (ckpt.model(), ckpt.training(), ckpt.format, ckpt.source):
            assert len(repr(meaning)) < 200


def test_partial_opens_what_is_left_of_a_damaged_file() -> None:
    with pytest.raises(TruncatedError):
        open_checkpoint(TRUNCATED)
    with open_checkpoint(TRUNCATED, partial=True) as ckpt:
        assert ckpt.damage is not None
        assert ckpt.damage.path == "layers[0].w3.padding"
        assert "damaged, 11 whole tensors before layers[0].w3.padding" in repr(ckpt)
        assert list(ckpt.tensors)[-1] == "layers[0].w2"
        assert np.isfinite(ckpt["layers[0].w2"].array()).all()
        assert len(ckpt.layers) == 0
        for use in (
            lambda: ckpt.optimizer,
            lambda: ckpt.past,
            lambda: ckpt["optimizer"],
            lambda: ckpt.tensor("layers[0].w3"),
        ):
            with pytest.raises(TruncatedError) as caught:
                use()
            assert str(caught.value) == str(ckpt.damage)
        assert ckpt.get("optimizer.layout") is None
        assert ckpt.get("optimizer.state.m[norm]", 7) == ckpt.get("layers[0].w3.data[0:2]", 7) == 7
        assert ckpt.n_ff == 48


# In a program ----------------------------------------------------------------------------------------------


def test_the_version_is_that_of_the_distribution() -> None:
    from importlib.metadata import version

    assert ggcp_schema.__version__ == version("ggcp-schema")


@pytest.mark.parametrize("sizes", [{"n_embd": 0}, {"n_vocab": 0}, {}], ids=str)
@pytest.mark.parametrize("lbfgs_m", [0, 2])
def test_the_moments_of_a_parameter_without_elements(sizes: dict[str, int], lbfgs_m: int, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(build_checkpoint(optimizer="lbfgs", lbfgs_m=lbfgs_m, **sizes))
    with open_checkpoint(path) as ckpt:
        for name, tensor in ckpt.model_tensors.items():
            found = ckpt.moments(name, order="A")
            assert found["x"].shape == tensor.shape[::-1]
            assert found["lms"].shape == (lbfgs_m, *tensor.shape[::-1])


def test_moments_in_a_likely_order_come_with_a_warning(tmp_path: Path) -> None:
    """As `get` prints a note. Where all are zero, every order is right."""
    with open_checkpoint(FIXTURES / "orders/aug-B-3.ggcp") as ckpt:
        proven = {name: values.tolist() for name, values in ckpt.moments("norm").items()}
        likely = ckpt.order._replace(certainty="likely")
    with open_checkpoint(FIXTURES / "orders/aug-B-3.ggcp") as ckpt:
        ckpt.order = likely
        with pytest.warns(UserWarning, match="order B of the parameters is likely, not proven"):
            assert {name: values.tolist() for name, values in ckpt.moments("norm").items()} == proven
        assert ckpt.values("optimizer.state.m[norm]").note == "order B of the parameters is likely, not proven"
    (tmp_path / "zero").write_bytes(build_checkpoint(data=lambda count: np.zeros(count, "<f4")))
    with open_checkpoint(tmp_path / "zero") as ckpt:
        assert ckpt.order.harmless
        assert not ckpt.moments("norm")["m"].any()


def test_no_order_is_right_for_an_x_that_is_not_zero(tmp_path: Path) -> None:
    """Although all moments are zero: those are the same in every order."""
    counts = iter(range(1 << 30))
    zeros = {"m", "v", "mh", "vh"}
    with open_checkpoint(FIXTURES / "v0-adam.ggcp") as ckpt:
        data = bytearray(Path(ckpt.path).read_bytes())
        for name, tensor in ckpt.state_tensors.items():
            if name in zeros:
                data[tensor.offset : tensor.offset + tensor.nbytes] = bytes(tensor.nbytes)
            if name == "x":
                values = np.array([next(counts) for _ in range(tensor.n_elements)], "<f4")
                data[tensor.offset : tensor.offset + tensor.nbytes] = values.tobytes()
    (tmp_path / "x").write_bytes(data)
    with open_checkpoint(tmp_path / "x") as ckpt:
        assert ckpt.order.harmless
        assert not any(ckpt["optimizer.state.m[norm]"])
        with pytest.raises(UsageError, match="is not known"):
            ckpt["optimizer.state.x[norm]"]
