"""Which program wrote a file, and the epsilon that follows from it."""

from __future__ import annotations

import datetime
import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ggcp_schema.mapping.eras import (
    DEFAULT_RMS_EPS,
    WRITERS,
    Evidence,
    conclude,
    date_text,
    help_text_epsilon,
    period_text,
)
from tests.helpers import FIXTURES
from tests.mapping import reference

JUNE, JULY, EB5, AUGUST = (datetime.date(2023, month, day) for month, day in ((6, 13), (7, 3), (7, 25), (8, 14)))
ONE_DAY, LATE = datetime.date(2023, 6, 15), datetime.date(2023, 8, 28)

# What wrote the files, from the README beside them: the program's date and epsilon, and whether the gradients were
# summed (None: not to be proven from the bytes).
WRITTEN = {
    "v0-adam": (JUNE, 1e-6, True),
    "rotmax8-v0": (JUNE, 1e-6, True),
    "orders/jun-A-3": (JUNE, 1e-6, True),
    "orders/jun-B-3": (JUNE, 1e-6, True),
    "orders/eb5-A-2": (EB5, 5e-6, True),
    "v1-adam-raw-params": (ONE_DAY, 1e-6, True),
    "v1-adam": (JULY, 1e-6, False),
    "orders/jul-A-3": (JULY, 1e-6, False),
    "orders/17a-B-3": (JULY, 1e-6, None),
    "v1-adam-past5": (AUGUST, 5e-6, False),
    "v1-lbfgs": (AUGUST, 5e-6, False),
    "rotmax8-v1": (AUGUST, 5e-6, False),
    "alice": (AUGUST, 5e-6, False),
    "orders/aug-B-3": (AUGUST, 5e-6, False),
    "orders/aug-C-3": (AUGUST, 5e-6, False),
    "orders/aug-lbfgs-B-1": (AUGUST, 5e-6, False),
    "twin-adam.v0": (LATE, 1e-5, False),
    "twin-adam.v1": (LATE, 1e-5, False),
    "twin-lbfgs.v0": (LATE, 1e-5, False),
    "twin-lbfgs.v1": (LATE, 1e-5, False),
    "twin-ff48.v0": (LATE, 1e-5, False),
    "twin-ff48.v1": (LATE, 1e-5, False),
}
# Files whose epsilon no byte shows, and that were written in the shorter of two times.
MISTAKEN = {"orders/eb5-A-2", "v1-adam", "orders/jul-A-3"}
NAMES = sorted(WRITTEN)


def evidence_of(name: str) -> Evidence:
    path = FIXTURES / f"{name}.ggcp"
    model, optimizer = reference.read_model(path), reference.read_optimizer(path)
    formula = -(-(2 * (4 * model.n_embd) // 3) // model.n_mult) * model.n_mult
    layout, summed = optimizer.layout, WRITTEN[name][2]
    return Evidence(layout, model.first_tensor, model.n_mult, model.n_ff, formula, summed)


def test_the_table_has_every_whole_fixture() -> None:
    files = {str(path.relative_to(FIXTURES).with_suffix("")) for path in FIXTURES.rglob("*.ggcp")}
    assert {Path(name).as_posix() for name in files} == {*NAMES, "truncated-v0-lbfgs"}


@pytest.mark.parametrize("name", NAMES)
def test_the_writer_of_a_genuine_file_remains(name: str) -> None:
    written, rms_eps, summed = WRITTEN[name]
    for evidence in (evidence_of(name), evidence_of(name)._replace(gradient_summed=None)):
        conclusion = conclude(evidence)
        writers = [writer for writer in conclusion.writers if writer.first <= written <= writer.last]
        assert {writer.rms_eps for writer in writers} == {rms_eps}
        assert conclusion.first <= written <= conclusion.last  # type: ignore[operator]
        if summed is not None:
            assert {writer.gradient for writer in writers} == {"sum" if summed else "mean"}


@pytest.mark.parametrize("name", NAMES)
def test_the_epsilon_of_a_genuine_file(name: str) -> None:
    conclusion = conclude(evidence_of(name))
    rms_eps = WRITTEN[name][1]
    if name in MISTAKEN:
        assert rms_eps in conclusion.rms_eps_alternatives
        assert not conclusion.rms_eps_certain
        assert "does not show which" in conclusion.rms_eps_reason
    else:
        assert conclusion.rms_eps == rms_eps


@pytest.mark.parametrize("name", NAMES)
def test_the_modification_date_decides_what_is_open(name: str) -> None:
    written, rms_eps, _ = WRITTEN[name]
    conclusion = conclude(evidence_of(name)._replace(modified=written))
    assert conclusion.rms_eps == rms_eps
    if not conclusion.rms_eps_certain:
        assert date_text(written) in conclusion.rms_eps_reason


@pytest.mark.parametrize("name", NAMES)
def test_the_date_of_a_copy_changes_nothing(name: str) -> None:
    evidence = evidence_of(name)
    assert conclude(evidence._replace(modified=datetime.date(2025, 1, 1))) == conclude(evidence)


@pytest.mark.parametrize("name", ["v1-adam-raw-params", "twin-adam.v0", "twin-adam.v1", "twin-ff48.v0"])
def test_the_epsilon_is_certain(name: str) -> None:
    conclusion = conclude(evidence_of(name))
    assert conclusion.rms_eps_certain
    assert not conclusion.rms_eps_alternatives


def test_summed_gradients_in_v1_mean_june() -> None:
    conclusion = conclude(Evidence("v1", "tok_embeddings.weight", gradient_summed=True))
    assert [writer.key for writer in conclusion.writers] == ["branch-june"]
    assert (conclusion.rms_eps, conclusion.rms_eps_certain, conclusion.loss) == (1e-6, True, "last rows")


def test_v0_of_the_last_week_of_august() -> None:
    """llama.cpp's trainer computed with 1e-5 then, while its checkpoints still had the old names."""
    conclusion = conclude(Evidence("v0", "tok_embeddings.weight", modified=datetime.date(2023, 8, 24)))
    assert conclusion.rms_eps == 1e-5
    assert conclusion.rms_eps_alternatives == (1e-6, 5e-6)


def test_a_width_that_does_not_follow_from_n_mult() -> None:
    """Without names, the width tells the compatibility writer from the trainers."""
    conclusion = conclude(Evidence("v1", None, 256, 48, 256))
    assert [writer.key for writer in conclusion.writers] == ["compatibility"]
    assert len(conclude(Evidence("v1", None, 256, 256, 256)).writers) > 1


def test_a_file_of_no_known_writer() -> None:
    for evidence in (Evidence("v0", "wte.weight"), Evidence("v1-raw-params", "token_embd.weight"), Evidence("v9")):
        conclusion = conclude(evidence)
        assert not conclusion.writers
        assert (conclusion.rms_eps, conclusion.rms_eps_certain) == (DEFAULT_RMS_EPS, False)
        assert "no known writer" in conclusion.rms_eps_reason
        assert conclusion.writer_text == "unknown"


def test_a_damaged_file_without_an_optimizer() -> None:
    conclusion = conclude(Evidence(first_tensor="tok_embeddings.weight"))
    assert conclusion.rms_eps == 1e-6
    assert set(conclusion.rms_eps_alternatives) == {5e-6, 1e-5}


def test_evidence_against_all_writers_is_ignored_and_named() -> None:
    conclusion = conclude(Evidence("v0", "tok_embeddings.weight", gradient_summed=False))
    assert conclusion.writers == conclude(Evidence("v0", "tok_embeddings.weight")).writers
    assert "ignored" in conclusion.evidence[-1][1]


def test_gguf_keeps_what_it_stores() -> None:
    stored = conclude(Evidence(file_version=0, rms_eps=3e-6))
    assert (stored.rms_eps, stored.rms_eps_certain, stored.rms_eps_alternatives) == (3e-6, True, ())
    assert conclude(Evidence(file_version=1)).rms_eps == 1e-5
    assert stored.gradient is None  # a converter copies summed gradients too
    assert conclude(Evidence(file_version=1)).gradient == "mean"


def test_the_times_of_each_program_follow_each_other() -> None:
    for layouts in {writer.layouts for writer in WRITERS}:
        times = [(writer.first, writer.last) for writer in WRITERS if writer.layouts == layouts]
        assert all(first <= last for first, last in times)
        for (_, last), (first, _) in pairwise(times):
            assert first == last + datetime.timedelta(days=1)


some_evidence = st.builds(
    Evidence,
    layout=st.sampled_from([None, "v0", "v1", "v1-raw-params", "v7"]),
    first_tensor=st.sampled_from([None, "tok_embeddings.weight", "token_embd.weight", "x"]),
    n_mult=st.sampled_from([None, 256, 32]),
    n_ff=st.sampled_from([None, 48, 256]),
    n_ff_by_formula=st.sampled_from([None, 256]),
    gradient_summed=st.sampled_from([None, True, False]),
    order=st.sampled_from([None, "A", "B", "C"]),
    rms_eps=st.none(),
    file_version=st.sampled_from([None, None, 0, 1, 2]),
    modified=st.one_of(st.none(), st.dates(datetime.date(2023, 6, 1), datetime.date(2024, 8, 1))),
)


@given(some_evidence)
def test_conclusions_are_consistent(evidence: Evidence) -> None:
    conclusion = conclude(evidence)
    assert conclusion.rms_eps_certain == (bool(conclusion.writers) and not conclusion.rms_eps_alternatives)
    used = {writer.rms_eps for writer in conclusion.writers} or {DEFAULT_RMS_EPS}
    assert {conclusion.rms_eps, *conclusion.rms_eps_alternatives} == used
    assert conclusion.rms_eps not in conclusion.rms_eps_alternatives
    assert len({statement for statement, _ in conclusion.evidence}) == len(conclusion.evidence)
    assert json.loads(json.dumps(conclusion.as_dict()))["rms_eps"] == conclusion.rms_eps


@given(some_evidence, st.sampled_from(["layout", "first_tensor", "n_ff", "gradient_summed", "modified"]))
@example(Evidence(first_tensor="tok_embeddings.weight", n_mult=256, n_ff=48, n_ff_by_formula=256), "first_tensor")
def test_more_evidence_leaves_no_more_writers(evidence: Evidence, name: str) -> None:
    conclusion, with_less = conclude(evidence), conclude(evidence._replace(**{name: None}))
    contradictory = any(effect.endswith("ignored") for _, effect in conclusion.evidence)
    assert contradictory or set(conclusion.writers) <= set(with_less.writers)


def test_the_help_text_has_the_dates_of_the_table() -> None:
    text = help_text_epsilon()
    for key in ("master-june", "master-july", "branch-august"):
        writer = next(writer for writer in WRITERS if writer.key == key)
        assert date_text(writer.last) in text
    assert all(f"{eps} " in text for eps in ("1e-6", "5e-6", "1e-5"))


def test_times_in_words() -> None:
    day = datetime.date
    assert period_text(day(2023, 6, 13), day(2023, 7, 24)) == "13 June to 24 July 2023"
    assert period_text(day(2023, 7, 2), day(2023, 7, 24)) == "2 to 24 July 2023"
    assert period_text(day(2023, 8, 28), day(2023, 8, 28)) == "28 August 2023"
    assert period_text(day(2023, 9, 28), day(2024, 7, 24)) == "28 September 2023 to 24 July 2024"
