"""What `convert`, `export` and `edit` print about the file that they write, or would write."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ggcp_schema.cli.output import echo, escape
from ggcp_schema.gguf.entries import FileData, KeyValue, key_values, tensor_entries
from ggcp_schema.inspect.text import count_text, shape_text, size_text
from ggcp_schema.llama.eras import epsilon_text
from ggcp_schema.mapping.plan import Plan, Written

OPTIONS = {"order=": "--order ", "n_batch=": "--batch ", "A fresh optimizer": "--fresh-optimizer"}
"""Parameters of the Python API that notes mention, with the options of the command line."""


def echo_plan(plan: Plan) -> None:
    """Print what the input is, what is changed and on what evidence, a line each."""
    file = plan.file
    echo(f"{escape(file.path)}: {escape(file.describe())}, {size_text(file.size)}")
    echo(f"epsilon: {epsilon_text(plan.rms_eps)} ({plan.rms_eps_reason})")
    for note in plan.notes:
        echo(escape(with_options(note)))
    for finding in plan.warnings:
        echo(f"note: {finding.path}: {escape(finding.message)}")


def with_options(note: str) -> str:
    """Return a note of a plan with the options of the command line in place of the API's parameters."""
    for parameter, option in OPTIONS.items():
        note = note.replace(parameter, option)
    return note


def echo_entries(plan: Plan, output: Path) -> None:
    """Print everything that would be written."""
    keys, tensors = key_values(plan.entries), tensor_entries(plan.entries)
    echo(f"would write {name_text(output)}: {count_text(len(keys), 'key')}, {count_text(len(tensors), 'tensor')}")
    for entry in keys:
        value = f"[{count_text(len(entry.value), 'element')}]" if entry.type.startswith("ARRAY") else str(entry.value)
        echo(f"  {escape(entry.key)} {entry.type} {escape(value)}")
    for tensor in tensors:
        echo(f"  {escape(tensor.name)} F32 {shape_text(tensor.shape)} {count_text(tensor.nbytes, 'byte')}")


def echo_written(written: Written, output: Path, *, verified: bool) -> None:
    """Print what was written."""
    keys, tensors = key_values(written.plan.entries), tensor_entries(written.plan.entries)
    for name, count in written.not_finite.items():
        echo(f"note: {escape(name)}: {count_text(count, 'value')} {'is' if count == 1 else 'are'} NaN or infinite")
    compared = ", every byte compared" if verified else ""
    parts = f"{count_text(len(keys), 'key')}, {count_text(len(tensors), 'tensor')}, {size_text(written.size)}"
    echo(f"wrote {name_text(output)}: {parts}{compared}")


def name_text(path: Path) -> str:
    """Return a file name that is safe to print; bytes that are not UTF-8 are escaped."""
    return escape(os.fsdecode(path))


def plan_as_dict(plan: Plan, output: Path, written: Written | None) -> dict[str, Any]:
    """Return the plan for JSON: `size` is null and `written` false where nothing was written."""
    return {
        "input": plan.file.path,
        "output": os.fsdecode(output),
        "kind": plan.kind,
        "rms_eps": plan.rms_eps,
        "rms_eps_reason": plan.rms_eps_reason,
        "notes": [with_options(note) for note in plan.notes],
        "findings": [{"path": finding.path, "message": finding.message} for finding in plan.warnings],
        "conclusions": plan.study.as_dict() if plan.study else None,
        "keys": [key_as_dict(entry) for entry in key_values(plan.entries)],
        "tensors": [
            {
                "name": entry.name,
                "shape": list(entry.shape),
                "type": "F32",
                "nbytes": entry.nbytes,
                "source": entry.data.path if isinstance(entry.data, FileData) else None,
            }
            for entry in tensor_entries(plan.entries)
        ],
        "written": written is not None,
        "size": written.size if written else None,
        "not_finite": dict(written.not_finite) if written else {},
    }


def key_as_dict(entry: KeyValue) -> dict[str, Any]:
    """Return a key for JSON. An array, which may have 32,000 elements, is shown by its length."""
    value = {"length": len(entry.value)} if entry.type.startswith("ARRAY") else {"value": entry.value}
    return {"key": entry.key, "type": entry.type, **value}
