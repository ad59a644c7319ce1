"""What a person meets at the prompt of Python: short texts, names that complete, and hints that are Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ggcp_schema
from ggcp_schema import (
    CHECKPOINT,
    MalformedError,
    NotACheckpointError,
    PathError,
    convert,
    export_model,
    open_checkpoint,
    open_file,
)
from tests.helpers import FIXTURES, GENUINE, ONE_OF_EACH, TRUNCATED, run_cli, thinned

ADAM = FIXTURES / "v1-adam.ggcp"


def test_texts_are_short(tmp_path: Path) -> None:
    with open_checkpoint(ADAM) as ckpt:
        assert repr(ckpt.layers) == "<2 layers>"
        assert repr(ckpt.optimizer).startswith("<optimizer: adam in layout v")
        assert repr(ckpt.layers[0].wq) == "<Tensor layers[0].wq F32 [16, 16] 1.0 KiB>"
        assert all(len(repr(part)) < 250 for part in (ckpt.layers[1], ckpt.tensors["norm"], ckpt))
        written = convert(ADAM, tmp_path / "out.gguf")
        assert repr(written) == f"<Written {tmp_path / 'out.gguf'}: resume, 23 tensors, 201 KiB>"


@pytest.mark.parametrize("path", thinned(GENUINE, ONE_OF_EACH[:6]), ids=lambda path: path.name)
def test_a_parsed_file_is_printed_with_a_line_for_each_tensor(path: Path) -> None:
    text = str(CHECKPOINT.parse_file(str(path)))
    assert "magic = 0x67676370 ('ggcp')" in text
    with open_checkpoint(path) as ckpt:
        assert text.count("<F32") == len(ckpt.tensors)
    assert max(map(len, text.splitlines())) < 200


def test_values_by_name() -> None:
    with open_checkpoint(ADAM) as ckpt:
        assert ckpt.loss == ckpt.optimizer.state.fx_prev
        assert ckpt.layers[1]["wq"] is ckpt.layers[1].wq
        np.testing.assert_array_equal(ckpt.norm[2:4], ckpt.norm.array()[2:4])
        moments = ckpt.moments()
        assert list(moments) == list(ckpt.model_tensors)
        np.testing.assert_array_equal(moments["layers[1].wq"]["v"], ckpt.moments("layers[1].wq")["v"])
        assert {"layers", "loss", "moments"} <= set(dir(ckpt)) <= {*dir(type(ckpt)), *vars(ckpt)}
        assert "candidates" not in dir(ckpt)


@pytest.mark.parametrize("number", ["64", 64.0, "x"])
def test_what_is_no_whole_number_is_an_error_in_the_words_of_python(number: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
        convert(FIXTURES / "v0-adam.ggcp", tmp_path / "out.gguf", n_batch=number)
    with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
        export_model(ADAM, tmp_path / "out.gguf", vocab=FIXTURES / "vocab.gguf", context_length=number)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("number", [np.int64(1), True])
def test_what_stands_for_a_whole_number_is_one(number: Any, tmp_path: Path) -> None:
    export_model(ADAM, tmp_path / "out.gguf", vocab=FIXTURES / "vocab.gguf", context_length=number)
    with open_file(tmp_path / "out.gguf") as file:
        assert file["llama.context_length"] == 1


def test_an_output_needs_a_name() -> None:
    nothing: Any = None
    with pytest.raises(TypeError, match="not NoneType"):
        convert(ADAM, nothing)


def test_a_name_that_is_none_is_an_error_and_a_field_of_another_layout_is_not() -> None:
    with open_checkpoint(ADAM) as ckpt:
        assert ckpt.get("optimizer.state.mh") is None
        assert ckpt.get("optimizer.params.n_threads", 7) == 7
        assert ckpt.get("general.name", "none") == "none"
        for wrong in ("layers[0].wqq", "loss", "lyers.wq", "lyers[0].wq"):
            with pytest.raises(PathError):
                ckpt.get(wrong)


@pytest.mark.parametrize("wrong", ["layers[0].wq[0:2,0]", "optimizer.state.m[layers[0].w]", "lyers[0].wq"])
def test_get_says_what_the_command_says(wrong: str) -> None:
    with open_checkpoint(ADAM) as ckpt, pytest.raises(PathError) as error:
        ckpt.get(wrong)
    assert run_cli("get", ADAM, wrong).stderr == f"ggcp-schema: {error.value}\n"


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("lora/base.gguf", "output_norm.weight"),
        ("lora/base.ggjt", "norm.weight"),
        ("lora/adam.ggcl", "layers[0].wq_a"),
        ("lora/adam.ggla", "layers.0.attention.wq.weight.loraA"),
    ],
)
def test_get_refuses_what_is_no_path_in_every_format(name: str, tensor: str) -> None:
    with open_file(FIXTURES / name) as file:
        for wrong in (f"{tensor}[malformed", f"{tensor}[1:2:3]", f"{tensor}[x]", f"{tensor}[1,2,3]"):
            with pytest.raises(PathError) as error:
                file.get(wrong)
            assert str(error.value).splitlines()[0] in run_cli("get", FIXTURES / name, wrong).stderr
        assert file.get(f"{tensor}[999999]", 7) == file.get("general.nothing", 7) == 7


def test_hints_are_for_python_here_and_for_a_shell_there() -> None:
    with open_checkpoint(ADAM) as ckpt, pytest.raises(PathError, match=r"keys\(\) lists the fields"):
        ckpt.get("zzzzzz")
    assert "Run `ggcp-schema dump" in run_cli("get", ADAM, "zzzzzz").stderr
    with pytest.raises(MalformedError, match="partial=True"):
        open_checkpoint(TRUNCATED)
    with pytest.raises(NotACheckpointError, match=r"is no ggcp checkpoint\nThis is .* Open it with open_file"):
        open_checkpoint(FIXTURES / "vocab.gguf")
    open_file(FIXTURES / "vocab.gguf").close()
    said = run_cli("edit", TRUNCATED, "out", "train_its=1").stderr
    assert "`ggcp-schema info " in said
    assert "partial=True" not in said


def test_a_shell_offers_the_public_names_alone() -> None:
    assert {name for name in dir(ggcp_schema) if not name.startswith("_")} == {*ggcp_schema.__all__} - {"__version__"}
