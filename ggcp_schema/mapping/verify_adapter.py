"""Compare a GGUF file with the file of a LoRA adapter that it was made from, without the base model."""

from __future__ import annotations

from ggcp_schema.errors import UsageError
from ggcp_schema.files.compare import Difference, comparable, data_differences, table_differences
from ggcp_schema.files.tensor_entries import Progress
from ggcp_schema.formats.file import File
from ggcp_schema.formats.gguf.file import GgufFile
from ggcp_schema.gguf.compare import extra_keys, key_differences
from ggcp_schema.gguf.writer import Gguf
from ggcp_schema.llama import names
from ggcp_schema.llama.adapter import Adapter
from ggcp_schema.llama.rotation import Heads
from ggcp_schema.mapping.adapter import adapter_keys, adapter_tensors
from ggcp_schema.mapping.model import rescued
from ggcp_schema.mapping.verify import Compared, Kind, Verification


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
    found = [*key_differences(gguf, keys), *table_differences(gguf.tensors, tensors)]
    if "trailing" in gguf:
        found.append(Difference("file", "", f"has {gguf['trailing'].nbytes} bytes after its end"))
    found += data_differences(gguf.tensors, tensors, progress)
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
    return UsageError(
        f"{output} cannot be compared with {file.path}, from which alone only a GGUF adapter"
        f"{' and a GGUF checkpoint are' if file.damage is None and file.converted() else ' is'} made",
        "What is made of it and a base model, `export --verify` compares as it is written.",
    )


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
