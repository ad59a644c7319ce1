"""An open file with what the browser derives from it. Formats are known to `inspect`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from construct import ConstructError

from ggcp_schema.errors import GgcpError
from ggcp_schema.inspect import Report
from ggcp_schema.inspect.fields import Fields, holders
from ggcp_schema.inspect.search import Index
from ggcp_schema.inspect.summary import summarize
from ggcp_schema.inspect.usage import Usage, usage

if TYPE_CHECKING:
    from ggcp_schema.constructs.tree import Field
    from ggcp_schema.formats.file import File
    from ggcp_schema.inspect.facts import Summary
    from ggcp_schema.inspect.health import Examination
    from ggcp_schema.llama.state import Unsound

READ_ERRORS = (GgcpError, OSError, ConstructError)  # of a file that was changed while it is shown


class Document(Fields):
    """An open file with its fields, its name, and the index of what can be searched for.

    `marks` has what is odd, by path: `damage`, `finding`, `changed` or `only`, for a field and for what holds it.
    `summary` is what `info` says, and `usage` what the bytes are used for. They are None until `study` has found them;
    `problem` says why it could not.
    """

    def __init__(self, file: File, tokens: Callable[[int], str] | None = None) -> None:
        super().__init__(file, tokens)
        self.name, self.index, self.problem = Path(file.path).name, Index(file), ""
        self.summary: Summary | None = None
        self.usage: Usage | None = None
        self.marks: dict[str, str] = {}
        self._unsound: list[Unsound] | None = None
        self._examined: Examination | None = None
        if file.damage is not None:
            self.mark(file.damage.path, "damage")
        for finding in file.findings:
            self.mark(finding.path, "finding")
        _ = self.by_path, file.tensors.at(0)  # which takes long for many tensors: in this thread, not in the screen's

    def mark(self, path: str, kind: str) -> None:
        """Mark a field, and what holds it, unless it has a mark."""
        self.marks.setdefault(path, kind)
        for holder in holders(path):
            self.marks.setdefault(holder, "changed" if kind == "only" else kind)

    @property
    def wrong(self) -> str:
        """Where the file is damaged, breaks a rule, or has values that are unsound; empty if nothing is known."""
        if self.file.damage is not None:
            return f"damaged at {self.file.damage.path}"
        summary = self.summary
        if summary and summary.broken:
            return f"invalid at {summary.broken[0].path}"
        unsound = self._unsound or (summary and summary.unsound)
        return f"unsound at {unsound[0].path}" if unsound else ""

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
            self._unsound = self._examined.unsound
        return self._examined

    def unsound(self, report: Report) -> list[Unsound]:
        """Return what the program that wrote the file cannot have written. Reads all weights and moments once."""
        from ggcp_schema.inspect.soundness import soundness

        if self._unsound is None:
            self._unsound = soundness(self.file, lambda nbytes: report(None))
        return self._unsound

    def study(self, report: Report) -> None:
        """Find out what `info` says, and what the bytes are used for. Reads some tensor data, so it takes a while."""
        used = usage(self.file, report)
        summary = summarize(self.file)
        report(None)
        self.usage, self.summary = used, summary
