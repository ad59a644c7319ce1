"""Comparing two files, and the files to compare."""

from __future__ import annotations

from ggcp_schema import convert, export_model, open_file
from ggcp_schema.inspect.diff import compare
from tests.helpers import FIXTURES

ADAM, LBFGS = FIXTURES / "v1-adam.ggcp", FIXTURES / "v1-lbfgs.ggcp"


def compared(a, b, **options):
    with open_file(a, partial=True) as left, open_file(b, partial=True) as right:
        return compare(left, right, **options)


def differing(found):
    return {row.name: row.verdict for row in [*found.fields, *found.tensors] if row.verdict != "equal"}


def row_of(found, name):
    return next(row for row in [*found.fields, *found.tensors] if row.name == name)


def converted(path, tmp_path, **options):
    out = tmp_path / f"{path.name}.gguf"
    convert(path, out, **options)
    return out


def exported(path, tmp_path):
    out = tmp_path / f"{path.name}.model.gguf"
    export_model(path, out, vocab=FIXTURES / "vocab.gguf", context_length=32)
    return out
