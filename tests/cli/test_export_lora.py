"""`export` of LoRA adapters, and `convert` of ggcl checkpoints: what is written, what is refused, what is printed."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggcp_schema import UsageError, export_adapter, export_model, open_file
from tests.builder import build_checkpoint
from tests.helpers import FIXTURES, assert_no_traceback, run_cli, thinned
from tests.huggingface import forward
from tests.lora import independent
from tests.lora.lora_files import base_weights, quantized
from tests.mapping import llama
from tests.mapping.gguf_files import read_gguf

LORA = FIXTURES / "lora"
BASE = LORA / "base.gguf"
ADAPTERS = sorted([*LORA.glob("*.ggla"), *LORA.glob("*.ggcl"), *LORA.glob("*.checkpoint.gguf")])
WITH_NORMS = [path for path in ADAPTERS if not path.name.startswith("peft")]
PEFT = LORA / "peft-layers-names.ggla"
ADAPTER = LORA / "adam.ggla"
needs_llama = pytest.mark.skipif(not llama.HAS_WHEEL, reason="xllamacpp has wheels for Linux x86-64 alone")


def ids(path: Path) -> str:
    return path.name


def expected(path: Path) -> dict[str, np.ndarray]:
    with np.load(LORA / f"{path.name.split('.')[0]}.ggla.logprobs.npz") as stored:
        return dict(stored)


@needs_llama
@pytest.mark.parametrize("path", thinned(WITH_NORMS, WITH_NORMS[::3]), ids=ids)
def test_what_is_written_computes_what_finetune_computed(path: Path, tmp_path: Path) -> None:
    known, common = expected(path), ("--base", BASE, "--quiet", "--verify")
    tokens = known["tokens"].tolist()
    adapter, patched, merged = (tmp_path / name for name in ("adapter.gguf", "patched.gguf", "merged.gguf"))
    run_cli("export", path, adapter, *common, "--patched-base", patched, check=True)
    run_cli("export", path, merged, *common, "--to", "gguf", check=True)
    for model, lora, wanted in (
        (BASE, adapter, known["no_norms"]),
        (patched, adapter, known["all"]),
        (merged, None, known["all"]),
    ):
        ran = llama.run(model, tokens, n_greedy=1, adapter=lora)
        assert np.abs(ran.log_probabilities - wanted).max() <= 5e-6


@pytest.mark.parametrize("path", WITH_NORMS, ids=ids)
def test_norms_are_not_lost_in_silence(path: Path, tmp_path: Path) -> None:
    refused = run_cli("export", path, tmp_path / "out.gguf", "--base", BASE)
    assert_no_traceback(refused)
    assert refused.returncode == 2
    assert "--patched-base NEW.gguf" in refused.stderr
    assert "--norms ignore" in refused.stderr
    assert len(refused.stderr.splitlines()) == 2
    with pytest.raises(UsageError, match=r'patched_base="NEW\.gguf".*norms="ignore"'):
        export_adapter(path, tmp_path / "out.gguf", base=BASE)
    assert not list(tmp_path.iterdir())
    told = run_cli("export", path, tmp_path / "out.gguf", "--base", BASE, "--norms", "ignore")
    assert told.returncode == 0
    assert "norms: left out" in told.stdout


@pytest.mark.parametrize("path", ADAPTERS, ids=ids)
def test_an_adapter_that_is_taken_for_a_model_is_told_what_it_needs(path: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the adapter to export_adapter, with its base") as caught:
        export_model(path, tmp_path / "out.gguf", vocab=FIXTURES / "vocab.gguf")
    assert "train-text-from-scratch" not in str(caught.value)
    assert caught.value.shell_hint.endswith(f"ggcp-schema export {path} --base BASE.gguf")


def test_a_patched_base_differs_from_the_base_in_its_norms_alone(tmp_path: Path) -> None:
    patched = tmp_path / "patched.gguf"
    run_cli("export", LORA / "adam.ggla", tmp_path / "a.gguf", "--base", BASE, "--patched-base", patched, check=True)
    before, after = BASE.read_bytes(), patched.read_bytes()
    assert len(before) == len(after)
    with open_file(BASE) as file:
        norms = [tensor for name, tensor in file.tensors.items() if name.endswith("norm.weight")]
        places = {at for tensor in norms for at in range(tensor.offset, tensor.offset + tensor.nbytes)}
    assert {at for at, (old, new) in enumerate(zip(before, after, strict=True)) if old != new} <= places
    assert before != after


def test_neither_of_two_outputs_remains_if_one_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "patched.gguf").write_bytes(b"mine")
    arguments = ("export", LORA / "adam.ggla", tmp_path / "a.gguf", "--base", BASE)
    refused = run_cli(*arguments, "--patched-base", tmp_path / "patched.gguf")
    assert refused.returncode == 2
    assert (tmp_path / "patched.gguf").read_bytes() == b"mine"
    assert os.listdir(tmp_path) == ["patched.gguf"]
    for name in ("a.gguf", BASE):
        clash = run_cli(*arguments, "--patched-base", tmp_path / name, "--force")
        assert clash.returncode != 0
        assert os.listdir(tmp_path) == ["patched.gguf"]


def test_a_file_made_from_peft_is_written_as_it_was_trained_and_says_so(tmp_path: Path) -> None:
    trained, verbatim = tmp_path / "trained.gguf", tmp_path / "verbatim.gguf"
    told = run_cli("export", PEFT, trained, "--base", BASE, check=True)
    assert told.stdout.count("rows of wq, wk: as PEFT trained them (llama.cpp of 2023 used its own order)\n") == 1
    assert "rows of" not in run_cli("export", PEFT, verbatim, "--base", BASE, "--verbatim", check=True).stdout
    with open_file(trained) as one, open_file(verbatim) as other:
        differ = {
            name for name in one.tensors if not np.array_equal(one.tensors[name].array(), other.tensors[name].array())
        }
    assert differ
    assert all(".attn_q." in name or ".attn_k." in name for name in differ)


def test_a_ggla_file_that_is_called_gguf(tmp_path: Path) -> None:
    """finetune called its adapters so from 29 August 2023 on."""
    shutil.copy(ADAPTER, tmp_path / "ggml-lora-LATEST-f32.gguf")
    for path, out in ((ADAPTER, "one"), (tmp_path / "ggml-lora-LATEST-f32.gguf", "other")):
        export_adapter(path, tmp_path / out, base=BASE, norms="ignore", sync=False)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


@pytest.mark.parametrize(("kind", "cost"), [("Q4_0", "twice"), ("F16", "next to nothing"), ("Q5_1", "not measured")])
def test_what_rounding_costs_is_said(kind: str, cost: str, tmp_path: Path) -> None:
    base = quantized(tmp_path / "base.gguf", kind)
    written = export_adapter(ADAPTER, tmp_path / "out.gguf", base=base, to="gguf", sync=False)
    assert cost in written.plan.fact(f"rounded to {kind} again").text


def test_a_folder_for_peft(tmp_path: Path) -> None:
    run_cli("export", LORA / "adam.ggla", tmp_path / "peft", "--to", "peft", "--base", BASE, check=True)
    assert sorted(os.listdir(tmp_path / "peft")) == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert config["r"] == 4
    assert config["lora_alpha"] / config["r"] == 1
    assert "rank_pattern" not in config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["adam.ggla", "out"], "Missing option --base"),
        (
            ["adam.ggla", "out", "--base", "base.gguf", "--norms", "ignore", "--ctx", "9"],
            "--context-length means nothing",
        ),
        (["adam.ggla", "out", "--base", "base.gguf", "--to", "gguf", "--dtype", "f16"], "dtype means nothing here"),
        (["adam.ggla", "out", "--base", "base.gguf", "--to", "hf", "--dtype", "f8"], "'f8'"),
        (["adam.ggla", "out", "--base", "base.ggjt", "--to", "gguf"], "Missing option --context-length"),
        (["adam.ggla", "out", "--base", "base.gguf", "--norms", "keep"], "'keep'"),
        (["adam.ggla", "out", "--base", "base.gguf", "--to", "onnx"], "'onnx'"),
        (["adam.ggla", "out", "--base", "adam.ggla", "--norms", "ignore"], "adam.ggla"),
        (["adam.ggla", "out", "--base", "../vocab.gguf", "--norms", "ignore"], "vocab.gguf"),
        (["adam.ggla", "out", "--base", "base.gguf", "--verbatim", "--norms", "ignore"], "--verbatim"),
        (["base.gguf", "out", "--scale", "2"], "--scale means nothing here"),
    ],
)
def test_refusals(arguments: list[str], message: str, tmp_path: Path) -> None:
    words = [str(LORA / word) if word.endswith((".ggla", ".gguf", ".ggjt")) else word for word in arguments]
    refused = run_cli("export", *[str(tmp_path / "out") if word == "out" else word for word in words])
    assert_no_traceback(refused)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert message in refused.stderr
    assert not list(tmp_path.iterdir())


def test_a_base_that_does_not_fit_names_the_pair(tmp_path: Path) -> None:
    refused = run_cli("export", PEFT, tmp_path / "out", "--base", FIXTURES / "v1-adam.ggcp")
    assert refused.returncode == 2
    assert "layers" in refused.stderr
    assert not list(tmp_path.iterdir())


# Bases of each kind ----------------------------------------------------------------------------------------

STATED: dict[str, dict[str, Any]] = {
    "base.gguf": {},
    "base.ggjt": {"context_length": 16, "rms_eps": 1e-5},
    "base.ggcp": {"context_length": 16, "rms_eps": 1e-5, "vocab": BASE},
    "Q8_0.gguf": {},
}


@pytest.fixture(params=STATED)
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The base of `ADAPTER`: in GGUF, ggjt or ggcp, or quantized."""
    path = tmp_path / str(request.param)
    if path.suffix == ".ggcp":
        values = iter([*base_weights().values()])
        shape = {"n_vocab": 320, "n_embd": 32, "n_mult": 32, "n_head": 4, "n_layer": 2, "n_rot": 8, "n_ff": 96}
        path.write_bytes(build_checkpoint(**shape, data=lambda count: next(values, np.zeros(count)).ravel()))
    elif path.name == "Q8_0.gguf":
        quantized(path, "Q8_0")
    else:
        path = LORA / path.name
    return path


def wanted(base: Path, tokens: list[int]) -> np.ndarray:
    weights = independent.weights(base) if base.name == "Q8_0.gguf" else base_weights()
    return independent.log_probabilities(independent.with_adapter(weights, independent.read(ADAPTER)), tokens, 4, 4)


def test_a_folder_with_the_adapter_merged_of_each_base(base: Path, tmp_path: Path) -> None:
    tokens = expected(ADAPTER)["tokens"].tolist()
    written = export_adapter(ADAPTER, tmp_path / "hf", base=base, to="hf", **STATED[base.name], sync=False)
    assert np.abs(forward.log_probabilities(tmp_path / "hf", tokens) - wanted(base, tokens)).max() <= 1e-6
    assert sorted(written.plan.parts) == sorted(os.listdir(tmp_path / "hf"))
    assert any("Q8_0" in fact.text for fact in written.plan.facts) is (base.name == "Q8_0.gguf")
    assert "| adapter | adam.ggla |" in (tmp_path / "hf" / "README.md").read_text()


def test_a_folder_of_each_base_with_the_norms(base: Path, tmp_path: Path) -> None:
    folder, peft = tmp_path / "base", tmp_path / "peft"
    export_adapter(ADAPTER, peft, base=base, to="peft", patched_base=folder, **STATED[base.name], sync=False)
    config = json.loads((peft / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(folder)
    assert "modules_to_save" not in config
    tokens, lora = expected(ADAPTER)["tokens"].tolist(), independent.read(ADAPTER)
    lora.a = {name: a for name, a in lora.a.items() if "norm" in name}
    weights = independent.weights(base) if base.name == "Q8_0.gguf" else base_weights()
    with_norms = independent.log_probabilities(independent.with_adapter(weights, lora), tokens, 4, 4)
    assert np.abs(forward.log_probabilities(folder, tokens) - with_norms).max() <= 1e-6


@pytest.mark.parametrize("to", ["adapter", "peft", "gguf", "hf"])
def test_one_bit_or_one_byte_more_of_what_was_made_with_the_base(to: str, base: Path, tmp_path: Path) -> None:
    out, is_model = tmp_path / "out", to in ("gguf", "hf")
    stated = STATED[base.name] if is_model else {"norms": "ignore"} if to == "adapter" else {}
    export_adapter(ADAPTER, out, base=base, to=to, **stated, sync=False)
    words = ["verify", ADAPTER, out, "--base", base, *(["--vocab", BASE] if "vocab" in stated else [])]
    assert run_cli(*words, check=True).stdout.endswith(f"same: {ADAPTER} and {out}\n")
    place = next(iter(out.glob("*.safetensors"))) if out.is_dir() else out
    whole = place.read_bytes()
    data = bytearray(whole)
    data[-64] ^= 1  # of the last tensor, whatever its type
    for content, kind in ((data, "data"), (whole + bytes(1), "file")):
        place.write_bytes(content)
        result = run_cli(*words, "--json")
        if kind == "file" and out.is_dir():
            assert (result.returncode, "fill the file" in result.stderr) == (4, True)
            continue
        assert result.returncode == 1
        assert [difference["kind"] for difference in json.loads(result.stdout)["differences"]] == [kind]


def test_verify_names_what_differs_in_a_folder_for_peft(tmp_path: Path) -> None:
    words, config = ("verify", ADAPTER, tmp_path / "peft", "--base", BASE), tmp_path / "peft" / "adapter_config.json"
    export_adapter(ADAPTER, tmp_path / "peft", base=BASE, to="peft", sync=False)
    config.write_text(config.read_text().replace('"r": 4', '"r": 8').replace('"base.gguf"', '"another"'))
    (tmp_path / "peft" / "adapter_model.safetensors").unlink()
    (tmp_path / "peft" / "tokenizer.json").write_text("{}")
    (tmp_path / "peft" / "README.md").write_text("mine")
    result = run_cli(*words)
    assert result.returncode == 1
    assert "tokenizer.json should not be there" in result.stdout
    assert "adapter_config.json: r is 8, expected 4\n" in result.stdout
    assert "adapter_model.safetensors is missing\n" in result.stdout
    assert "3 differences" in result.stdout
    config.write_text(config.read_text().replace('"another"', "null"))
    assert 'base_model_name_or_path is null, expected "base.gguf"\n' in run_cli(*words).stdout
    for other, said in (
        (ADAPTER, "is a ggla LoRA adapter"),
        (tmp_path, "no config.json or adapter_config.json\n"),
    ):
        refused = run_cli("verify", ADAPTER, other, "--base", BASE)
        assert_no_traceback(refused)
        assert (refused.returncode, said in refused.stderr) == (2, True)
    assert "Give the base model with which it was made too: --base MODEL." in run_cli(*words[:3]).stderr
    refused = run_cli("verify", FIXTURES / "v1-adam.ggcp", tmp_path, "--base", BASE)
    assert "--base means nothing here" in refused.stderr
    other = run_cli("verify", FIXTURES / "v1-adam.ggcp", tmp_path / "peft")
    assert f"{tmp_path / 'peft'} is a folder for PEFT, but" in other.stderr
    export_adapter(ADAPTER, tmp_path / "again", base=BASE, to="peft", sync=False)
    (tmp_path / "again" / "adapter_config.json").unlink()
    refused = run_cli("verify", ADAPTER, tmp_path / "again", "--base", BASE)
    assert (refused.returncode, "again: adapter_config.json is missing\n" in refused.stderr) == (2, True)


@needs_llama
@pytest.mark.parametrize("base", ["base.ggjt", "base.ggcp"], indirect=True)
def test_llama_runs_what_is_made_of_a_base_before_gguf(base: Path, tmp_path: Path) -> None:
    known, stated = expected(ADAPTER), STATED[base.name]
    adapter, patched, merged = (tmp_path / name for name in ("adapter.gguf", "patched.gguf", "merged.gguf"))
    export_adapter(ADAPTER, adapter, base=base, patched_base=patched, **stated, sync=False)
    export_adapter(ADAPTER, merged, base=base, to="gguf", **stated, sync=False)
    for model, lora in ((patched, adapter), (merged, None)):
        ran = llama.run(model, known["tokens"].tolist(), n_greedy=1, adapter=lora)
        assert np.abs(ran.log_probabilities - known["all"]).max() <= 5e-6


@pytest.mark.parametrize("version", [1, 2])
def test_a_quantized_base_of_before_may_2023_is_not_merged(version: int, tmp_path: Path) -> None:
    base = tmp_path / "old.ggjt"
    with open_file(LORA / "base.ggjt") as file:
        content = bytearray((LORA / "base.ggjt").read_bytes()[: file.find("tensors[0]").offset])
        content[4:8] = version.to_bytes(4, "little")
        for name, tensor in file.tensors.items():
            is_matrix, shape = len(tensor.shape) == 2, tensor.shape
            content += struct.pack(f"<{3 + len(shape)}I", len(shape), len(name), 2 * is_matrix, *shape) + name.encode()
            content += bytes(-len(content) % 32)
            content += bytes(tensor.n_elements // 32 * 20) if is_matrix else tensor.array().tobytes()
    base.write_bytes(content)
    export_adapter(ADAPTER, tmp_path / "adapter.gguf", base=base, norms="ignore")  # which reads nothing of the base
    for to, more in (("gguf", {}), ("hf", {}), ("adapter", {"patched_base": "a"}), ("peft", {"patched_base": "b"})):
        with pytest.raises(UsageError, match=r"is Q4_0 (as ggjt version . stores it|in the blocks of an older)"):
            export_adapter(ADAPTER, tmp_path / "out", base=base, to=to, context_length=16, **more)


def test_json_lists_every_file(tmp_path: Path) -> None:
    places = {tmp_path / name for name in ("peft", "base")}
    arguments = (
        "export",
        ADAPTER,
        tmp_path / "peft",
        "--to",
        "peft",
        "--base",
        BASE,
        "--patched-base",
        tmp_path / "base",
    )
    document = json.loads(run_cli(*arguments, "--json", check=True).stdout)
    assert {entry["path"] for entry in document["files"]} == {str(path) for place in places for path in place.iterdir()}
    sizes = {Path(entry["path"]): entry["nbytes"] for entry in document["files"]}
    assert all(0 < nbytes <= path.stat().st_size for path, nbytes in sizes.items())


def test_a_dry_run_and_json(tmp_path: Path) -> None:
    arguments = ("export", LORA / "adam.ggla", tmp_path / "a.gguf", "--base", BASE, "--norms", "ignore", "--dry-run")
    assert "would write" in run_cli(*arguments, check=True).stdout
    document = json.loads(run_cli(*arguments, "--json", check=True).stdout)
    assert document["written"] is False
    assert document["kind"] == "adapter"
    assert not list(tmp_path.iterdir())


def test_the_api(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="norms"):
        export_adapter(LORA / "adam.ggla", tmp_path / "a.gguf", base=BASE)
    written = export_adapter(LORA / "adam.ggla", tmp_path / "a.gguf", base=BASE, norms="ignore", scale=0.5)
    assert written.size == (tmp_path / "a.gguf").stat().st_size


@pytest.mark.parametrize("path", sorted(LORA.glob("*.ggcl")), ids=ids)
def test_ggcl_becomes_the_checkpoint_of_the_converter_of_2023(path: Path, tmp_path: Path) -> None:
    told = run_cli("convert", path, tmp_path / "out.gguf", check=True)
    assert read_gguf(tmp_path / "out.gguf") == json.loads((LORA / f"{path.stem}.resume.json").read_text())
    assert ("crashes on L-BFGS" in told.stdout) is (path.stem == "lbfgs")
    assert ("\nresume with " in told.stdout) is (" --ctx 16" in told.stdout) is (path.stem != "lbfgs")
    assert run_cli("convert", path, tmp_path / "other.gguf", "--fresh-optimizer").returncode == 2
    assert not (tmp_path / "other.gguf").exists()


@pytest.mark.parametrize("path", ADAPTERS, ids=ids)
def test_info_proposes_commands_that_run(path: Path, tmp_path: Path) -> None:
    for line in json.loads(run_cli("info", path, "--json", check=True).stdout)["next"]:
        words = line.split()[1:]
        if words[0] in ("export", "convert"):
            words = [{"BASE.gguf": str(BASE)}.get(word, word) for word in words]
            assert run_cli(*words, cwd=tmp_path).returncode == 0, line
    assert list(tmp_path.iterdir())


def test_a_base_that_is_a_part_of_a_split_file_must_be_joined(tmp_path: Path) -> None:
    part = FIXTURES / "strange" / "shard" / "m-00001-of-00003.gguf"
    result = run_cli("export", ADAPTER, tmp_path / "out", "--base", part, "--norms", "ignore")
    assert result.returncode == 2
    assert "is part 1 of 3 of a split GGUF file\nJoin the parts: `llama-gguf-split --merge" in result.stderr


# Damage ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "lost"), [("adam.ggcl", 200), ("feb2024-adam.checkpoint.gguf", 100)])
def test_an_adapter_that_is_whole_in_a_cut_checkpoint(name: str, lost: int, tmp_path: Path) -> None:
    """The error names the command that exports it, which makes what is made of the whole file."""
    cut, whole, out = tmp_path / name, tmp_path / "whole.gguf", tmp_path / "out.gguf"
    cut.write_bytes((LORA / name).read_bytes()[:-lost])
    common = ("--base", BASE, "--norms", "ignore")
    result = run_cli("export", cut, out, *common)
    assert result.returncode == 4
    assert "All tensors of the adapter are whole." in result.stderr
    assert not out.exists()
    command = shlex.split(result.stderr.partition("Run: ")[2])
    assert "damaged: only the adapter was read" in run_cli(*command[1:], check=True).stdout
    run_cli("export", LORA / name, whole, *common, check=True)
    assert out.read_bytes() == whole.read_bytes()
    assert f"export --partial {cut} --base BASE.gguf" in run_cli("info", cut).stdout


@pytest.mark.parametrize(("name", "kept"), [("adam.ggcl", 20_000), ("feb2024-adam.checkpoint.gguf", 20_000)])
def test_an_adapter_that_is_cut_itself_is_never_exported(name: str, kept: int, tmp_path: Path) -> None:
    cut = tmp_path / name
    cut.write_bytes((LORA / name).read_bytes()[:kept])
    for option in ((), ("--partial",)):
        result = run_cli("export", cut, tmp_path / "out.gguf", "--base", BASE, "--norms", "ignore", *option)
        assert result.returncode == 4
        assert "The adapter is not whole: the file has" in result.stderr
    assert not (tmp_path / "out.gguf").exists()
