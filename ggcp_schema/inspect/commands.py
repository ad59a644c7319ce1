"""Command lines about a file, as they can be typed into a shell: what `info` advises, and what a user fills in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ggcp_schema.errors import quoted, shell_word
from ggcp_schema.files.source import STREAMS
from ggcp_schema.formats.vocabularies import is_after_vocabulary
from ggcp_schema.llama.facts import Line

if TYPE_CHECKING:
    from ggcp_schema.constructs import Field
    from ggcp_schema.files.tensor import Tensor
    from ggcp_schema.inspect.damage import Condition
    from ggcp_schema.inspect.facts import Summary

PROGRAM = "ggcp-schema"
BLANKS = {
    "OUTPUT": "the path of a new file",
    "VOCABULARY": "a llama GGUF, ggjt or sentencepiece model with the vocabulary of the training",
    "CHECKPOINT": "a checkpoint",
    "BASE.gguf": "the model that the adapter was trained on",
    "N": "the context length of the training",
    "CONTEXT": "",
}
"""Words of a command in place of which the user gives others, and what is to be given; empty if it may be left out."""
NEEDED = {"vocab": "--vocab VOCABULARY", "context_length": "--context-length N"}
"""The options of an export, with such words, by the parameter that the file may not tell."""
OUTPUTS = {
    "resume": ".resume.gguf",
    "gguf": ".model.gguf",
    "hf": "-hf",
    "adapter": ".adapter.gguf",
    "peft": "-peft",
    "repaired": ".repaired.ggcp",
    "tensors": ".safetensors",
    "patched": ".patched.gguf",
}
"""What the names of outputs end in, by what is made."""
EXPORTED = {
    "gguf": ("Export a model", "Write a GGUF model to run with llama.cpp."),
    "hf": ("Export for PyTorch", "Write a folder for transformers, MLX and vLLM. llama.cpp runs the file as it is."),
    "adapter": ("Export an adapter", "Write a GGUF adapter to run with llama.cpp and its base."),
}
"""The title and the note of the command that exports, by what it makes."""
PYTORCH = "PyTorch"  # the label of the command that makes something for it
STRIPPED = {".ggcp", ".bin", ".gguf", ".ggjt", ".ggla", ".ggcl"}  # suffixes that the name of an output does not keep


def output_name(path: str | Path, suffix: str) -> str:
    """Return the name that an output has if none is given, in the current folder: `chk.resume.gguf` for `chk.ggcp`."""
    source = Path(path)
    return (source.stem if source.suffix in STRIPPED else source.name) + suffix


# Advice ----------------------------------------------------------------------------------------------------


def next_commands(summary: Summary) -> Iterator[Line]:
    """Yield commands that make something of the file, labelled by what for. Words in capitals have to be replaced.

    They come in this order: run the model in llama.cpp; go on training it, with the trainer of 2023 or in PyTorch; look
    inside.
    """
    if summary.file.startswith(STREAMS):
        return
    path = shell_word(summary.file)
    if summary.is_repairable:
        yield Line("rescue", repair_command(summary.file))
    yield from _uses(summary, path)
    if summary.broken:
        yield Line("check", f"ggcp-schema validate {path}")
    yield Line("look", f"ggcp-schema browse {path}")


def _uses(summary: Summary, path: str) -> Iterator[Line]:
    if summary.condition is not None:
        yield from _commands_for_damaged(summary, summary.condition)
    elif summary.adapter is not None and summary.adapter.pairs:
        yield Line("run", _export_adapter(summary))
        yield from _train_on(summary, path)
        if summary.adapter.matrices:
            yield Line(PYTORCH, f"ggcp-schema export --to peft {path} --base BASE.gguf")
    elif summary.runs:
        yield Line("run", f"llama-completion -m {path} -p 'Once upon a time'")
        yield from _in_pytorch(summary)
        yield Line("measure", f"ggcp-schema stats {path}")
    elif summary.era is not None or summary.has_model:
        if summary.has_model:
            yield Line("run", _export(summary))
        yield from _train_on(summary, path)
        yield from _in_pytorch(summary)
    elif summary.n_tokens and not summary.n_params and summary.has_usual_tokenizer:
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
        options = options if summary.keeps_state and not summary.is_optimizer_unsound else " --fresh-optimizer"
        yield Line("train on", f"ggcp-schema convert {path}{options}")


def with_blanks(command: str, path: str) -> str:
    """Return a command without the path and the names made of it, in place of which the user gives them."""
    blanks = {shell_word(output_name(path, suffix)): f"OUTPUT{suffix}" for suffix in OUTPUTS.values()}
    for word, blank in {shell_word(path): "FILE", **blanks}.items():
        command = f"{command} ".replace(f" {word} ", f" {blank} ").removesuffix(" ")
    return command


def repair_command(path: str) -> str:
    """Return the command that takes back what a file holds twice."""
    return f"ggcp-schema repair {shell_word(path)} {shell_word(output_name(path, OUTPUTS['repaired']))}"


def _commands_for_damaged(summary: Summary, condition: Condition) -> Iterator[Line]:
    path = shell_word(summary.file)
    if condition.model_is_whole and summary.has_model:
        yield Line("rescue", _export(summary, " --partial"))
    elif condition.model_is_whole and summary.adapter is not None:
        yield Line("rescue", _export_adapter(summary, " --partial"))
    elif summary.tensor_types and not condition.damage.is_restorable:
        output = shell_word(output_name(summary.file, OUTPUTS["tensors"]))
        yield Line("rescue", f"ggcp-schema extract {path} '*' {output} --partial")
    yield from _train_on(summary, path)
    yield Line("check", f"ggcp-schema validate {path}")


def _export(summary: Summary, option: str = "") -> str:
    path = shell_word(summary.file)
    is_whole = summary.condition is None or is_after_vocabulary(summary.condition.damage)
    fits = is_whole and summary.n_tokens and (summary.hparams or {}).get("n_vocab") in (None, summary.n_tokens)
    vocab = "" if fits else f" {NEEDED['vocab']}"
    context = "" if summary.context.tokens else f" {NEEDED['context_length']}"
    return f"ggcp-schema export{option} {path}{vocab}{context}"


def _export_adapter(summary: Summary, option: str = "") -> str:
    patched = shell_word(output_name(summary.file, OUTPUTS["patched"]))
    norms = f" --patched-base {patched}" if summary.adapter is not None and summary.adapter.norms else ""
    return f"ggcp-schema export{option} {shell_word(summary.file)} --base BASE.gguf{norms}"


# Commands to fill in -----------------------------------------------------------------------------------------


class Blank(str):
    """A word of `BLANKS` in a command."""


class Command(NamedTuple):
    """A command with blanks: what it does, its words, and the text that the blank for the output begins with."""

    title: str
    note: str
    words: list[str]
    output: str

    def filled(self, values: dict[str, str]) -> list[str]:
        """Return the words with these in place of the blanks. An empty one stays, or is left out with its option."""
        words: list[str] = []
        for word in self.words:
            value = values.get(word, "").strip() if isinstance(word, Blank) else word
            if value or BLANKS[word]:
                words.append(value or word)
            else:
                words.pop()
        return words


def line(words: Sequence[str]) -> str:
    """Return the command as it is typed into a shell. Paths that begin with a dash have `./` before them already."""
    return " ".join([PROGRAM, *(word if word.startswith("-") else shell_word(word) for word in words)])


def _path(file: str) -> str:
    return f"./{file}" if file.startswith("-") else file


def printing(file: str, field: Field | None, offset: int, element: int | None = None) -> str:
    """Return the command that prints the field, of data only the element, if one is given; or the bytes of no field."""
    if field is None:
        return line(["hex", _path(file), str(offset)])
    path = field.path
    if field.type == "data" and element is not None:
        path += f"[{element}]"
    is_value = field.type != "padding" and (field.type != "data" or element is not None)
    return line([("get" if is_value else "hex") if field.is_leaf else "dump", _path(file), *([path] if path else [])])


def extracting(file: str, tensor: Tensor) -> Command:
    """Return the command that copies one tensor to a numpy file."""
    out = "".join(char if char.isalnum() or char in "._-" else "-" for char in tensor.path.replace("]", "")) + ".npy"
    note = "Write the tensor to a file: .npy, .safetensors, .csv or .png."
    return Command("Extract this tensor", note, ["extract", _path(file), tensor.path, Blank("OUTPUT")], out)


def exporting(file: str, advice: Sequence[str] = ()) -> Command:
    """Return the command that writes what can be run; `advice` are the commands that `info` gives."""
    words = _advised("export", file, advice)
    if "--vocab" in words and "--context-length" not in words:
        words += ["--context-length", Blank("CONTEXT")]
    made = "adapter" if "--base" in words else "hf" if "hf" in words else "gguf"
    title, note = EXPORTED[made]
    return Command(title, note, words, _path(output_name(file, OUTPUTS[made])))


def converting(file: str, advice: Sequence[str] = ()) -> Command:
    """Return the command that writes a checkpoint to resume from."""
    note = "Write a GGUF checkpoint from which training can go on."
    words, out = _advised("convert", file, advice), output_name(file, OUTPUTS["resume"])
    return Command("Convert to a GGUF checkpoint", note, words, _path(out))


def _advised(verb: str, file: str, advice: Sequence[str]) -> list[str]:
    """Return the words of the first command for this that `info` gives, or those of the bare command."""
    places = {"FILE": file, "PATCHED": output_name(file, OUTPUTS["patched"])}
    found = next((each for each in advice if each.startswith(f"{PROGRAM} {verb} ")), f"{PROGRAM} {verb} FILE")
    for word, place in places.items():  # `shlex` does not read all words that a shell does
        found = f"{found} ".replace(f" {shell_word(place)} ", f" {word} ")
    words = found.split()[1:]
    words.insert(1 + next(at for at, word in enumerate(words) if word in ("FILE", "CHECKPOINT")), "OUTPUT")
    return [_path(places[word]) if word in places else Blank(word) if word in BLANKS else word for word in words]
