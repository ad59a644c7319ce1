"""Command lines that make something of a file, as they can be typed into a shell."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ggcp_schema.errors import quoted, shell_word
from ggcp_schema.formats.vocabularies import is_after_vocabulary
from ggcp_schema.llama.facts import Line

if TYPE_CHECKING:
    from ggcp_schema.inspect.damage import Condition
    from ggcp_schema.inspect.facts import Summary

OUTPUTS = {
    "resume": ".resume.gguf",
    "gguf": ".model.gguf",
    "hf": "-hf",
    "adapter": ".adapter.gguf",
    "peft": "-peft",
}
"""What the names of outputs end in, by what is made."""
PYTORCH = "PyTorch"  # the label of the command that makes something for it
STRIPPED = {".ggcp", ".bin", ".gguf", ".ggjt", ".ggla", ".ggcl"}  # suffixes that the name of an output does not keep


def output_name(path: str | Path, suffix: str) -> str:
    """Return the name that an output has if none is given, in the current folder: `chk.resume.gguf` for `chk.ggcp`."""
    source = Path(path)
    return (source.stem if source.suffix in STRIPPED else source.name) + suffix


def next_commands(summary: Summary) -> Iterator[Line]:
    """Yield commands that make something of the file, labelled by what for. Words in capitals have to be replaced.

    First those that run the model in llama.cpp, then those that go on training it, with the trainer of 2023 or in
    PyTorch, MLX or vLLM, and last those that look inside.
    """
    if summary.file.startswith("/dev/"):  # it is another file for the next command
        return
    path = shell_word(summary.file)
    if summary.is_repairable:
        yield Line("rescue", repair_command(summary.file))
    yield from _uses(summary, path)
    yield Line("look", f"ggcp-schema browse {path}")


def _uses(summary: Summary, path: str) -> Iterator[Line]:
    if summary.condition is not None:
        yield from _commands_for_damaged(summary, summary.condition)
    elif summary.adapter is not None and summary.adapter.pairs:
        yield Line("run", _export_adapter(summary))
        yield from _train_on(summary, path)
        yield Line(PYTORCH, f"ggcp-schema export --to peft {path} --base BASE.gguf")
    elif summary.runs:
        yield Line("run", f"llama-completion -m {path} -p 'Once upon a time'")
        yield from _in_pytorch(summary)
        yield Line("measure", f"ggcp-schema stats {path}")
    elif summary.era is not None or summary.has_model:
        if summary.has_model:
            yield Line("run", _export(summary))
        yield from _train_on(summary, path)
        if summary.has_model:
            yield from _in_pytorch(summary)
    elif summary.n_tokens and not summary.n_params:
        yield Line("run", f"ggcp-schema export CHECKPOINT --vocab {path}")
    elif summary.tensor_types:
        if summary.is_lora:
            yield Line("run", f"llama-completion -m BASE.gguf --lora {path} -p 'Once upon a time'")
        yield Line("measure", f"ggcp-schema stats {path}")


def _in_pytorch(summary: Summary) -> Iterator[Line]:
    if summary.makes_folder:
        yield Line(PYTORCH, _export(summary, " --to hf"))


def _train_on(summary: Summary, path: str) -> Iterator[Line]:
    """Yield how the training goes on; nothing if it first has to be repaired, or if `convert` refuses the file."""
    is_refused = any(finding.path == "convert" for finding in summary.findings)
    if not summary.trains or is_refused or (summary.is_optimizer_unsound and summary.is_repairable):
        return
    if summary.resume and not summary.is_optimizer_unsound:
        words = (path if word == summary.file else quoted(word) for word in summary.resume)
        yield Line("train on", " ".join(words))
    else:
        options = " --partial" if summary.condition is not None else ""
        options = " --fresh-optimizer" if summary.is_optimizer_unsound else options
        yield Line("train on", f"ggcp-schema convert {path}{options}")


def repair_command(path: str) -> str:
    """Return the command that takes back what a file holds twice."""
    return f"ggcp-schema repair {shell_word(path)} {shell_word(output_name(path, '.repaired.ggcp'))}"


def _commands_for_damaged(summary: Summary, condition: Condition) -> Iterator[Line]:
    path = shell_word(summary.file)
    if condition.model_is_whole and summary.has_model:
        yield Line("rescue", _export(summary, " --partial"))
    elif condition.model_is_whole and summary.adapter is not None:
        yield Line("rescue", _export_adapter(summary, " --partial"))
    elif summary.tensor_types:
        output = shell_word(output_name(summary.file, ".safetensors"))
        yield Line("rescue", f"ggcp-schema extract {path} '*' {output} --partial")
    yield from _train_on(summary, path)
    yield Line("check", f"ggcp-schema validate {path}")


def _export(summary: Summary, option: str = "") -> str:
    path = shell_word(summary.file)
    is_whole = summary.condition is None or is_after_vocabulary(summary.condition.damage)
    fits = is_whole and summary.n_tokens and summary.n_tokens == (summary.hparams or {}).get("n_vocab")
    vocab = "" if fits else " --vocab VOCABULARY"
    context = "" if summary.context.tokens else " --context-length N"
    return f"ggcp-schema export{option} {path}{vocab}{context}"


def _export_adapter(summary: Summary, option: str = "") -> str:
    patched = shell_word(output_name(summary.file, ".patched.gguf"))
    norms = f" --patched-base {patched}" if summary.adapter is not None and summary.adapter.norms else ""
    return f"ggcp-schema export{option} {shell_word(summary.file)} --base BASE.gguf{norms}"
