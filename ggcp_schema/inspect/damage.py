"""What is whole in a damaged file, what is lost, and how large the whole file was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ggcp_schema.errors import GgcpError, MalformedError, TruncatedError
from ggcp_schema.files.json_keys import json_keys
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.formats.file import File
from ggcp_schema.formats.paths import parse_path
from ggcp_schema.inspect.tensors import Listed, listing, matching, split_moments
from ggcp_schema.inspect.text import count_text, names_text, size_text
from ggcp_schema.llama import names
from ggcp_schema.llama.names import STATE
from ggcp_schema.schema.inference import optimizer_text

MOST_NAMED = 12  # tensors that are lost


@json_keys(
    "model_whole=model_is_whole model_tensors=model model_tensors_total=model_total optimizer_tensors=state "
    "lost_tensors=lost cut_tensor whole_sizes least_size"
)
class Condition(NamedTuple):
    """The condition of a damaged file.

    Attributes:
        damage: the error that ended the parse.
        size: the size of the file in bytes.
        model: the number of whole tensors of the model, and `model_total` the number it has; None if that is unknown.
        n_params: the elements of the whole tensors of the model.
        state: the whole tensors of the optimizer's state, by field.
        lost: the names of the tensors of which it is not proven that all bytes are there, if the file is not truncated.
        cut: the tensor in which the file ends, with the bytes that it lacks and those it should have; else None.
        whole_sizes: the sizes in bytes that the whole file can have had, by the type of the optimizer: one if the type
            is known, none if the sizes cannot be computed.
        least_size: the size at which the model ends, which the whole file exceeded; None if it cannot be computed.
        part: `model`, or `adapter` if that is what the file holds in its place.
        has_sizes: False if the model's tensors are whole, but a number is lost without which it cannot be exported.
    """

    damage: MalformedError
    size: int
    model: int
    model_total: int | None
    n_params: int
    state: tuple[str, ...]
    lost: tuple[str, ...]
    cut: tuple[str, int, int] | None
    whole_sizes: dict[str, int]
    least_size: int | None
    part: str = "model"
    has_sizes: bool = True

    @property
    def model_is_whole(self) -> bool:
        """True if all tensors of the model are whole, and its sizes known, so that it can be exported."""
        return bool(self.model) and self.model == self.model_total and self.has_sizes

    @property
    def has_model(self) -> bool:
        """True unless no tensor of a model was found or is known to be missing, as in a vocabulary file."""
        return bool(self.model or self.model_total)

    @property
    def is_truncated(self) -> bool:
        """True if the file ends too early, and False if it holds a wrong value or bytes after its end."""
        return isinstance(self.damage, TruncatedError)

    @property
    def cut_tensor(self) -> str | None:
        """The tensor in which the file ends; None if it ends in none."""
        return self.cut and self.cut[0]

    @property
    def verdict(self) -> str:
        """The condition in a few words: `model whole; optimizer cut in v`."""
        if self.damage.path == "file" and not self.lost:
            return "complete, with extra bytes at the end"
        if self.damage.path == "magic":
            return f"its first bytes are lost; {self._verdict}"
        if self.damage.is_unknown:
            what, number = self.damage.path, self.damage.found.partition(",")[0]
            found = f"; {count_text(self.model, 'tensor')} found" if self.has_model else ""
            return f"{what} {number} is not known{found}"
        return self._verdict

    @property
    def _verdict(self) -> str:
        if not self.has_model:
            return f"damaged at {self.damage.path}"
        if not self.has_sizes:
            return f"{self.part}'s tensors whole; damaged at {self.damage.path}"
        if not self.model_is_whole:
            whole = count_text(self.model, "tensor")
            if self.model_total is not None:
                whole = f"{self.model:,} of {count_text(self.model_total, 'tensor')}"
            return f"{self.part} damaged, {whole} whole"
        if not self.damage.path.startswith("optimizer."):
            return f"{self.part} whole; damaged at {self.damage.path}"
        place = self.damage.path.removeprefix(STATE).removeprefix("optimizer.").partition(".")[0]
        return f"{self.part} whole; optimizer {'cut' if self.is_truncated else 'damaged'} in {place}"

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield the condition in words, line by line with labels."""
        place = f"{self.damage.path} at offset {self.damage.offset:,}"
        label = "unknown" if self.damage.is_unknown else "damage"
        yield label, f"{self.verdict} ({place})" if self.has_model else place
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
            yield f"the {self.part}, {count_text(self.model, 'tensor')} with {count_text(self.n_params, 'parameter')}"
        elif self.model_total is None:
            yield f"{count_text(self.model, 'tensor')} of the {self.part}"
        else:
            yield f"{self.model:,} of the {self.part}'s {count_text(self.model_total, 'tensor')}"
        if self.state:
            yield f"of the optimizer's state {', '.join(self.state)}"

    def _lost(self) -> Iterator[str]:
        if self.lost:
            yield names_text(self.lost, MOST_NAMED)
        if not self.is_truncated:
            return
        for optimizer, size in self.whole_sizes.items():
            condition = f" if the optimizer is {optimizer_text(optimizer)}" if len(self.whole_sizes) > 1 else ""
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
    tensors = {item.path or item.name: item.tensor for item in listing(file)}
    model = [tensor for path, tensor in tensors.items() if not path.startswith(STATE)]
    state = (path for path, tensor in tensors.items() if not tensor.is_null and path.startswith(STATE))
    sizes = file.whole_sizes()
    expected = file.expected_tensors()
    total = None if expected is None else sum(not path.startswith(STATE) for path in expected)
    return Condition(
        damage=file.damage,
        size=file.size,
        model=len(model),
        model_total=total,
        n_params=sum(tensor.n_elements for tensor in model if tensor.path != names.ROPE_FREQS),
        state=tuple(path.removeprefix(STATE) for path in state),
        lost=() if total is None or isinstance(file.damage, TruncatedError) else tuple(missing_tensors(file, "*")),
        cut=_cut(file),
        whole_sizes=sizes,
        least_size=None if sizes else file.least_size(),
        part="adapter" if file.has_adapter else "model",
        has_sizes=file.has_adapter or len(model) != total or _has_sizes(file),
    )


def _has_sizes(file: File) -> bool:
    """Return False if no damaged tensor, but another number is missing that the model needs."""
    try:
        file.model()
    except MalformedError:
        return False
    except GgcpError:  # it is of a kind that is not exported
        return True
    return True


def missing_tensors(file: File, pattern: str) -> list[str]:
    """Return the tensors that a pattern matches in the whole file, but that are not whole in the damaged one.

    If it cannot be known which tensors the whole file had, `...` stands for any that may be missing.
    """
    items = listing(file)
    if any(pattern in item.names for item in items):
        return []
    expected = file.expected_tensors()
    if expected is None:
        return ["..."]
    kind = file.get("optimizer.type")
    wanted = [Listed(Tensor(path, "", (), 0, 0, file.source), path, names.tensor_name(path, kind)) for path in expected]
    parts = split_moments(pattern)
    whole = {name for item in items for name in item.names}
    found = matching(wanted, pattern if parts is None else parts[0])
    return [item.name for item in found if item.name not in whole]


def _cut(file: File) -> tuple[str, int, int] | None:
    """Return the path of the tensor whose data the file ends in, the bytes it lacks, and those it should have."""
    damage = file.damage
    if not isinstance(damage, TruncatedError) or not damage.path.endswith(".data"):
        return None
    steps = parse_path(damage.path)
    name = next((name for name in file.candidates() if file.alias(name) == steps), None)
    return name or damage.path.removesuffix(".data"), damage.missing, damage.missing + file.size - damage.offset
