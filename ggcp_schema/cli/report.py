"""What the commands that write an output check and print of it, also if they only would write it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from ggcp_schema.cli.mistakes import check_name
from ggcp_schema.cli.options import option_of
from ggcp_schema.cli.output import echo, output_width, progress, write
from ggcp_schema.files.atomic import check_output
from ggcp_schema.files.key_values import KeyValue
from ggcp_schema.files.output import WHOLE, WriteOptions
from ggcp_schema.files.tensor_entries import TensorEntry
from ggcp_schema.formats.existing import check_existing
from ggcp_schema.formats.rules import Finding
from ggcp_schema.inspect.text import cells, count_text, escape, plain_text, shape_text, size_text
from ggcp_schema.llama.facts import Fact
from ggcp_schema.llama.training import Study
from ggcp_schema.llama.writers import grouped
from ggcp_schema.mapping.gguf import Gguf
from ggcp_schema.mapping.plan import Kind, Plan, Written, check
from ggcp_schema.mapping.plan import write as write_plan

LONGEST = 80  # characters of a value that are shown


def carry_out(
    plan: Plan, output: Path, options: WriteOptions, what: str, *, dry_run: bool, quiet: bool, is_new: bool = False
) -> Written | None:
    """Check a plan and, unless in a `dry_run`, write it with a bar of progress.

    `is_new` says that the folder of the output does not exist yet, so that there is nothing to check.
    """
    check_name(output, is_folder=WHOLE not in plan.parts)
    check(plan, None if is_new else output, options._replace(force=options.force or dry_run))
    if dry_run:
        return None
    total, then = (2 * plan.nbytes, "Comparing") if options.verify else (plan.nbytes, "")
    with progress(total, what, then, quiet=quiet) as advance:
        return write_plan(plan, output, options._replace(progress=advance))


def sentence(fact: Fact, *, short: bool = False) -> str:
    """Return a fact in words, with the option of the command line that would replace it."""
    if short and fact.short:
        fact = fact._replace(text=fact.short, reason="", effect="")
    state = ""
    if fact.remedy:
        state = f". If you know the {fact.label}, state it: {option_of(fact.remedy.parameter)} {fact.remedy.values}"
    reason, effect = f" ({fact.reason})" if fact.reason else "", f"; {fact.effect}" if fact.effect else ""
    return f"{fact.label}: {fact.text}{reason}{effect}{state}"


def echo_parts(plan: Plan, output: Path) -> None:
    """Print everything that would be written, and what that would replace."""
    for place in (output, *map(Path, plan.beside)):
        echo_replaced(place, check_existing(place, overwrite=True), dry_run=True)
    echo(f"would write {name_text(output)}: {counts(plan)}")
    for name, content in plan.parts.items():
        if name != WHOLE:
            echo(f"  {escape(name)}: {count_text(content.nbytes, 'byte')} of data")
        for entry in content.keys if isinstance(content, Gguf) else ():
            text = plain_text(entry.value, "f64" if entry.type == "FLOAT64" else "", LONGEST)
            value = f"[{count_text(len(entry.value), 'element')}]" if is_array(entry) else text
            echo(f"  {escape(entry.key)} {entry.type} {value}")
        for tensor in content.tensors:
            shape, size = shape_text(tensor.shape), count_text(tensor.nbytes, "byte")
            echo(f"  {escape(tensor.name)} {tensor.type} {shape} {size}")


def counts(plan: Plan) -> str:
    """Return how many keys, or files, and tensors an output has, in words."""
    n_tensors = count_text(len(plan.tensors), "tensor")
    first = count_text(len(keys_of(plan)), "key") if WHOLE in plan.parts else count_text(len(plan.parts), "file")
    return f"{first}, {n_tensors}"


def keys_of(plan: Plan) -> Sequence[KeyValue]:
    """Return the keys of all GGUF files of an output."""
    return [entry for content in plan.parts.values() if isinstance(content, Gguf) for entry in content.keys]


def is_array(entry: KeyValue) -> bool:
    """Return True if the value of a key is a list, which may be of 32,000 elements."""
    return entry.type.startswith("ARRAY")


def echo_written(written: Written, output: Path, *, verified: bool) -> None:
    """Print what was written, and the commands that use it."""
    for bads in grouped(written.unsound, lambda bad: (bad.path, bad.rule)).values():
        more = f"; and {count_text(len(bads) - 1, 'more place')}" if len(bads) > 1 else ""
        echo(f"unsound: {escape(bads[0].path)}: {escape(bads[0].message)}{more}")
    for name, count in written.not_finite.items():
        echo(f"note: {escape(name)}: {count_text(count, 'value')} {'is' if count == 1 else 'are'} NaN or infinite")
    for place, what in {os.fsdecode(output): written.replaced, **written.replaced_beside}.items():
        echo_replaced(Path(place), what)
    compared = ", every byte compared" if verified else ""
    echo(f"wrote {name_text(output)}: {counts(written.plan)}, {size_text(written.size)}{compared}")
    for place, parts in written.plan.beside.items():
        size = sum(content.nbytes for content in parts.values())
        echo(f"wrote {name_text(Path(place))}: {size_text(size)}{compared}")
    for command in written.next:
        line, width = " ".join(command.for_shell(output)), output_width()
        if width is None or cells(line) + len(command.purpose) + 2 <= width:
            echo(f"{command.purpose}: {line}")
        else:  # on a line of its own, which is not wrapped: no mark for a line that goes on is that of every shell
            echo(f"{command.purpose}:")
            write(f"{line}\n")


def echo_outcome(plan: Plan, output: Path, written: Written | None, *, verified: bool, verbose: bool) -> None:
    """Print what the input is, what is changed, if `verbose` on what evidence, and what was written, or would be."""
    file = plan.file
    echo(f"{escape(file.path)}: {escape(file.describe())}, {size_text(file.size)}")
    for fact in plan.facts:
        echo(escape(sentence(fact, short=not verbose)))
    for finding in plan.warnings:
        echo(f"note: {finding.path}: {escape(finding.message)}")
    if written:
        echo_written(written, output, verified=verified)
    else:
        echo_parts(plan, output)


def echo_replaced(output: Path, what: str, *, dry_run: bool = False) -> None:
    """Print what the output has replaced, or would replace, if that is known."""
    if what:
        verb, was = ("would replace", "is") if dry_run else ("replaced", "was")
        echo(f"{verb} {name_text(output)}, which {was}: {escape(what)}")


def check_place(output: Path, file: Path, *, force: bool) -> str:
    """Check that a copy of a file can be written there. Return what it would replace, if anything."""
    check_name(output)
    check_output(output, (file,))
    return check_existing(output, overwrite=force)


def echo_made(output: Path, replaced: str, what: str, *, dry_run: bool) -> None:
    """Print that a copy was written, or would be."""
    echo_replaced(output, replaced, dry_run=dry_run)
    echo(f"{'would write' if dry_run else 'wrote'} {name_text(output)}: {what}")


def name_text(path: Path) -> str:
    """Return a file name that is safe to print; bytes that are not UTF-8 are escaped."""
    return escape(os.fsdecode(path))


class Scalar(NamedTuple):
    """A GGUF key as JSON."""

    key: str
    type: str
    value: Any


class Array(NamedTuple):
    """A GGUF key whose value is a list, of which the length is given."""

    key: str
    type: str
    length: int


class FileJson(NamedTuple):
    """A file that is written, as JSON."""

    path: str
    nbytes: int


class PlanJson(TypedDict):
    """A plan and what was written, as JSON."""

    input: str
    output: str
    kind: Kind
    rms_eps: Any
    rms_eps_reason: str | None
    notes: list[str]
    findings: Sequence[Finding]
    conclusions: Study | None
    keys: list[Scalar | Array]
    tensors: Sequence[TensorEntry]
    files: list[FileJson]
    written: bool
    size: int | None
    not_finite: dict[str, int]
    replaced: str | None


def plan_as_dict(plan: Plan, output: Path, written: Written | None) -> PlanJson:
    """Return the plan for JSON: `size` is null and `written` false where nothing was written.

    `files` are all that are written, with the bytes of their data.
    """
    unsound = [Finding(bad.path, bad.message) for bad in (written.unsound if written else ())]
    epsilon = next((fact for fact in plan.facts if fact.label == "epsilon"), None)
    return {
        "input": plan.file.path,
        "output": os.fsdecode(output),
        "kind": plan.kind,
        "rms_eps": epsilon and epsilon.value,
        "rms_eps_reason": epsilon and epsilon.reason,
        "notes": [sentence(fact) for fact in plan.facts if fact.value is None],
        "findings": [*plan.warnings, *unsound],
        "conclusions": plan.study,
        "keys": [
            Array(each.key, each.type, len(each.value)) if is_array(each) else Scalar(each.key, each.type, each.value)
            for each in keys_of(plan)
        ],
        "tensors": plan.tensors,
        "files": [
            FileJson(os.path.join(place, name) if name else place, content.nbytes)
            for place, parts in {os.fsdecode(output): plan.parts, **plan.beside}.items()
            for name, content in parts.items()
        ],
        "written": written is not None,
        "size": written.size if written else None,
        "not_finite": dict(written.not_finite) if written else {},
        "replaced": (written and written.replaced) or None,
    }
