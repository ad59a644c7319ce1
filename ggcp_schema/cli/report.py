"""What `convert` and `export` say of the file that they write, or would write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ggcp_schema.checkpoint import Finding
    from ggcp_schema.gguf.entries import Entry, KeyValue


def echo_findings(findings: Sequence[Finding]) -> None:
    """What is odd but not wrong, a line each."""
    from ggcp_schema.cli.output import echo

    for finding in findings:
        echo(f"note: {finding.path}: {finding.message}")


def echo_output(entries: Sequence[Entry], output: Path, written: int | None, *, verified: bool) -> None:
    """What was written, `written` its size in bytes; or all that would be, if that is None."""
    from ggcp_schema.cli.output import echo, escape, size
    from ggcp_schema.gguf.entries import key_values, tensor_entries

    keys, tensors = key_values(entries), tensor_entries(entries)
    name = escape(str(output))
    if written is None:
        echo(f"would write {name}: {len(keys)} keys, {len(tensors)} tensors")
        for entry in keys:
            value = f"[{len(entry.value)} items]" if isinstance(entry.value, list) else str(entry.value)
            echo(f"  {escape(entry.key)} {entry.type} {escape(value)}")
        for tensor in tensors:
            echo(f"  {tensor.name} F32 {list(tensor.shape)} {tensor.nbytes} bytes")
    else:
        proof = ", every byte compared" if verified else ""
        echo(f"wrote {name}: {len(keys)} keys, {len(tensors)} tensors, {size(written)}{proof}")


def findings_as_dicts(findings: Sequence[Finding]) -> list[dict[str, str]]:
    """The same as data."""
    return [{"path": finding.path, "message": finding.message} for finding in findings]


def output_as_dict(entries: Sequence[Entry], written: int | None) -> dict[str, Any]:
    """The same as data: `size` is null, and `written` false, where nothing was written."""
    from ggcp_schema.gguf.entries import key_values, tensor_entries

    return {
        "keys": [_key_as_dict(entry) for entry in key_values(entries)],
        "tensors": [
            {
                "name": entry.name,
                "shape": list(entry.shape),
                "type": "F32",
                "nbytes": entry.nbytes,
                "source": getattr(entry.source, "path", None),
            }
            for entry in tensor_entries(entries)
        ],
        "written": written is not None,
        "size": written,
    }


def _key_as_dict(entry: KeyValue) -> dict[str, Any]:
    """A list, which may be that of 32,000 tokens, by its length alone."""
    value = {"length": len(entry.value)} if isinstance(entry.value, list) else {"value": entry.value}
    return {"key": entry.key, "type": entry.type, **value}
