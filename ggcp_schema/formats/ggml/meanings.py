"""The model in a ggml, ggmf or ggjt file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggcp_schema.errors import UsageError
from ggcp_schema.formats.file import CHECKPOINT_NEEDED
from ggcp_schema.llama import names
from ggcp_schema.llama.eras import Evidence
from ggcp_schema.llama.model import Model, check_no_others
from ggcp_schema.llama.training import modification_date, whole_model
from ggcp_schema.schema.inference import n_ff_by_formula

if TYPE_CHECKING:
    from ggcp_schema.formats.ggml.file import GgmlFile


def model_of_ggml(file: GgmlFile) -> Model:
    """Return the model of a file before GGUF, whose quantized tensors must be of a type that GGUF stores alike."""
    hparams = file.hparams
    file.check_whole(len(file.tensors), names.n_tensors(hparams.n_layer))
    if not file.tensors:
        raise UsageError(f"{file.path} is a vocabulary", CHECKPOINT_NEEDED)
    w1 = file.tensors.get(str(names.llama_name("layers[0].w1")))
    n_ff = w1.shape[-1] if w1 else 0
    tensors = whole_model(
        file.path, file.tensors, names.llama_name, hparams.n_vocab, hparams.n_embd, hparams.n_layer, n_ff, any_type=True
    )
    check_no_others(file.path, file.tensors, tensors.values())
    for tensor in tensors.values():
        if tensor.type not in file.types_of_gguf:
            version = f" version {file.container['version']}" if "version" in file.container else ""
            raise UsageError(
                f"{file.path}: tensor {tensor.name} is {tensor.type} as {file.format.name}{version} stores it; "
                "GGUF's blocks of this type are different ones, or it has none",
                "Quantize the model again from the file with F16 or F32 weights that this one was made from.",
            )
    is_f32 = all(tensor.type == "F32" for tensor in tensors.values())
    return Model(
        path=file.path,
        n_vocab=hparams.n_vocab,
        n_embd=hparams.n_embd,
        n_head=hparams.n_head,
        n_layer=hparams.n_layer,
        n_ff=n_ff,
        n_rot=hparams.n_rot,
        tensors=tensors,
        evidence=Evidence(
            first_tensor=next(iter(file.tensors)),
            n_mult=hparams.n_mult,
            n_ff=n_ff,
            n_ff_by_formula=n_ff_by_formula(hparams.n_embd, hparams.n_mult),
            modified=modification_date(file.source),
            is_model=True,
        ),
        has_vocabulary=True,
        file_type=0 if is_f32 else file.container["ftype"],
    ).checked()
