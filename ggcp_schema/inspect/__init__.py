"""Views of a file as data. Nothing here prints."""

from collections.abc import Callable
from typing import Any

Report = Callable[[Any], None]
"""What a long computation calls often, with what it has found so far or None; it raises an exception to cancel it."""

PROGRESS = "GGCP_SCHEMA_PROGRESS"
"""The environment variable that makes a command write lines to stderr: `MARK`, the bytes done, and those of all."""

MARK = "\x1e"
