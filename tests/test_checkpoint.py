"""A checkpoint in a REPL or notebook."""

from __future__ import annotations

import numpy as np
import pytest

import ggcp_schema
from ggcp_schema import UsageError, open_checkpoint
from tests.builder import build_checkpoint
from tests.helpers import FIXTURES, TRUNCATED

PATH = FIXTURES / "v1-adam.ggcp"


def test_repr_says_what_it_is():
    with open_checkpoint(PATH) as ckpt:
        assert repr(ckpt) == (
            f"<Checkpoint {PATH}: 2 layers, n_embd 16, n_vocab 320, 16,976 parameters, adam at iteration 12>"
        )


def test_html_is_a_table_and_escapes(tmp_path):
    path = tmp_path / "<b>.ggcp"
    path.write_bytes(build_checkpoint(name=lambda default: b"<script>"))
    with open_checkpoint(path) as ckpt:
        html = ckpt._repr_html_()
    assert html.count("<tr>") == 1 + len(ckpt.tensors)
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_items_and_spans():
    with open_checkpoint(PATH) as ckpt:
        wq = ckpt["layers[0].wq"]
        assert wq is ckpt.tensors["layers[0].wq"]
        assert wq is ckpt.layers[0].wq
        assert wq.shape == (16, 16)
        assert ckpt["optimizer.nx"] == ckpt.optimizer.nx == 16976
        assert ckpt["layers[0].wq.ne[1]"] == 16
        assert ckpt["hparams"].n_layer == ckpt.hparams["n_layer"] == 2
        span = ckpt.span("optimizer.nx")
        raw = PATH.read_bytes()[span.offset : span.offset + span.size]
        assert int.from_bytes(raw, "little") == span.value == 16976


def test_fields_complete():
    with open_checkpoint(PATH) as ckpt:
        assert {"train_its", "hparams", "layers", "optimizer", "tok_embeddings"} <= set(dir(ckpt))
        assert set(dir(ckpt.hparams)) == {"n_vocab", "n_embd", "n_mult", "n_head", "n_layer", "n_rot"}
        assert {"layers[1].wq", "optimizer.state.fx_best"} <= set(ckpt._ipython_key_completions_())


def test_an_unknown_name_says_what_there_is():
    with open_checkpoint(PATH) as ckpt:
        with pytest.raises(UsageError, match="Did you mean layers"):
            ckpt["layers[0].wqq"]
        with pytest.raises(UsageError, match=r"optimizer\.nx"):
            ckpt.span("optimizer.n_x")
        with pytest.raises(AttributeError, match="n_embd"):
            _ = ckpt.hparams.embd


def test_it_is_read_only():
    with open_checkpoint(PATH) as ckpt:
        with pytest.raises(AttributeError):
            ckpt.hparams.n_embd = 3
        with pytest.raises(ValueError, match="read-only"):
            ckpt["norm"].array()[0] = 1


def test_numpy_takes_a_tensor():
    with open_checkpoint(PATH) as ckpt:
        assert np.asarray(ckpt["norm"]).dtype == np.float32
        assert np.linalg.norm(ckpt["norm"]) == pytest.approx(float(np.linalg.norm(ckpt["norm"].array())))


def test_partial_opens_what_is_left_of_a_damaged_file():
    with pytest.raises(ggcp_schema.TruncatedError):
        open_checkpoint(TRUNCATED)
    with open_checkpoint(TRUNCATED, partial=True) as ckpt:
        assert ckpt.damage is not None
        assert ckpt.damage.path == "layers[0].w3.padding"
        assert "damaged" in repr(ckpt)
        assert list(ckpt.tensors)[-1] == "layers[0].w2"
        assert np.isfinite(ckpt["layers[0].w2"].array()).all()
        assert "w3" not in ckpt.layers[0]


def test_the_public_names_are_there():
    assert set(ggcp_schema.__all__) <= set(dir(ggcp_schema))
    assert all(getattr(ggcp_schema, name).__doc__ for name in ggcp_schema.__all__ if name != "CHECKPOINT")
