"""Read files with the parsers that Kaitai's compiler makes of the specifications, in Python and in JavaScript."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from kaitaistruct import KaitaiStream, KaitaiStruct

HERE = Path(__file__).parent
INFERENCE = ("remaining", "adam_bound", "lbfgs_bound", "by_size", "by_records")
UNSEEN = re.compile(r".*_ahead|end_of_file|inference")  # fields that look ahead, and that have no bytes
Leaf = tuple[str, int, int, Any]


class Reading(NamedTuple):
    """What a parser found in a file: the leaves, the derived values, and where the tensors of a GGUF file are.

    Of a damaged file, `error` is the message of the parser and `offset` that of the field that it could not read.
    """

    leaves: Sequence[Leaf] = ()
    derived: Sequence[Any] = ()
    data: Sequence[tuple[str, int, int]] = ()
    error: str = ""
    offset: int = 0


def compile_all(specifications: dict[str, str], folder: Path) -> None:
    """Compile the specifications by format to `NAME.py` and `Name.js` in a folder."""
    jobs = [
        [language, yaml.safe_load(text)] for text in specifications.values() for language in ("python", "javascript")
    ]
    done = subprocess.run(
        ["node", HERE / "compile.js"], input=json.dumps(jobs), capture_output=True, text=True, check=False
    )
    assert not done.returncode, done.stderr[:2000]
    for files in json.loads(done.stdout):
        for name, text in files.items():
            # text that is no UTF-8 is kept, as this package keeps it
            (folder / name).write_text(
                text.replace('.decode(u"UTF-8")', '.decode("UTF-8", "surrogateescape")'), "utf-8"
            )


# Python ----------------------------------------------------------------------------------------------------


def load(path: Path) -> type[KaitaiStruct]:
    """Return the class of a compiled specification."""
    spec = importlib.util.spec_from_file_location(f"kaitai_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: type[KaitaiStruct] = getattr(module, path.stem.capitalize())
    return found


def read(kind: type[KaitaiStruct], path: Path, derived: list[str]) -> Reading:
    """Read a file. Any exception of the parser is an error in the file."""
    with path.open("rb") as stream:
        root = kind(KaitaiStream(stream))
        try:
            root._read()
        except Exception as error:
            return Reading(error=f"{type(error).__name__}: {error}", offset=_failed(root, 0))
        infos = getattr(root, "tensor_infos", [])
        for info in sorted(infos, key=lambda info: info.offset):
            try:
                info.data  # noqa: B018 - it is read when it is asked for
            except Exception as error:  # noqa: PERF203
                offset = root.data_start + info.offset
                return Reading(error=f"{type(error).__name__}: {error}", offset=offset)
        data = [(info.name.text, root.data_start + info.offset, info.nbytes) for info in infos if info.is_known]
        return Reading(list(_leaves(root, "", {})), [_derived(root, name) for name in derived], data)


def _fields(record: KaitaiStruct) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    for name in record.SEQ_FIELDS:
        if "start" in record._debug[name]:
            yield name, getattr(record, name, None), record._debug[name]


def _leaves(value: Any, path: str, place: dict[str, Any]) -> Iterator[Leaf]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}[{index}]", place["arr"][index])
    elif type(value).__name__ == "String":
        yield path, place["start"], place["end"] - place["start"], value.text
    elif isinstance(value, KaitaiStruct):
        for name, inner, at in _fields(value):
            if not UNSEEN.fullmatch(name):
                yield from _leaves(inner, f"{path}.{name.removeprefix('stored_')}".removeprefix("."), at)
    else:
        shown = value.hex() if isinstance(value, bytes) else value
        yield path, place["start"], place["end"] - place["start"], None if path.endswith("data") else shown


def _derived(root: KaitaiStruct, path: str) -> Any:
    value: Any = root
    for name in filter(None, re.split(r"[.\[\]]+", path)):
        value = value[int(name)] if name.isdecimal() else getattr(value, name)
    return {name: getattr(value, name) for name in INFERENCE} if isinstance(value, KaitaiStruct) else value


def _failed(value: Any, start: int) -> int:
    """Return the offset of the field that was being read, in the innermost record."""
    found = list(_fields(value))
    if not found:
        return start
    _, inner, place = found[-1]
    if "end" not in place and place.get("arr"):
        index = len(place["arr"]) - 1
        inner, place = inner[index] if index < len(inner) else None, place["arr"][index]
    is_open = isinstance(inner, KaitaiStruct) and "end" not in place
    return _failed(inner, place["start"]) if is_open else int(place["start"])


# JavaScript ------------------------------------------------------------------------------------------------


class Node:
    """The parsers in JavaScript, in one process."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            ["node", HERE / "walk.js"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )

    def read(self, compiled: Path, path: Path, derived: list[str]) -> Reading:
        """Read a file."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        job = {"class": str(compiled), "file": str(path), "derived": derived}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        found = json.loads(self.process.stdout.readline())
        return Reading(
            **{key: [tuple(leaf) for leaf in value] if key == "leaves" else value for key, value in found.items()}
        )

    def close(self) -> None:
        """End the process."""
        self.process.communicate(timeout=60)
