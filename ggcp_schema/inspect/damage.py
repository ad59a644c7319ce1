"""What is whole in a damaged file, what is lost, and how large the whole file was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ggcp_schema.constructs import Struct
from ggcp_schema.errors import MalformedError, TruncatedError
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.formats.file import File
from ggcp_schema.formats.ggcp.extent import end_of_tensor, expected_sizes, state_schemas
from ggcp_schema.inspect.tensors import STATE_SCHEMAS, Listed, listing, matching, model_of, split_moments, state_of
from ggcp_schema.inspect.text import count_text, size_text
from ggcp_schema.llama import names
from ggcp_schema.llama.names import STATE
from ggcp_schema.llama.training import model_shapes
from ggcp_schema.schema.ggml import GGML_TYPES, data_size
from ggcp_schema.schema.tensor import declared_shape

Line = tuple[str, str]
LEAST_LAYER = 9 * 12  # bytes: the headers of nine tensors
PLAUSIBLE_LAYERS = 1000  # a larger n_layer is taken for damaged, unless the file could hold as many


class Condition(NamedTuple):
    """The condition of a damaged file.

    Attributes:
        damage: the error that ended the parse.
        size: the size of the file in bytes.
        model: the number of whole tensors of the model, and `model_total` the number it has; None if that is unknown.
        n_params: the elements of the whole tensors of the model.
        state: the whole tensors of the optimizer's state, by field.
        cut: the tensor in which the file ends, with the bytes that it lacks and those it should have; else None.
        whole_sizes: the sizes in bytes that the whole file can have had, by the type of the optimizer: one if the type
            is known, none if the sizes cannot be computed.
        least_size: the size at which the model ends, which the whole file exceeded; None if it cannot be computed.
    """

    damage: MalformedError
    size: int
    model: int
    model_total: int | None
    n_params: int
    state: tuple[str, ...]
    cut: tuple[str, int, int] | None
    whole_sizes: dict[str, int]
    least_size: int | None

    @property
    def model_is_whole(self) -> bool:
        """True if all tensors of the model are whole, so that it can be exported."""
        return bool(self.model) and self.model == self.model_total

    @property
    def has_model(self) -> bool:
        """True unless no tensor of a model was found or is known to be missing, as in a vocabulary file."""
        return bool(self.model or self.model_total)

    @property
    def is_truncated(self) -> bool:
        """True if the file ends too early, and False if it holds a wrong value or bytes after its end."""
        return isinstance(self.damage, TruncatedError)

    def as_dict(self) -> dict[str, Any]:
        """Return the condition for JSON; sizes are in bytes, `whole_sizes` by the type of the optimizer."""
        return {
            "model_whole": self.model_is_whole,
            "model_tensors": self.model,
            "model_tensors_total": self.model_total,
            "optimizer_tensors": list(self.state),
            "cut_tensor": self.cut and self.cut[0],
            "whole_sizes": self.whole_sizes,
            "least_size": self.least_size,
        }

    @property
    def verdict(self) -> str:
        """The condition in a few words: `model whole; optimizer cut in v`."""
        if self.damage.path == "file":
            return "whole, but more bytes follow"
        if not self.has_model:
            return f"damaged at {self.damage.path}"
        if not self.model_is_whole:
            total = "" if self.model_total is None else f" of {self.model_total:,}"
            return f"model damaged, {self.model:,}{total} tensors whole"
        place = self.damage.path.removeprefix(STATE).removeprefix("optimizer.").partition(".")[0]
        return f"model whole; optimizer {'cut' if self.is_truncated else 'damaged'} in {place}"

    def lines(self) -> Iterator[Line]:
        """Yield the condition in words, line by line with labels."""
        place = f"{self.damage.path} at offset {self.damage.offset:,}"
        yield "damage", f"{self.verdict} ({place})" if self.has_model else place
        if self.has_model:
            yield "whole", "; ".join(self._whole())
        if self.cut is not None:
            path, missing, nbytes = self.cut
            yield "cut", f"{path} lacks {missing:,} of its {size_text(nbytes)}"
        lost = "; ".join(self._lost())
        if lost:
            yield "lost", lost

    def _whole(self) -> Iterator[str]:
        if self.model_is_whole:
            yield f"the model, {count_text(self.model, 'tensor')} with {count_text(self.n_params, 'parameter')}"
        elif self.model_total is None:
            yield f"{count_text(self.model, 'tensor')} of the model"
        else:
            yield f"{self.model:,} of the model's {count_text(self.model_total, 'tensor')}"
        if self.state:
            yield f"of the optimizer's state {', '.join(self.state)}"

    def _lost(self) -> Iterator[str]:
        if not self.is_truncated:
            return
        for optimizer, size in self.whole_sizes.items():
            condition = f" if the optimizer is {optimizer}" if len(self.whole_sizes) > 1 else ""
            if size > self.size:
                share = 100 * (size - self.size) / size
                yield f"{size - self.size:,} ({share:.1f} %) of the {size_text(size)} of the whole file{condition}"
        if self.least_size is not None and self.least_size > self.size:
            missing = self.least_size - self.size
            yield f"{size_text(missing)} of the model, which ended at {self.least_size:,}, and all of the optimizer"


def condition_of(file: File) -> Condition | None:
    """Return the condition of a damaged file that was opened with `partial=True`; None for a whole one."""
    if file.damage is None:
        return None
    items = listing(file)
    model = model_of(items)
    sizes = WHOLE_SIZES[file.format.name](file)
    expected = expected_tensors(file)
    total = None if expected is None else sum(not path.startswith(STATE) for path in expected)
    return Condition(
        damage=file.damage,
        size=file.size,
        model=len(model),
        model_total=total,
        n_params=sum(tensor.n_elements for tensor in model.values()),
        state=tuple(state_of(items)),
        cut=_cut(file),
        whole_sizes=sizes,
        least_size=None if sizes or file.format.name != "ggcp" else _model_end(file),
    )


def expected_tensors(file: File) -> list[str] | None:
    """Return the ggcp paths of the tensors that the whole file had; None if that cannot be known.

    A tensor of a GGUF file that has no ggcp path is given by its name. If the type of the optimizer is not known, the
    tensors of all types are returned.
    """
    return EXPECTED[file.format.name](file)


def _expected_in_checkpoint(file: File) -> list[str] | None:
    shapes = _model_shapes(file)
    if shapes is None:
        return None
    fields = {
        name: None for schema in _state_schemas(file).values() for name, field in schema.fields if declared_shape(field)
    }
    return [*shapes, *(f"{STATE}{name}" for name in fields)]


def _state_schemas(file: File) -> dict[str, Struct]:
    """Return the schemas that the state can have, by the type of the optimizer."""
    optimizer = file.get("optimizer") or {}
    return state_schemas(optimizer) if "type" in optimizer else STATE_SCHEMAS


def _expected_in_gguf(file: File) -> list[str] | None:
    infos = file.get("tensor_infos") or ()
    found = [info["name"] for info in infos if "_size" in info]
    if len(found) != file.get("tensor_count"):
        return None
    return [names.field_path(name) or name for name in found]


def missing_tensors(file: File, pattern: str) -> list[str]:
    """Return the tensors that a pattern matches in the whole file, but that are not whole in the damaged one.

    If it cannot be known which tensors the whole file had, `...` stands for those that may be missing.
    """
    items = listing(file)
    if any(pattern in item.names for item in items):
        return []
    expected = expected_tensors(file)
    if expected is None:
        return ["..."]
    kind = file.get("optimizer.type")
    wanted = [
        Listed(Tensor(path, "", (), 0, 0, file.source), path, names.tensor_name(path, kind), "") for path in expected
    ]
    parts = split_moments(pattern)
    whole = {name for item in items for name in item.names}
    found = matching(wanted, pattern if parts is None else parts[0])
    return [item.name for item in found if item.name not in whole]


def _unknown(file: File) -> list[str] | None:
    return None


EXPECTED: dict[str, Callable[[File], list[str] | None]] = {
    "ggcp": _expected_in_checkpoint,
    "gguf": _expected_in_gguf,
    "ggjt": _unknown,
    "ggmf": _unknown,
    "ggml": _unknown,
}


def _model_shapes(file: File) -> dict[str, tuple[int, ...]] | None:
    hparams = file.get("hparams") or {}
    if "n_rot" not in hparams or hparams["n_layer"] > max(PLAUSIBLE_LAYERS, file.size // LEAST_LAYER):
        return None
    return model_shapes(hparams["n_vocab"], hparams["n_embd"], hparams["n_layer"], file.get("n_ff") or 0)


def _cut(file: File) -> tuple[str, int, int] | None:
    """Return the path of the tensor whose data the file ends in, the bytes it lacks, and those it should have."""
    damage = file.damage
    if not isinstance(damage, TruncatedError) or not damage.path.endswith(".data"):
        return None
    return damage.path.removesuffix(".data"), damage.missing, damage.missing + file.size - damage.offset


# Sizes of whole files --------------------------------------------------------------------------------------


def _sizes_of_checkpoint(file: File) -> dict[str, int]:
    return expected_sizes(file.container)


def _model_end(file: File) -> int | None:
    """Return the offset of the first byte after the model; None if n_ff or the length of the names is unknown."""
    shapes = _model_shapes(file)
    name_of = NAMES.get(file.get("tok_embeddings.name"))
    if shapes is None or name_of is None:
        return None
    if name_of is not names.llama_name and len(file.get("layers[0].w1.ne") or ()) < 2:
        return None  # n_ff by n_mult is right only in files with llama's names
    at = file.find("hparams").end
    for path, shape in shapes.items():
        at = end_of_tensor(at, shape, len(name_of(path) or ""))
    return at


NAMES = {b"tok_embeddings.weight": names.llama_name, b"token_embd.weight": names.tensor_name}  # by the first tensor's


def _size_of_gguf(file: File) -> dict[str, int]:
    infos, start = file.get("tensor_infos") or (), file.get("data_start")
    if start is None or not infos:
        return {}
    ends = (info["offset"] + data_size(GGML_TYPES[info["type"]], info["dimensions"] or [1]) for info in infos)
    return {str(file.get(names.OPTIMIZER_TYPE, "")): start + max(ends)}


def _no_sizes(file: File) -> dict[str, int]:
    return {}


WHOLE_SIZES: dict[str, Callable[[File], dict[str, int]]] = {
    "ggcp": _sizes_of_checkpoint,
    "gguf": _size_of_gguf,
    "ggjt": _no_sizes,
    "ggmf": _no_sizes,
    "ggml": _no_sizes,
}
