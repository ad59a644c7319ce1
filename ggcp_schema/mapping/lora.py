"""What can be made of a LoRA adapter and its base model: a GGUF adapter, a PEFT folder, a merged model."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from ggcp_schema.errors import UsageError
from ggcp_schema.files.contents import Patched, Safetensors, Text
from ggcp_schema.files.output import WHOLE, Parts, WriteOptions
from ggcp_schema.files.pieces import Progress, stored
from ggcp_schema.formats import open_file
from ggcp_schema.formats.file import File
from ggcp_schema.gguf.entries import is_copied
from ggcp_schema.gguf.writer import Gguf
from ggcp_schema.llama import names
from ggcp_schema.llama.adapter import Adapter, Base
from ggcp_schema.llama.adapter_facts import adapter_facts
from ggcp_schema.mapping.adapter import adapter_keys, adapter_tensors, patched_norms
from ggcp_schema.mapping.adapter_choices import Norms, Target, choice_notes, chosen, norms_of
from ggcp_schema.mapping.base import base_of
from ggcp_schema.mapping.merged import merged
from ggcp_schema.mapping.peft import peft_card, peft_config, peft_tensors
from ggcp_schema.mapping.plan import OUTPUT, Command, Plan, Written, write

TARGETS: Mapping[str, str] = {
    "adapter": "a GGUF adapter for llama.cpp",
    "peft": "a folder for PEFT",
    "gguf": "a GGUF model with the adapter merged into the base",
}
"""What can be made of an adapter, with its title."""


def plan_adapter(
    file: File,
    base: File,
    *,
    to: str = "adapter",
    scale: float | None = None,
    verbatim: bool = False,
    ignore_norms: bool = False,
    patched_base: str | os.PathLike[str] | None = None,
) -> Plan:
    """Plan what is made of an adapter and the model that it was trained on.

    Parameters:
        base: the model, open: GGUF of any type, ggjt, or ggcp. It stays open while the plan is carried out.
        to: adapter, peft or gguf.
        scale: what each product is multiplied by; None takes the one that the file states.
        verbatim: take an adapter that was made from PEFT as llama.cpp of 2023 took it.
        ignore_norms: leave the norms out.
        patched_base: write a copy of the base there, to whose norms those of the adapter are added.

    Raises `MalformedError` if a file is damaged, `UsageError` if the files do not fit or norms would be lost.
    """
    if to not in TARGETS:
        raise UsageError(f"an adapter cannot be exported to {to!r}", f"Choose from: {', '.join(TARGETS)}.")
    target: Target = to  # type: ignore[assignment]
    model = base_of(base)
    adapter = chosen(file.adapter(), model, scale=scale, verbatim=verbatim)
    norms = norms_of(adapter, target, patched_base=patched_base is not None, ignore=ignore_norms)
    parts = {"adapter": _adapter, "peft": _peft, "gguf": _merged}[target](adapter, model, base, norms)
    beside: dict[str, Parts] = {}
    if patched_base is not None:
        patches = [(patch.offset, patch.data) for patch in patched_norms(adapter, model)]
        beside[os.fspath(patched_base)] = {WHOLE: Patched(base.source, patches)}
    described = (*adapter_facts(adapter), *choice_notes(adapter, model, target, norms))
    runs_on = os.fspath(patched_base) if patched_base is not None else base.path
    lora = ("--lora", OUTPUT) if target == "adapter" else ()
    command = ("llama-completion", "-m", runs_on if lora else OUTPUT, *lora, "-p", "Once upon a time")
    return Plan(
        target=target,
        file=file,
        inputs=(file.path, base.path),
        parts=parts,
        beside=beside,
        facts=described,
        warnings=file.findings,
        next=() if target == "peft" else (Command("run", command),),
    )


def _adapter(adapter: Adapter, model: Base, base: File, norms: Norms) -> Parts:
    return {WHOLE: Gguf(adapter_keys(), adapter_tensors(adapter, model))}


def _peft(adapter: Adapter, model: Base, base: File, norms: Norms) -> Parts:
    name, saved = os.path.basename(base.path), norms == "saved"
    config = json.dumps(peft_config(adapter, model, name, norms=saved), indent=2) + "\n"
    return {
        "adapter_config.json": Text(config),
        "adapter_model.safetensors": Safetensors({"format": "pt"}, peft_tensors(adapter, model, norms=saved)),
        "README.md": Text(peft_card(adapter, name, norms="none" if norms == "ignored" else norms)),
    }


def _merged(adapter: Adapter, model: Base, base: File, norms: Norms) -> Parts:
    if names.ARCHITECTURE not in base.key_values:
        raise UsageError(
            f"{base.path} is a {base.format.title}; an adapter is merged into a GGUF model",
            "Export the base to GGUF first, and pass the result.",
        )
    changed = merged(adapter, model)
    keys = [entry for entry in base.key_values.values() if is_copied(base.path, entry)]
    tensors = [
        changed.get(base.names_of(tensor)[0] or "") or stored(name, tensor) for name, tensor in base.tensors.items()
    ]
    return {WHOLE: Gguf(keys, tensors)}


def export_adapter(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str],
    to: str = "adapter",
    scale: float | None = None,
    verbatim: bool = False,
    norms: str | None = None,
    patched_base: str | os.PathLike[str] | None = None,
    strict: bool = False,
    force: bool = False,
    verify: bool = False,
    sync: bool = True,
    progress: Progress | None = None,
) -> Written:
    """Export the LoRA adapter at `source`: a ggla file, a ggcl checkpoint, or a GGUF checkpoint of finetune.

    Parameters:
        base: the model that it was trained on: GGUF of any type, ggjt, or ggcp.
        to: adapter, for llama.cpp; peft, a folder; gguf, the base with the adapter merged into it.
        scale: what each product is multiplied by. None takes the one that the file states.
        verbatim: take an adapter that was made from PEFT as llama.cpp of 2023 took it, not as it was trained.
        norms: "ignore" leaves the trained norms out, which llama.cpp ignores in an adapter.
        patched_base: write a copy of the base there, to whose norms those of the adapter are added.

    The other parameters are those of `convert`. Raises `MalformedError` if a file is damaged, `UsageError` if the files
    do not fit or norms would be lost, `FileError` if a file cannot be read or written.
    """
    options = WriteOptions(strict, force, verify, sync, progress)
    with open_file(source, partial=True) as file, open_file(base) as opened:
        plan = plan_adapter(
            file,
            opened,
            to=to,
            scale=scale,
            verbatim=verbatim,
            ignore_norms=ignored(norms),
            patched_base=patched_base,
        )
        return write(plan, output, options)


def ignored(norms: str | None) -> bool:
    """Return True if the norms are to be ignored. Raises `UsageError` for another word."""
    if norms not in (None, "ignore"):
        raise UsageError(f"norms cannot be {norms!r}", "The only choice is to ignore them.")
    return norms is not None
