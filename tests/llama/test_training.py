"""The training state of a file, whatever its format; and what is concluded from it."""

from __future__ import annotations

import datetime
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggcp_schema import MalformedError, UsageError, convert, open_checkpoint, open_file
from ggcp_schema.cli.output import to_json
from ggcp_schema.llama.training import Training, model_shapes, study
from tests.builder import build_checkpoint
from tests.helpers import FIXTURES, GENUINE, ONE_OF_EACH, ORDERS, TRUNCATED, thinned
from tests.mapping import independent_order
from tests.mapping.gguf_files import write_as_trainer

ADAM = FIXTURES / "orders/aug-B-3.ggcp"
SAME = ("n_vocab", "n_embd", "n_head", "n_layer", "n_ff", "n_rot", "freq_base", "n_params")
COUNTS = ("optimizer", "past", "train_its", "train_samples", "train_tokens", "iteration")


def of_trainer(path: Path, **options: Any) -> Path:
    return write_as_trainer(path, ADAM, **options)


def contents(training: Training) -> dict[str, Any]:
    """Return the values and the bytes that must be the same in every format."""
    values = {name: getattr(training.model, name) for name in SAME}
    values |= {name: getattr(training, name) for name in COUNTS}
    state = {field: tensor for field, tensor in training.state.items() if field in "m v pf"}
    tensors = {**training.model.tensors, **state}
    return values | {name: (tensor.shape, tensor.array().tobytes()) for name, tensor in tensors.items()}


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("big_endian", [False, True])
def test_ggcp_and_gguf_checkpoints_contain_the_same(version: int, big_endian: bool, tmp_path: Path) -> None:
    of_trainer(tmp_path / "x.gguf", version=version, big_endian=big_endian)
    with open_file(ADAM) as ggcp, open_file(tmp_path / "x.gguf") as gguf:
        old, new = ggcp.training(), gguf.training()
        assert contents(old) == contents(new)
        assert (old.model.rms_eps, old.model.context.tokens) == (None, 32)
        assert new.model.rms_eps == pytest.approx(1e-5)
        assert new.model.context.tokens == 16
        assert (old.model.evidence.file_version, new.model.evidence.file_version) == (None, version)


@pytest.mark.parametrize("path", thinned([*GENUINE, *ORDERS], ONE_OF_EACH), ids=lambda path: path.stem)
def test_the_values_are_those_of_an_independent_reader(path: Path) -> None:
    found = independent_order.read(path)
    with open_file(path) as file:
        training = file.training()
        for name in ("train_its", "train_samples", "train_tokens"):
            assert getattr(training, name) == getattr(found, name), name
        for name in ("n_vocab", "n_embd", "n_layer"):
            assert getattr(training.model, name) == getattr(found, name), name
        assert training.iteration == found.iterations
        if training.optimizer == "adam":
            assert training.n_iter == found.n_iter
        assert training.model.n_params == sum(len(tensor.data) for tensor in found.model.values())
        assert {path: tensor.offset for path, tensor in training.model.tensors.items()} == {
            path: tensor.offset for path, tensor in found.model.items()
        }
        flat = {field for field, tensor in found.state.items() if tensor.shape[:1] == (training.model.n_params,)}
        assert set(training.vectors) == flat


@pytest.mark.parametrize("path", thinned([*GENUINE, *ORDERS], ONE_OF_EACH), ids=lambda path: path.stem)
def test_the_shapes_of_a_model_are_those_in_the_files(path: Path) -> None:
    with open_checkpoint(path) as ckpt:
        hparams = ckpt.hparams
        shapes = model_shapes(hparams.n_vocab, hparams.n_embd, hparams.n_layer, ckpt.n_ff or 0)
        assert list(shapes.items()) == [(path, tensor.shape) for path, tensor in ckpt.model_tensors.items()]


# What is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "without", "message"),
    [
        ({"training.type": ("STRING", "finetune_lora")}, (), "a LoRA adapter, not a whole model"),
        ({"training.type": ("UINT32", 3)}, (), "of a training that is not known (training.type 3)"),
        ({"training.type": ("STRING", "x")}, (), "of a training that is not known (training.type 'x')"),
        ({"optimizer.type": ("STRING", "sgd")}, (), "optimizer.type is 'sgd', expected 'adam' or 'lbfgs'"),
        ({}, ("optimizer.type",), "optimizer.type is missing"),
        ({}, ("training.type", "optimizer.type"), "is a GGUF file without a training state"),
        ({"llama.block_count": ("STRING", "3")}, (), "llama.block_count is '3', expected a count"),
        ({"llama.block_count": ("INT32", -1)}, (), "llama.block_count is -1, expected a count"),
        ({"llama.block_count": ("BOOL", True)}, (), "llama.block_count is True, expected a count"),
        ({"llama.block_count": ("UINT32", 4)}, (), "blk.3.attn_norm.weight: expected F32 [16], found none"),
        ({"llama.block_count": ("UINT64", 1 << 63)}, (), "blk.3.attn_norm.weight: expected F32 [16], found none"),
        ({"llama.feed_forward_length": ("UINT32", 64)}, (), "blk.0.ffn_gate.weight: expected F32 [16, 64], found F32"),
        ({}, ("llama.embedding_length",), "llama.embedding_length is missing, expected a count"),
        ({"llama.rope.freq_base": ("FLOAT32", float("nan"))}, (), "llama.rope.freq_base is nan, expected a number"),
        ({"llama.rope.freq_base": ("UINT32", 10000)}, (), "llama.rope.freq_base is 10000, expected a number"),
        ({"training.token_count": ("ARRAY/UINT32", [1, 2])}, (), "training.token_count is <2 elements"),
        ({}, ("output.weight",), "output.weight: expected F32 [16, 320], found none"),
    ],
)
def test_gguf_files_that_are_no_checkpoint_of_a_whole_model(
    changes: dict[str, tuple[str, Any]], without: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    path = of_trainer(tmp_path / "x.gguf", changes=changes, without=without)
    with open_file(path) as file, pytest.raises(UsageError) as caught:
        file.training()
    assert str(path) in caught.value.message
    assert message in caught.value.message
    assert "Pass a checkpoint" in caught.value.hint
    with pytest.raises(UsageError):
        convert(path, tmp_path / "out.gguf")
    assert os.listdir(tmp_path) == ["x.gguf"]


def test_an_array_of_arrays_is_not_lost_silently(tmp_path: Path) -> None:
    path = of_trainer(tmp_path / "x.gguf", changes={"x": ("ARRAY/ARRAY", [[1], [2, 3]])})
    with pytest.raises(UsageError, match="x is an array of arrays, which cannot be copied"):
        convert(path, tmp_path / "out.gguf")


def test_other_formats_and_damaged_files() -> None:
    with (
        open_file(FIXTURES / "vocab.ggjt") as file,
        pytest.raises(UsageError, match="is a ggjt file, not a checkpoint"),
    ):
        file.training()
    with open_file(TRUNCATED, partial=True) as file, pytest.raises(MalformedError):
        file.training()


# What is concluded -----------------------------------------------------------------------------------------


def test_conclusions_come_from_the_bytes_and_can_be_replaced(tmp_path: Path) -> None:
    with open_file(FIXTURES / "orders/jun-B-3.ggcp") as file:
        training = file.training()
        found = study(training)
        assert (found.order.order, found.order.certainty, found.scale.s) == ("B", "proven", 128)
        assert found.era.gradient == "sum"
        stated = study(training, order="B", n_batch=8)
        assert (stated.order.certainty, stated.scale.s, stated.scale.assumed) == ("stated", 256, False)
        assert set(to_json(found)) == {"era", "order", "scale"}
        for n_batch in (0, -4, 1 << 31, 10**400):
            with pytest.raises(UsageError, match=r"a batch of .* samples is impossible"):
                study(training, n_batch=n_batch)
        with pytest.raises(UsageError, match="there is no order 'E'"):
            study(training, order="E")
        with pytest.raises(UsageError, match="order D was stated, but the bytes prove B"):
            study(training, order="D")
        (doubt,) = study(training, n_batch=3).contradictions
        assert "a batch of 3 samples was stated; by the counts it is 4" in doubt


def test_an_order_that_is_excluded_is_refused_though_the_order_is_not_known() -> None:
    with open_file(FIXTURES / "truth" / "jan24-D.gguf") as file:
        training = file.training()
        assert study(training).order.order is None
        for order in "BC":
            with pytest.raises(UsageError, match=f"order {order} was stated, but the bytes exclude it: values"):
                study(training, order=order)
        assert study(training, order="D").order.is_certain


def test_without_layers_an_order_may_be_stated_by_either_name(tmp_path: Path) -> None:
    path = tmp_path / "x.ggcp"
    weights = np.arange(44, dtype=np.float32)  # of tok_embeddings, norm and output; x has them in order A
    starts = {20: iter((0, 24)), 4: iter((20,))}
    path.write_bytes(
        build_checkpoint(
            layout="v0", n_layer=0, data=lambda count: weights[next(starts[count]) :][:count] if count < 44 else weights
        )
    )
    with open_file(path) as file:
        training = file.training()
        for order in "AD":
            assert study(training, order=order).order.order == order
        for order in "BC":
            with pytest.raises(UsageError, match="the bytes prove A"):
                study(training, order=order)


@pytest.mark.parametrize(("day", "eps"), [((2023, 7, 10), 1e-6), ((2023, 8, 14), 5e-6), ((2023, 8, 24), 1e-5)])
def test_the_modification_date_is_a_hint(day: tuple[int, int, int], eps: float, tmp_path: Path) -> None:
    path = tmp_path / "x.ggcp"
    shutil.copyfile(FIXTURES / "v0-adam.ggcp", path)
    time = datetime.datetime(*day, 12, tzinfo=datetime.timezone.utc).timestamp()
    os.utime(path, (time, time))
    with open_file(path) as file:
        assert study(file.training()).era.rms_eps == eps


@pytest.mark.parametrize("time", [-(10**10), 0, 10**13])
def test_a_modification_date_may_be_absurd(time: int, tmp_path: Path) -> None:
    path = tmp_path / "x.ggcp"
    path.write_bytes(build_checkpoint())
    os.utime(path, (time, time))
    with open_file(path) as file:
        assert study(file.training()).era.writers


@pytest.mark.parametrize(
    ("train", "n_ctx"), [((3, 12, 192), 16), ((3, 0, 192), None), ((3, 12, 193), None), ((3, 12, 0), None)]
)
def test_the_tokens_of_a_sample(train: tuple[int, int, int], n_ctx: int | None, tmp_path: Path) -> None:
    path = tmp_path / "x.ggcp"
    path.write_bytes(build_checkpoint(train=train))
    with open_file(path) as file:
        assert file.training().model.context.tokens == n_ctx
