"""What the stored losses mean, from the files' own gradients and counters."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggcp_schema import open_file
from ggcp_schema.cli.output import to_json
from ggcp_schema.llama.eras import Evidence, conclude
from ggcp_schema.llama.losses import Losses, explain_losses, loss_text
from tests.builder import build_checkpoint
from tests.helpers import FIXTURES, run_cli
from tests.mapping import reference

JUNE = conclude(Evidence("v0", "tok_embeddings.weight", long_gradient=True))
BRANCH_JUNE = conclude(Evidence("v1-raw-params", "tok_embeddings.weight", long_gradient=True))
AUGUST = conclude(Evidence("v1", "token_embd.weight"))
OPEN = conclude(Evidence("v1", "tok_embeddings.weight"))
LBFGS = ["v1-lbfgs", "twin-lbfgs.v0", "twin-lbfgs.v1", "orders/aug-lbfgs-B-1"]


def explain(name: str, *, summed: bool | None) -> Losses:
    path = FIXTURES / f"{name}.ggcp"
    model, optimizer = reference.read_model(path), reference.read_optimizer(path)
    numbers = optimizer.numbers
    whole: Any = {key: int(numbers[key]) for key in ("n_threads", "k") if key in numbers}
    return explain_losses(
        conclude(Evidence(optimizer.layout, model.first_tensor, long_gradient=summed)),
        optimizer=optimizer.type,
        fx_best=numbers["fx_best"],
        fx_prev=numbers.get("fx_prev"),
        n_vocab=model.n_vocab,
        iteration=int(numbers["iter"]),
        train_its=int(numbers["its"]),
        past=optimizer.vectors["pf"].tolist(),
        **whole,
    )


def text_of(losses: Losses) -> str:
    return "\n".join(f"{label}: {text}" for label, text in losses.lines)


@pytest.mark.parametrize("name", ["orders/jun-A-3", "orders/jun-B-3", "orders/eb5-A-2"])
def test_losses_of_llama_cpp_s_trainer_are_not_the_mean(name: str) -> None:
    """The mean loss follows from the gradient of the output layer.

    For logits l, probabilities p and targets t, the sum of the products of the layer's weights and gradients is the
    sum of (p - t) l over the batch. Therefore the mean loss is ln(n_vocab) plus that sum / tokens, less the mean
    Kullback-Leibler divergence of p from the uniform distribution, which is small in a model that knows nothing.
    """
    path = FIXTURES / f"{name}.ggcp"
    model, optimizer = reference.read_model(path), reference.read_optimizer(path)
    output = model.weights["output"].ravel()
    x, update, gradient = (optimizer.vectors[vector] for vector in ("x", "mh", "g1"))
    place = slice(0, output.size) if np.array_equal(x[: output.size], output) else slice(-output.size, None)
    assert np.array_equal(x[place], output)
    product = gradient[place] @ (x[place] + update[place])  # the weights before the last step, which g1 belongs to
    probabilities = reference.log_probabilities(path, [1, *range(3, 130)], 1e-6)
    divergence = math.log(320) + (np.exp(probabilities) * probabilities).sum(-1)
    assert 0 < divergence.mean() < 0.02
    mean = math.log(320) + product / (32 * 4) - divergence.mean()
    assert abs(mean - math.log(320)) < 0.02
    assert optimizer.numbers["n_threads"] == 1
    assert 0.05 < optimizer.numbers["fx_prev"] - mean < 0.3  # the loss of one token lies near the mean


@pytest.mark.parametrize("name", LBFGS)
def test_k_counts_the_steps_of_lbfgs(name: str) -> None:
    """Each step fills one of the m places of the memory; `end` is the next place."""
    optimizer = reference.read_optimizer(FIXTURES / f"{name}.ggcp")
    numbers = optimizer.numbers
    losses = explain(name, summed=None)
    assert losses.steps == numbers["k"] - 1
    assert losses.steps % numbers["lbfgs_m"] == numbers["end"]
    used = np.any(optimizer.vectors["lms"] != 0, axis=1).sum()
    assert used == min(losses.steps, numbers["lbfgs_m"])
    assert f"steps: {losses.steps} (k is {numbers['k']:g})" in text_of(losses)


def test_of_the_past_losses_of_lbfgs_it_is_not_said_which_is_the_oldest() -> None:
    """No genuine file shows it; in Adam's ring buffer the place follows from the count."""
    lbfgs = explain_losses(OPEN, optimizer="lbfgs", fx_best=2.5, k=7, past=(3.0, 2.75, 2.5))
    assert "past: 3.0000, 2.7500, 2.5000 (of the last iterations, as they are stored)" in text_of(lbfgs)
    adam = explain_losses(OPEN, optimizer="adam", fx_best=2.5, fx_prev=2.5, iteration=7, past=(2.5, 3.0, 2.75))
    assert "past: 3.0000, 2.7500, 2.5000 (of the last iterations, the oldest first)" in text_of(adam)


@pytest.mark.parametrize(("name", "each"), [("v0-adam", 5.7493), ("v1-adam-raw-params", 5.7744)])
def test_two_threads(name: str, each: float) -> None:
    losses = explain(name, summed=True)
    facts = to_json(losses)
    assert (losses.meanings, losses.divisor, facts["rough"]) == (("last-rows",), 2, True)
    assert facts["best"] == pytest.approx(2 * each, abs=1e-4)
    assert facts["best_per_token"] == pytest.approx(each, abs=1e-4)
    assert abs(facts["previous_per_token"] - facts["untrained"]) < 0.05
    assert f"/ 2 threads = about {each}" in text_of(losses)
    assert "rough measure, from 2 tokens" in text_of(losses)


def test_one_thread_needs_no_division() -> None:
    losses = explain("orders/eb5-A-2", summed=True)
    assert losses.best_per_token == losses.best
    assert "from 1 token of the batch" in text_of(losses)
    assert "threads =" not in text_of(losses)


def test_mean_losses() -> None:
    losses = explain("twin-adam.v1", summed=False)
    assert (losses.meanings, losses.divisor, losses.is_rough) == (("mean",), 1, False)
    assert "the mean over the tokens" in text_of(losses)
    assert losses.best_per_token == losses.best


def test_threads_that_are_not_stored() -> None:
    for n_threads in (None, 0, -5):
        losses = explain_losses(BRANCH_JUNE, optimizer="adam", fx_best=11.0, fx_prev=11.5, n_threads=n_threads)
        assert losses.best_per_token is None
        assert "not stored" in text_of(losses)
        assert losses.doubt == "a sum over threads"


def test_a_meaning_that_is_open() -> None:
    losses = explain_losses(OPEN, optimizer="adam", fx_best=5.0, fx_prev=5.5)
    assert losses.meanings == ("mean", "last-rows", "constant")
    assert losses.meaning is None
    assert losses.previous_per_token is None
    assert "does not show which" in text_of(losses)
    assert losses.doubt == "unless it is a sum over threads"
    assert losses._replace(meanings=("last-rows", "mean")).doubt == "likely a sum over threads"
    assert losses._replace(meanings=("mean",), divisor=1).doubt == ""


def test_losses_of_no_known_program() -> None:
    losses = explain_losses(conclude(Evidence("v0", "a")), optimizer="adam", fx_best=5.0, fx_prev=5.0)
    assert losses.meanings == ()
    assert dict(losses.lines)["loss is"] == "of no known program, so that its meaning is not known"


@pytest.mark.parametrize("name", ["alice", "rotmax8-v1", "v1-adam", "twin-adam.v0"])
def test_a_best_loss_worse_than_the_previous(name: str) -> None:
    losses = explain(name, summed=False)
    assert losses.previous is not None
    assert losses.best > losses.previous
    assert "the previous loss is lower" in dict(losses.lines)["best"]


def test_a_best_loss_that_was_kept_up_to_date() -> None:
    losses = explain("rotmax8-v0", summed=True)
    assert losses.previous is not None
    assert losses.best < losses.previous
    assert "of the last run" in dict(losses.lines)["best"]


@pytest.mark.parametrize("name", ["rotmax8-v1", "twin-adam.v0", "twin-adam.v1", "v1-adam-past5"])
def test_the_last_of_the_past_losses_is_the_previous_loss(name: str) -> None:
    losses = explain(name, summed=False)
    assert losses.past[-1] == losses.previous


@given(st.integers(1, 8), st.lists(st.floats(0.1, 9), min_size=1, max_size=20))
def test_past_losses_are_a_ring(length: int, values: list[float]) -> None:
    ring = [0.0] * length
    for iteration, value in enumerate(values):
        ring[iteration % length] = value
    losses = explain_losses(AUGUST, optimizer="adam", fx_best=1, iteration=len(values), past=ring)
    assert list(losses.past) == values[-length:]


@pytest.mark.parametrize("n_vocab", [320, 32000])
def test_the_loss_of_an_untrained_model(n_vocab: int) -> None:
    losses = explain_losses(JUNE, optimizer="adam", fx_best=1.0, fx_prev=1.0, n_vocab=n_vocab, n_threads=4)
    assert losses.untrained == pytest.approx(-math.log(1 / n_vocab))
    assert f"ln({n_vocab})" in text_of(losses)


@pytest.mark.parametrize(("iterations", "loss"), [(0, None), (0, 5.25), (3, 0.0)])
def test_an_optimizer_without_an_iteration_has_no_loss(iterations: int, loss: float | None, tmp_path: Path) -> None:
    path, stored = tmp_path / "x.ggcp", loss or 0.0
    path.write_bytes(build_checkpoint(layout="v1", state={"iter": iterations, "fx_best": stored, "fx_prev": stored}))
    with open_file(path) as file:
        assert file.loss == loss
    assert ("\nloss " in run_cli("info", path).stdout) is (loss is not None)


def test_json() -> None:
    facts = to_json(explain("v0-adam", summed=True))
    assert facts["explanation"][0] == {"label": "loss", "text": dict(explain("v0-adam", summed=True).lines)["loss"]}


@pytest.mark.parametrize(("loss", "shown"), [(0.0, "0.0000"), (5.76591, "5.7659"), (2e-39, "2e-39"), (-1e30, "-1e+30")])
def test_a_loss_is_not_shown_as_0_and_not_with_thirty_digits(loss: float, shown: str) -> None:
    assert loss_text(loss) == shown
