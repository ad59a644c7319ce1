"""From a file to a file: the plan that the command line and the Python API share.

A plan is made from an open file, and says everything about the output before anything is written: its entries, what was
changed and on what evidence. `convert` and `export` make plans; `write` carries one out.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from ggcp_schema.errors import UsageError
from ggcp_schema.files.atomic import check_output
from ggcp_schema.formats.file import File, Finding
from ggcp_schema.gguf.entries import Entry, Progress, TensorEntry, tensor_entries
from ggcp_schema.gguf.writer import write_gguf
from ggcp_schema.llama.eras import EraConclusion
from ggcp_schema.llama.training import Study, Training
from ggcp_schema.mapping.resume import Recipe, checked_epsilon

if TYPE_CHECKING:
    from ggcp_schema.mapping.model import Model
    from ggcp_schema.mapping.vocabulary import Vocabulary


class Plan(NamedTuple):
    """What will be written, and why.

    Attributes:
        kind: "resume", a checkpoint to resume from, or "model", to be run.
        file: the input. It is open while the plan is carried out.
        inputs: the paths of all inputs, which the output must not replace.
        entries: the keys and tensors of the output, in file order.
        rms_eps: the epsilon of the RMS norm.
        rms_eps_reason: where the epsilon is from, in words.
        notes: what is changed and on what evidence, one sentence each, in words for a person.
        warnings: what is odd in the input; `strict` refuses it.
        training: the training state that is written; None in the plan of a model.
        study: what was concluded from the training state; None if that was not needed.
        recipe: how the training state is written; None in the plan of a model.
        model: the model that is written; None in the plan of a checkpoint.
        vocabulary: that of the model; None in the plan of a checkpoint.
    """

    kind: Literal["resume", "model"]
    file: File
    inputs: tuple[str | os.PathLike[str], ...]
    entries: Sequence[Entry]
    rms_eps: float
    rms_eps_reason: str
    notes: tuple[str, ...] = ()
    warnings: tuple[Finding, ...] = ()
    training: Training | None = None
    study: Study | None = None
    recipe: Recipe | None = None
    model: Model | None = None
    vocabulary: Vocabulary | None = None

    @property
    def nbytes(self) -> int:
        """The bytes of tensor data that will be written."""
        return sum(entry.nbytes for entry in tensor_entries(self.entries))


class Written(NamedTuple):
    """What was written.

    Attributes:
        plan: the plan that was carried out. Its file is closed.
        size: the size of the output in bytes.
        not_finite: the number of NaN and infinite values by the GGUF name of the tensor that has them.
    """

    plan: Plan
    size: int
    not_finite: dict[str, int]


def chosen_epsilon(stated: float | None, stored: float | None, era: EraConclusion) -> tuple[float, str]:
    """Return the epsilon of the RMS norm and where it is from: stated by the user, stored, or of the era."""
    if stated is not None:
        return checked_epsilon(stated), "stated by the user"
    if stored is not None:
        return checked_epsilon(stored), "stored in the file"
    return era.rms_eps, era.rms_eps_reason


def write(
    plan: Plan,
    output: str | os.PathLike[str],
    *,
    strict: bool = False,
    force: bool = False,
    verify: bool = False,
    sync: bool = True,
    progress: Progress | None = None,
) -> Written:
    """Write what is planned, completely or not at all. The parameters are those of `convert`."""
    check(plan, output, strict=strict, force=force)
    not_finite: dict[str, int] = {}
    inspect = _FiniteCheck(plan, not_finite, strict=strict)
    size = write_gguf(
        output, plan.entries, overwrite=force, verify=verify, sync=sync, progress=progress, inspect=inspect
    )
    return Written(plan, size, not_finite)


def check(plan: Plan, output: str | os.PathLike[str] | None, *, strict: bool, force: bool) -> None:
    """Check the output unless it is None, and with `strict` the findings. Raises `FileError`, or `UsageError`."""
    if output is not None:
        check_output(output, plan.inputs, overwrite=force)
    if strict and plan.warnings:
        finding = plan.warnings[0]
        raise refused(plan, f"{finding.path}: {finding.message}")


def refused(plan: Plan, finding: str) -> UsageError:
    """Return the error for a finding that `strict` refuses."""
    return UsageError(
        f"{plan.file.path}: {finding}", "Nothing was written. Without strict checks it is written, with a note."
    )


class _FiniteCheck:
    """Counts the NaN and infinite values of each tensor while its data is copied."""

    def __init__(self, plan: Plan, found: dict[str, int], *, strict: bool) -> None:
        self.plan, self.found, self.strict = plan, found, strict

    def __call__(self, entry: TensorEntry, chunk: memoryview) -> None:
        import numpy as np

        finite = np.isfinite(np.frombuffer(chunk, "<f4"))
        if finite.all():
            return
        if self.strict:
            raise refused(self.plan, f"tensor {entry.name} has values that are NaN or infinite")
        self.found[entry.name] = self.found.get(entry.name, 0) + int(finite.size - np.count_nonzero(finite))
