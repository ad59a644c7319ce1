"""Read, inspect and convert ggcp training checkpoints (llama.cpp train-text-from-scratch, 2023)."""

from __future__ import annotations

TYPE_CHECKING = False  # typing's takes time to import, before `cli` has set its signal handlers
if TYPE_CHECKING:
    from typing import Any

    from ggcp_schema.errors import (
        FileError,
        GgcpError,
        MalformedError,
        NotACheckpointError,
        PathError,
        TruncatedError,
        UnfitError,
        UsageError,
    )
    from ggcp_schema.files.tensor import Tensor
    from ggcp_schema.formats import FORMATS, open_checkpoint, open_file
    from ggcp_schema.formats.file import File, Format
    from ggcp_schema.formats.ggcp.checkpoint import Checkpoint
    from ggcp_schema.mapping.lora import export_adapter
    from ggcp_schema.mapping.targets import convert, export_model
    from ggcp_schema.schema.checkpoint import CHECKPOINT
    from ggcp_schema.schema.gguf import GGUF

_HOMES = {
    "CHECKPOINT": "schema.checkpoint",
    "Checkpoint": "formats.ggcp.checkpoint",
    "GGUF": "schema.gguf",
    "Tensor": "files.tensor",
    "export_adapter": "mapping.lora",
    **dict.fromkeys(("FORMATS", "open_checkpoint", "open_file"), "formats"),
    **dict.fromkeys(("File", "Format"), "formats.file"),
    **dict.fromkeys(("FileError", "GgcpError", "MalformedError", "NotACheckpointError"), "errors"),
    **dict.fromkeys(("PathError", "TruncatedError", "UnfitError", "UsageError"), "errors"),
    **dict.fromkeys(("convert", "export_model"), "mapping.targets"),
}
__all__ = [
    "CHECKPOINT",
    "FORMATS",
    "GGUF",
    "Checkpoint",
    "File",
    "FileError",
    "Format",
    "GgcpError",
    "MalformedError",
    "NotACheckpointError",
    "PathError",
    "Tensor",
    "TruncatedError",
    "UnfitError",
    "UsageError",
    "__version__",
    "convert",
    "export_adapter",
    "export_model",
    "open_checkpoint",
    "open_file",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `import ggcp_schema` alone must not import numpy or construct."""
    if name == "__version__":
        from importlib.metadata import version

        return version("ggcp-schema")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names, so that Tab in a shell offers nothing else."""
    return sorted({*(name for name in globals() if name.startswith("__")), *__all__})
