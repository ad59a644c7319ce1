"""Modules that are imported when they are first used, so that a command does not wait for what it does not need."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class Later:
    """A module of this package that is imported when something of it is asked for. Type checkers see an import."""

    def __init__(self, name: str) -> None:
        self._name = f"ggcp_schema.{name}"

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self._name), name)
