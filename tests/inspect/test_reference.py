"""The reference must be enough to read the files: a reader written against its JSON alone finds the same fields."""

from __future__ import annotations

import json
import math
import operator
import re
import struct

import pytest

from ggcp_schema import FORMATS, open_file
from ggcp_schema.constructs import nodes
from ggcp_schema.inspect.reference import reference, sections
from ggcp_schema.inspect.text import json_value
from tests.helpers import FEW, FIXTURES, GENUINE, thinned
from tests.samples import KINDS, sample

NUMBERS = {
    "bool": "?",
    "u8": "B",
    "i8": "b",
    "u16": "H",
    "i16": "h",
    "u32": "I",
    "i32": "i",
    "u64": "Q",
    "i64": "q",
    "f32": "f",
    "f64": "d",
}
OPERATORS = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "==": operator.eq,
    "!=": operator.ne,
}


class Scope(dict):
    """The values of a record, with the record around it and the index of the element."""

    def __init__(self, around, index):
        super().__init__()
        self.around, self.index = around, index

    def root(self):
        return self if self.around is None else self.around.root()

    def find(self, path):
        value = self
        for name in path.split("."):
            special = {"_": "around", "_index": "index"}.get(name)
            value = value.root() if name == "_root" else getattr(value, special) if special else value[name]
        return value


class JsonReader:
    """Reads a file by the JSON reference of its format, without the schema."""

    def __init__(self, ref, data):
        self.data, self.at, self.leaves = data, 0, []
        self.value = self.read(json.loads(json.dumps(ref))["root"], None, "", None)

    def number(self, kind, order="little"):
        size = struct.calcsize("=" + NUMBERS[kind])
        (value,) = struct.unpack(("<" if order == "little" else ">") + NUMBERS[kind], self.take(size))
        return value

    def take(self, size):
        assert self.at + size <= len(self.data)
        self.at += size
        return self.data[self.at - size : self.at]

    def evaluate(self, expression, scope, node=None):
        if not isinstance(expression, dict):
            return expression
        if "bytes" in expression:
            return bytes.fromhex(expression["bytes"])
        if "field" in expression:
            return scope.find(expression["field"])
        args = [self.evaluate(arg, scope) for arg in expression.get("args", [])]
        if "op" in expression:
            return OPERATORS[expression["op"]](*args)
        if expression["function"] == "prod":
            return math.prod(*args)
        return getattr(self, expression["function"])(scope, node)

    def follows(self, node):
        left = self.data[self.at :]
        return len(left) >= node["least"] or (left and left[0] in node["first"])

    def read(self, node, scope, path, index):  # noqa: PLR0911, PLR0912
        kind = node["kind"]
        if kind == "struct":
            inner = Scope(scope, index)
            for field in node["fields"]:
                name = field["name"]
                value = self.read(field["type"], inner, f"{path}.{name}".removeprefix("."), index)
                if name:
                    inner[name] = value
            return inner
        if kind == "if":
            return self.read(node["then" if self.evaluate(node["condition"], scope) else "else"], scope, path, index)
        if kind == "switch":
            key = self.evaluate(node["on"], scope)
            case = next((case["type"] for case in node["cases"] if case["key"] == key), node["default"])
            return self.read(case, scope, path, index)
        if kind == "array":
            items = []
            count = math.inf if node["count"] is None else self.evaluate(node["count"], scope)
            while len(items) < count and (node["count"] is not None or self.follows(node)):
                scope.index = len(items)
                items.append(self.read(node["of"], scope, f"{path}[{len(items)}]", len(items)))
            return items
        if kind == "nothing":
            return None
        if kind == "end":
            assert self.at == len(self.data)
            return None
        start = self.at
        value, shown = self.leaf(node, scope)
        if "equals" in node:
            assert value == self.evaluate(node["equals"], scope), path
        if "one_of" in node:
            assert value in node["one_of"]
        if "names" in node:
            assert str(value) in node["names"], path
        if "range" in node:
            assert node["range"][0] <= value <= node["range"][1]
        if value is not None:
            self.leaves.append((path, "derived" if kind == "computed" else kind, start, self.at - start, shown))
        return value

    def leaf(self, node, scope):
        kind = node["kind"]
        if kind in NUMBERS:
            value = self.number(kind, self.evaluate(node["byte_order"], scope))
            return value, value
        if kind == "computed":
            here = self.at
            value = self.evaluate(node["value"], scope)
            self.at = here
            return value, value
        if kind == "string":
            text = self.take(self.read_length(node["length"], scope)).decode("utf-8")
            return text, text
        if kind == "data":
            self.at += self.evaluate(node["size"], scope, node)
            return kind, None
        if kind == "padding" and "size" not in node:
            until = self.evaluate(node.get("until"), scope)
            size = until - self.at if "until" in node else -self.at % self.evaluate(node["to_multiple_of"], scope)
            raw = self.take(min(size, len(self.data) - self.at) if node.get("optional") else size)
            return raw, raw.hex()
        raw = self.take(self.evaluate(node["size"], scope))
        return raw, raw.decode("utf-8", "backslashreplace") if kind == "char" else raw.hex()

    def read_length(self, node, scope):
        if node["kind"] == "if":
            return self.read_length(node["then" if self.evaluate(node["condition"], scope) else "else"], scope)
        return self.number(node["kind"], self.evaluate(node["byte_order"], scope))

    # The functions, from their descriptions in the reference

    def skip_tensor(self):
        n_dims, name_len, _ = (self.number("u32") for _ in range(3))
        ne = [self.number("u32") for _ in range(n_dims)]
        self.take(name_len)
        self.at += -self.at % 32 + (4 * math.prod(ne) if ne else 0)
        return ne

    def n_ff(self, scope, node):
        for _ in range(6):
            self.skip_tensor()
        return self.skip_tensor()[1]

    def optimizer_layout(self, scope, node):
        def fits(skip):
            nx, _, initialized, n_dims, _, _, ne = struct.unpack_from("<qiI4I", self.data, self.at + skip)
            return initialized in (0, 1) and n_dims == 1 and ne == nx

        if scope["version"] == 0:
            return "v0"
        return "v1-raw-params" if not fits(8) and fits(96) else "v1"

    def infer_optimizer_type(self, scope, node):
        def bound(*ne):
            return 12 + 8 * len(ne) + 48 + 31 + 4 * math.prod(ne)

        nx, past, m = (scope[name] for name in ("nx", "past", "lbfgs_m"))
        adam = 12 + 2 * bound(nx) + bound(past) * (past > 0)
        lbfgs = 24 + 5 * bound(nx) + bound(past) + 2 * bound(m) + 2 * bound(nx, m) + bound(past) * (past > 0)
        remaining = len(self.data) - self.at
        third = [self.skip_tensor() for _ in range(3)][2]
        by_size = "adam" if abs(remaining - adam) < abs(remaining - lbfgs) else "lbfgs"
        by_records = "adam" if third == ([past] if past else []) else "lbfgs"
        names = ("remaining", "adam_bound", "lbfgs_bound", "by_size", "by_records")
        return dict(zip(names, (remaining, adam, lbfgs, by_size, by_records), strict=True))

    def optimizer_type(self, scope, node):
        if scope["params"] is not None:
            return {0: "adam", 1: "lbfgs"}[scope["params"]["type"]]
        return scope["inference"]["by_records"]

    def inferred_type(self, scope, node):
        return scope["inference"]["by_records"]

    def byte_order(self, scope, node):
        return "big" if self.data[self.at : self.at + 2] == b"\0\0" else "little"

    def alignment(self, scope, node):
        return next((item["value"] for item in scope["metadata_kv"] if item["key"] == "general.alignment"), 32)

    def data_start(self, scope, node):
        return self.at

    def info(self, scope):
        return sorted(scope.root()["tensor_infos"], key=lambda info: info["offset"])[scope.index]

    def tensor_offset(self, scope, node):
        return max(self.at, scope.root()["data_start"] + self.info(scope)["offset"])

    def blocks(self, node, type_, ne):
        kind = node["element_types"][str(type_)]
        return -(-ne[0] // kind["block_size"]) * kind["type_size"] * math.prod(ne[1:])

    def tensor_nbytes(self, scope, node):
        info = self.info(scope)
        return self.blocks(node, info["type"], info["dimensions"] or [1])

    def more_follows(self, scope, node):
        return self.at < len(self.data)

    def bytes_left(self, scope, node):
        return len(self.data) - self.at

    def nbytes(self, scope, node):
        return self.blocks(node, scope["type"], scope["ne"])


def assert_same_fields(path):
    with open_file(path) as file:
        expected = [(f.path, f.type, f.offset, f.size, json_value(f)) for f in file.root.leaves()]
        found = JsonReader(reference(file.format), path.read_bytes()).leaves
    assert found == expected


OTHERS = [FIXTURES / "vocab.gguf", FIXTURES / "alice-vocab.ggjt"]
FILES = thinned([*GENUINE, *OTHERS], [*FEW, *OTHERS])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_reader_made_from_the_json_finds_the_fields_of_a_genuine_file(path):
    assert_same_fields(path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_reader_made_from_the_json_finds_the_fields_of_any_format(kind, tmp_path):
    assert_same_fields(sample(kind, tmp_path))


@pytest.mark.parametrize("name", FORMATS)
def test_every_function_is_explained_and_every_record_has_a_name(name):
    found = reference(FORMATS[name])
    called = set(re.findall(r'"function": "(\w+)"', json.dumps(found["root"]))) - {"prod"}
    assert set(found["functions"]) == called
    assert all(len(text) > 20 for text in found["functions"].values())
    assert [(note["name"], note["text"]) for note in found["notes"]] == list(found["functions"].items())
    assert all(node["name"] for node in nodes(found["root"]) if node.get("kind") == "struct")


def test_records_of_one_name_have_the_same_fields():
    """Tensors may differ in their shape, and arrays in how deep they are."""
    for format_ in FORMATS.values():
        fields = {}
        for node in nodes(reference(format_)["root"]):
            if node.get("kind") == "struct":
                names = [field["name"] for field in node["fields"]]
                assert fields.setdefault(node["name"], names) == names


def generic(path):
    """The path without indices, as the titles of sections have it."""
    return re.sub(r"\[\d+\]", "[i]", path)


def test_every_field_of_every_checkpoint_is_in_a_section_and_conversely():
    documented = set()
    for section in sections(FORMATS["ggcp"]):
        root = re.sub(r" \(.*\)|^file$", "", section.title)
        documented |= {f"{root}.{row.name}".lstrip(".") for row in section.rows}
    tensor = {name.removeprefix("tensor.") for name in documented if name.startswith("tensor.")}
    assert tensor == {"n_dims", "name_len", "type", "ne", "name", "padding", "data"}
    seen = set()
    for path in GENUINE:
        with open_file(path) as file:
            seen |= {generic(leaf.path).replace("ne[i]", "ne") for leaf in file.root.leaves()}
    for name in seen:
        stem, _, last = name.rpartition(".")
        assert name in documented or (stem in documented and last in tensor), name
    reached = {name[: match.start()] for name in seen for match in re.finditer(r"$|\[|\.", name)}
    assert {name for name in documented if not name.startswith("tensor.")} - reached == {"trailing"}


@pytest.mark.parametrize(
    ("format", "section", "name", "expected"),
    [
        ("ggcp", "file", "tok_embeddings", {"type": "tensor [n_embd, n_vocab]"}),
        ("ggcp", "optimizer", "params", {"condition": "layout != 'v1'"}),
        ("ggcp", "optimizer", "past", {"type": "u32 if layout == 'v1', else derived", "rule": "= params.past"}),
        ("ggcp", "optimizer.state (type == 'lbfgs')", "pf", {"type": "tensor [past], or NULL if past == 0"}),
        ("ggcp", "optimizer.state (type == 'adam', layout != 'v0')", "m", {"type": "tensor [nx]"}),
        ("ggcp", "tensor", "ne", {"type": "u32 × n_dims"}),
        ("gguf", "metadata_kv[i]", "key", {"type": "string, its length as u32 or u64 first"}),
        ("gguf", "metadata_kv[i].value, by value_type", "12", {"type": "f64", "note": "FLOAT64"}),
        ("ggjt", "file", "tensors", {"type": "record × any number"}),
        ("ggjt", "tensors[i] (version != 3)", "padding", {"type": "padding"}),
        ("ggjt", "tensors[i] (version == 3), blocks by type", "8", {"type": "Q8_0", "rule": "32 elements in 34 bytes"}),
        ("ggjt", "tensors[i] (version != 3), blocks by type", "8", {"type": "Q8_0", "rule": "32 elements in 36 bytes"}),
    ],
)
def test_rows(format, section, name, expected):
    rows = next(found.rows for found in sections(FORMATS[format]) if found.title == section)
    row = next(row for row in rows if row.name == name)
    assert {key: getattr(row, key) for key in expected} == expected
