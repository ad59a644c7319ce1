"""The patterns for ImHex. It cannot be run here: what is written is checked against the documented syntax."""

from __future__ import annotations

import re

import pytest

from ggcp_schema import FORMATS
from ggcp_schema.constructs import nodes, reference_of
from ggcp_schema.inspect.hexpat import pattern

BUILT_IN = {*(f"{sign}{bits}" for sign in "us" for bits in (8, 16, 32, 64, 128)), "char", "float", "double"}
KEYWORDS = re.compile(  # of the language's lexer, with its operators, constants and types
    r"as|be|bitfield|break|catch|const|continue|else|enum|fn|for|from|if|import|in|is|le|match|namespace|null|out|parent|"
    r"ref|return|signed|struct|this|try|union|unsigned|using|while|_|addressof|sizeof|typenameof|true|false|nan|inf|"
    r"any|auto|bool|char|char16|double|float|padding|str|[us]\d+"
)
WORDS = {"parent", "sizeof", "true", "false", "while", "std", "auto"}
ATTRIBUTE = r'(?:hidden|export|(?:color|comment)\(""\))'
ATTRIBUTES = re.compile(rf" \[\[{ATTRIBUTE}(?:, {ATTRIBUTE})*\]\](?=;)")
CONDITION = r"(?:else |(?:else )?if \((?P<condition>.*?)\) (?=[a-z]\w*[ <\[]))?"
MEMBER = re.compile(
    CONDITION + r"(?P<type>[a-z]\w*)(?:<(?P<arguments>.*)>)? (?P<name>[a-z]\w*)(?:\[(?P<count>[^@]+?)\])?"
    r"(?: = (?P<value>.*?))?(?: @ (?P<place>.*?))?;"
)
OTHER = re.compile(
    CONDITION + r"(?:padding\[(?P<size>.*)\]|(?P<name>\w+) = (?P<value>.*)|std::core::set_endian\((?P<order>.*)\));"
)
LEFT_OUT = {"gguf": {"tensor_data", "end_padding", "trailing"}}  # the data is in the elements of tensor_infos


def statements(text):
    """Return the lines without comments, texts, attributes and blank lines."""
    lines = (ATTRIBUTES.sub("", re.sub(r'"(?:[^"\\]|\\.)*"', '""', line)) for line in text.splitlines())
    return [line for line in lines if line and not line.startswith(("//", "#", "import "))]


def members(name):
    """Check each line of a pattern, and return the names of the members of each struct."""
    types, constants, variables, structs, inside = set(BUILT_IN), set(), set(), {}, None
    for line in statements(pattern(FORMATS[name])):
        if found := re.fullmatch(r"(struct|enum) (\w+)(?:<([\w, ]+)>)?(?: : (\w+))? \{", line):
            kind, inside, params, under = found.groups()
            assert kind == "struct" or under in BUILT_IN
            assert inside not in structs
            types.add(inside)
            assert not KEYWORDS.fullmatch(inside)
            structs[inside] = set(re.findall(r"auto (\w+)", params or ""))
        elif line == "};":
            inside = None
        elif found := re.fullmatch(r"using (\w+);", line):
            types.add(found[1])
        elif found := re.fullmatch(r"    ([A-Z]\w*) = -?\d+,", line):
            constants.add(f"{inside}::{found[1]}")
        elif inside is None:
            found = re.fullmatch(r"(\w+) (\w+)( @ 0x00)?;", line)
            assert found[1] in types
            variables.add(found[2])
        else:
            found = OTHER.fullmatch(line.strip()) or MEMBER.fullmatch(line.strip())
            assert found, line
            groups = found.groupdict()
            used, made = groups.pop("type", None), groups.pop("name")
            assert used is None or used in types, line
            assert not KEYWORDS.fullmatch(made or ""), line
            for text in filter(None, groups.values()):
                assert set(re.findall(r"(?<![:\w])[a-z]\w*::[A-Z]\w*", text)) <= constants, line
                names = set(re.findall(r"(?<![.:\w])[a-z]\w*(?!\w|::)", text))
                assert names <= structs[inside] | variables | WORDS, line
            structs[inside] |= {made} if made else {"padding"} if "padding[" in line else set()
    assert inside is None
    assert name in variables
    return structs


@pytest.mark.parametrize("name", FORMATS)
def test_every_line_is_of_the_documented_syntax_and_names_only_what_stands_before_it(name):
    text = "".join(statements(pattern(FORMATS[name])))
    for opening, closing in ("()", "[]", "{}"):
        assert text.count(opening) == text.count(closing)
    assert members(name)[name]


@pytest.mark.parametrize("name", FORMATS)
def test_every_field_of_the_reference_is_a_member_of_the_struct_of_that_name(name):
    structs = members(name)
    root, left_out = reference_of(FORMATS[name].schema), LEFT_OUT.get(name, set())
    for node in nodes(root):
        if node.get("kind") != "struct" or node["name"] in left_out:
            continue
        fields = {field["name"] for field in node["fields"] if field["name"]}
        found = structs[name if node is root else node["name"]]
        assert fields - left_out <= found | {made.removeprefix("stored_") for made in found}


def test_the_data_of_the_tensors_of_a_gguf_file_is_coloured():
    structs = members("gguf")
    assert "data" in structs["tensor_info"]
    text = pattern(FORMATS["gguf"])
    assert re.search(r"u8 data\[nbytes\] @ root_data_start \+ offset \[\[color\(", text)
    lines = [line.strip() for line in text[text.index("struct gguf {") :].splitlines()]
    order = [
        "alignment_so_far = 0;",
        "root_data_start = 0;",
        "tensor_infos_start = $;",
        "tensor_infos_ahead[",
        " padding[",
    ]
    order += ["root_data_start = data_start;", "tensor_infos[tensor_count] @ tensor_infos_start;"]
    places = [next(index for index, line in enumerate(lines) if part in line) for part in order]
    assert places == sorted(places)
