"""Command lines that make something of a file, as they can be typed into a shell."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from ggcp_schema.errors import UsageError
from ggcp_schema.inspect.damage import Condition
from ggcp_schema.inspect.facts import Summary
from ggcp_schema.inspect.text import shell_word
from ggcp_schema.llama.eras import epsilon_text
from ggcp_schema.llama.rotation import rope_entries


def next_commands(summary: Summary) -> Iterator[str]:
    """Yield commands that make something of the file. They run as they stand, but for words in capitals.

    `convert` is for who goes on training with the trainer of 2023, `export` for who runs the model in llama.cpp, and
    `export --to hf` for who goes on in PyTorch, MLX or vLLM.
    """
    path = shell_word(summary.file)
    yield f"ggcp-schema browse {path}"
    if summary.condition is not None:
        yield from _commands_for_damaged(summary, summary.condition)
    elif summary.adapter is not None and summary.adapter.pairs:
        if summary.optimizer is not None and summary.optimizer.inference is not None:
            yield f"ggcp-schema convert {path} {_output(summary, '.resume.gguf')}"
        patched = " --patched-base PATCHED.gguf" if summary.adapter.norms else ""
        yield f"ggcp-schema export {path} {_output(summary, '.adapter.gguf')} --base MODEL.gguf{patched}"
        yield f"ggcp-schema export --to peft {path} {_output(summary, '-peft')} --base MODEL.gguf"
    elif summary.era is not None:
        if _gains_by_conversion(summary) and not any(finding.path == "convert" for finding in summary.findings):
            yield f"ggcp-schema convert {path} {_output(summary, '.resume.gguf')}{_epsilon(summary)}"
        if _can_be_exported(summary):
            yield _export(summary)
            yield _export(summary, " --to hf", "-hf")
    elif summary.n_tokens and not summary.n_params:
        yield f"ggcp-schema export CHECKPOINT MODEL.gguf --vocab {path} --context-length N"
    elif summary.tensor_types:
        yield f"ggcp-schema stats {path}"


def purpose(command: str) -> str:
    """Return what one of these commands is for, in one or two words."""
    words = shlex.split(command)
    key = "--to" if "--to" in words else words[1]
    return {"convert": "train on", "export": "run", "--to": "in PyTorch"}.get(key, "next")


def _gains_by_conversion(summary: Summary) -> bool:
    """Check for a ggcp file, or a GGUF checkpoint whose vectors are in another order or of summed gradients."""
    order, scale = summary.order, summary.scale
    wrong_order = order is not None and order.is_certain and order.order != "C" and not order.harmless
    return summary.layout is not None or wrong_order or bool(scale and scale.summed)


def _commands_for_damaged(summary: Summary, condition: Condition) -> Iterator[str]:
    path = shell_word(summary.file)
    yield f"ggcp-schema validate {path}"
    if summary.era is not None and condition.model_is_whole and _can_be_exported(summary):
        yield _export(summary, " --partial")
    elif summary.tensor_types:
        yield f"ggcp-schema extract {path} '*' {_output(summary, '.safetensors')} --partial"


def _can_be_exported(summary: Summary) -> bool:
    """Check that llama.cpp runs the model."""
    hparams = summary.hparams or {}
    n_embd, n_head, n_layer, n_rot = (hparams.get(name) for name in ("n_embd", "n_head", "n_layer", "n_rot"))
    if not (n_embd and n_head and n_layer and n_rot) or (summary.condition is None and summary.order is None):
        return False
    try:
        rope_entries(n_embd, n_head, n_rot)
    except UsageError:
        return False
    return True


def _export(summary: Summary, option: str = "", suffix: str = ".model.gguf") -> str:
    path = shell_word(summary.file)
    stored = (summary.hparams or {}).get("n_ctx")
    vocab = "" if summary.n_tokens else " --vocab VOCABULARY"
    context = "" if stored else f" --context-length {summary.context.tokens or 'N'}"
    return f"ggcp-schema export{option} {path} {_output(summary, suffix)}{vocab}{context}{_epsilon(summary)}"


def _epsilon(summary: Summary) -> str:
    """Return the option with the epsilon if another one is possible, so that it is seen."""
    if summary.era is None or summary.era.rms_eps_certain:
        return ""
    return f" --rms-eps {epsilon_text(summary.era.rms_eps)}"


def _output(summary: Summary, suffix: str) -> str:
    return shell_word(f"{Path(summary.file).stem}{suffix}")
