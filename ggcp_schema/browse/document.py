"""An open file with what the browser derives from it. Formats are known to `inspect`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from construct import ConstructError

from ggcp_schema.errors import GgcpError
from ggcp_schema.inspect import Report
from ggcp_schema.inspect.fields import Fields, holders
from ggcp_schema.inspect.search import Index
from ggcp_schema.inspect.usage import Usage, usage

if TYPE_CHECKING:
    from ggcp_schema.constructs.tree import Field
    from ggcp_schema.formats.file import File
    from ggcp_schema.inspect.facts import Summary
    from ggcp_schema.inspect.health import Examination
    from ggcp_schema.llama.state import Unsound

READ_ERRORS = (GgcpError, OSError, ConstructError)  # of a file that was changed while it is shown


class Document(Fields):
    """An open file with its fields, name, marks and facts.

    `summary` is what `info` says, `usage` what the bytes are used for; both are None until `study` has found them;
    `problem` says why it could not.
    """

    def __init__(self, file: File, tokens: Callable[[int], str] | None = None) -> None:
        super().__init__(file, tokens)
        self.summary: Summary | None = None
        self.usage: Usage | None = None
        self.problem = ""
        self._unsound: list[Unsound] | None = None
        self._examined: Examination | None = None

    @cached_property
    def index(self) -> Index:
        """What can be searched for."""
        return Index(self.file)

    def prepare(self) -> None:
        """Compute what the first picture needs and what takes long for a file of many tensors.

        What `study` needs is imported here, because an import keeps the screen waiting when it shows something.
        """
        import ggcp_schema.inspect.summary  # noqa: F401

        _ = self.marks, self.by_path, self.file.tensors.at(0)

    @property
    def advice(self) -> tuple[str, ...]:
        """The commands that `info` gives, as far as they are known."""
        return () if self.summary is None else self.summary.next

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return Path(self.file.path).name

    @cached_property
    def marks(self) -> dict[str, str]:
        """What is odd, by path: `damage`, `finding`, `changed` or `only`, for the field and for what holds it."""
        marks: dict[str, str] = {}
        damage = () if self.file.damage is None else ((self.file.damage.path, "damage"),)
        for path, kind in (*damage, *((finding.path, "finding") for finding in self.file.findings)):
            _mark(marks, path, kind)
        return marks

    def mark(self, field: Field | None, kind: str) -> None:
        """Mark a field, if there is one, and what holds it."""
        if field is not None:
            _mark(self.marks, field.path, kind)

    def broken_off(self, field: Field) -> str:
        """Return the name of the damaged field if it should follow in this one, but is not there; else nothing."""
        path = "" if self.file.damage is None else self.file.damage.path
        if next(holders(path), None) != field.path or self.field(path) is not None:
            return ""
        return path.removeprefix(field.path).lstrip(".")

    def examine(self, report: Report) -> Examination:
        """Return the health of the parameters. Reads all weights and moments once."""
        from ggcp_schema.inspect.health import examine

        if self._examined is None:
            self._examined = examine(self.file, report)
        return self._examined

    def unsound(self, report: Report) -> list[Unsound]:
        """Return what the program that wrote the file cannot have written. Reads all weights and moments once."""
        from ggcp_schema.inspect.soundness import soundness

        if self._unsound is None:
            self._unsound = soundness(self.file, lambda nbytes: report(None))
        return self._unsound

    def study(self, report: Report) -> None:
        """Find out what `info` says, and what the bytes are used for. Reads some tensor data, so it takes a while."""
        from ggcp_schema.inspect.summary import summarize

        used = usage(self.file, report)
        summary = summarize(self.file)
        report(None)
        self.usage, self.summary = used, summary


def _mark(marks: dict[str, str], path: str, kind: str) -> None:
    """Mark a field and what holds it, unless it has a mark."""
    marks.setdefault(path, kind)
    for holder in holders(path):
        marks.setdefault(holder, "changed" if kind == "only" else kind)
