"""What can be made of a LoRA adapter and its base model: a GGUF adapter, a PEFT folder, a merged model."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import replace
from typing import get_args

from ggcp_schema.errors import UsageError
from ggcp_schema.files.contents import Json, Patched, Safetensors, Text
from ggcp_schema.files.key_values import is_copied
from ggcp_schema.files.output import WHOLE, Parts, WriteOptions
from ggcp_schema.files.tensor import ELEMENT_SIZES
from ggcp_schema.files.tensor_entries import Progress, stored
from ggcp_schema.formats import open_file
from ggcp_schema.formats.file import File
from ggcp_schema.huggingface.tensors import parameter_names
from ggcp_schema.llama import names
from ggcp_schema.llama.adapter import Adapter, Base, adapter_facts
from ggcp_schema.llama.facts import Fact
from ggcp_schema.llama.rotation import Heads
from ggcp_schema.mapping.adapter import (
    Target,
    adapter_keys,
    adapter_tensors,
    choice_notes,
    chosen,
    merged,
    norms_of,
    patched_norms,
)
from ggcp_schema.mapping.export import ModelOptions, choose
from ggcp_schema.mapping.gguf import Gguf
from ggcp_schema.mapping.hf import DTYPES, METADATA, README, element_type, hf_parts
from ggcp_schema.mapping.peft import PEFT_CONFIG, PEFT_WEIGHTS, peft_card, peft_config, peft_tensors
from ggcp_schema.mapping.plan import OUTPUT, Command, Plan, Written, damage_facts, rescued, write

TARGETS = get_args(Target)
"""What can be made of an adapter."""


def plan_adapter(
    file: File,
    base: File,
    *,
    to: str = "adapter",
    scale: float | None = None,
    verbatim: bool = False,
    ignore_norms: bool = False,
    patched_base: str | os.PathLike[str] | None = None,
    model: ModelOptions = ModelOptions(),  # noqa: B008
) -> Plan:
    """Plan what is made of an adapter and the model that it was trained on.

    The parameters and the exceptions are those of `export_adapter`. `base` stays open while the plan is carried out;
    `ignore_norms` leaves the norms out; `model` is what is stated of the model that is written, if one is.
    """
    if to not in TARGETS:
        hint = "Choose from: adapter, peft (for PyTorch); of adapter and base a model: gguf, hf (for PyTorch)."
        raise UsageError(f"an adapter cannot be exported to {to!r}", hint)
    if file.damage is not None and not model.partial:
        raise rescued(file, "Use partial=True to export it.")
    model = model._replace(partial=False)
    target: Target = to  # type: ignore[assignment]
    weights = base_of(base)
    adapter = chosen(file.adapter(), weights, scale=scale, verbatim=verbatim)
    norms = norms_of(adapter, target, patched_base=patched_base is not None, ignore=ignore_norms)
    facts = [
        *damage_facts(file.damage, "adapter"),
        *adapter_facts(adapter),
        *choice_notes(adapter, weights, target, norms),
    ]
    with_norms = replace(adapter, pairs={path: adapter.pairs[path] for path in adapter.norms})
    makes_folder = to == "hf" or (to == "peft" and patched_base is not None)
    is_gguf = names.ARCHITECTURE in base.key_values
    merge = _folder if makes_folder else _changed if is_gguf else _gguf
    if merge is _changed or (patched_base is None and to in ("adapter", "peft")):
        _refuse(model, "no model is made of the base but a copy in GGUF")
    elif not makes_folder:
        _refuse(ModelOptions(dtype=model.dtype), "no folder is made")
    beside: dict[str, Parts] = {}
    if patched_base is not None:
        beside[os.fspath(patched_base)], more = merge(with_norms, weights, base, model)
        facts += more
    if target == "adapter":
        parts: Parts = {WHOLE: Gguf(adapter_keys(), adapter_tensors(adapter, weights.heads))}
    elif target == "peft":
        name = base.path if patched_base is None else os.fspath(patched_base)
        card = peft_card(adapter, name, is_folder=makes_folder, is_gguf=is_gguf, norms=norms)
        parts = _peft(adapter, weights, name if makes_folder else os.path.basename(name), card, norms == "saved")
    else:
        parts, more = merge(adapter, weights, base, model)
        facts += more
    runs_on = os.fspath(patched_base) if patched_base is not None else base.path if is_gguf else "BASE.gguf"
    lora = ("--lora", OUTPUT) if target == "adapter" else ()
    run = Command("run", ("llama-completion", "-m", runs_on if lora else OUTPUT, *lora, "-p", "Once upon a time"))
    return Plan(
        target=target,
        file=file,
        inputs=(file.path, base.path) if model.vocab is None else (file.path, base.path, os.fspath(model.vocab)),
        parts=parts,
        beside=beside,
        facts=tuple(facts),
        warnings=file.findings,
        next={"peft": (README._replace(purpose="a program that continues a text"),), "hf": (README,)}.get(to, (run,)),
    )


def base_of(file: File) -> Base:
    """Return the model in a file. Raises the damage of a damaged file, and `UsageError` if there is no llama model."""
    if file.damage is not None:
        raise file.damage.again()
    file.check_all_in_one()
    keys = file.key_values
    n_head = (file.facts().get("hparams") or {}).get("n_head")
    n_head_kv = keys[names.HEAD_COUNT_KV].value if names.HEAD_COUNT_KV in keys else n_head
    is_llama = names.ARCHITECTURE not in keys or keys[names.ARCHITECTURE].value == "llama"
    heads = [n for n in (n_head, n_head_kv) if isinstance(n, int) and n > 0]
    if file.model_tensors and is_llama and len(heads) == 2:
        return Base(file.path, file.model_tensors, Heads(*heads))
    raise UsageError(
        f"{file.path} contains no llama model",
        "Pass the model that was finetuned: a GGUF, a ggjt file or a ggcp checkpoint.",
    )


def _refuse(model: ModelOptions, why: str) -> None:
    """Raise `UsageError` if one of the options is stated."""
    for option, value in model._asdict().items():
        if value is not None and value is not False:
            raise UsageError(f"{option} means nothing here, because {why}", "Leave it out.")


def _peft(adapter: Adapter, base: Base, base_name: str, card: str, saves_norms: bool) -> Parts:
    config = json.dumps(peft_config(adapter, base, base_name, norms=saves_norms), indent=2) + "\n"
    return {
        PEFT_CONFIG: Json(config.encode()),
        PEFT_WEIGHTS: Safetensors(METADATA, peft_tensors(adapter, base, norms=saves_norms)),
        "README.md": Text(card),
    }


# The base with an adapter, or the part of one that has its norms, added --------------------------------------


def _changed(adapter: Adapter, base: Base, file: File, model: ModelOptions) -> tuple[Parts, Iterable[Fact]]:
    """Return a GGUF model with the pairs added, all else as it is: with norms alone a copy that is patched."""
    if not adapter.matrices:
        return {WHOLE: Patched(file.source, [*patched_norms(adapter, base)])}, ()
    changed = merged(adapter, base)
    keys = [entry for entry in file.key_values.values() if is_copied(file.path, entry)]
    tensors = [
        changed.get(file.names_of(tensor)[0] or "") or stored(name, tensor) for name, tensor in file.tensors.items()
    ]
    return {WHOLE: Gguf(keys, tensors)}, ()


def _gguf(adapter: Adapter, base: Base, file: File, model: ModelOptions) -> tuple[Parts, Iterable[Fact]]:
    """Return the GGUF model that `export` makes of a file, with the pairs added."""
    made = choose(file, model)
    content = made.gguf(model.name)
    changed = {entry.name: entry for entry in merged(adapter, base).values()}
    tensors = [changed.get(entry.name, entry) for entry in content.tensors]
    return {WHOLE: Gguf(content.keys, tensors)}, made.facts


def _folder(adapter: Adapter, base: Base, file: File, model: ModelOptions) -> tuple[Parts, Iterable[Fact]]:
    """Return the folder that `export` makes of a file, with the pairs added; quantized weights are decoded."""
    dtype = model.dtype or "f32"
    made = choose(file, model)
    changed = merged(adapter, base, type=element_type(dtype), hf_rows=True, every=True)
    tensors = [changed[path]._replace(name=name) for path, name in parameter_names(made.model.n_layer).items()]
    history = (Fact("base", os.path.basename(base.path)), Fact("adapter", os.path.basename(adapter.path)))
    kinds = sorted({tensor.type for tensor in base.tensors.values()} - set(ELEMENT_SIZES))
    decoded = [Fact("weights", f"{', '.join(kinds)} of the base decoded to {DTYPES[dtype]}")] if kinds else []
    parts, facts = hf_parts(made, model, tensors=tensors, facts=decoded, history=history)
    return parts, facts


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
    vocab: str | os.PathLike[str] | None = None,
    context_length: int | None = None,
    rms_eps: float | None = None,
    name: str | None = None,
    dtype: str | None = None,
    partial: bool = False,
    strict: bool = False,
    force: bool = False,
    verify: bool = False,
    sync: bool = True,
    progress: Progress | None = None,
) -> Written:
    """Export the LoRA adapter at `source`: a ggla file, a ggcl checkpoint, or a GGUF checkpoint of finetune.

    Parameters:
        base: the model that it was trained on: GGUF of any type, ggjt, or ggcp.
        to: adapter, for llama.cpp; peft, a folder; gguf or hf, the base with the adapter merged into it.
        scale: what each product is multiplied by. None takes that of the file.
        verbatim: take an adapter that was made from PEFT as llama.cpp of 2023 took it, not as it was trained.
        norms: "ignore" leaves the trained norms out, which llama.cpp ignores in an adapter.
        patched_base: write a copy of the base there, to whose norms those of the adapter are added: with peft a model
            folder for transformers, otherwise GGUF.
        vocab, context_length, rms_eps, name, dtype: those of `export_model`, if a model is made of the base: a folder,
            or GGUF of a base that is not GGUF.
        partial: accept a damaged checkpoint if all of its adapter is whole.

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
            model=ModelOptions(vocab, context_length, rms_eps, name, dtype, partial),
        )
        return write(plan, output, options)


def ignored(norms: str | None) -> bool:
    """Return True if the norms are to be ignored. Raises `UsageError` for another word."""
    if norms not in (None, "ignore"):
        raise UsageError(f"norms cannot be {norms!r}", "The only choice is to ignore them.")
    return norms is not None
