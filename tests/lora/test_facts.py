"""What is said of an adapter, and what is chosen when it is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ggcp_schema import UsageError, export_adapter, open_file
from ggcp_schema.inspect.summary import summarize
from ggcp_schema.llama.adapter import FINETUNE, adapter_facts
from ggcp_schema.llama.context import UNKNOWN
from ggcp_schema.mapping.adapter import Norms, Target, choice_notes, chosen, norms_of
from ggcp_schema.mapping.peft import peft_card
from ggcp_schema.mapping.trainers import finetune_words
from tests.lora.lora_files import FOLDER, PEFT, adapter_of, base_in, ggla, quantized

FINETUNED = FOLDER / "adam.ggla"


def told(path: Path, **changes: float) -> dict[str, str]:
    with adapter_of(path, **changes) as adapter:
        return {fact.label: f"{fact.text} ({fact.reason})" for fact in adapter_facts(adapter)}


def test_an_adapter_by_finetune() -> None:
    facts = told(FOLDER / "lbfgs.ggla")
    assert facts["written by"].startswith("llama.cpp's finetune (F32 pairs for all tensors")
    assert facts["pairs"] == "A and B for 16 matrices and 5 norms: 7,077 parameters ()"
    assert facts["ranks"] == "4; 1 for norm, attention_norm, ffn_norm, w1; 2 for wq ()"
    assert facts["scale"] == "1 (alpha 4 / r 4)"
    assert "norms" in facts
    assert not {"trained with scale", "rows of wq, wk"} & set(facts)


def test_an_adapter_of_another_type_is_not_by_finetune() -> None:
    with adapter_of(FINETUNED) as adapter:
        path, pair = next(iter(adapter.pairs.items()))
        half = pair._replace(a=replace(pair.a, type="F16"))
        assert adapter.writer == FINETUNE
        assert replace(adapter, pairs={**adapter.pairs, path: half}).writer is None


def test_the_command_of_finetune_states_a_rank_that_is_not_its_default() -> None:
    with adapter_of(FINETUNED) as adapter:
        wide = dict(adapter.pairs)
        for path in adapter.matrices:
            wide[path] = wide[path]._replace(a=replace(wide[path].a, shape=(8, wide[path].shape[0])))
        assert "--lora-r" not in finetune_words(adapter, UNKNOWN, 0, "in.gguf")
        assert finetune_words(replace(adapter, pairs=wide), UNKNOWN, 0, "in.gguf")[-2:] == ("--lora-r", "8")


def test_of_an_adapter_without_pairs_nothing_tells_the_program(tmp_path: Path) -> None:
    (tmp_path / "empty.ggla").write_bytes(ggla({}))
    assert told(tmp_path / "empty.ggla")["written by"].startswith("unknown")


def test_an_adapter_of_norms_alone_is_not_advised_for_peft(tmp_path: Path) -> None:
    path = tmp_path / "norms.ggla"
    path.write_bytes(ggla({"norm": ((1, 32), (1, 1))}, r=1, alpha=1))
    with open_file(path) as file:
        assert not any("--to peft" in command for command in summarize(file).next)
    with pytest.raises(UsageError, match="no pair but those of norms"):
        export_adapter(path, tmp_path / "peft", to="peft", base=FOLDER / "base.gguf")


def test_an_adapter_made_from_peft() -> None:
    facts = told(PEFT)
    assert facts["written by"].startswith("convert-lora-to-ggml.py")
    assert facts["scale"] == "4 (alpha 16 / r 4)"
    assert facts["rows of wq, wk"].startswith("as PEFT trained them")
    assert not {"norms", "trained with scale"} & set(facts)


def test_an_alpha_that_finetune_did_not_train_with() -> None:
    assert told(FOLDER / "adam.ggla", alpha=6, scale=1.5)["trained with scale"].startswith("1 (")


@pytest.mark.parametrize("scale", [float("inf"), float("nan")])
def test_a_scale_must_be_finite(scale: float) -> None:
    with pytest.raises(UsageError, match="must be a finite number"), adapter_of(PEFT, scale=scale):
        pass


@pytest.mark.parametrize(
    ("norms", "said"), [("saved", "saved as whole"), ("base", "in the base model"), ("ignored", "left out")]
)
def test_the_card_says_where_the_norms_are(norms: str, said: str) -> None:
    with adapter_of(FOLDER / "adam.ggla") as adapter:
        card = peft_card(adapter, 'models/"base"', is_folder=True, is_gguf=False, norms=norms)
    assert said in card
    assert 'base_model: "\\"base\\""' in card
    assert "Made from `adam.ggla`, written by llama.cpp's finetune." in card
    assert f'from_pretrained("{Path.cwd()}/models/\\"base\\"")' in card


def test_the_card_opens_the_base() -> None:
    with adapter_of(PEFT) as adapter:
        of_gguf = peft_card(adapter, "base.gguf", is_folder=False, is_gguf=True, norms="none")
        of_ggjt = peft_card(adapter, "old/base.ggjt", is_folder=False, is_gguf=False, norms="none")
    assert of_gguf.count(f'from_pretrained("{Path.cwd()}", gguf_file="base.gguf")\n') == 2
    assert of_ggjt.count('from_pretrained("base-hf")\n') == 2
    assert ["where that was" in card for card in (of_gguf, of_ggjt)] == [True, False]
    assert f"`ggcp-schema export {Path.cwd()}/old/base.ggjt base-hf --to hf`" in of_ggjt


# Choices ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "target", "patched_base", "ignore", "norms"),
    [
        (FINETUNED, "adapter", True, False, "base"),
        (FINETUNED, "adapter", False, True, "ignored"),
        (FINETUNED, "peft", False, False, "saved"),
        (FINETUNED, "peft", True, False, "base"),
        (FINETUNED, "peft", False, True, "ignored"),
        (FINETUNED, "gguf", False, False, "merged"),
        (FINETUNED, "hf", False, False, "merged"),
        (PEFT, "adapter", False, False, "none"),
        (PEFT, "adapter", False, True, "none"),
        (PEFT, "gguf", False, False, "none"),
    ],
)
def test_where_the_norms_go(path: Path, target: Target, patched_base: bool, ignore: bool, norms: Norms) -> None:
    with adapter_of(path) as adapter:
        assert norms_of(adapter, target, patched_base=patched_base, ignore=ignore) == norms


@pytest.mark.parametrize(
    ("path", "target", "patched_base", "ignore", "said"),
    [
        (FINETUNED, "adapter", False, False, "trained norms, which llama.cpp ignores"),
        (FINETUNED, "adapter", True, True, "they are to be ignored"),
        (FINETUNED, "gguf", True, False, "the output is the whole model"),
        (FINETUNED, "hf", False, True, "not ignored when an adapter is merged"),
        (PEFT, "adapter", True, False, "there are none"),
    ],
)
def test_norms_are_not_lost_without_a_word(
    path: Path, target: Target, patched_base: bool, ignore: bool, said: str
) -> None:
    with adapter_of(path) as adapter, pytest.raises(UsageError, match=said):
        norms_of(adapter, target, patched_base=patched_base, ignore=ignore)


def test_the_scale_and_the_rows_that_are_chosen() -> None:
    with adapter_of(PEFT) as script, adapter_of(FINETUNED) as finetune, base_in() as base:
        assert (chosen(script, base).scale, chosen(script, base).hf_rows) == (4, True)
        assert (chosen(script, base, scale=0.5, verbatim=True)) == replace(script, scale=0.5, hf_rows=False)
        assert chosen(finetune, base, scale=0.0).scale == 0
        with pytest.raises(UsageError, match="nothing that llama"):
            chosen(finetune, base, verbatim=True)
        with pytest.raises(UsageError, match="does not fit"):
            chosen(finetune, base._replace(tensors={}))


def test_what_a_choice_costs_is_said(tmp_path: Path) -> None:
    with adapter_of(FINETUNED, alpha=6, scale=1.5) as adapter, adapter_of(PEFT) as script:
        with base_in(quantized(tmp_path / "base.gguf", "Q4_0")) as base:
            merged = list(choice_notes(adapter, base, "gguf", "merged"))
            assert [note.label for note in merged] == ["scale", "rounded to Q4_0 again"]
            assert "twice" in merged[1].text
            assert list(choice_notes(adapter, base, "adapter", "ignored"))[1].reason.startswith("without them")
            assert not list(choice_notes(script, base, "peft", "none"))
        with base_in() as base:
            stated = list(choice_notes(replace(adapter, scale=1.0), base, "gguf", "merged"))
            assert [note.reason for note in stated] == ["stated; the file says alpha 6 / r 4"]
