"""One plan for the command line and the Python API: what is said before anything is written, and what is refused."""

from __future__ import annotations

import os
import shlex
import shutil
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggcp_schema import FileError, MalformedError, UsageError, convert, export_model, open_file
from ggcp_schema.cli.report import sentence
from ggcp_schema.files.atomic import ExistsError
from ggcp_schema.files.output import WriteOptions
from ggcp_schema.llama.eras import Evidence, conclude
from ggcp_schema.mapping.convert import ResumeOptions, plan_resume
from ggcp_schema.mapping.export import MissingError, ModelOptions, plan_model
from ggcp_schema.mapping.plan import OUTPUT, Command, Plan, Written, epsilon_of, write
from tests.builder import build_checkpoint
from tests.helpers import FIXTURES, ONE_OF_EACH, TRUNCATED
from tests.llama.test_eras import MISTAKEN, WRITTEN
from tests.mapping.gguf_files import data, read_gguf, value, write_as_trainer
from tests.writing import content_of

VOCAB = FIXTURES / "vocab.gguf"
ADAM = FIXTURES / "v1-adam.ggcp"
EPSILON = "llama.attention.layer_norm_rms_epsilon"


def plan_of(path: Path, **options: Any) -> Plan:
    with open_file(path) as file:
        return plan_resume(file, ResumeOptions(**options))


def notes(plan: Plan) -> dict[str, str]:
    """Return what is said of each fact but the epsilon."""
    return {fact.label: sentence(fact) for fact in plan.facts if fact.label != "epsilon"}


# What a plan says ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ONE_OF_EACH, ids=lambda path: path.stem)
def test_the_plan_is_what_is_then_written(path: Path, tmp_path: Path) -> None:
    with open_file(path) as file:
        plan = plan_resume(file)
        written = write(plan, tmp_path / "out.gguf", WriteOptions(sync=False))
    assert isinstance(written, Written)
    assert (written.plan, written.not_finite) == (plan, {})
    assert written.size == (tmp_path / "out.gguf").stat().st_size
    found = read_gguf(tmp_path / "out.gguf")
    assert [entry.key for entry in content_of(plan).keys] == list(found["kv"])
    assert [entry.name for entry in plan.tensors] == [tensor["name"] for tensor in found["tensors"]]
    assert plan.nbytes == sum(values.nbytes for values in data(tmp_path / "out.gguf").values())
    assert (plan.target, plan.inputs) == ("resume", (str(path),))


@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_the_epsilon_is_that_of_the_era(name: str, tmp_path: Path) -> None:
    """From the copy of a file, whose date says nothing."""
    path, expected = tmp_path / "x.ggcp", WRITTEN[name][1]
    shutil.copyfile(FIXTURES / f"{name}.ggcp", path)
    plan = plan_of(path)
    if name in MISTAKEN and plan.fact("epsilon").value != expected:
        assert "the most days" in plan.fact("epsilon").reason or "fewest options" in plan.fact("epsilon").reason
    else:
        assert plan.fact("epsilon").value == expected
    with open_file(path) as file:
        vocab = FIXTURES / ("alice-vocab.gguf" if name == "alice" else "vocab.gguf")
        model = plan_model(file, ModelOptions(vocab, 16))
    assert model.fact("epsilon") == plan.fact("epsilon")


def test_an_epsilon_that_is_stated_or_stored_comes_first() -> None:
    era = conclude(Evidence("v0", "tok_embeddings.weight"))
    assert epsilon_of(2e-6, 3e-6, era)[:3] == ("epsilon", "2e-6", "stated by the user")
    assert epsilon_of(None, 3e-6, era)[:3] == ("epsilon", "3e-6", "stored in the file")
    guess = "1e-6, a guess (or 5e-6 or 1e-5)"
    assert epsilon_of(None, None, era)[2:] == (era.rms_eps_reason, "", None, era.rms_eps, guess)
    stored = conclude(Evidence("v0", "tok_embeddings.weight", is_gguf=True, rms_eps=1e-6, rms_eps_certain=False))
    assert epsilon_of(None, 1e-6, stored).short == guess
    assert epsilon_of(None, None, conclude(Evidence("v0", "x"))).value == 1e-5
    with pytest.raises(UsageError, match="RMS epsilon must be between"):
        epsilon_of(None, 0.0, era)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        (
            "orders/jun-B-3",
            {},
            {
                "order": "rewritten from order B to order C (x equals",
                "scale": "m is divided by 128",
                "batch": "was 2.64 with a fresh optimizer",
            },
        ),
        ("orders/aug-C-3", {}, {"order": "are in order C already (the rows of zeros in v"}),
        ("orders/17a-B-3", {}, {"order": "copied as they are. If you know the order, state it: --order A"}),
        ("orders/17a-B-3", {"order": "C"}, {"order": "are in order C already (order C was stated)"}),
        ("rotmax8-v1", {}, {"rotation": "n_rot 8 of heads of 16 dimensions is written as rope.dimension_count 16"}),
        ("orders/jun-B-3", {"fresh_optimizer": True}, {"optimizer": "has not started yet"}),
        ("orders/jun-B-3", {"verbatim": True}, {"verbatim": "copied as they are"}),
    ],
)
def test_the_notes_say_what_is_changed_and_why(name: str, options: dict[str, Any], expected: dict[str, str]) -> None:
    found = notes(plan_of(FIXTURES / f"{name}.ggcp", **options))
    for label, text in expected.items():
        assert text in found[label]
    assert len(found) <= 4


def test_zeros_need_no_order(tmp_path: Path) -> None:
    zeros = iter([1] * 12)  # the model's tensors have other values
    content = build_checkpoint(data=lambda count: np.full(count, next(zeros, 0), "<f4"))
    (tmp_path / "x.ggcp").write_bytes(content)
    assert "all moments are zero" in notes(plan_of(tmp_path / "x.ggcp"))["order"]


def test_sums_over_samples_of_an_unknown_length_are_divided_by_an_estimate(tmp_path: Path) -> None:
    path = tmp_path / "x.ggcp"
    content = bytearray((FIXTURES / "orders/jun-A-3.ggcp").read_bytes())
    struct.pack_into("<I", content, 16, 12345)  # train_tokens, no multiple of train_samples
    path.write_bytes(content)
    written = convert(path, tmp_path / "out.gguf", sync=False)
    assert "by that length about 98 tokens, or 74 to 239; m is divided by 98" in notes(written.plan)["scale"]
    assert "state it: --batch N" in notes(written.plan)["batch"]
    assert value(tmp_path / "out.gguf", "ggcp.gradient_scale") == 98


# The command that resumes ----------------------------------------------------------------------------------


def resume_command(plan: Plan, output: str) -> list[str]:
    (command,) = plan.next
    return shlex.split(" ".join(command.for_shell(output)))


def options_of(command: list[str]) -> dict[str, str]:
    return {word: following for word, following in pairwise(command) if word.startswith("--")}


def test_names_that_begin_with_a_dash_are_paths_in_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-in.ggcp").touch()
    words = Command("x", ("convert", "-in.ggcp", OUTPUT, "-p", "it's")).for_shell("-out.gguf")
    assert shlex.split(" ".join(words)) == ["convert", "./-in.ggcp", "./-out.gguf", "-p", "it's"]


def test_the_command_has_the_sizes_of_the_model() -> None:
    command = resume_command(plan_of(FIXTURES / "v1-adam-past5.ggcp"), "a b.gguf")
    assert command[:3] == ["llama-train-text-from-scratch", "--checkpoint-in", "a b.gguf"]
    assert command[-2:] == ["--no-flash", "--use-checkpointing"]
    expected = {"--ctx": "16", "--embd": "24", "--head": "3", "--layer": "1", "--ff": "64", "--opt-past": "5"}
    assert expected.items() <= options_of(command).items()


def test_sizes_that_are_unknown_or_default_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "x.ggcp").write_bytes(build_checkpoint(train=(3, 12, 193)))
    command = resume_command(plan_of(tmp_path / "x.ggcp"), "out")
    assert not {"--ctx", "--opt-past"} & set(command)
    write_as_trainer(tmp_path / "x.gguf", ADAM)
    assert options_of(resume_command(plan_of(tmp_path / "x.gguf"), "out"))["--ctx"] == "16"  # as the file states


# What is refused -------------------------------------------------------------------------------------------


def test_messages_name_the_parameters_of_the_api(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    out.write_bytes(b"old")
    with pytest.raises(ExistsError, match="Use force=True"):
        convert(ADAM, out)
    with pytest.raises(ExistsError, match="Use force=True"):
        export_model(ADAM, out, vocab=VOCAB, context_length=16)
    assert out.read_bytes() == b"old"
    (tmp_path / "cut.ggcp").write_bytes(ADAM.read_bytes()[:-1])
    with pytest.raises(MalformedError, match="Use partial=True"):
        export_model(tmp_path / "cut.ggcp", tmp_path / "new.gguf", vocab=VOCAB, context_length=16)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    with pytest.raises(MissingError, match="contains no vocabulary") as caught:
        export_model(ADAM, out, context_length=16)
    assert caught.value.parameters == ("vocab",)
    assert "Llama 1 or 2" not in str(caught.value)
    changed = tmp_path / "changed.ggcp"
    changed.write_bytes(build_checkpoint(train=(3, 12, 193)))
    with pytest.raises(MissingError, match=r"no vocabulary and does not tell the context length \(changed") as caught:
        export_model(changed, out)
    assert caught.value.parameters == ("vocab", "context_length")
    changed.write_bytes(build_checkpoint(n_vocab=32_000))
    with pytest.raises(MissingError, match="of 32,000 tokens is in nearly any Llama 1 or 2 GGUF"):
        export_model(changed, out)
    assert os.listdir(tmp_path) == ["changed.ggcp"]


def test_the_context_length_follows_from_the_counts(tmp_path: Path) -> None:
    for stated, text in ((None, ""), (16, ""), (128, "but the file says 16 tokens, if it never changed")):
        plan = export_model(ADAM, tmp_path / "out.gguf", vocab=VOCAB, context_length=stated, force=True).plan
        assert plan.fact("context length").text == f"{stated or 16} tokens"
        assert plan.fact("context length").effect == text


def test_standard_output_is_no_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileError, match="standard output"):
        convert(ADAM, "-", force=True)
    with pytest.raises(FileError, match="standard output"):
        export_model(ADAM, "-", vocab=VOCAB, context_length=16)
    assert os.listdir(tmp_path) == []


def test_strict_refuses_findings(tmp_path: Path) -> None:
    path, out = FIXTURES / "twin-ff48.v1.ggcp", tmp_path / "out.gguf"
    with pytest.raises(UsageError, match=r"hparams\.n_mult: n_ff is 48"):
        convert(path, out, strict=True)
    with pytest.raises(UsageError, match=r"hparams\.n_mult: n_ff is 48"):
        export_model(path, out, vocab=VOCAB, context_length=16, strict=True)
    assert os.listdir(tmp_path) == []
    convert(ADAM, out, strict=True, sync=False)


def test_names_of_other_places_are_a_finding(tmp_path: Path) -> None:
    content = ADAM.read_bytes()
    wq, wk = b"layers.0.attention.wq.weight", b"layers.0.attention.wk.weight"
    (tmp_path / "x.ggcp").write_bytes(content.replace(wq, b"?" * len(wq)).replace(wk, wq).replace(b"?" * len(wq), wk))
    written = convert(tmp_path / "x.ggcp", tmp_path / "out.gguf", sync=False)
    paths = [finding.path for finding in written.plan.warnings]
    assert paths == ["layers[0].wq.name", "layers[0].wk.name"]
    with pytest.raises(UsageError, match=r"layers\[0\]\.wq\.name"):
        convert(tmp_path / "x.ggcp", tmp_path / "strict.gguf", strict=True)


@pytest.mark.parametrize("kind", ["resume", "model"])
def test_values_that_are_not_finite_are_counted_and_refused_if_strict(kind: str, tmp_path: Path) -> None:
    path, out = tmp_path / "x.ggcp", tmp_path / "out.gguf"
    content = bytearray(ADAM.read_bytes())
    with open_file(ADAM) as file:
        offset = file.tensors["layers[1].w2"].offset
    struct.pack_into("<3f", content, offset + 100, np.nan, np.inf, -np.inf)
    path.write_bytes(content)

    def act(**options: Any) -> Written:
        if kind == "resume":
            return convert(path, out, sync=False, **options)
        return export_model(path, out, vocab=VOCAB, context_length=16, sync=False, **options)

    with pytest.raises(UsageError, match=r"tensor blk\.1\.ffn_down\.weight has values that are NaN or infinite"):
        act(strict=True)
    assert os.listdir(tmp_path) == ["x.ggcp"]
    assert act(verify=True).not_finite == {"blk.1.ffn_down.weight": 3}


def test_verbatim_is_for_ggcp_files(tmp_path: Path) -> None:
    path = write_as_trainer(tmp_path / "x.gguf", ADAM)
    with pytest.raises(UsageError, match="the converter of 2023 read only ggcp checkpoints"):
        convert(path, tmp_path / "out.gguf", verbatim=True)


# Damaged files ---------------------------------------------------------------------------------------------


def cut_places(content: bytes) -> list[tuple[str, bytes]]:
    """Return the file with damage after the model, of several kinds."""
    with open_file(ADAM) as file:
        end = file.find("optimizer").offset
    nonsense = bytes(range(256)) * ((len(content) - end) // 256 + 1)
    return [
        ("cut at once", content[:end]),
        ("cut in the header", content[: end + 9]),
        ("cut in v", content[:-1000]),
        ("one byte short", content[:-1]),
        ("nonsense", content[:end] + nonsense[: len(content) - end]),
        ("nonsense in the state", content[: end + 60] + nonsense[: len(content) - end - 60]),
    ]


def test_the_model_of_a_file_with_a_damaged_optimizer(tmp_path: Path) -> None:
    path, out, whole = tmp_path / "x.ggcp", tmp_path / "out.gguf", tmp_path / "whole.gguf"
    export_model(ADAM, whole, vocab=VOCAB, context_length=16, rms_eps=1e-6, name="x", sync=False)
    for what, content in cut_places(ADAM.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(MalformedError) as caught:
            export_model(path, out, vocab=VOCAB, context_length=16)
        assert caught.value.hint.startswith("All tensors of the model are whole. Use partial=True to export it."), what
        assert ("`ggcp-schema repair`" in caught.value.hint) is (what == "nonsense in the state")
        with pytest.raises(MalformedError) as caught:
            convert(path, out)
        assert "All tensors of the model are whole." in caught.value.hint
        assert not out.exists()
        written = export_model(path, out, vocab=VOCAB, context_length=16, rms_eps=1e-6, partial=True, name="x")
        assert out.read_bytes() == whole.read_bytes()
        assert "only the model was read; lost: " in notes(written.plan)["damaged"]
        out.unlink()


@pytest.mark.parametrize("partial", [False, True])
def test_a_model_that_is_not_whole_is_never_exported(partial: bool, tmp_path: Path) -> None:
    with pytest.raises(MalformedError) as caught:
        export_model(TRUNCATED, tmp_path / "out", vocab=VOCAB, context_length=16, partial=partial)
    assert caught.value.hint.startswith("The model is not whole: the file has 11 of its 12 tensors")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("missing", [1, 100, 70_000])
def test_a_gguf_checkpoint_that_was_cut(missing: int, tmp_path: Path) -> None:
    """Its last tensor is v, of 67,904 bytes; the model comes first."""
    path, out = write_as_trainer(tmp_path / "x.gguf", ADAM), tmp_path / "out.gguf"
    content = path.read_bytes()
    path.write_bytes(content[:-missing])
    with pytest.raises(MalformedError, match="All tensors of the model are whole"):
        export_model(path, out)
    export_model(path, out, partial=True, sync=False)
    assert len(data(out)) == 21
    path.write_bytes(content[: len(content) - 3 * 67_904])
    with pytest.raises(MalformedError, match="The model is not whole: the file has"):
        export_model(path, out, partial=True, force=True)
    path.write_bytes(content[:500])
    with pytest.raises(MalformedError):
        export_model(path, out, partial=True, force=True)
