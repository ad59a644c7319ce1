"""What happened in a training between two of its checkpoints."""

from __future__ import annotations

import numpy as np
import pytest

from tests.builder import build_checkpoint
from tests.helpers import FIXTURES
from tests.inspect.comparing import ADAM, compared, converted, exported


def test_what_happened_between_two_checkpoints(tmp_path):
    weights = np.random.default_rng(3).standard_normal(5 * 4).astype(np.float32)

    def checkpoint(name, scale, **options):
        draws = iter([weights * scale])
        path = tmp_path / name
        path.write_bytes(build_checkpoint(data=lambda count: next(draws, np.ones(count, np.float32)), **options))
        return path

    a = checkpoint("a.ggcp", 1.0, train=(100, 400, 6400), state={"fx_prev": 5.5})
    b = checkpoint("b.ggcp", 1.25, train=(200, 800, 12800), state={"fx_prev": 5.25})
    change = compared(a, b).change
    assert (change.iterations, change.samples, change.tokens, change.ahead) == (100, 400, 6400, "B")
    assert (change.loss_a, change.loss_b) == (5.5, 5.25)
    assert change.weights["tok_embeddings"] == pytest.approx(0.25, rel=1e-5)
    assert change.weights["layer 0"] == change.weights["norm"] == 0
    back = compared(b, a).change
    assert (back.iterations, back.ahead) == (-100, "A")
    assert back.weights["tok_embeddings"] == pytest.approx(0.2, rel=1e-5)
    same = compared(a, a).change
    assert (same.ahead, same.iterations, same.weights) == (None, 0, {})


def test_a_sum_over_threads_is_not_compared_with_a_mean(tmp_path):
    for sums in (FIXTURES / "v0-adam.ggcp", converted(FIXTURES / "v0-adam.ggcp", tmp_path)):
        change = compared(sums, FIXTURES / "twin-ff48.v1.ggcp").change
        assert change.loss_a == pytest.approx(11.498518 / 2, rel=1e-6)  # two threads, which a conversion keeps
        assert change.loss_b == pytest.approx(5.7, abs=0.1)
        change = compared(sums, ADAM).change  # of which it is not known
        assert (change.loss_a, change.loss_b) == (None, None)


def test_the_same_stored_number_is_the_same_loss_whatever_it_is(tmp_path):
    change = compared(FIXTURES / "v0-adam.ggcp", converted(FIXTURES / "v0-adam.ggcp", tmp_path)).change
    assert change.loss_a == change.loss_b


def test_a_model_has_no_training_to_compare(tmp_path):
    assert compared(ADAM, exported(ADAM, tmp_path)).change is None


def test_no_training_leads_from_a_model_to_one_of_another_size():
    change = compared(FIXTURES / "v0-adam.ggcp", ADAM).change
    assert (change.iterations, change.samples, change.ahead) == (9, 36, None)


def test_no_training_leads_to_more_iterations_and_fewer_samples() -> None:
    """Two genuine trainings of models of one size; the losses of the second are sums over threads."""
    change = compared(FIXTURES / "truth/jul28-A.ggcp", FIXTURES / "truth/jun29-clip.ggcp").change
    assert (change.iterations, change.samples, change.ahead) == (584, -800, None)
    assert (change.loss_a, change.loss_b) == (None, None)


def test_iterations_that_lbfgs_does_not_count_are_not_compared(tmp_path):
    lbfgs = tmp_path / "lbfgs.ggcp"
    lbfgs.write_bytes(build_checkpoint(optimizer="lbfgs", lbfgs_m=2, train=(0, 800, 12800)))
    adam = tmp_path / "adam.ggcp"
    adam.write_bytes(build_checkpoint(train=(200, 400, 6400)))
    change = compared(adam, lbfgs).change
    assert (change.iterations, change.samples, change.ahead) == (None, 400, "B")
