"""Model folders of checkpoints, as the command writes them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ggcp_schema import export_model, open_file
from ggcp_schema.files.contents import Safetensors
from ggcp_schema.huggingface.card import PROMPT
from ggcp_schema.huggingface.tensors import moment_tensors
from tests.helpers import FIXTURES

CONTEXT = 64
ALICE = FIXTURES / "alice.ggcp"


def vocabulary_for(checkpoint: Path) -> Path:
    """Return the vocabulary with which the checkpoint was trained."""
    return FIXTURES / ("alice-vocab.gguf" if checkpoint == ALICE else "vocab.gguf")


def write_folder(
    folder: Path,
    checkpoint: Path,
    *,
    vocab: Path | None = None,
    rms_eps: float | None = None,
    context_length: int = CONTEXT,
    dtype: str = "F32",
    rope_factor: float = 1.0,
    order: str | None = None,
    prompt: str = PROMPT,
) -> float:
    """Write the folder; with moments in that order if one is given. Return epsilon."""
    written = export_model(
        checkpoint,
        folder,
        to="hf",
        vocab=vocab or vocabulary_for(checkpoint),
        context_length=context_length,
        rms_eps=rms_eps,
        dtype=dtype.lower(),
        force=True,
        sync=False,
    )
    if rope_factor != 1:
        config, scaled = read_json(folder / "config.json"), {"rope_type": "linear", "factor": rope_factor}
        config |= {"rope_scaling": scaled, "rope_parameters": scaled | {"rope_theta": config["rope_theta"]}}
        (folder / "config.json").write_text(json.dumps(config), "utf-8")
    if order is not None:
        with open_file(checkpoint) as file:
            training = file.training()
            places = {"order": order, "step": training.iteration, "n_head": training.model.n_head}
            moments = moment_tensors(training.model.tensors, training.state, **places)
            Safetensors({"format": "pt"}, moments).write(str(folder / "optimizer.safetensors"))
    card = (folder / "README.md").read_text("utf-8").replace(json.dumps(PROMPT), json.dumps(prompt))
    (folder / "README.md").write_text(card, "utf-8")
    epsilon: float = written.plan.fact("epsilon").value
    return epsilon


def read_json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return value


def programs(card: str) -> list[str]:
    """Return the programs in a model card."""
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)
