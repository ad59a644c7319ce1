"""The pattern of a format for ImHex: a translation of its specification for Kaitai Struct.

A pattern is read from top to bottom, so a derived value stands where all that it needs is known. A value that
is carried from one element of a list to the next is computed in the elements. A list whose elements point to data after
the list is read twice. Checks are left to this program.

No pattern was run: there is no package of ImHex's command-line tool. Two rules that the text relies on were looked up
in the source of the language: a placed member does not move `$`, and arrays of built-in types have no limit. That `&&`
evaluates both sides and `? :` one is assumed. A test holds each line to a strict grammar: balanced, each type and name
defined before it is used, no keyword as a name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from ggcp_schema.formats.file import Format
from ggcp_schema.inspect.kaitai import Attribute, described

TYPES = {f"{sign}{size}": f"{sign}{8 * size}" for sign in "us" for size in (1, 2, 4, 8)} | {
    "f4": "float",
    "f8": "double",
}
PRAGMAS = "#pragma endian little\n#pragma array_limit 0x1000000\n#pragma pattern_limit 0x1000000"
COLOURS = {"u": "7FB2E5", "s": "66C2A5", "f": "E5C07B", "text": "98C379", "bytes": "A0A0A0", "enum": "C678DD"}
FOLD = re.compile(r"(\w+)\((\w+)\[_index\], _index == 0 \? (\w+) : \w+\[_index - 1\]\.value\)")
NAME = re.compile(r'(?<![.:\w"])[a-z]\w*(?![\w"]|::)')
TABLE = re.compile(r"\[([\d, ]+)\]\[type\.to_i\]")


def pattern(format: Format) -> str:
    """Return the pattern as text."""
    page = described(format)
    made = _Pattern(page)
    root = "\n".join(made.struct(format.name, page))
    either = "endian" not in page["meta"]
    magic = " ".join(f"{byte:02X}" for byte in format.magic)
    doc = page["doc"].replace("--format ksy", "--format hexpat").splitlines()
    parts = [
        f"#pragma description {format.title}\n#pragma magic [ {magic} ] @ 0x00\n{PRAGMAS}",
        "\n".join(f"// {line}" for line in doc),
        "import std.core;\nimport std.mem;" if either else "",
        *(f"u128 {name};" for name in (*made.globals.values(), *made.sums)),
        *(_enum(name, kind, page["enums"][name]) for name, kind in made.enums.items()),
        _enum("text", "u8", dict(enumerate(made.texts))) if made.texts else "",
        *made.structs.values(),
        root,
        f"{format.name} {format.name} @ 0x00;",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


class _Pattern:
    """Collects the structs, enums and global variables while the structs that use them are translated."""

    def __init__(self, page: Attribute) -> None:
        self.page = page
        self.structs: dict[str, str] = {}
        self.enums: dict[str, str] = {}  # the type under an enum
        self.globals: dict[str, str] = {}  # the variable of a field of the root that others ask for
        self.sums: dict[str, str] = {}  # where a value that goes from element to element begins
        self.folds: dict[str, list[tuple[str, str]]] = {}  # what the elements of a type do with it
        self.twice: dict[str, str] = {}  # the second reading of a list
        self.texts: list[str] = []  # a local variable can hold a number, but no text

    def struct(self, name: str, record: Attribute) -> Iterator[str]:
        """Yield the lines of a struct."""
        seq, instances, params = _simplified(record, is_root=record is self.page)
        for field in seq:
            kind, _, argument = str(field["type"]).partition("(")
            if (called := self.page.get("types", {}).get(kind, {})).keys() == {"params"}:  # a place that is only kept
                instances = _replaced(instances, rf"{field['id']}\.{called['params'][0]['id']}\b", field["id"])
                field.update(type=None, value=argument[:-1])
            elif fold := FOLD.fullmatch(str(field["type"])):
                instances = _replaced(instances, rf"{field['id']}\.last\.value\b", field["id"])
                of = next(other["type"] for other in seq if other["id"] == fold[2])
                field.update(type=None, value=self.fold(field["id"], of, fold[1], fold[3]))
        among = {**instances, **{field["id"]: field for field in seq}}
        needed = _reachable(among, [key for key in among if not seq or self.is_shown(key, instances, record)])
        waiting = {key: value for key, value in instances.items() if key in needed}
        body, known = list[str](), set(params)

        def settle() -> None:
            while ready := [key for key in waiting if _names(waiting[key], among) - {key} <= known]:
                body.extend(self.instance(ready[0], waiting.pop(ready[0])))
                known.add(ready[0])

        settle()
        if "byte_order" in known:
            order = "byte_order == text::BIG ? std::mem::Endian::Big : std::mem::Endian::Little"
            body.append(f"std::core::set_endian({order});")
        for field in seq:
            if field["id"] in needed:
                body.extend(self.field(field))
                known.add(field["id"])
                settle()
        body += [f"{'' if key in self.sums else 's128 '}{key} = {value};" for key, value in self.folds.get(name, ())]
        body += [self.twice.pop(field["id"]) for field in seq if field["id"] in self.twice]
        if record is self.page:  # after all others, which may ask for its fields
            for path, variable in self.globals.items():
                place = next(i for i, line in enumerate(body) if re.search(rf"\b{path}\b.*;$", line))
                body.insert(place + 1, f"{variable} = {path};")
            late = {key: "0" for path, key in self.globals.items() if "_ahead" in str(instances.get(path))}
            body[:0] = [f"{key} = {start};" for key, start in {**self.sums, **late}.items()]
        start = f"<{', '.join(f'auto {param}' for param in params)}>" if params else ""
        yield from (f"struct {name}{start} {{", *(f"    {line}" for line in body), "};")

    def is_shown(self, key: str, instances: dict[str, Attribute], record: Attribute) -> bool:
        """Return False for a member that is only there because others are computed from it."""
        return "size" in instances[key] or record is self.page if key in instances else not key.endswith("_ahead")

    def fold(self, name: str, element: str, kind: str, start: str) -> str:
        """Return the variable of a value that each element of a list makes from that of the one before it."""
        variable, record = f"{name.removesuffix('_ahead')}_so_far", self.page["types"][kind]
        itself, before = (param["id"] for param in record["params"])
        self.sums[variable], self.folds[element] = start, []
        for key, instance in record["instances"].items():
            text = re.sub(rf"\b{itself}\.|\.as<\w+>", "", re.sub(rf"\b{before}\b", variable, instance["value"]))
            self.folds[element].append((variable if key == "value" else key, self.expression(text)))
        return variable

    # Members -------------------------------------------------------------------------------------------------

    def instance(self, name: str, value: Attribute) -> Iterator[str]:
        """Yield the lines of a derived value, or of what is looked at ahead."""
        if "value" in value:
            text = self.expression(value["value"])
            yield f"s128 {name} = {text} [[export]];"
        elif "size" in value:  # the root does not know where before all elements are read
            place, size = self.expression(value["pos"]), self.expression(value["size"])
            root = next(name for name in self.globals.values() if name in place)
            condition = f"{root} > 0 ? {self.expression(value['if'])} : false"
            yield f'if ({condition}) u8 {name}[{size}] @ {place} [[color("{COLOURS["bytes"]}")]];'
        elif "pos" in value:
            kind, place = self.type(value["type"]), f" @ {self.expression(value['pos'])} [[hidden]];"
            count = f"[{self.expression(value['repeat-expr'])}]" if "repeat" in value else ""
            placed = f"{kind} {name}{count}{place}"
            yield f"if ({self.expression(value['if'])}) {placed}" if "if" in value else placed
        elif "repeat" in value:  # each begins where the one before it ends
            first, _, after = value["type"].partition("(_index == 0 ? ")
            start, before = after.removesuffix(")").split(" : ")
            for index in range(value["repeat-expr"]):
                argument = before.replace("[_index - 1]", f"[{index - 1}]") if index else start
                yield f"{self.type(f'{first}({argument})')} {name}_{index} [[hidden]];"
        else:
            yield f"{self.type(value['type'])} {name} [[hidden]];"

    def field(self, field: Attribute) -> Iterator[str]:
        """Yield the lines of a field that has a place in the sequence."""
        name, kind = field["id"], field["type"]
        if "value" in field:
            yield f"s128 {name} = {self.expression(field['value'])};"
            return
        condition = f"if ({self.expression(field['if'])}) " if "if" in field else ""
        if "size" in field:
            size = self.expression(field["size"])
            called, colour = ("char", "text") if kind else ("u8", "bytes")
            is_padding = name == "padding"
            yield condition + (f"padding[{size}];" if is_padding else _member(called, f"{name}[{size}]", colour, field))
            return
        if "contents" in field:
            yield _member("char", f"{name}[{len(field['contents'])}]", "text", field)
            return
        count = self.expression(field.get("repeat-expr", field.get("repeat-until")))
        count = f"while(!({count}))" if "repeat-until" in field else count
        shown = f"{name}[{count}]" if "repeat" in field else name
        if not isinstance(kind, dict):
            called, colour = self.type(kind), str(kind)[0] if str(kind) in TYPES else ""
            if "enum" in field:
                self.enums[field["enum"]] = called
                called, colour = field["enum"], "enum"
            if any("size" in value for value in self.page.get("types", {}).get(kind, {}).get("instances", {}).values()):
                yield f"s128 {name}_start = $;"
                self.twice[name] = _member(called, f"{shown} @ {name}_start", colour, field)
                shown = shown.replace(name, f"{name}_ahead", 1)
            yield condition + _member(called, shown, colour, field)
            return
        cases = {re.sub('[lb]e(?="$)', "", key): re.sub("[lb]e$", "", case) for key, case in kind["cases"].items()}
        chosen = re.sub(r'\(byte_order == "little" \? "(\w+)le" : "\1be"\)', r'"\1"', kind["switch-on"])
        if two := re.fullmatch(r'([^?]*) \? "(\w+)" : "(\w+)"', chosen):
            chosen, cases = two[1], {"true": two[2], "_": two[3]}
        on = self.expression(chosen)
        if len(set(cases.values())) == 1:
            yield condition + _member(self.type(cases.popitem()[1]), shown, "u", field)
            return
        if " ? " in on:
            yield f"s128 {name}_type = {on};"
            on = f"{name}_type"
        for index, (case, inner) in enumerate(cases.items()):
            asked = "" if case == "_" else f"if ({on}) " if case == "true" else f"if ({on} == {self.expression(case)}) "
            member = _member(self.type(inner), shown, inner[0] if inner in TYPES else "", field)
            yield ("else " if index else "") + asked + member

    def type(self, kind: str) -> str:
        """Return the name of a type, whose struct is translated if it was not before."""
        name, _, arguments = kind.partition("(")
        if name in TYPES or name.removesuffix("le") in TYPES:
            return TYPES[name.removesuffix("le")]
        record = self.page["types"][name]
        if name not in self.structs:
            self.structs[name] = f"using {name};"  # what a struct that contains itself needs
            text = "\n".join(self.struct(name, record))
            forward = f"using {name};\n\n" if re.search(rf"^ .*\b{name} \w+[\[ ]", text, re.MULTILINE) else ""
            del self.structs[name]  # after the structs that it contains
            self.structs[name] = forward + text
        if record.get("seq") or not arguments:
            return name
        return f"{name}<{', '.join(f'({self.expression(text)})' for text in arguments[:-1].split(', '))}>"

    # Expressions ---------------------------------------------------------------------------------------------

    def expression(self, value: Any) -> str:
        """Return an expression of Kaitai's language in that of ImHex."""
        text = str(value)
        for path in re.findall(r"_root\.([\w.]+)", text):
            self.globals[path] = f"root_{path.replace('.', '_')}"
            text = text.replace(f"_root.{path}", self.globals[path])
        return translated(re.sub('(?<!text == )"([^"]*)"', self.text, text))

    def text(self, found: re.Match[str]) -> str:
        """Return the name of the number that stands for a text."""
        name = re.sub(r"\W", "_", found[1]) or "none"
        if name not in self.texts:
            self.texts.append(name)
        return f"text::{name.upper()}"


def _enum(name: str, kind: str, names: dict[int, str]) -> str:
    members = (f"    {text.upper()} = {number}," for number, text in names.items())
    return "\n".join([f"enum {name} : {kind} {{", *members, "};"])


def _member(kind: str, name: str, colour: str, field: Attribute) -> str:
    doc = re.sub(r"\s+", " ", field.get("doc", "").split("\n\n")[0]).replace("\\", "\\\\").replace('"', '\\"')
    attributes = ([f'color("{COLOURS[colour]}")'] if colour else []) + ([f'comment("{doc}")'] if doc else [])
    attributes += ["hidden"] if name.partition("[")[0].endswith("_ahead") else []
    return f"{kind} {name}" + (f" [[{', '.join(attributes)}]]" if attributes else "") + ";"


def _simplified(record: Attribute, *, is_root: bool) -> tuple[list[Attribute], dict[str, Attribute], list[str]]:
    """Return the fields, the derived values and the parameters, without what only checks and without second names."""
    seq = [{"type": None, **field} for field in record.get("seq", ()) if field.get("size") != 0]
    instances = record.get("instances", {})
    if is_root:
        seq, instances = _replaced(seq, r"\b_root\.", ""), _replaced(instances, r"\b_root\.", "")
    for key, value in instances.items():
        if isinstance(value.get("repeat-expr"), int):
            instances = _replaced(instances, rf"\b{key}\.last\b", f"{key}[{value['repeat-expr'] - 1}]")
    for key, value in list(instances.items()):
        if re.fullmatch(r"\w+\[\d+\]", str(value.get("value"))):
            others = {name: other for name, other in instances.items() if name != key}
            instances = _replaced(others, rf"(?<![.\w]){key}\b", value["value"])
    return seq, instances, [] if seq else [param["id"] for param in record.get("params", ())]


def _replaced(value: Any, pattern: str, text: str) -> Any:
    if isinstance(value, dict):
        return {key: _replaced(inner, pattern, text) for key, inner in value.items()}
    if isinstance(value, list):
        return [_replaced(inner, pattern, text) for inner in value]
    return re.sub(pattern, text, value) if isinstance(value, str) else value


def _names(value: Attribute, among: dict[str, Any]) -> set[str]:
    """Return the names of the record that an attribute uses."""
    keys = ("value", "pos", "if", "size", "repeat-expr", "type")
    texts = [str(value[key]) for key in keys if key in value]
    return {name for text in texts for name in NAME.findall(text.replace("'", " ")) if name in among}


def _reachable(among: dict[str, Attribute], wanted: list[str]) -> set[str]:
    found: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name not in found:
            found.add(name)
            wanted += _names(among[name], among)
    return found


# Expressions, of which `&&` and `||` evaluate both sides in ImHex, and `? :` does not -----------------------


def translated(text: str) -> str:
    """Return an expression in ImHex's language."""
    if table := TABLE.fullmatch(text):
        return _choice([int(number) for number in table[1].split(",")])
    text = re.sub(r"-_io\.pos % (\w+)", r"(\1 - $ % \1) % \1", text)
    text = re.sub(r"\btensors\[(\d+)\]", r"tensors_\1", text)
    text = re.sub(r"\(([^()]*)\)\.to_i", r"(\1 ? 1 : 0)", text).replace(".to_i", "")
    text = text.replace("_io.eof", "$ >= sizeof($)").replace("_io.pos", "$").replace("_io.size", "sizeof($)")
    text = re.sub(r"(\w+)::(\w+)", lambda found: f"{found[1]}::{found[2].upper()}", text)
    return _lazy(text.replace("_parent.", "parent."))


def _choice(numbers: list[int]) -> str:
    """Return the number at the place `type` of a list as conditions on ranges of types."""
    runs, after = [], 0
    for number, run in groupby(numbers):
        after += len(list(run))
        runs.append((number, after))
    text = str(runs.pop()[0])
    for number, after in reversed(runs):
        text = f"type < {after} ? {number} : {f'({text})' if '?' in text else text}"
    return text


def _lazy(text: str) -> str:
    """Return an expression in which what need not be evaluated is not."""
    if parts := _parts(text, " ? "):
        chosen, *others = _parts(" ? ".join(parts[1:]), " : ")
        other = _lazy(" : ".join(others))
        return f"{_lazy(parts[0])} ? {_lazy(chosen)} : {f'({other})' if ' ? ' in other else other}"
    for word, shape in ((" or ", "({} ? true : {})"), (" and ", "({} ? {} : false)")):
        if parts := _parts(text, word):
            return shape.format(_lazy(parts[0]), _lazy(word.join(parts[1:])))
    if text.startswith("not "):
        return f"!({_lazy(text[4:])})"
    return re.sub(r"\((?:[^()]|\([^()]*\))*\)", lambda found: f"({_lazy(found[0][1:-1])})", text)


def _parts(text: str, word: str) -> list[str]:
    """Return the parts between a word outside of parentheses; none if the word is not there."""
    parts, depth, start = [], 0, 0
    for index, character in enumerate(text):
        depth += (character in "([") - (character in ")]")
        if not depth and text.startswith(word, index):
            parts.append(text[start:index])
            start = index + len(word)
    return [*parts, text[start:]] if parts else []
