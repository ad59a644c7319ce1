"""`export --to hf`, and `verify` of its folders: what they print, write and refuse."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from safetensors.numpy import load_file

from ggcp_schema import UsageError, convert, export_model, open_file
from ggcp_schema.files.key_values import KeyValue
from ggcp_schema.files.tensor_entries import Computed, TensorEntry
from ggcp_schema.llama.names import ROPE_SCALING_FACTOR, ROPE_SCALING_TYPE
from ggcp_schema.mapping.export import MissingError, model_content
from tests.builder import build_checkpoint
from tests.cli.test_export import assert_refused
from tests.helpers import FIXTURES, ONE_OF_EACH, run_cli
from tests.huggingface.folders import ALICE, read_json, vocabulary_for
from tests.lora.lora_files import BASE, write_grouped_base, write_model
from tests.mapping import gguf_files
from tests.vocabularies import make, tokenizer_keys, write_gguf

ADAM = FIXTURES / "v1-adam.ggcp"
VOCAB = FIXTURES / "vocab.gguf"
SUMMED = FIXTURES / "orders" / "jun-A-3.ggcp"
COMMON = ("--to", "hf", "--vocab", VOCAB, "--ctx", "16")
FILES = {
    *("model.safetensors", "config.json", "generation_config.json", "README.md"),
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model"),
}
MOMENTS = "optimizer.safetensors"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "folder"


def optimizer_line(text: str) -> str:
    (line,) = re.findall(r"^optimizer: .*", text, re.MULTILINE)
    return str(line)


# Every file of 2023 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ONE_OF_EACH, ids=lambda path: path.name)
def test_every_checkpoint_is_written_and_verified(path: Path, out: Path) -> None:
    vocab = vocabulary_for(path)
    text = run_cli("export", path, out, "--to", "hf", "--vocab", vocab, "--ctx", "64", "--verify", check=True).stdout
    has_moments = f"are in {MOMENTS}" in optimizer_line(text)
    assert {part.name for part in out.iterdir()} == FILES | ({MOMENTS} if has_moments else set())
    with open_file(path) as file:
        training = file.training()
        assert has_moments <= (training.optimizer == "adam")
    content = json.loads(run_cli("verify", path, out, "--vocab", vocab, "--json", check=True).stdout)
    assert (content["kind"], content["same"], content["tokens"]) == ("hf", True, "compared")
    weights = load_file(out / "model.safetensors")
    moments = load_file(out / MOMENTS) if has_moments else {}
    assert content["compared"]["tensors"] == len(weights) + len(moments)
    assert content["compared"]["bytes"] == sum(values.nbytes for values in [*weights.values(), *moments.values()])


def test_no_folder_gets_the_name_of_a_file(tmp_path: Path) -> None:
    result = run_cli("export", ADAM, tmp_path / "o.gguf", *COMMON)
    assert_refused(result, 2, "o.gguf would be a folder\nChoose a name without .gguf.")
    assert not [*tmp_path.iterdir()]


def test_moments_are_left_out_unless_they_are_certain(out: Path) -> None:
    reasons = {
        SUMMED: "the scale of its gradients is not certain: gradients were summed over the tokens of a batch",
        FIXTURES / "orders" / "17a-B-3.ggcp": "the order of its parameters is not certain",
        FIXTURES / "v1-lbfgs.ggcp": "it is that of L-BFGS",
    }
    for path, reason in reasons.items():
        text = run_cli("export", path, out, *COMMON, "--force", check=True).stdout
        assert optimizer_line(text).startswith(f"optimizer: {MOMENTS} is left out ({reason}")
        assert ("ggcp-schema convert --batch N" in text) is (path == SUMMED)
        assert reason in (out / "README.md").read_text("utf-8")
        assert not (out / MOMENTS).exists()


def test_the_card_counts_no_iterations_that_the_trainer_does_not_count(out: Path) -> None:
    run_cli("export", FIXTURES / "v1-lbfgs.ggcp", out, *COMMON, check=True)
    card = (out / "README.md").read_text("utf-8")
    assert "the trainers do not count the iterations of L-BFGS" in card
    assert "| iterations |" not in card


def test_the_card_does_not_say_that_a_model_was_trained_on_a_context_that_was_stated(out: Path) -> None:
    run_cli("export", FIXTURES / "v1-adam.ggcp", out, "--vocab", VOCAB, "--to", "hf", "--ctx", "999", check=True)
    card = (out / "README.md").read_text("utf-8")
    assert "max_length=999" in card
    assert "trained on;" not in card


def test_summed_gradients_are_divided_where_the_counts_allow_one_batch(tmp_path: Path, out: Path) -> None:
    """After one iteration on two samples the batch was of two."""
    source = tmp_path / "in.ggcp"
    run_cli("edit", SUMMED, source, "train_its=1", "train_samples=2", "train_tokens=64", check=True)
    text = run_cli("export", source, out, *COMMON, check=True).stdout
    assert "m is divided by 64, v by its square" in optimizer_line(text)
    with open_file(source) as file:
        m, v = (file.moments("norm")[field] for field in "mv")  # type: ignore[attr-defined]
    found = load_file(out / MOMENTS)
    assert np.array_equal(found["exp_avg.model.norm.weight"], m / np.float32(64))
    assert np.array_equal(found["exp_avg_sq.model.norm.weight"], v / np.float32(64**2))
    run_cli("verify", source, out, "--vocab", VOCAB, check=True)


def test_a_converted_checkpoint_has_moments_if_the_batch_was_stated(tmp_path: Path, out: Path) -> None:
    for n_batch, has_moments in ((None, False), (4, True)):
        convert(SUMMED, tmp_path / "resume.gguf", n_batch=n_batch, force=True)
        export_model(tmp_path / "resume.gguf", out, to="hf", vocab=VOCAB, context_length=32, force=True)
        assert (out / MOMENTS).exists() == has_moments
    with open_file(SUMMED) as file:
        m = file.moments("norm")["m"]  # type: ignore[attr-defined]
    assert np.array_equal(load_file(out / MOMENTS)["exp_avg.model.norm.weight"], m / np.float32(4 * 32))
    run_cli("verify", tmp_path / "resume.gguf", out, "--vocab", VOCAB, check=True)
    told = run_cli("verify", SUMMED, out, "--vocab", VOCAB)
    assert (told.returncode, "compared with the file that it was exported from" in told.stdout) == (1, True)


# The other inputs ------------------------------------------------------------------------------------------


def same_model(one: Path, other: Path) -> None:
    left, right = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert left.keys() == right.keys()
    assert all(np.array_equal(values, right[name]) for name, values in left.items())
    assert read_json(one / "config.json") == read_json(other / "config.json")


def test_gguf_files_give_the_folder_of_the_checkpoint(tmp_path: Path, out: Path) -> None:
    export_model(ADAM, out, to="hf", vocab=VOCAB, context_length=16)
    convert(ADAM, tmp_path / "resume.gguf")
    export_model(ADAM, tmp_path / "model.gguf", vocab=VOCAB, context_length=16)
    export_model(tmp_path / "resume.gguf", tmp_path / "a", to="hf", vocab=VOCAB, context_length=16)
    export_model(tmp_path / "model.gguf", tmp_path / "b", to="hf")
    same_model(out, tmp_path / "a")
    same_model(out, tmp_path / "b")
    moments = [load_file(folder / MOMENTS) for folder in (out, tmp_path / "a")]
    assert all(np.array_equal(values, moments[1][name]) for name, values in moments[0].items())
    assert not (tmp_path / "b" / MOMENTS).exists()
    for name in ("tokenizer.json", "tokenizer.model"):
        assert (out / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    run_cli("verify", tmp_path / "model.gguf", tmp_path / "b", check=True)
    assert "the file has no state of an optimizer" in (tmp_path / "b" / "README.md").read_text("utf-8")


def test_a_checkpoint_that_a_trainer_saved_needs_no_options(tmp_path: Path, out: Path) -> None:
    source = gguf_files.write_as_trainer(tmp_path / "in.gguf", ADAM, order=("A", "B"))
    run_cli("export", source, out, "--to", "hf", check=True)
    content = json.loads(run_cli("verify", source, out, "--json", check=True).stdout)
    assert content["tokens"] == "compared"


def test_grouped_queries(tmp_path: Path, out: Path) -> None:
    source = write_grouped_base(tmp_path / "base.gguf")
    export_model(source, out, to="hf")
    config = read_json(out / "config.json")
    assert (config["num_attention_heads"], config["num_key_value_heads"]) == (4, 2)
    (k,) = (tensor.data for tensor in GGUFReader(source).tensors if tensor.name == "blk.0.attn_k.weight")
    found = load_file(out / "model.safetensors")["model.layers.0.self_attn.k_proj.weight"]
    assert np.array_equal(found, k.reshape(2, -1, 2, 32).swapaxes(1, 2).reshape(16, 32))
    run_cli("verify", source, out, check=True)
    export_model(source, tmp_path / "again.gguf")
    assert gguf_files.value(tmp_path / "again.gguf", "llama.attention.head_count_kv") == 2


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_rounded_weights(dtype: str, out: Path) -> None:
    text = run_cli("export", ALICE, out, *COMMON[:2], "--vocab", vocabulary_for(ALICE), "--ctx", "64", "--dtype", dtype)
    assert f"dtype: weights are rounded to {dtype.upper()}; it moved log probabilities" in text.stdout
    assert read_json(out / "config.json")["dtype"] == {"f16": "float16", "bf16": "bfloat16"}[dtype]
    run_cli("verify", ALICE, out, "--vocab", vocabulary_for(ALICE), check=True)


def test_a_damaged_checkpoint_whose_model_is_whole(tmp_path: Path, out: Path) -> None:
    cut = tmp_path / "cut.ggcp"
    cut.write_bytes(ADAM.read_bytes()[:180_000])
    assert_refused(run_cli("export", cut, out, *COMMON), 4, "All tensors of the model are whole")
    text = run_cli("export", cut, out, *COMMON, "--partial", check=True).stdout
    assert f"{MOMENTS} is left out (it is damaged)" in text
    assert run_cli("verify", cut, out).returncode == 4
    run_cli("verify", cut, out, "--vocab", VOCAB, "--partial", check=True)


# Whole or not at all ---------------------------------------------------------------------------------------


def test_a_dry_run_writes_nothing_and_says_everything(out: Path) -> None:
    text = run_cli("export", ADAM, out, *COMMON, "--dry-run", check=True).stdout
    assert f"would write {out}: 8 files, 64 tensors" in text
    assert all(f"  {name}: " in text for name in FILES | {MOMENTS})
    assert not out.exists()


def test_json(out: Path) -> None:
    content = json.loads(run_cli("export", ADAM, out, *COMMON, "--json", check=True).stdout)
    assert (content["kind"], content["written"]) == ("hf", True)
    assert content["size"] == sum(part.stat().st_size for part in out.iterdir())
    assert content["tensors"][0]["name"] == "model.embed_tokens.weight"
    assert any(note.startswith("optimizer: ") for note in content["notes"])
    assert content["conclusions"]["order"]["order"] == "A"


def test_force_replaces_only_such_a_folder(out: Path) -> None:
    run_cli("export", ADAM, out, *COMMON, check=True)
    assert_refused(run_cli("export", ADAM, out, *COMMON), 2, "already exists\nUse --force")
    run_cli("export", SUMMED, out, *COMMON, "--force", check=True)
    assert not (out / MOMENTS).exists()
    (out / "mine").write_text("mine")
    before = {part.name: part.read_bytes() for part in out.iterdir()}
    assert_refused(run_cli("export", ADAM, out, *COMMON, "--force"), 2, "contains mine")
    assert {part.name: part.read_bytes() for part in out.iterdir()} == before


def test_a_failure_leaves_nothing(tmp_path: Path, out: Path) -> None:
    source = tmp_path / "in.ggcp"
    source.write_bytes(
        build_checkpoint(n_vocab=320, n_embd=8, n_head=2, n_rot=4, data=lambda count: np.full(count, np.nan, "<f4"))
    )
    result = run_cli("export", source, out, *COMMON, "--strict")
    assert_refused(result, 2, "has values that are NaN or infinite", "Nothing was written")
    assert os.listdir(tmp_path) == ["in.ggcp"]


# Refused ---------------------------------------------------------------------------------------------------


def test_what_is_missing(out: Path) -> None:
    assert_refused(run_cli("export", ADAM, out, "--to", "hf"), 2, "Missing option --vocab")
    with pytest.raises(MissingError) as error:
        export_model(ADAM, out, to="hf")
    assert error.value.parameters == ("vocab",)


def test_other_types_of_weights_and_options_of_other_targets(tmp_path: Path, out: Path) -> None:
    assert_refused(run_cli("export", ADAM, out, *COMMON, "--dtype", "q8_0"), 2, "'q8_0'", "f32, f16, bf16")
    refused = run_cli("export", ADAM, out, *COMMON[2:], "--dtype", "f16")
    assert_refused(refused, 2, "dtype means nothing for a GGUF model")


def test_quantized_weights_are_refused(tmp_path: Path, out: Path) -> None:
    name, blocks = "blk.0.attn_q.weight", bytes(34 * 32)
    quantized = TensorEntry(name, (32, 32), Computed(lambda: iter([blocks])), "Q8_0")
    write_model(tmp_path / "q.gguf", BASE, {name: quantized})
    message = f"tensor {name} is Q8_0, but a folder is made of weights in F32, F16, BF16\nPass the file that the model"
    assert_refused(run_cli("export", tmp_path / "q.gguf", out, "--to", "hf"), 2, message)
    assert "--to hf" not in run_cli("info", "--json", tmp_path / "q.gguf", check=True).stdout


def test_scaled_positions(tmp_path: Path, out: Path) -> None:
    for kind, expected in (("linear", 4.0), ("yarn", None)):
        with open_file(BASE) as file:
            model = file.model()
            scaling = [
                KeyValue(ROPE_SCALING_TYPE, "STRING", kind),
                KeyValue(ROPE_SCALING_FACTOR, "FLOAT32", 4.0),
            ]
            changed = model._replace(kept=(*model.kept, *scaling))
            content = model_content(changed, file.vocabulary(), context_length=16, rms_eps=1e-5)
            content.write(str(tmp_path / f"{kind}.gguf"))
        if expected is None:
            refused = run_cli("export", tmp_path / f"{kind}.gguf", out, "--to", "hf", "--force")
            assert_refused(refused, 2, "llama.rope.scaling.type is 'yarn'")
            assert "--to hf" not in run_cli("info", "--json", tmp_path / f"{kind}.gguf", check=True).stdout
        else:
            export_model(tmp_path / f"{kind}.gguf", out, to="hf")
            assert read_json(out / "config.json")["rope_scaling"]["factor"] == expected
            assert "--to hf" in run_cli("info", "--json", tmp_path / f"{kind}.gguf", check=True).stdout


def test_a_model_with_the_vocabulary_of_another_one(tmp_path: Path, out: Path) -> None:
    path = tmp_path / "other.gguf"
    with open_file(BASE) as file, open_file(FIXTURES / "alice-vocab.gguf") as other:
        model_content(file.model(), other.vocabulary(), context_length=16, rms_eps=1e-5).write(str(path))
    commands = json.loads(run_cli("info", "--json", path, check=True).stdout)["next"]
    exports = [command.split()[1:] for command in commands if " export " in command]
    assert len(exports) == 2
    for command in exports:
        words = [str(VOCAB) if word == "VOCABULARY" else word for word in command]
        run_cli(*words, "--dry-run", check=True)


def test_another_tokenizer_is_refused(tmp_path: Path, out: Path) -> None:
    merges = {"tokenizer.ggml.merges": ("ARRAY/STRING", ["a b"])}
    keys = tokenizer_keys() | {"tokenizer.ggml.model": ("STRING", "gpt2")} | merges
    write_gguf(tmp_path / "gpt2.gguf", [(name, value, kind) for name, (kind, value) in keys.items()])
    with pytest.raises(UsageError, match="its tokenizer is gpt2, which no"):
        export_model(ADAM, out, to="hf", vocab=tmp_path / "gpt2.gguf", context_length=16)


def test_a_tokenizer_that_cannot_be_said_exactly_is_told(tmp_path: Path, out: Path) -> None:
    vocab = tmp_path / "vocab.bin"
    vocab.write_bytes(make("ggml"))
    text = run_cli("export", ADAM, out, "--to", "hf", "--vocab", vocab, "--ctx", "16", check=True).stdout
    assert "tokenizer: tokenizer.json gives some texts other tokens than llama.cpp does (tokens have equal" in text
    assert "tokens have equal scores" in (out / "README.md").read_text("utf-8")
    assert str(tmp_path) not in (out / "README.md").read_text("utf-8")


# What verify finds -----------------------------------------------------------------------------------------


def differences(code: int, *args: str | Path) -> list[str]:
    result = run_cli("verify", *args, "--json")
    assert result.returncode == code, result.stderr
    return [f"{item['name']} {item['message']}" for item in json.loads(result.stdout)["differences"]]


def test_each_change_is_found(tmp_path: Path, out: Path) -> None:
    export_model(ADAM, out, to="hf", vocab=VOCAB, context_length=16)
    common = (ADAM, out, "--vocab", VOCAB)
    assert differences(0, *common) == []

    def changed(name: str, old: str | bytes, new: str | bytes) -> list[str]:
        path = out / name
        before = path.read_bytes()
        old, new = (text.encode() if isinstance(text, str) else text for text in (old, new))
        assert old in before
        path.write_bytes(before.replace(old, new, 1))
        found = differences(1, *common)
        path.write_bytes(before)
        return found

    assert changed("config.json", '"rope_theta": 10000.0', '"rope_theta": 1.0') == [
        "config.json: rope_theta is 1.0, expected 10000.0"
    ]
    assert changed("tokenizer_config.json", '"</s>"', '"<s>"')[0].startswith("tokenizer_config.json: eos_token is")
    assert changed("tokenizer.json", '"<s>": 1', '"<s>": 7')[0].startswith("tokenizer.json: model.vocab.<s> is 7")
    assert changed("generation_config.json", "1", "2") == ["generation_config.json: bos_token_id is 2, expected 1"]
    assert changed("tokenizer.model", b"<s>", b"<x>")[0].startswith("tokenizer.model is another one")
    for name in ("model.safetensors", MOMENTS):
        data = (out / name).read_bytes()
        (out / name).write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
        (found,) = differences(1, *common)
        assert "data: 1 of " in found
        (out / name).write_bytes(data)
    assert changed("model.safetensors", '"format"', '"fermat"') == [
        'model.safetensors: __metadata__ is {"fermat": "pt"}, expected {"format": "pt"}'
    ]
    for name in ("model-2.safetensors", "adapter_config.json", "chat_template.jinja"):  # which others read, or may
        shutil.copy(out / "config.json", out / name)
        assert differences(1, *common) == [f"{name} should not be there: programs that open the folder may read it"]
        (out / name).unlink()
    for name in ("pytorch_model.bin", "pytorch_model-00001-of-00002.bin"):
        (out / name).write_bytes(b"PK\3\4")
        assert differences(1, *common) == [f"{name} should not be there: programs that open the folder may read it"]
        (out / name).unlink()
    (out / "trained").mkdir()
    (out / "extra.json").mkdir()
    (out / ".hidden.json").write_text("{}")
    (out / "training_args.bin").write_bytes(b"PK\3\4")
    (out / "README.md").write_text("mine")
    (out / "notes.txt").write_text("mine")
    (out / "generation_config.json").rename(out / "trained" / "generation_config.json")
    for args in (common, (ADAM, out)):
        assert differences(1, *args) == ["generation_config.json is missing"]
    (out / "trained" / "generation_config.json").rename(out / "generation_config.json")
    (out / MOMENTS).unlink()
    assert differences(1, *common) == [f"{MOMENTS} is missing"]
    export_model(ADAM, tmp_path / "other", to="hf", vocab=VOCAB, context_length=16)
    shutil.copy(tmp_path / "other" / MOMENTS, out)
    assert differences(0, *common) == []
    (unexpected,) = [text for text in differences(1, SUMMED, out) if MOMENTS in text]
    assert unexpected.startswith(f"{MOMENTS} should not be there: the scale of its gradients is not certain")


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"\x02\0\0\0\0\0\0\0[]", b"\x08\0\0\0\0\0\0\0" + b'{"a":1} '])
def test_damaged_weights_are_reported(content: bytes, out: Path) -> None:
    run_cli("export", ADAM, out, *COMMON, check=True)
    (out / "model.safetensors").write_bytes(content)
    assert_refused(run_cli("verify", ADAM, out), 4, "model.safetensors: header: expected")


# Resources -------------------------------------------------------------------------------------------------


def test_gguf_is_not_imported(out: Path) -> None:
    """The package needs as much memory as the rest of the command."""
    vocab = vocabulary_for(ALICE)
    export = f"export_model({str(ALICE)!r}, {str(out)!r}, to='hf', vocab={str(vocab)!r}, context_length=64)"
    program = f"import sys; from ggcp_schema import export_model; {export}; print('gguf' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=True)
    assert result.stdout == "False\n"
