"""Which program wrote a file, and the epsilon that follows from it."""

from __future__ import annotations

import datetime
import json
import shutil
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ggcp_schema import convert, open_file
from ggcp_schema.cli.output import to_json
from ggcp_schema.inspect.facts import facts
from ggcp_schema.llama.eras import DEFAULT_RMS_EPS, Evidence, conclude, is_clipped
from ggcp_schema.llama.training import Study, study
from ggcp_schema.llama.writers import WRITERS, months_text, period_text
from tests.helpers import FIXTURES

FLAGS = json.loads((FIXTURES / "orders/orders.json").read_text())
TRUTH = json.loads((FIXTURES / "truth/truth.json").read_text())

# What wrote the files, from the READMEs beside them: the key of the program, and its epsilon.
WRITTEN = {
    "v0-adam": ("master-june", 1e-6),
    "rotmax8-v0": ("master-june", 1e-6),
    "orders/jun-A-3": ("master-june", 1e-6),
    "orders/jun-B-3": ("master-june", 1e-6),
    "truth/jun-default8": ("master-june", 1e-6),
    "truth/jun-ctx-batch": ("master-june", 1e-6),
    "orders/eb5-A-2": ("master-july", 5e-6),
    "v1-adam-raw-params": ("branch-raw-june", 1e-6),
    "truth/jun29-clip": ("branch-june", 1e-6),
    "v1-adam": ("branch-july", 1e-6),
    "orders/jul-A-3": ("branch-july", 1e-6),
    "orders/17a-B-3": ("branch-rebased", 5e-6),
    "truth/jul28-A": ("branch-rebased", 5e-6),
    "v1-adam-past5": ("branch-august", 5e-6),
    "v1-lbfgs": ("branch-august", 5e-6),
    "rotmax8-v1": ("branch-august", 5e-6),
    "alice": ("branch-august", 5e-6),
    "orders/aug-B-3": ("branch-august", 5e-6),
    "orders/aug-C-3": ("branch-august", 5e-6),
    "orders/aug-lbfgs-B-1": ("branch-august", 5e-6),
    "twin-adam.v0": ("compatibility", 1e-5),
    "twin-adam.v1": ("compatibility", 1e-5),
    "twin-lbfgs.v0": ("compatibility", 1e-5),
    "twin-lbfgs.v1": ("compatibility", 1e-5),
    "twin-ff48.v0": ("compatibility", 1e-5),
    "twin-ff48.v1": ("compatibility", 1e-5),
}
# Files whose epsilon no byte shows, and that were written in the shorter of two times.
MISTAKEN = {"orders/eb5-A-2", "truth/jul28-A"}
NAMES = sorted(WRITTEN)
ROWS = {writer.key: writer for writer in WRITERS}


@cache
def studied(name: str) -> Study:
    """What the package concludes from a genuine file, without its modification date."""
    path = FIXTURES / f"{name}.ggcp"
    with open_file(path) as file:
        training = file.training()
        undated = training.model._replace(evidence=training.model.evidence._replace(modified=None))
        return study(training._replace(model=undated))


def test_the_table_has_every_whole_fixture() -> None:
    files = {str(path.relative_to(FIXTURES).with_suffix("")) for path in FIXTURES.rglob("*.ggcp")}
    assert {Path(name).as_posix() for name in files} == {*NAMES, "truncated-v0-lbfgs"}
    known = {name: TRUTH[f"{name.removeprefix('truth/')}.ggcp"] for name in NAMES if name.startswith("truth/")}
    assert {name: truth["eps"] for name, truth in known.items()} == {name: WRITTEN[name][1] for name in known}


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_stated_of_a_genuine_file_that_its_program_denies(name: str) -> None:
    conclusion = studied(name).era
    key, rms_eps = WRITTEN[name]
    writer = ROWS[key]
    assert writer in conclusion.writers
    assert conclusion.first <= writer.first <= writer.last <= conclusion.last  # type: ignore[operator]
    assert conclusion.gradient in {writer.gradient, None}
    assert writer.loss in conclusion.losses
    assert rms_eps in {conclusion.rms_eps, *conclusion.rms_eps_alternatives}
    if conclusion.rms_eps_certain:
        assert conclusion.rms_eps == rms_eps
    assert (conclusion.rms_eps == rms_eps) is (name not in MISTAKEN)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("twin")])
def test_the_names_of_gguf_leave_one_epsilon_unless_an_option_set_another(name: str) -> None:
    conclusion = studied(name).era
    assert [writer.key for writer in conclusion.writers] == ["compatibility"]
    assert (conclusion.rms_eps, conclusion.rms_eps_certain, conclusion.rms_eps_alternatives) == (1e-5, False, ())
    assert conclusion.rms_eps_reason.endswith(", unless --norm-rms-eps was given")


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("v0-adam", "master-june master-july master-august"),
        ("v1-adam-raw-params", "branch-raw-june branch-raw-july"),
        ("truth/jul28-A", "branch-june branch-july branch-rebased"),
        ("orders/17a-B-3", "branch-june branch-july branch-rebased branch-august branch-last-day"),
        ("alice", "branch-june branch-july branch-rebased branch-august branch-last-day"),
    ],
)
def test_programs_that_no_byte_tells_apart_all_remain(name: str, keys: str) -> None:
    assert [writer.key for writer in studied(name).era.writers] == keys.split()
    assert not studied(name).era.rms_eps_certain
    assert "costs 1e-4 to 9e-3" in studied(name).era.rms_eps_reason


@pytest.mark.parametrize("key", ROWS)
def test_a_modification_date_is_a_hint_at_each_program(key: str) -> None:
    """It decides no more than what is likely, among the programs that fit the rest."""
    writer = ROWS[key]
    layout = writer.layouts[0] if writer.layouts else None
    first_tensor = None if layout is None else f"{writer.first_tensor}.weight"
    evidence = Evidence(layout, first_tensor, file_version=writer.file_version)
    for day in (writer.first, writer.last):
        conclusion = conclude(evidence._replace(modified=day))
        assert conclusion.writers == conclude(evidence).writers
        assert writer in conclusion.likely
        assert all(likely.first <= day <= likely.last for likely in conclusion.likely)


@pytest.mark.parametrize("name", NAMES)
def test_the_date_of_a_copy_changes_nothing(name: str) -> None:
    with open_file(FIXTURES / f"{name}.ggcp") as file:
        evidence = file.training().model.evidence
    copied = evidence._replace(modified=datetime.date(2025, 1, 1))
    assert conclude(copied) == conclude(evidence._replace(modified=None))


def test_clipped_sums_are_likely_where_every_gradient_had_a_length_of_1() -> None:
    clipped, means = studied("truth/jun29-clip"), studied("truth/jul28-A")
    assert [writer.key for writer in clipped.era.likely] == ["branch-june"]
    assert clipped.era.losses == ("last-rows", "mean")
    assert "branch-june" not in {writer.key for writer in means.era.likely}
    assert means.era.losses == ("mean", "last-rows")
    for found in (clipped, means):
        assert (found.scale.gradient, found.scale.summed, found.scale.s) == (None, False, None)
    assert "likely sums clipped to a length of 1" in clipped.scale.reason


@pytest.mark.parametrize(("square", "clipped"), [(1 + 7e-6, True), (1 - 5e-5, True), (1.001, False), (0.9, False)])
def test_sums_that_were_clipped_have_that_length_nearly_exactly(square: float, clipped: bool) -> None:
    """In the genuine file the average is off by 7e-6 after 1,184 iterations; shorter sums lower it."""
    assert is_clipped(square) is clipped


def test_a_long_gradient_in_v1_is_of_no_known_program() -> None:
    """The branch clipped its sums, so that this evidence is named and ignored."""
    conclusion = conclude(Evidence("v1", "tok_embeddings.weight", long_gradient=True))
    assert conclusion.evidence[-1].effect == "ignored"
    assert conclusion.writers == conclude(Evidence("v1", "tok_embeddings.weight")).writers


def test_losses_that_differ_are_no_constant() -> None:
    open_ = Evidence("v1", "tok_embeddings.weight", order="B")
    assert "constant" in conclude(open_).losses
    assert "constant" not in conclude(open_._replace(losses_differ=True)).losses


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
    conclusion = conclude(Evidence("v0", "tok_embeddings.weight", order="D"))
    assert conclusion.writers == conclude(Evidence("v0", "tok_embeddings.weight")).writers
    assert conclusion.evidence[-1].effect == "ignored"


def test_a_gguf_file_of_a_trainer_keeps_what_it_stores() -> None:
    stored = conclude(Evidence(file_version=0, rms_eps=3e-6))
    assert (stored.rms_eps, stored.rms_eps_certain, stored.rms_eps_alternatives) == (3e-6, True, ())
    assert conclude(Evidence(file_version=1)).rms_eps == 1e-5
    assert conclude(Evidence(file_version=1)).gradient == "mean"


def test_the_epsilon_of_the_converter_of_2023_is_no_fact() -> None:
    """It wrote 1e-5 into every file."""
    conclusion = conclude(Evidence(file_version=0, converted=True, rms_eps=1e-5))
    assert (conclusion.rms_eps, conclusion.rms_eps_certain) == (1e-5, False)
    assert conclusion.rms_eps_alternatives == (1e-6, 5e-6)
    assert {writer.key for writer in conclusion.writers} == {key for key in ROWS if not key.startswith("gguf")}
    assert conclusion.gradient is None


@pytest.mark.parametrize("key", ["training.file_version", "llama.context_length"])
def test_a_gguf_checkpoint_that_lost_keys_is_not_said_to_be_of_another_time(key: str, tmp_path: Path) -> None:
    data = bytearray((FIXTURES / "truth" / "jan24-D.gguf").read_bytes())
    data[data.index(b"training.file_version") + len("training.file_version") + 4] = 0
    start = data.index(key.encode()) - 8
    data[start : start + 40] = bytes(40)
    (tmp_path / "x.gguf").write_bytes(data)
    with open_file(tmp_path / "x.gguf", partial=True) as file:
        era = facts(file).era
    assert era is not None
    assert "gguf-0" in {writer.key for writer in era.writers}
    assert not any("ggcp" in clue.statement for clue in era.evidence)


@pytest.mark.parametrize("name", ["v0-adam", "v1-adam", "alice", "twin-ff48.v1", "truth/jun29-clip"])
def test_a_conversion_keeps_what_was_known(name: str, tmp_path: Path) -> None:
    source, path = tmp_path / "x.ggcp", tmp_path / "x.gguf"
    shutil.copyfile(FIXTURES / f"{name}.ggcp", source)
    before = studied(name).era
    convert(source, path, sync=False)
    with open_file(path) as file:
        after = study(file.training())
    assert after.era.writers == before.writers
    assert after.era.rms_eps_certain == before.rms_eps_certain
    assert after.era.rms_eps_alternatives == before.rms_eps_alternatives
    assert (after.order.order, after.order.certainty) == ("C", "proven")
    if studied(name).scale.s:
        assert (after.scale.gradient, after.scale.s) == ("mean", None)  # no doubt of its own divisor
        assert f"divided m by {studied(name).scale.s}" in after.scale.reason


def test_each_layout_of_one_program_has_times_that_follow_each_other() -> None:
    for program, layouts in {(writer.program, writer.layouts) for writer in WRITERS}:
        times = [(w.first, w.last) for w in WRITERS if (w.program, w.layouts) == (program, layouts)]
        assert all(first <= last for first, last in times)
        assert all(last <= first for (_, last), (first, _) in pairwise(times))


some_evidence = st.builds(
    Evidence,
    layout=st.sampled_from([None, "v0", "v1", "v1-raw-params", "v7"]),
    first_tensor=st.sampled_from([None, "tok_embeddings.weight", "token_embd.weight", "x"]),
    n_mult=st.sampled_from([None, 256, 32]),
    n_ff=st.sampled_from([None, 48, 256]),
    n_ff_by_formula=st.sampled_from([None, 256]),
    long_gradient=st.booleans(),
    square_length=st.sampled_from([None, 0.5, 1.0]),
    losses_differ=st.sampled_from([None, True, False]),
    converted=st.booleans(),
    recorded=st.sampled_from([None, (), ("branch-july", "branch-june"), ("unheard-of",)]),
    order=st.sampled_from([None, "A", "B", "C", "D"]),
    rms_eps=st.none(),
    file_version=st.sampled_from([None, None, 0, 1, 2]),
    modified=st.one_of(st.none(), st.dates(datetime.date(2023, 6, 1), datetime.date(2024, 8, 1))),
)


@given(some_evidence)
def test_conclusions_are_consistent(evidence: Evidence) -> None:
    conclusion = conclude(evidence)
    takes_option = any(writer.takes_epsilon for writer in conclusion.writers)
    is_one = bool(conclusion.writers) and not conclusion.rms_eps_alternatives
    assert conclusion.rms_eps_certain == (is_one and not takes_option)
    assert ("unless --norm-rms-eps" in conclusion.rms_eps_reason) == (is_one and takes_option)
    used = {writer.rms_eps for writer in conclusion.writers} or {DEFAULT_RMS_EPS}
    assert {conclusion.rms_eps, *conclusion.rms_eps_alternatives} == used
    assert conclusion.rms_eps not in conclusion.rms_eps_alternatives
    assert len({statement for statement, *_ in conclusion.evidence}) == len(conclusion.evidence)
    assert json.loads(json.dumps(to_json(conclusion)))["rms_eps"] == conclusion.rms_eps


@given(some_evidence, st.sampled_from(["layout", "first_tensor", "n_ff", "long_gradient", "modified"]))
@example(Evidence(first_tensor="tok_embeddings.weight", n_mult=256, n_ff=48, n_ff_by_formula=256), "first_tensor")
def test_more_evidence_leaves_no_more_writers(evidence: Evidence, name: str) -> None:
    conclusion, with_less = conclude(evidence), conclude(evidence._replace(**{name: None}))
    contradictory = any(clue.effect == "ignored" for clue in conclusion.evidence)
    assert contradictory or all(writer in with_less.writers for writer in conclusion.writers)


def test_times_in_words() -> None:
    day = datetime.date
    assert period_text(day(2023, 6, 13), day(2023, 7, 24)) == "13 June to 24 July 2023"
    assert period_text(day(2023, 7, 2), day(2023, 7, 24)) == "2 to 24 July 2023"
    assert period_text(day(2023, 8, 28), day(2023, 8, 28)) == "28 August 2023"
    assert period_text(day(2023, 9, 28), day(2024, 7, 24)) == "28 September 2023 to 24 July 2024"


@pytest.mark.parametrize(
    ("programs", "text"),
    [
        ("branch-raw-june", "June 2023"),
        ("master-june master-august", "June to August 2023"),
        ("branch-june gguf-1", "June 2023 to July 2024"),
    ],
)
def test_months_are_told_with_their_years(programs: str, text: str) -> None:
    keys = programs.split()
    assert months_text(writer for writer in WRITERS if writer.key in keys) == text
