"""The ggcp training checkpoints of llama.cpp's train-text-from-scratch (2023): schema, reader, GGUF."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ggcp_schema.checkpoint import Checkpoint
    from ggcp_schema.errors import (
        FileError,
        GgcpError,
        MalformedError,
        NotACheckpointError,
        TruncatedError,
        UnfitError,
        UsageError,
    )
    from ggcp_schema.gguf.convert import convert
    from ggcp_schema.gguf.export import export_model
    from ggcp_schema.reader import open_checkpoint
    from ggcp_schema.schema import CHECKPOINT
    from ggcp_schema.source import Tensor

_HOMES = {
    "CHECKPOINT": "schema",
    "Checkpoint": "checkpoint",
    "FileError": "errors",
    "GgcpError": "errors",
    "MalformedError": "errors",
    "NotACheckpointError": "errors",
    "Tensor": "source",
    "TruncatedError": "errors",
    "UnfitError": "errors",
    "UsageError": "errors",
    "convert": "gguf.convert",
    "export_model": "gguf.export",
    "open_checkpoint": "reader",
}
__all__ = [
    "CHECKPOINT",
    "Checkpoint",
    "FileError",
    "GgcpError",
    "MalformedError",
    "NotACheckpointError",
    "Tensor",
    "TruncatedError",
    "UnfitError",
    "UsageError",
    "convert",
    "export_model",
    "open_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
