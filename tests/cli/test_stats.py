"""`stats`: the table, patterns, moments, flags, and narrow terminals. The numbers are tested in tests/inspect."""

from __future__ import annotations

import json
import math
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from ggcp_schema.cli.output import progress
from ggcp_schema.formats import open_file
from ggcp_schema.formats.file import File
from tests.builder import build_checkpoint
from tests.golden import assert_golden
from tests.helpers import FIXTURES, TRUNCATED, assert_no_traceback, run_cli, run_pty, run_pty_process
from tests.samples import DECODED, KINDS, sample

ADAM = FIXTURES / "v1-adam.ggcp"
NUMBERS = ("count", "nan", "inf", "zeros", "min", "max", "mean", "std", "rms", "histogram", "sampled")


def measured(path, *args):
    return json.loads(run_cli("stats", path, *args, "--json", check=True).stdout)


@pytest.mark.parametrize("name", ["v1-lbfgs.ggcp", "twin-adam.v0.ggcp", TRUNCATED.name])
def test_table(name):
    result = run_cli("stats", name, cwd=FIXTURES)
    assert_golden(f"stats/{name}.txt", result.stdout)
    assert result.returncode == (4 if name == TRUNCATED.name else 0)
    assert ("offset 52147" in result.stderr) == (name == TRUNCATED.name)


def test_moments_by_parameter():
    row = measured(FIXTURES / "alice.ggcp", "optimizer.state.m[layers[0].wq]")[0]
    assert row["path"] == "optimizer.state.m[layers[0].wq]"
    rows = measured(FIXTURES / "alice.ggcp", "--moments")
    assert len(rows) == 2 * 30
    assert row in rows
    vector = measured(FIXTURES / "alice.ggcp", "optimizer.state.m")[0]
    assert sum(part["zeros"] for part in rows if part["description"].startswith("Adam first")) == vector["zeros"]
    only_v = measured(FIXTURES / "alice.ggcp", "optimizer.state.v", "--moments")
    assert [part["path"] for part in only_v] == [part["path"] for part in rows if ".v[" in part["path"]]
    assert measured(FIXTURES / "alice.ggcp", "optimizer.state.m[layers[0].wq]", "--moments") == [row]
    of_wq = measured(FIXTURES / "alice.ggcp", "*wq*", "--moments")
    assert of_wq == [part for part in rows if part["path"].endswith(".wq]")]
    assert measured(FIXTURES / "alice.ggcp", "layers[0].wq", "--moments") == [of_wq[0], of_wq[3]]


def test_the_summary_names_the_flagged(tmp_path):
    path, draws = tmp_path / "x.ggcp", iter(range(100))
    path.write_bytes(
        build_checkpoint(data=lambda count: np.full(count, np.nan) if next(draws) == 4 else np.arange(count))
    )
    result = run_cli("stats", path, "layers[0]", check=True)
    assert result.stdout.splitlines()[-1].startswith("flag layers[0].wq: NaN")
    assert "no flags" not in result.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_every_format(kind, tmp_path):
    path = sample(kind, tmp_path)
    rows = {row["type"]: row for row in measured(path)}
    assert (rows["F16"]["min"], rows["F16"]["max"], rows["F16"]["count"]) == (-1.0, 1.875, 24)
    quantized = next(row for type_, row in rows.items() if type_.startswith("Q"))
    assert (quantized["count"] is not None) == (kind in DECODED)
    text = run_cli("stats", path, check=True).stdout
    if kind not in DECODED:
        assert [quantized[key] for key in NUMBERS] == [None] * len(NUMBERS)
        assert quantized["flags"] == []
        assert text.endswith("no flags; 1 tensor not measured\n")


def test_a_gguf_has_the_statistics_of_its_checkpoint(tmp_path):
    path, out = FIXTURES / "v1-lbfgs.ggcp", tmp_path / "x.gguf"
    run_cli("convert", path, out, check=True)
    same = ("path", "role", "flags", *NUMBERS)
    old, new = measured(path), measured(out)
    assert [[row[key] for key in same] for row in new] == [
        [row[key] for key in same] for row in old if row["gguf_name"]
    ]


def test_what_damage_hides_is_not_unknown():
    result = run_cli("stats", TRUNCATED, "optimizer.state.m")
    assert result.returncode == 4
    assert "offset 52147" in result.stderr
    assert_no_traceback(result)


@pytest.mark.parametrize("columns", [40, 80])
def test_narrow_and_wide_terminals(columns):
    args = ("stats", ADAM, "layers[0].w?")
    wide = run_cli(*args, check=True).stdout
    assert run_pty(*args, columns=160, env={"NO_COLOR": "1"}) == (0, wide)
    code, narrow = run_pty(*args, columns=columns, env={"NO_COLOR": "1"})
    assert code == 0
    assert max(map(len, narrow.splitlines())) <= columns
    for row in measured(ADAM, "layers[0].w?"):
        assert row["path"] in narrow.split()
        assert f"{row['max']:.4g}" in narrow.split()


def test_bars_in_an_encoding_without_blocks():
    args = ("stats", ADAM, "norm")
    _, plain = run_pty_process(*args, columns=200, env={"PYTHONIOENCODING": "ascii", "NO_COLOR": "1"})
    assert plain.isascii()
    heights = str.maketrans("▁▂▃▄▅▆▇█", ".:-=+*#@")
    assert plain == run_cli(*args, check=True).stdout.translate(heights)


def test_health_is_that_of_the_weights_and_their_moments() -> None:
    found = json.loads(run_cli("stats", FIXTURES / "alice.ggcp", "--health", "--json").stdout)
    rows = {row["path"]: row for row in found["tensors"]}
    with open_file(FIXTURES / "alice.ggcp") as file:
        weights = file.tensors["layers[1].wq"].array().astype(np.float64)
        v = file.tensors["optimizer.state.v"].array()
        assert rows["layers[1].wq"]["rms"] == pytest.approx(np.sqrt((weights**2).mean()))
        assert sum(row["unused"] * file.tensors[path].n_elements for path, row in rows.items()) == pytest.approx(
            np.count_nonzero(v == 0)
        )
    assert (found["verdict"], found["n_tokens"], len(found["dead_tokens"])) == ("healthy", 768, 263)
    text = run_cli("stats", FIXTURES / "alice.ggcp", "--health").stdout
    assert "263 of 768 tokens not trained since the optimizer started" in text
    line = next(
        line for line in text.splitlines() if line.startswith("tokens not trained since the optimizer started: ")
    )
    told = [part.split("-") for part in line.partition(": ")[2].split(", ")]
    assert [n for part in told for n in range(int(part[0]), int(part[-1]) + 1)] == found["dead_tokens"]
    assert run_cli("stats", FIXTURES / "alice.ggcp", "norm", "--health").returncode == 2


def test_tokens_never_trained_in_an_order_that_is_only_likely(monkeypatch: pytest.MonkeyPatch) -> None:
    alice = FIXTURES / "alice.ggcp"
    proven = json.loads(run_cli("stats", alice, "--health", "--json", check=True).stdout)
    with open_file(alice) as file:
        likely = file.order._replace(certainty="likely")
    monkeypatch.setattr(File, "order", likely)
    found = json.loads(run_cli("stats", alice, "--health", "--json", check=True).stdout)
    assert (proven["assumed_order"], found["assumed_order"]) == (None, "C")
    assert found["dead_tokens"] == proven["dead_tokens"]
    text = run_cli("stats", alice, "--health", check=True).stdout
    assert (
        "263 of 768 tokens not trained since the optimizer started if the order is C\nm and v in order C, likely: "
        in text
    )
    assert "\ntokens not trained since the optimizer started if the order is C: 0, 2-12, " in text


def test_nothing_is_healthy_that_was_not_measured(tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes((FIXTURES / "strange/q8_1-36.gguf").read_bytes()[:450])
    for path, said in (
        (FIXTURES / "vocab.gguf", "nothing was measured\nThe file has no tensors.\n"),
        (cut, "what is whole: nothing was measured: 1 tensor of types that cannot be read\n"),
    ):
        assert json.loads(run_cli("stats", path, "--health", "--json").stdout)["verdict"] == "not-measured"
        assert said in run_cli("stats", path, "--health").stdout
    assert run_cli("stats", FIXTURES / "vocab.gguf", check=True).stdout == "The file has no tensors.\n"


def test_what_was_not_measured_is_not_called_free_of_nan(tmp_path: Path) -> None:
    """The gradient of L-BFGS is no weight: neither `--health` nor `info -v` looks at its values."""
    path = tmp_path / "lbfgs.ggcp"
    shutil.copy(FIXTURES / "v1-lbfgs.ggcp", path)
    with open_file(path) as file, path.open("r+b") as stream:
        stream.seek(file.tensors["optimizer.state.g"].offset)
        stream.write(struct.pack("<f", math.nan))
    assert "1 NaN" in run_cli("validate", "--data", path).stdout
    health = run_cli("stats", "--health", path, check=True).stdout
    assert "no NaN, no infinities, only weights were measured\n" in health
    assert "all values" not in run_cli("info", "-v", path, check=True).stdout


def test_quiet_shows_no_progress(monkeypatch):
    asked = []

    def shown(*args, quiet):
        asked.append(quiet)
        return progress(*args, quiet=quiet)

    monkeypatch.setattr("ggcp_schema.cli.stats.progress", shown)
    for options in ([], ["--quiet"]):
        run_cli("stats", ADAM, *options, check=True)
    assert asked == [False, True]
