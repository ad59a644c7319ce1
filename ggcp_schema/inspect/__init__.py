"""Views of a file as data. Nothing here prints."""

from collections.abc import Callable
from typing import Any

Report = Callable[[Any], None]
"""What a long computation calls often, with what it has found so far or None; it raises an exception to cancel it."""
