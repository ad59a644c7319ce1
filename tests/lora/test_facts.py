"""What is said of an adapter."""

from __future__ import annotations

from pathlib import Path

import pytest

from ggcp_schema import UsageError
from ggcp_schema.inspect.adapter import adapter_facts
from ggcp_schema.mapping.peft import peft_card
from tests.lora.lora_files import FOLDER, PEFT, adapter_of


def told(path: Path, **changes: float) -> dict[str, str]:
    with adapter_of(path, **changes) as adapter:
        return {fact.label: f"{fact.value} ({fact.reason})" for fact in adapter_facts(adapter)}


def test_an_adapter_by_finetune() -> None:
    facts = told(FOLDER / "lbfgs.ggla")
    assert facts["written by"].startswith("llama.cpp's finetune (F32 pairs for all tensors of 2 layers")
    assert facts["pairs"] == "21: 16 of matrices, 5 of norms ()"
    assert facts["ranks"] == "4; 1 for norm, attention_norm, ffn_norm, w1; 2 for wq ()"
    assert facts["scale"] == "1 (alpha 4 / r 4)"
    assert "norms" in facts
    assert not {"trained with scale", "rows of wq, wk"} & set(facts)


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
    ("norms", "said"), [("saved", "saved as whole"), ("base", "in the base model"), ("none", "left out")]
)
def test_the_card_says_where_the_norms_are(norms: str, said: str) -> None:
    with adapter_of(FOLDER / "adam.ggla") as adapter, adapter_of(PEFT) as script:
        card = peft_card(adapter, 'models/"base"', norms=norms)
        assert said in card
        assert 'base_model: "models/\\"base\\""' in card
        assert "Made from `adam.ggla`, written by llama.cpp's finetune." in card
        assert "It changes no norms." in peft_card(script, "base", norms=norms)
