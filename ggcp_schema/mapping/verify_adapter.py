"""Compare what was made of a LoRA adapter: alone, or with its base model."""

from __future__ import annotations

import os
from dataclasses import replace
from math import prod
from pathlib import Path

from ggcp_schema.errors import UsageError
from ggcp_schema.files.compare import Difference, comparable
from ggcp_schema.files.contents import Json, read_json
from ggcp_schema.files.output import WHOLE
from ggcp_schema.files.tensor_entries import Progress
from ggcp_schema.formats import open_file
from ggcp_schema.formats.file import File
from ggcp_schema.formats.gguf.file import GgufFile
from ggcp_schema.formats.gguf.keys import Keys
from ggcp_schema.llama import names
from ggcp_schema.llama.adapter import Adapter
from ggcp_schema.llama.rotation import Heads
from ggcp_schema.mapping import hf, verify_hf
from ggcp_schema.mapping.adapter import adapter_keys, adapter_tensors
from ggcp_schema.mapping.export import ModelOptions
from ggcp_schema.mapping.gguf import Gguf, differences, extra_keys
from ggcp_schema.mapping.lora import plan_adapter
from ggcp_schema.mapping.peft import PEFT, PEFT_CONFIG
from ggcp_schema.mapping.plan import Kind, rescued
from ggcp_schema.mapping.verify import Compared, Verification

BASE_NAME = "base_model_name_or_path"  # which is that of a copy with the norms, if one was written


def verify_adapter(
    file: File, gguf: GgufFile, progress: Progress | None = None, *, partial: bool = False
) -> Verification:
    """Compare the adapter in a file with the GGUF adapter, or the checkpoint of finetune, that was made from it.

    With `partial`, a damaged file is accepted if all of its adapter is whole. Raises `UsageError` if no such file can
    be made from it alone.
    """
    if file.damage is not None and not partial:
        raise rescued(file, "Use partial=True to compare it.")
    kind, content = _made_from(file, gguf)
    keys = [entry for entry in content.keys if entry.key != names.RMS_EPSILON]
    epsilon, tensors = gguf.value(names.RMS_EPSILON), content.tensors
    found = differences(gguf, keys, tensors, progress=progress)
    compared = comparable(gguf.tensors, tensors)
    n_params = sum(tensor.n_elements for name, tensor in gguf.tensors.items() if not names.is_optimizer(name))
    nbytes = sum(entry.nbytes for entry in compared)
    return Verification(
        file.path,
        gguf.path,
        kind,
        Compared(sum(entry.key in gguf.key_values for entry in keys), len(compared), nbytes, n_params),
        epsilon if isinstance(epsilon, float) else None,
        "the optimizer's vectors as in the checkpoint" if kind == "resume" else None,
        tuple(key for key in extra_keys(gguf, keys) if key != names.RMS_EPSILON),
        tuple(found),
    )


def made_with_base(file: File, output: str) -> UsageError:
    """Return the error for an output that is not made from an adapter alone."""
    alone = "a GGUF adapter or a GGUF checkpoint" if file.damage is None and file.converted() else "a GGUF adapter"
    return UsageError(
        f"{output} cannot be compared with {file.path} alone, because it is not {alone}",
        "Give the base model with which it was made too: --base MODEL.",
    )


def verify_with_base(
    file: File,
    base: File,
    output: str,
    progress: Progress | None = None,
    *,
    vocab: str | os.PathLike[str] | None = None,
    partial: bool = False,
) -> Verification:
    """Compare what was made of an adapter and its base with what `export_adapter` makes of them.

    The output tells what is to be made, if the norms are in it, and of a model the context length, the epsilon, the
    name and the type of the weights; everything else is compared, but for README.md. The exceptions are those of
    `export_adapter`, and `MalformedError` if the output is damaged.
    """
    to, without_norms, stated = _stated_by(base, output)
    model = stated._replace(vocab=vocab, partial=partial)
    plan = plan_adapter(file, base, to=to, ignore_norms=without_norms, model=model)
    parts = {name: content for name, content in plan.parts.items() if name != hf.CARD}
    place, n_keys = Path(output), 0
    found: list[Difference] = []
    for name, content in parts.items():
        expected = content
        if isinstance(content, Json):
            if name == PEFT_CONFIG and isinstance(read_json(place / name).get(BASE_NAME), str):
                expected = replace(content, free=(BASE_NAME,))
            n_keys += len(content.value)
        elif isinstance(content, Gguf):
            n_keys += len(content.keys)
        found += verify_hf.part_differences(place, name, expected, progress)
    if WHOLE not in parts:
        found += verify_hf.unexpected_files(place, parts)
    n_params, nbytes = sum(prod(entry.shape) for entry in plan.tensors), sum(entry.nbytes for entry in plan.tensors)
    epsilon = next((fact.value for fact in plan.facts if fact.label == "epsilon"), None)
    compared = Compared(n_keys, len(plan.tensors), nbytes, n_params)
    return Verification(file.path, output, plan.kind, compared, epsilon, None, (), tuple(found))


def _stated_by(base: File, output: str) -> tuple[str, bool, ModelOptions]:
    """Return what an output is, whether norms of the adapter are not in it, and what was stated when it was made."""
    if os.path.isdir(output):
        if verify_hf.folder_kind(Path(output)) == PEFT:
            return "peft", "modules_to_save" not in read_json(Path(output, PEFT_CONFIG)), ModelOptions()
        length, eps, dtype = verify_hf.stated_in(Path(output, hf.CONFIG), read_json(Path(output, hf.CONFIG)))
        return "hf", False, ModelOptions(context_length=length, rms_eps=eps, dtype=dtype)
    with open_file(output) as gguf:
        if not isinstance(gguf, GgufFile):
            raise UsageError(f"{output} is a {gguf.short}", "Pass what was made of the adapter: GGUF, or a folder.")
        if names.LORA_ALPHA in gguf.key_values:
            return "adapter", True, ModelOptions()
        if names.ARCHITECTURE in base.key_values:  # all else is as in the base
            return "gguf", False, ModelOptions()
        keys = Keys(gguf)
        name = keys.text(names.NAME) or ""
        return "gguf", False, ModelOptions(None, keys.count(names.CONTEXT_LENGTH), keys.real(names.RMS_EPSILON), name)


def _made_from(file: File, gguf: GgufFile) -> tuple[Kind, Gguf]:
    if names.LORA_ALPHA in gguf.key_values:
        adapter = file.adapter()
        return "adapter", Gguf(adapter_keys(), adapter_tensors(adapter, _heads_of(adapter, gguf)))
    converted = file.converted()
    if converted is None or not gguf.has_adapter:
        raise made_with_base(file, gguf.path)
    return "resume", Gguf(*converted)


def _heads_of(adapter: Adapter, gguf: GgufFile) -> Heads:
    """Return the heads of the base by which rows that PEFT trained were reordered; 0 if they are as in the file."""
    import numpy as np

    found = {"wq": 0, "wk": 0}
    for path in adapter.pairs if adapter.is_reordered else ():
        tensor, name = gguf.tensors.get(f"{names.tensor_name(path)}.lora_b"), path.rpartition(".")[2]
        if name not in found or found[name] or tensor is None:
            continue
        n_rows = adapter.pairs[path].shape[1]
        for n_head in (n for n in range(1, n_rows // 2 + 1) if n_rows % (2 * n) == 0):
            rows = adapter_tensors(adapter, Heads(n_head, n_head), only=[path])[1]
            if np.array_equal(np.frombuffer(b"".join(rows.chunks()), "<f4"), tensor.array().ravel(), equal_nan=True):
                found[name] = n_head
                break
    return Heads(found["wq"], found["wk"])
