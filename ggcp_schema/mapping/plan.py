"""From a file to a file or a folder: the plan that the command line and the Python API share.

A plan is made from an open file, and says everything about the output before anything is written: its contents, what
was changed and on what evidence. `mapping.targets` lists what makes plans; `write` carries one out.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, NamedTuple

from ggcp_schema.constructs import counted, short_size
from ggcp_schema.errors import GgcpError, MalformedError, TruncatedError, UsageError, quoted, shell_word
from ggcp_schema.files.output import Parts, WriteOptions, check_parts, placed_parts
from ggcp_schema.files.source import Rows
from ggcp_schema.files.tensor import ELEMENT_SIZES, LITTLE, decode
from ggcp_schema.files.tensor_entries import FileData, TensorEntry
from ggcp_schema.formats.existing import check_existing
from ggcp_schema.formats.file import REPAIR, File
from ggcp_schema.formats.rules import Finding
from ggcp_schema.formats.state import has_values_twice, state_of, unsound_anyway
from ggcp_schema.llama.eras import EraConclusion
from ggcp_schema.llama.facts import Fact
from ggcp_schema.llama.names import is_optimizer
from ggcp_schema.llama.soundness import SMALL, Floats, Together, Watch
from ggcp_schema.llama.state import Unsound
from ggcp_schema.llama.training import Study
from ggcp_schema.llama.writers import epsilon_text, join_words

OUTPUT = "{output}"
"""Stands for the name of the output in the words of a command."""

Kind = Literal["resume", "model", "hf", "adapter", "peft"]
"""What an output is, as JSON has it: as the target is called, but for a GGUF model."""

MODEL = ("gguf-model", "gguf")
KINDS = {"resume": ("gguf-resume", "gguf-finetune"), "adapter": ("gguf-adapter",)}
"""The kinds of files that an output can be, by the name of what is made, if it is no model."""


class Command(NamedTuple):
    """A command to run next, and what for. `OUTPUT` in its words stands for the name of the output."""

    purpose: str
    words: tuple[str, ...]

    def for_shell(self, output: str | os.PathLike[str]) -> list[str]:
        """Return the words as they are typed into a shell."""
        path = os.fsdecode(output)
        is_path = (OUTPUT in word or os.path.lexists(word) for word in self.words)
        words = (word.replace(OUTPUT, path) for word in self.words)
        return [shell_word(word) if known else quoted(word) for word, known in zip(words, is_path)]


@dataclass(frozen=True, repr=False)
class Plan:
    """What will be written, and why.

    Attributes:
        target: the name of what is made.
        file: the input. It is open while the plan is carried out.
        inputs: the paths of all inputs, which the output must not replace.
        parts: the contents: of a file, by an empty name, or of the files of a folder, by their names.
        beside: what is written together with it, all or nothing: the contents by the path of the output.
        facts: what was decided and on what evidence.
        warnings: what is odd in the input; `strict` refuses it.
        next: the commands that use the output.
        fresh: the command that makes an output without the optimizer's state, if this one copies it.
        optional: the names of files that such a folder may have as well, so that a folder with them is replaced.
        study: what was concluded from the training state; None if that was not needed.
    """

    target: Literal["resume", "gguf", "hf", "adapter", "peft"]
    file: File
    inputs: tuple[str, ...]
    parts: Parts
    beside: Mapping[str, Parts] = field(default_factory=dict)
    facts: tuple[Fact, ...] = ()
    warnings: tuple[Finding, ...] = ()
    next: tuple[Command, ...] = ()
    fresh: Command | None = None
    study: Study | None = None
    optional: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<Plan {self.target} of {self.file.path}: {counted(len(self.tensors), 'tensor')}>"

    @property
    def kind(self) -> Kind:
        """What the output is."""
        return "model" if self.target == "gguf" else self.target

    @property
    def nbytes(self) -> int:
        """The bytes of data that will be written."""
        return sum(content.nbytes for parts in (self.parts, *self.beside.values()) for content in parts.values())

    @property
    def tensors(self) -> Sequence[TensorEntry]:
        """The tensors of all parts."""
        return [tensor for content in self.parts.values() for tensor in content.tensors]

    def fact(self, label: str) -> Fact:
        """Return the first fact with that label. Raises `KeyError` if there is none."""
        for fact in self.facts:
            if fact.label == label:
                return fact
        raise KeyError(label)


class Written(NamedTuple):
    """What was written.

    Attributes:
        plan: the plan that was carried out. Its file is closed.
        size: the size of the output in bytes.
        not_finite: the number of NaN and infinite values by the name of the tensor that has them; quantized tensors
            are not examined.
        unsound: what the program of the input cannot have written, as far as it was copied.
        replaced: what the file was that the output has replaced; empty if there was none of a known format.
        output: the path of the output.
        replaced_beside: what the files were that the plan's `beside` has replaced, by path.
        next: the commands that use the output, or better ones if what was copied is unsound.
    """

    plan: Plan
    size: int
    not_finite: dict[str, int]
    unsound: tuple[Unsound, ...] = ()
    replaced: str = ""
    output: str = ""
    replaced_beside: Mapping[str, str] = MappingProxyType({})
    next: tuple[Command, ...] = ()

    def __repr__(self) -> str:
        counts = f"{counted(len(self.plan.tensors), 'tensor')}, {short_size(self.size)}"
        return f"<Written {self.output}: {self.plan.target}, {counts}>"


def rescued(file: File, remedy: str) -> GgcpError:
    """Return the damage with a hint: the remedy if the model is whole, otherwise how much of it is left.

    If the file holds an adapter instead of a model, it is the adapter that has to be whole.
    """
    part = "adapter" if file.has_adapter else "model"
    try:
        file.adapter() if file.has_adapter else file.model()
    except GgcpError as error:
        return error
    assert file.damage is not None  # noqa: S101 - the caller has looked
    better = f" Before that, {REPAIR}" if file.is_repairable else ""
    return file.damage.with_hint(f"All tensors of the {part} are whole. {remedy}{better}", "partial")


def epsilon_of(stated: float | None, stored: float | None, era: EraConclusion) -> Fact:
    """Return the epsilon of the RMS norm and where it is from: stated by the user, stored, or of the era.

    Raises `UsageError` if it is not plausible.
    """
    value, reason, short = era.rms_eps, era.rms_eps_reason, epsilon_text(era.rms_eps)
    if others := join_words(map(epsilon_text, era.rms_eps_alternatives)):
        short += f", a guess (or {others})"
    if stated is not None:
        value, reason, short = stated, "stated by the user", ""
    elif stored is not None and not era.is_recorded:  # a guess that was stored remains one
        value, reason, short = stored, "stored in the file", ""
    if not 1e-30 < value < 1:
        trained_with = "The trainers computed with 1e-6, 5e-6 or 1e-5."
        raise UsageError(f"RMS epsilon must be between 1e-30 and 1, got {value}", trained_with)
    return epsilon_fact(value, reason, short)


def epsilon_fact(value: float, reason: str, short: str = "") -> Fact:
    """Return the epsilon of the RMS norm as a fact."""
    return Fact("epsilon", epsilon_text(value), reason, value=value, short=short)


def damage_facts(damage: MalformedError | None, part: str) -> Iterator[Fact]:
    """Yield that only a part of a damaged file was read."""
    if damage is not None:
        is_cut = isinstance(damage, TruncatedError)
        lost = "and what follows it" if is_cut else "or more; a number or a key that is lost counts as not stated"
        yield Fact("damaged", f"only the {part} was read; lost: {damage.path} {lost}")


def rotation_facts(n_rot: int, dimension_count: int, freq_base: float | None) -> Iterator[Fact]:
    """Yield that n_rot is written in another way, with these values of the keys, if it is."""
    if n_rot != dimension_count:
        heads = f"n_rot {n_rot} of heads of {dimension_count} dimensions"
        keys = f"rope.dimension_count {dimension_count} and rope.freq_base {freq_base:g}"
        yield Fact("rotation", f"{heads} is written as {keys}")


def write(plan: Plan, output: str | os.PathLike[str], options: WriteOptions = WriteOptions()) -> Written:  # noqa: B008
    """Write what is planned, completely or not at all. Raises `FileError`, or `UsageError` as `check` does."""
    replaced, *others = check(plan, os.fspath(output), options)
    not_finite: dict[str, int] = {}
    inspect = _Inspection(plan, not_finite, strict=options.strict)
    with ExitStack() as stack:
        for place, parts in plan.beside.items():
            stack.enter_context(placed_parts(place, parts, options))
        size = stack.enter_context(placed_parts(output, plan.parts, options, inspect, plan.optional))
        unsound = inspect.unsound()
    commands = _commands(plan, unsound, not_finite)
    beside = dict(zip(plan.beside, others))
    return Written(plan, size, not_finite, unsound, replaced, os.fsdecode(output), beside, commands)


def _commands(plan: Plan, unsound: Sequence[Unsound], not_finite: Collection[str]) -> tuple[Command, ...]:
    """Return the commands to run next: of an unsound input those that make a better output."""
    is_unsound = any(map(is_optimizer, (*not_finite, *(bad.path for bad in unsound))))
    if (unsound or not_finite) and has_values_twice(plan.file):
        return (Command("take back what the input holds twice", ("ggcp-schema", "repair", plan.file.path, "REPAIRED")),)
    return (plan.fresh,) if plan.fresh is not None and is_unsound else plan.next


def check(plan: Plan, output: str | os.PathLike[str] | None, options: WriteOptions) -> list[str]:
    """Check that the output can be written, unless it is None; with `strict`, that nothing is odd in the input.

    Return what is replaced: by the output, and by each of the plan's `beside`.

    Raises `FileError`, or `UsageError`.
    """
    replaced = []
    if output is not None:
        check_parts(output, plan.inputs, plan.parts, plan.optional)
        kinds = KINDS.get(plan.target, MODEL)
        replaced.append(check_existing(output, overwrite=options.force, source=plan.file, kinds=kinds))
        for place, parts in plan.beside.items():
            if os.path.realpath(place) == os.path.realpath(output):
                raise UsageError(f"{os.fsdecode(output)} is the name of two outputs", "Choose another name for one.")
            check_parts(place, (*plan.inputs, output), parts)
            replaced.append(check_existing(place, overwrite=options.force))
    if options.strict and plan.warnings:
        finding = plan.warnings[0]
        raise refused(plan, finding.path, f"{finding.path}: {finding.message}")
    return replaced


def refused(plan: Plan, path: str, finding: str) -> UsageError:
    """Return the error for a finding that `strict` refuses, at a path or in a tensor of that name."""
    error = UsageError(f"{plan.file.path}: {finding}")
    if plan.fresh is not None and is_optimizer(path):
        hint = "Nothing was written. Use fresh_optimizer=True to leave the optimizer's state out."
        return error.with_hint(hint, "fresh_optimizer")
    return error.with_hint("Nothing was written. Without strict checks it is written, with a note.")


class _Inspection:
    """Looks at the values of each tensor while its data is copied: counts NaN and infinities, and what is unsound."""

    def __init__(self, plan: Plan, found: dict[str, int], *, strict: bool) -> None:
        self.plan, self.found, self.strict = plan, found, strict
        state = state_of(plan.file)
        self.watch = Watch(state) if state is not None else None
        known = {} if state is None else {**state.model, **state.vectors}
        self.names = {tensor.path: name for name, tensor in known.items()}
        self.entry: TensorEntry | None = None  # whose data comes from these extents, of which the last is the next
        self.extents: list[Rows] = []
        self.done = 0  # bytes of that extent
        self.together: Together[TensorEntry] = Together(self._look)

    def unsound(self) -> tuple[Unsound, ...]:
        """Return what is unsound in the data that was copied. Raises `UsageError` if `strict`."""
        self.together.finish()
        watched = [] if self.watch is None else self.watch.finish()
        counted = "not-finite"  # which is in `found` already
        found = [*unsound_anyway(self.plan.file), *(bad for bad in watched if bad.rule != counted)]
        if found and self.strict:
            raise refused(self.plan, found[0].path, f"{found[0].path}: {found[0].message}")
        return tuple(found)

    def _place(self, entry: TensorEntry, nbytes: int) -> tuple[str, int] | None:
        """Return the tensor and the element with which the next bytes begin; None if they need not be examined."""
        data = entry.data
        if self.watch is None or not isinstance(data, FileData) or entry.type != "F32":
            return None
        name = self.names.get(data.path)
        if name is None or data.source is not self.plan.file.source:
            return None
        start = self.watch.state.tensor(name).offset
        if self.entry is not entry or not self.extents:
            self.entry, self.extents, self.done = entry, [Rows(*extent) for extent in data.extents][::-1], 0
        extent, at = self.extents[-1], self.done
        self.done += nbytes
        if self.done == extent.nbytes:
            self.extents.pop()
            self.done = 0
        if extent.n_rows > 1:  # the rows of heads that are exchanged would be looked at one at a time
            return None
        return name, (extent.offset + at - start) // 4

    def __call__(self, entry: TensorEntry, chunk: bytes | memoryview) -> None:
        if entry.type not in ELEMENT_SIZES:
            return
        values = decode(chunk, entry.type, LITTLE)
        if entry.type == "F32" and len(chunk) == entry.nbytes <= SMALL and not is_optimizer(entry.name):
            self.together.add(entry, values)
        else:
            self.together.finish()  # of two findings that `strict` refuses, the first in the file is named
            self._look(entry, values)

    def _look(self, entry: TensorEntry, values: Floats) -> None:
        import numpy as np

        place = self._place(entry, ELEMENT_SIZES[entry.type] * len(values))
        if self.watch is not None and place is not None and self.watch.look(*place, values):
            return
        finite = np.isfinite(values)
        if finite.all():
            return
        if self.strict:
            raise refused(self.plan, entry.name, f"tensor {entry.name} has values that are NaN or infinite")
        self.found[entry.name] = self.found.get(entry.name, 0) + int(finite.size - np.count_nonzero(finite))
