"""The moments of single parameters are the same in a checkpoint and in the GGUF file that is made of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ggcp_schema import PathError, UsageError, convert, open_file
from tests.helpers import FIXTURES


@pytest.mark.parametrize("name", ["v1-adam", "v1-lbfgs"])
def test_a_gguf_checkpoint_has_the_moments_and_the_loss_of_its_ggcp_file(name: str, tmp_path: Path) -> None:
    convert(FIXTURES / f"{name}.ggcp", tmp_path / "resume.gguf")
    with open_file(FIXTURES / f"{name}.ggcp") as ggcp, open_file(tmp_path / "resume.gguf") as gguf:
        assert gguf.loss == ggcp.loss is not None
        expected = ggcp.moments()
        found = gguf.moments()
        assert expected.keys() == found.keys() == set(ggcp.model_tensors)
        for path, arrays in expected.items():
            assert arrays.keys() == found[path].keys()
            for field in arrays:
                assert np.array_equal(arrays[field], found[path][field])
        by_name = gguf.moments("blk.0.attn_q.weight")
        assert all(np.array_equal(array, expected["layers[0].wq"][field]) for field, array in by_name.items())
        for path in ("optimizer.state", "train_its", "no.such"):
            with pytest.raises(PathError):
                gguf.moments(path)


def test_a_file_without_a_training_has_neither() -> None:
    with open_file(FIXTURES / "vocab.gguf") as file:
        assert file.loss is None
        with pytest.raises(UsageError, match="has no state of an optimizer"):
            file.moments()
    with (
        open_file(FIXTURES / "lora/base.gguf") as file,
        pytest.raises(UsageError, match="has no state of an optimizer"),
    ):
        file.moments("layers[0].wq")


def test_the_moments_of_an_adapter_are_whole_vectors() -> None:
    with open_file(FIXTURES / "lora/adam.ggcl") as file:
        with pytest.raises(UsageError, match="part of an adapter is not told") as caught:
            file.moments()
        assert "The whole vectors are optimizer.state.m, optimizer.state.v" in str(caught.value.hint)
        assert file.loss is None
        assert file["optimizer.state.m"].n_elements == file["optimizer.nx"]
