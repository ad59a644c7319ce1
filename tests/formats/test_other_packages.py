"""Formats of other packages: the block of docs/FORMATS.md, installed as it stands, works in every command."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from functools import cached_property
from importlib.util import module_from_spec, spec_from_file_location
from math import prod
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from ggcp_schema import File, Format, open_file
from ggcp_schema.constructs import Const, Int32ul, OneOf, Payload, Struct, this
from ggcp_schema.errors import UnfitError
from ggcp_schema.files.key_values import KeyValue
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.formats import known_formats
from ggcp_schema.inspect.hexpat import pattern
from ggcp_schema.inspect.kaitai import described
from ggcp_schema.llama import keys
from ggcp_schema.llama.eras import Evidence
from ggcp_schema.llama.model import Model
from ggcp_schema.llama.names import is_optimizer, tensor_name
from ggcp_schema.llama.training import Training
from ggcp_schema.llama.vocabulary import Token, Vocabulary
from ggcp_schema.schema.inference import ADAM
from tests.browse.driver import Browser, browse
from tests.helpers import FIXTURES, run_cli

ROOT = Path(__file__).resolve().parents[2]

PAGE = (ROOT / "docs/FORMATS.md").read_text("utf-8")
ENTRY_POINT = 'toy = "toy_format:FORMAT"'

TRAINED = FIXTURES / "twin-adam.v1.ggcp"
SIZES = ("n_vocab", "n_embd", "n_head", "n_layer", "n_ff", "n_rot")
COUNTS = ("train_its", "train_samples", "train_tokens", "iteration", "past")

COMMANDS = {  # each with the exit codes for a whole file and a damaged one
    ("info", "FILE"): (0, 4),
    ("dump", "FILE"): (0, 4),
    ("get", "FILE", "count"): (0, 0),
    ("get", "FILE", "values[2]"): (0, 4),
    ("hex", "FILE", "0:24"): (0, 4),
    ("hex", "FILE", "kind"): (0, 0),
    ("tensors", "FILE"): (0, 4),
    ("search", "FILE", "kind"): (0, 4),
    ("stats", "FILE"): (0, 4),
    ("validate", "FILE"): (0, 4),
    ("validate", "--data", "FILE"): (0, 4),
    ("diff", "FILE", "FILE"): (0, 4),
    ("edit", "FILE", "out.toy", "kind=0"): (0, 4),
    ("extract", "FILE", "*", "out.safetensors"): (2, 4),
    ("convert", "FILE", "out.gguf"): (2, 4),
    ("export", "FILE", "out.gguf", "--vocab", "FILE", "--context-length", "8"): (2, 4),
    ("schema", "toy"): (0, 0),
    ("schema", "toy", "--format", "json"): (0, 0),
    ("schema", "toy", "--format", "ksy"): (0, 0),
    ("schema", "toy", "--format", "hexpat"): (0, 0),
    ("schema", "toy", "--format", "magic"): (0, 0),
}


def block(language: str) -> str:
    """The first block of the page in a language."""
    found = re.search(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's module with its entry point, as pip lays a package out."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "toy_format.py").write_text(block("python"), "utf-8")
    group, entry = re.search(r"(.*entry-points.*)\n(.*)", block("toml")).groups()
    assert entry == ENTRY_POINT
    info = folder / "toy_format-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-format\nVersion: 1.0\n")
    name = re.search(r'entry-points\."(.*)"', group)
    assert name
    (info / "entry_points.txt").write_text(f"[{name[1]}]\n{entry.replace(chr(34), '')}\n")
    return folder


def loaded(package: Path) -> Any:
    spec = spec_from_file_location("toy_format", package / "toy_format.py")
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sample(package: Path) -> bytes:
    return bytes(loaded(package).SAMPLE)


@pytest.fixture
def installed(package: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let this process find the package as one that is installed."""
    monkeypatch.syspath_prepend(package)
    known_formats.cache_clear()
    yield
    known_formats.cache_clear()
    sys.modules.pop("toy_format", None)


def run(package: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(package), str(ROOT)])}
    command = [sys.executable, "-m", "ggcp_schema", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_a_page_of_fifteen_lines_is_enough() -> None:
    assert len([line for line in block("python").splitlines() if line.strip()]) <= 16


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("damage", ["whole", "cut", "changed"])
@pytest.mark.usefixtures("installed")
def test_every_command_works(command: tuple[str, ...], damage: str, package: Path, tmp_path: Path) -> None:
    data = sample(package)
    content = {"whole": data, "cut": data[:-2], "changed": data[:8] + b"\xff\xff" + data[10:]}[damage]
    (tmp_path / "x.toy").write_bytes(content)
    result = run_cli(*("x.toy" if word == "FILE" else word for word in command), cwd=tmp_path)
    whole, broken = COMMANDS[command]
    assert result.returncode == (whole if damage == "whole" else broken), result.stderr
    assert result.stdout.strip() or result.stderr.startswith("ggcp-schema: ")
    if result.returncode:
        assert "out.toy" not in os.listdir(tmp_path)
        assert len(result.stderr.strip().splitlines()) <= 2


def test_records_without_a_name_are_called_after_their_fields() -> None:
    """Two different records that the fields of one name hold are two types."""
    inner = Struct("point" / Struct("x" / Int32ul), "line" / Struct("point" / Struct("y" / Int32ul, "z" / Int32ul)))
    kind = "kind" / OneOf(Int32ul, {1: "one", 2: "two"})
    made = Format("toy", b"TOY1", Struct("magic" / Const(b"TOY1"), kind, *inner.subcons), "toy file")
    types = described(made)["types"]
    assert {name: [field["id"] for field in kind["seq"]] for name, kind in types.items()} == {
        "point": ["x"],
        "line": ["point"],
        "point_item": ["y", "z"],
    }
    assert "point_item point" in pattern(made)
    assert "enum toy_kind" in pattern(made)


@pytest.mark.usefixtures("installed")
def test_a_specification_states_no_more_than_the_page(package: Path) -> None:
    """An empty map is none for the compiler, and another package has its own licence."""
    assert {"types", "doc-ref", "license"}.isdisjoint(described(loaded(package).FORMAT).keys())
    assert "license" not in described(loaded(package).FORMAT)["meta"]
    assert pattern(loaded(package).FORMAT).startswith("#pragma description toy file")


def test_a_key_of_no_number_is_refused_at_once() -> None:
    """That it is none of the numbers that a key can hold must not be found out by trying all."""
    with pytest.raises(UnfitError, match="None is out of range for UINT32"):
        KeyValue("a.key", "UINT32", None)


class ToyFile(File):
    """A checkpoint of another package: the text of a JSON table, and the data behind it."""

    def stored_tensors(self) -> Iterator[Tensor]:
        at = self.container.table.offset + self.container.table.nbytes
        for name, shape in self.table["tensors"].items():
            nbytes = 4 * prod(shape)
            yield Tensor(name, name, tuple(shape), at, nbytes, self.source)
            at += nbytes

    @cached_property
    def table(self) -> dict[str, Any]:
        extent = self.container.table
        return dict(json.loads(self.source.read(extent.offset, extent.nbytes)))

    def names_of(self, tensor: Tensor) -> tuple[str | None, str | None, str | None]:
        kind = ADAM if is_optimizer(tensor.path) else None
        return tensor.path, tensor_name(tensor.path, kind), kind

    def model(self) -> Model:
        return Model(
            self.path, **self.table["sizes"], tensors=self.model_tensors, evidence=Evidence(), has_vocabulary=True
        )

    def training(self) -> Training:
        return Training(self.model(), self.state_tensors, ADAM, **self.table["counts"], stated=self.table["stated"])

    def vocabulary(self) -> Vocabulary:
        return Vocabulary.of(self.path, "toy", [Token(*token) for token in self.table["tokens"]], {"bos": 1, "eos": 2})


@pytest.fixture
def toy_checkpoint(tmp_path: Path) -> Iterator[Path]:
    """The training and the vocabulary of a ggcp file and a GGUF file, in the format of another package."""
    path = tmp_path / "x.toy"
    with open_file(TRAINED) as ckpt, open_file(FIXTURES / "vocab.gguf") as vocabulary:
        training = ckpt.training()
        tensors = {name: tensor for name, tensor in ckpt.tensors.items() if not tensor.is_null}
        table = {
            "sizes": {name: getattr(training.model, name) for name in SIZES},
            "counts": {name: getattr(training, name) for name in COUNTS},
            "stated": {path: training.stated[path] for _, _, path in keys.STATE[ADAM]},
            "tokens": vocabulary.vocabulary().tokens,
            "tensors": {name: tensor.shape for name, tensor in tensors.items()},
        }
        text = json.dumps(table).encode()
        data = b"".join(tensor.array().tobytes() for tensor in tensors.values())
        path.write_bytes(b"TOY2" + struct.pack("<II", len(text), len(data)) + text + data)
    schema = Struct(
        "magic" / Const(b"TOY2"),
        "n_table" / Int32ul,
        "n_data" / Int32ul,
        "table" / Payload(this.n_table, ["B"]),
        "data" / Payload(this.n_data, ["B"]),
    )
    with mock.patch("ggcp_schema.formats._others", return_value=[Format("toy", b"TOY2", schema, "toy file", ToyFile)]):
        yield path


def test_a_checkpoint_of_another_package_has_all_views(toy_checkpoint: Path, tmp_path: Path) -> None:
    """What is made of it is what is made of a ggcp file with the same training."""
    for command in (
        "info x.toy",
        "stats x.toy",
        "validate --data x.toy",
        f"diff x.toy {TRAINED}",
        "convert x.toy own.gguf --verify",
        "verify x.toy own.gguf",
        "diff x.toy own.gguf",
        "export x.toy model.gguf --context-length 32 --verify",
        "verify x.toy model.gguf",
        "verify model.gguf model.gguf",
        "export --to hf x.toy hf --context-length 32 --verify",
        "verify x.toy hf",
    ):
        result = run_cli(*command.split(), cwd=tmp_path)
        assert result.returncode == 0, (command, result.stdout, result.stderr)
    assert "--vocab" not in run_cli("info", "x.toy", cwd=tmp_path).stdout  # which it contains
    run_cli("convert", str(TRAINED), "theirs.gguf", cwd=tmp_path)
    with open_file(tmp_path / "own.gguf") as own, open_file(tmp_path / "theirs.gguf") as theirs:
        differ = {key for key, entry in own.key_values.items() if theirs.key_values.get(key) != entry}
        assert own.key_values.keys() == theirs.key_values.keys()
        of_writer = {"ggcp.writers", "llama.attention.layer_norm_rms_epsilon"}
        assert differ == of_writer  # the layout of a ggcp file tells more of it
        assert {name: tensor.array().tobytes() for name, tensor in own.tensors.items()} == {
            name: tensor.array().tobytes() for name, tensor in theirs.tensors.items()
        }


@pytest.mark.usefixtures("installed")
def test_what_is_shown_is_useful(package: Path, tmp_path: Path) -> None:
    (tmp_path / "x.toy").write_bytes(sample(package))
    text = run(package, "info", "x.toy", cwd=tmp_path).stdout
    assert "toy file, 24 B" in text
    assert re.search(r"^count +3$", text, re.MULTILINE)
    assert run_cli("get", "x.toy", "values[1]", cwd=tmp_path).stdout == "2.0\n"
    document = json.loads(run_cli("dump", "x.toy", "--json", cwd=tmp_path).stdout)
    assert [field["path"] for field in document][:3] == ["magic", "kind", "count"]
    assert "what the values are" in run_cli("schema", "toy", cwd=tmp_path).stdout
    run_cli("edit", "x.toy", "y.toy", "values[0]=5", cwd=tmp_path)
    assert run_cli("get", "y.toy", "values[0]", cwd=tmp_path).stdout == "5.0\n"


@pytest.mark.usefixtures("installed")
def test_an_entry_point_that_cannot_be_loaded_is_named(package: Path, tmp_path: Path) -> None:
    (tmp_path / "x.toy").write_bytes(sample(package))
    (package / "toy_format.py").rename(package / "gone.py")
    try:
        result = run_cli("info", "x.toy", cwd=tmp_path)
    finally:
        (package / "gone.py").rename(package / "toy_format.py")
    assert result.returncode == 2
    assert "the format 'toy' (toy_format:FORMAT) cannot be loaded" in result.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("import sys; sys.exit(3)", "cannot be loaded: 3"),
        ("1 / 0", "cannot be loaded: division by zero"),
        ("FORMAT = 7", "is no Format, but 7"),
        ("FORMAT = Format('toy', b'', Struct(), '')", "lacks"),
        ("FORMAT = Format('toy', 'TOY1', Struct(), '')", "lacks"),
        ("FORMAT = Format('toy', b'TOY1', None, '')", "lacks"),
        ("FORMAT = Format([], b'TOY1', Struct(), '')", "lacks"),
    ],
)
@pytest.mark.usefixtures("installed")
def test_a_broken_format_is_named(content: str, message: str, package: Path, tmp_path: Path) -> None:
    (tmp_path / "x.toy").write_bytes(sample(package))
    whole = (package / "toy_format.py").read_text("utf-8")
    imports = "from ggcp_schema.constructs import Struct\nfrom ggcp_schema.formats.file import Format\n"
    (package / "toy_format.py").write_text(imports + content, "utf-8")
    try:
        result = run_cli("info", "x.toy", cwd=tmp_path)
    finally:
        (package / "toy_format.py").write_text(whole, "utf-8")
    assert result.returncode == 2
    assert "(toy_format:FORMAT)" in result.stderr
    assert message in result.stderr


def test_the_browser_shows_it(package: Path, tmp_path: Path) -> None:
    data = sample(package)
    for name, content in (("whole", data), ("cut", data[:-2]), ("changed", data[:8] + b"\xff\xff" + data[10:])):
        (tmp_path / name).write_bytes(content)

        async def script(browser: Browser) -> None:
            assert browser.path in {"magic", "count", "values[1]"}  # a damaged file opens where the damage begins
            for key in ("down", "tab", "down", *("2345" if browser.path == "magic" else "5")):
                await browser.press(key)

        with mock.patch("ggcp_schema.formats._others", return_value=[loaded(package).FORMAT]):
            browse(tmp_path / name, script=script, size=(80, 24))
