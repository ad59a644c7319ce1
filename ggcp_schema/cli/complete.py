"""Tab completion of what is inside the file on the command line. A file that cannot be read completes nothing."""

from __future__ import annotations

from typing import Any


def complete_path(ctx: Any, incomplete: str) -> list[str]:
    """Field paths of a ggcp file; keys and tensor names of a GGUF file."""
    from ggcp_schema.checkpoint import Checkpoint
    from ggcp_schema.inspect.fields import all_paths

    def paths(opened: Any) -> Any:
        return all_paths(opened.spans) if isinstance(opened, Checkpoint) else (*opened.keys, *opened.tensors)

    return _complete(ctx, incomplete, paths)


def complete_tensor(ctx: Any, incomplete: str) -> list[str]:
    """Tensors: by path in a ggcp file, by name in a GGUF file."""
    return _complete(ctx, incomplete, lambda opened: opened.tensors)


def _complete(ctx: Any, incomplete: str, names: Any) -> list[str]:
    from ggcp_schema.errors import GgcpError
    from ggcp_schema.gguf.opening import open_any

    file = next((ctx.params[name] for name in ("file", "a", "checkpoint") if ctx.params.get(name)), None)
    if file is None:
        return []
    try:
        with open_any(file, partial=True) as opened:
            return [name for name in names(opened) if name.startswith(incomplete)]
    except GgcpError:
        return []
