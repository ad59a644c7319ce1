"""`info`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def info(file: Annotated[Path, typer.Argument(metavar="FILE", help="The ggcp checkpoint.")]) -> None:
    """Not there yet."""
    raise NotImplementedError
