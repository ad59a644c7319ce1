"""What a file of another kind is, from bytes that other writers made, and what is not said without proof."""

from __future__ import annotations

import base64
import binascii
import bz2
import codecs
import gzip
import io
import lzma
import pickle
import quopri
import random
import sqlite3
import struct
import subprocess
import sys
import tempfile
import wave
import zipfile
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from ggcp_schema import NotACheckpointError, open_file
from ggcp_schema.files.head import HEAD
from ggcp_schema.files.identify import KINDS, identify
from ggcp_schema.mapping.vocabulary import read_vocabulary
from tests.helpers import FIXTURES, GENUINE, run_cli, thinned

Made = tuple[bytes, str, str]  # bytes, what they are, a word of the remedy
GENUINE_DATA = (FIXTURES / "v1-adam.ggcp").read_bytes()


def in_zip(name: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, b"content")
        archive.writestr("second", b"content")
    return out.getvalue()


def in_zip_later(name: str) -> bytes:
    return in_zip("m/code/__torch__.py")[:-22] + in_zip(name)


def numpy_bytes(write: Callable[..., None], array: np.ndarray) -> bytes:
    out = io.BytesIO()
    write(out, array)
    return out.getvalue()


def llama2c(n_vocab: int = 32) -> bytes:
    weights = np.random.default_rng(1).standard_normal(3000, dtype=np.float32)
    return struct.pack("<7i", 16, 44, 2, 4, 2, n_vocab, 64) + weights.tobytes()


def llama2c_tokenizer() -> bytes:
    out = struct.pack("<I", 27)
    for score, text in ((0.0, b"<unk>"), (0.0, b"\n<s>\n"), (0.0, b"\n</s>\n"), (-1.0, b"a")):
        out += struct.pack("<fi", score, len(text)) + text
    return out


def onnx() -> bytes:
    producer = b"pytorch"
    return b"\x08\x07\x12" + bytes([len(producer)]) + producer + b"\x1a\x052.1.0" + bytes(100)


def imatrix() -> bytes:
    out = struct.pack("<i", 2)
    for name in (b"blk.0.attn_q.weight", b"blk.0.attn_k.weight"):
        out += struct.pack("<i", len(name)) + name + struct.pack("<2i4f", 7, 4, *range(4))
    return out


def windows_program() -> bytes:
    return (b"MZ\x90\0".ljust(60, b"\0") + struct.pack("<I", 128)).ljust(128, b"\0") + b"PE\0\0" + bytes(100)


def sqlite() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        database = sqlite3.connect(Path(folder, "x"))
        database.execute("create table t(a)")
        database.close()
        return Path(folder, "x").read_bytes()


def sound() -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(ARRAY.tobytes())
    return out.getvalue()


def uuencoded(data: bytes) -> bytes:
    lines = (binascii.b2a_uu(data[at : at + 45]) for at in range(0, len(data), 45))
    return b"".join((b"begin 644 checkpoint.bin\n", *lines, b"`\nend\n"))


ARRAY = np.arange(8, dtype=np.float32) + 1
MADE: dict[str, Callable[[], Made]] = {
    "lfs": lambda: (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n",
        "a Git LFS pointer to a file of 12,345 bytes, not the file",
        "git lfs pull",
    ),
    "lfs, saved by an editor": lambda: (codecs.BOM_UTF8 + MADE["lfs"]()[0], "of 12,345 bytes", "git lfs pull"),
    "page": lambda: (b"\n <!DOCTYPE html>\n<html><body>Sign in</body></html>", "a web page, not the file", "Download"),
    "page without a head": lambda: (b"<meta charset=utf-8><title>404</title>", "a web page", "Download"),
    "page with a comment": lambda: (b"\xef\xbb\xbf<!-- saved\nfrom -->\n<HTML><p>", "a web page", "Download"),
    "page with attributes": lambda: (b"<HTML\nlang=en><body>", "a web page", "Download"),
    "git-annex": lambda: (b"/annex/objects/SHA256E-s9--0.gguf\n", "a pointer of git-annex", "git annex get"),
    "git-annex, without links": lambda: (b"../.git/annex/objects/aa/SHA256E-s9--0/0", "of git-annex", "git annex get"),
    "git-xet": lambda: (b'# xet version 0\nfilesize = 9\nhash = "0"\n', "a pointer of Git-Xet", "Download"),
    "shortest error": lambda: (b"Not Found", "such as a server's error message: 'Not Found'", "again"),
    "bad request": lambda: (b"Bad Request", "such as a server's error message: 'Bad Request'", "again"),
    "error": lambda: (b"Entry not found\n", "such as a server's error message: 'Entry not found'", "again"),
    "json error": lambda: (b'{"error":"Invalid username or password."}', "server's error message", "again"),
    "text": lambda: (b"Once upon a time\nthere was\n" * 400, "a text that begins with 'Once upon a time'", ""),
    "utf-16": lambda: ("\ufeffpcgg".encode("utf-16-le") * 9, "text in UTF-16", "binary mode"),
    "zeros": lambda: (bytes(9000), "a file of zeros and nothing else", "again"),
    "zeros first": lambda: (bytes(HEAD + 1), "a file of zeros and perhaps more", "again"),
    "ff": lambda: (b"\xff" * 9000, "a file of bytes 0xFF and nothing else", "again"),
    "torch": lambda: (in_zip("archive/data.pkl"), "a PyTorch checkpoint", "pickles can run code"),
    "torch script": lambda: (in_zip_later("m/data.pkl"), "a PyTorch checkpoint", "pickles can run code"),
    "torch, a name with blanks": lambda: (in_zip("modèle (1)/data.pkl"), "a PyTorch checkpoint", "can run code"),
    "pickle 0": lambda: (pickle.dumps({"a": ARRAY}, 0), "a Python pickle", "pickles can run code"),
    "pickle 1": lambda: (pickle.dumps([1.0, "a"], 1), "a Python pickle", "pickles can run code"),
    "pickle 2": lambda: (pickle.dumps({"a": [1.0]}, 2), "a Python pickle", "pickles can run code"),
    "pickle 4": lambda: (pickle.dumps({"a": [1.0]}, 4), "a Python pickle", "pickles can run code"),
    "torch until 2020": lambda: (
        pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2),
        "a Python pickle, as PyTorch wrote",
        "pickles can run code",
    ),
    "npz": lambda: (numpy_bytes(np.savez, ARRAY), "a NumPy .npz archive", "numpy.load"),
    "npz with names of parts": lambda: (in_zip("layers.0/wq é.npy"), "a NumPy .npz archive", "numpy.load"),
    "zip with such a text": lambda: (in_zip("notes about/data.pkl.txt"), "a zip archive", "unzip"),
    "npy": lambda: (numpy_bytes(np.save, ARRAY), "a NumPy array", "numpy.load"),
    "safetensors": lambda: (save({"a": ARRAY}), "a safetensors file", "convert_hf_to_gguf"),
    "safetensors, cut": lambda: (save({"a" * 99: ARRAY})[:150], "a safetensors file", "convert_hf_to_gguf"),
    "tflite": lambda: (b"\x1c\0\0\0TFL3" + bytes(90), "a TensorFlow Lite model", ""),
    "chatglm": lambda: (b"ggml" + struct.pack("<9i", *range(1, 10)), "a ggml file of another program", "converter"),
    "session": lambda: (b"nsgg" + struct.pack("<9i", *range(9, 18)), "a saved session of llama.cpp", "the model"),
    "hdf5": lambda: (b"\x89HDF\r\n\x1a\n" + bytes(90), "an HDF5 file", "h5py"),
    "sqlite": lambda: (sqlite(), "an SQLite database", ""),
    "onnx": lambda: (onnx(), "an ONNX model", "onnx"),
    "onnx, no producer": lambda: (b"\x08\x07:\xd0\x0f\n\x17" + bytes(90), "an ONNX model", "onnx"),
    "program": lambda: (Path(sys.executable).read_bytes()[: 1 << 16], "a program or library", "llamafile"),
    "llamafile": lambda: (b"MZqFpD='\n\n" + bytes(90), "such as a llamafile", "unzip"),
    "windows": lambda: (windows_program(), "a program or library for Windows", "llamafile"),
    "llama2.c": lambda: (llama2c(), "a model of llama2.c", "llama2.c"),
    "llama2.c, own output": lambda: (llama2c(-32), "a model of llama2.c", "llama2.c"),
    "llama2.c tokenizer": lambda: (llama2c_tokenizer(), "a tokenizer of llama2.c", "tokenizer.model"),
    "sentencepiece": lambda: (
        (FIXTURES / "alice-tokenizer.model").read_bytes(),
        "a sentencepiece model, a vocabulary",
        "--vocab",
    ),
    "imatrix": lambda: (imatrix(), "an importance matrix", "llama-imatrix"),
    "base64": lambda: (base64.encodebytes(GENUINE_DATA), "in base64", "base64 -d"),
    "base64 after a line end": lambda: (b"\r\n" + base64.encodebytes(GENUINE_DATA), "in base64", "base64 -d"),
    "base64 of addresses": lambda: (base64.urlsafe_b64encode(GENUINE_DATA), "as addresses carry it", "tr -- -_ +/"),
    "base64 with a mark": lambda: (codecs.BOM_UTF8 + base64.encodebytes(GENUINE_DATA), "in base64", "base64 -di"),
    "hexadecimal digits": lambda: (binascii.hexlify(GENUINE_DATA), "in hexadecimal digits", "xxd -r -p FILE"),
    "hex of bytes": lambda: (binascii.hexlify(GENUINE_DATA, " ").upper(), "in hexadecimal digits", "xxd -r -p FILE"),
    "xxd": lambda: (b"00000000: 4747 5546 0300 0000 0000 0000 0000 0000  GGUF", "a hex dump", "`xxd -r FILE"),
    "od": lambda: (b"000000 61 6c 67 67 01 00 00 00 04 00 00 00 04 00 00 00\n", "a hex dump", "`xxd -r FILE"),
    "hexdump": lambda: (b"00000000  47 47 55 46 03 00 00 00  00 00 00 00  |GGUF|", "a hex dump", "sed 's/  / /g'"),
    "utf-16, big-endian": lambda: ("pcgg\0é".encode("utf-16-be"), "text in UTF-16", "binary mode"),
    "utf-16, a text": lambda: ("Not found, please".encode("utf-16-be"), "text in UTF-16", "binary mode"),
    "utf-16, no mark": lambda: ("GGUF\3\0é".encode("utf-16-le"), "text in UTF-16", "binary mode"),
    "uuencode": lambda: (uuencoded(GENUINE_DATA), "in uuencode", "uudecode"),
    "adapter with a mark": lambda: (
        codecs.BOM_UTF8 + (FIXTURES / "lora" / "adam.ggla").read_bytes(),
        "a ggla file, which begins at offset 3",
        "tail -c +4",
    ),
    "adapter with swapped bytes": lambda: (
        np.fromfile(FIXTURES / "lora" / "adam.ggla", ">u4").astype("<u4").tobytes(),
        "a big-endian ggjt, ggmf, ggla or ggcl file",
        "",
    ),
    "utf-32": lambda: ("GGUF is here".encode("utf-32"), "text in UTF-32", "binary mode"),
    "utf-32, no mark": lambda: ("GGUF is here".encode("utf-32-be"), "text in UTF-32", "binary mode"),
    "cp437": lambda: ("Größe: 100 Bytes".encode("cp437"), "a text, not in UTF-8, that begins with 'Gr", ""),
    "saved model": lambda: (
        b"\x08\x01\x12\xe3\x4c\x0a\xb4\x16\x12\x10\x0a\x05AddV2" + bytes(90),
        "a SavedModel of TensorFlow",
        "",
    ),
    "core ml": lambda: (b"\x08\x04\x12\x8f\x01\x0a\x1a\x0a\x05image" + bytes(90), "a Core ML model", ""),
    "ctranslate2": lambda: (b"\6\0\0\0\x10\0TransformerSpec\0" + bytes(90), "a model of CTranslate2", "CTranslate2"),
    "llm.c": lambda: (struct.pack("<256i", 20240326, 3, *[0] * 254), "a file of llm.c", "llm.c"),
    "llm.c, text": lambda: (struct.pack("<256i", 20240520, 1, *[0] * 254), "a file of llm.c", "llm.c"),
    "fasttext": lambda: (struct.pack("<3i", 793712314, 12, 100) + bytes(90), "a fastText model", "fasttext"),
    "flax": lambda: (b"\x82\xa6params\x81\xa1a\xc0\xa4step\0", "msgpack", "flax"),
    "msgpack, a longer name": lambda: (b"\x81\xd9\x24" + b"layers/0/" * 4 + b"\xc7\xff" + bytes(90), "msgpack", "flax"),
    "mnist": lambda: (struct.pack(">4I", 0x803, 3, 28, 28) + bytes(range(84)) * 28, "an IDX file, as MNIST's", ""),
    "mnist, labels": lambda: (struct.pack(">2I", 0x801, 9) + bytes(range(9)), "an IDX file, as MNIST's", ""),
    "matlab": lambda: (b"MATLAB 5.0 MAT-file, Platform".ljust(124) + b"\0\1IM" + bytes(90), "of MATLAB", "loadmat"),
    "parquet": lambda: (b"PAR1\x15\x04\x15\x80" + bytes(90), "a Parquet file", "pyarrow"),
    "arrow": lambda: (b"ARROW1\0\0\xff\xff\xff\xff\x78\0\0\0" + bytes(90), "an Arrow file", "pyarrow"),
    "arrow, streamed": lambda: (b"\xff" * 4 + b"\x78\0\0\0\x10\0\0\0\0\0\n\0" + bytes(90), "an Arrow file", "pyarrow"),
    "avro": lambda: (b"Obj\1\4\x14avro.codec\x08null" + bytes(90), "an Avro file", ""),
    "image": lambda: (b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" + bytes(90), "an image", ""),
    "photograph": lambda: (b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(90), "an image", ""),
    "image, animated": lambda: (b"GIF89a\4\0\4\0" + bytes(90), "an image", ""),
    "image, webp": lambda: (b"RIFF\x60\0\0\0WEBPVP8 " + bytes(90), "an image", ""),
    "sound": lambda: (sound(), "a recording of sound or film", ""),
    "film": lambda: (b"\0\0\0\x20ftypisom" + bytes(90), "a recording of sound or film", ""),
    "pdf": lambda: (b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n" + bytes(90), "a PDF document", ""),
    "wasm": lambda: (b"\0asm\1\0\0\0" + bytes(90), "a program for WebAssembly", ""),
    "word2vec": lambda: (b"30000 300\n</s> " + ARRAY.tobytes(), "vectors of word2vec", "gensim"),
    "gzip": lambda: (gzip.compress(GENUINE_DATA), "a gzip file", "gzip -dc"),
    "bzip2": lambda: (bz2.compress(GENUINE_DATA), "a bzip2 file", "bzip2 -dc"),
    "xz": lambda: (lzma.compress(GENUINE_DATA), "an xz file", "xz -dc"),
    "lzma": lambda: (lzma.compress(GENUINE_DATA, lzma.FORMAT_ALONE), "an LZMA file", "xz --format=lzma -dc"),
    "lz4": lambda: (b"\x04\x22\x4d\x18\x64\x40\xa7" + bytes(90), "an lz4 file", "lz4 -dc"),
    "lz4, as Linux has it": lambda: (b"\x02\x21\x4c\x18\x90" + bytes(90), "an lz4 file", "lz4 -dc"),
    "lzip": lambda: (b"LZIP\1\x0c" + bytes(90), "an lzip file", "lzip -dc"),
    "compress": lambda: (b"\x1f\x9d\x90" + bytes(range(90)), "a file of compress", "gzip -dc"),
    "session of May 2023": lambda: (b"asgg\1\0\0\0" + bytes(90), "a saved session of llama.cpp", "the model"),
    "attributes of macOS": lambda: (
        b"\0\x05\x16\x07\0\x02\0\0Mac OS X        \0\x02\0\0\0\x09" + bytes(90),
        "an AppleDouble file",
        "without the `._`",
    ),
    "folder of macOS": lambda: (b"\0\0\0\x01Bud1\0\0\x10\0\0\0\x08\0" + bytes(90), "a .DS_Store", ""),
    "shortcut": lambda: (
        b"L\0\0\0\x01\x14\x02\0\0\0\0\0\xc0\0\0\0\0\0\0F" + bytes(90),
        "a shortcut of Windows",
        "the path of the file",
    ),
    "thumbnails": lambda: (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(90), "a compound file, as Thumbs.db", ""),
    "aria2": lambda: (
        struct.pack(">H8xIQQI", 1, 1 << 20, (10 << 20) + 1, 0, 2) + b"\xff\0\0\0\0\0" + bytes(20),
        "the record of a download",
        "aria2c -c",
    ),
    "aria2, of a torrent": lambda: (
        struct.pack(">HII20sIQQI", 0, 1, 20, b"\x11" * 20, 1 << 18, 9 << 20, 0, 5) + bytes(20),
        "the record of a download",
        "aria2c -c",
    ),
    "events of TensorBoard": lambda: (
        bytes.fromhex("1800000000000000a37f4b22") + b"\t\0\0\0\0\0\xd0\xd7A\x1a\x0dbrain.Event:2" + bytes(4),
        "a TFRecord file",
        "",
    ),
    "checkpoint of TensorFlow": lambda: (
        bytes(40) + bytes.fromhex("57fb808b247547db"),
        "the index of a TensorFlow",
        "",
    ),
    "graph of a checkpoint": lambda: (
        b'\n\xfe\x01\x12\xf6\x01\n;\n\3Add\x12\6\n\1x"\1T' + bytes(90),
        "a graph of TensorFlow",
        "",
    ),
    "frozen graph": lambda: (b"\n!\n\5input\x12\x0bPlaceholder*\x0b\n\5dtype" + bytes(90), "a graph of TensorFlow", ""),
    "caffe": lambda: (b"\n\5LeNet\xa2\6\xd8\x13\n\5conv1\x12\x0bConvolution" + bytes(90), "a model of Caffe", ""),
    "caffe, first version": lambda: (b"\n\5LeNet\x12\xd8\x13\x12\4data\x1a\5conv1" + bytes(90), "a model of Caffe", ""),
    "torch 7, a tensor": lambda: (
        struct.pack("<3i3si", 4, 1, 3, b"V 1", 17) + b"torch.FloatTensor" + bytes(90),
        "a file of Torch7",
        "torchfile",
    ),
    "torch 7, a table": lambda: (struct.pack("<5i5s", 3, 1, 2, 2, 5, b"model") + bytes(90), "of Torch7", "torchfile"),
    "a log with an error": lambda: (
        b"main: seed: 1\nmain: n_vocab: 32000\niter=0 loss=9.9\nerror: it diverged\n",
        "a text that begins with 'main: seed: 1'",
        "",
    ),
    "mail": lambda: (b"From: a\n\n" + b"GGUF\3\0\0\0\xff", "a GGUF file, which begins at offset 9", ""),
}


@pytest.mark.parametrize("name", MADE)
def test_a_file_of_another_kind_is_named_with_the_remedy(name: str, tmp_path: Path) -> None:
    data, what, remedy = MADE[name]()
    path = tmp_path / "x"
    path.write_bytes(data)
    with pytest.raises(NotACheckpointError) as caught:
        open_file(path)
    assert caught.value.hint.startswith("This is ")
    assert what in caught.value.hint
    assert remedy in caught.value.hint
    if name != "sentencepiece":
        with pytest.raises(NotACheckpointError) as refused:
            read_vocabulary(path)
        assert what in refused.value.hint
        assert "--vocab" in remedy or remedy in refused.value.hint


@pytest.mark.parametrize("command", ["info", "dump", "validate", "tensors", "stats", "repair", "verify", "vocabulary"])
def test_every_command_says_it(command: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(MADE["torch"]()[0])
    ggcp, output = FIXTURES / "v1-adam.ggcp", tmp_path / "output"
    words = {
        "repair": ("repair", path, output),
        "verify": ("verify", ggcp, path),
        "vocabulary": ("export", ggcp, output, "--vocab", path, "--ctx", "16"),
    }
    result = run_cli(*words.get(command, (command, path)))
    assert result.returncode == 2
    assert "This is a PyTorch checkpoint. Not opened: pickles can run code." in result.stderr


def test_the_remedy_for_base64_restores_the_file(tmp_path: Path) -> None:
    coded = tmp_path / "x"
    coded.write_bytes(MADE["base64"]()[0])
    assert subprocess.run(["base64", "-d", coded], capture_output=True, check=True).stdout == GENUINE_DATA


ALTERED = {
    "put before each line feed": lambda data: data.replace(b"\n", b"\r\n"),
    "carriage returns were taken out": lambda data: data.replace(b"\r", b""),
    "in quoted-printable": quopri.encodestring,
    "bytes that are not UTF-8 were replaced": lambda data: data.decode("utf-8", "replace").encode(),
    "each byte above 127 was taken for a character": lambda data: data.decode("latin-1").encode(),
    "byte order mark was put before it": lambda data: codecs.BOM_UTF8 + data,
}


NAMES = ["v1-adam.ggcp", "rotmax8-v1.ggcp", "v0-adam.ggcp"]


@pytest.mark.parametrize(("how", "name"), thinned([*product(ALTERED, NAMES)], [*zip(ALTERED, NAMES * 2)]))
def test_a_file_altered_on_the_way_is_not_to_be_copied_in_the_same_way_again(
    how: str, name: str, tmp_path: Path
) -> None:
    data = (FIXTURES / name).read_bytes()
    path = tmp_path / "x"
    path.write_bytes(ALTERED[how](data))
    result = run_cli("info", path)
    assert result.returncode == 4
    assert how in result.stderr
    if "OUTPUT" in result.stderr:
        words = result.stderr.split("`")[1].replace("FILE", "x").replace("OUTPUT", "y")
        subprocess.run(["sh", "-c", words], cwd=tmp_path, check=True)
        assert (tmp_path / "y").read_bytes() == data
    else:
        assert "binary mode" in result.stderr


def test_what_begins_with_many_zeros_is_not_said_to_be_lost(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(HEAD) + GENUINE_DATA)
    assert "nothing" not in run_cli("info", tmp_path / "x").stderr


def test_no_line_ends_are_missed_in_data_of_few_values(tmp_path: Path) -> None:
    """Equal values have the same few bytes, line feeds without carriage returns too."""
    file, values = tmp_path / "x.gguf", np.resize(np.arange(1, 100, dtype=np.float32) / 100, 32000)
    assert values.tobytes().count(b"\n") > 40
    assert b"\r" not in values.tobytes()
    info = struct.pack("<Q1sIQIQ", 1, b"a", 1, len(values), 0, 0)
    header = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + info
    file.write_bytes(header.ljust(-(-len(header) // 32) * 32, b"\0") + values.tobytes()[:-999])
    result = run_cli("info", file)
    assert result.returncode == 4
    assert "line ends" not in result.stderr


def test_a_small_vocabulary_whose_line_ends_were_changed(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes((FIXTURES / "alice-vocab.gguf").read_bytes().replace(b"\n", b"\r\n"))
    assert "put before each line feed" in run_cli("info", path).stderr


def test_nothing_is_said_of_a_genuine_file_that_is_cut(tmp_path: Path) -> None:
    for genuine in GENUINE:
        data = genuine.read_bytes()
        path = tmp_path / "x"
        path.write_bytes(data[: len(data) * 2 // 3])
        assert "binary mode" not in run_cli("info", path).stderr


def test_noise_is_nothing_known() -> None:
    rng = random.Random(17)
    known = [identify(rng.randbytes(rng.choice((4, 5, 30, 600, 5000)))) for _ in range(3000)]
    assert not any(what for what, _ in known)


def test_no_kind_hides_another() -> None:
    """Each kind is the first that matches the bytes made for it; see the names of those without."""
    seen = set()
    for name, made in MADE.items():
        data, what, _ = made()
        found = identify(data[:HEAD], len(data))[0]
        assert what in found, name
        seen.add(next(kind for kind in KINDS if kind.what.partition("{}")[0] in found))
    assert len(seen) > 20


# ggml files of other programs ------------------------------------------------------------------------------


def words(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}i", *numbers)


def some_tokens(count: int = 9) -> bytes:
    return b"".join(words(len(text)) + text for text in (b"token %d" % index for index in range(count)))


def tensor(name: bytes) -> bytes:
    return words(2, len(name), 0, 4, 4) + name + np.ones(16, np.float32).tobytes()


GGML, GGMF = b"lmgg", b"fmgg"
OTHERS = {  # as the programs in ggml's and other repositories of 2023 write their files
    "gpt-2": GGML + words(9, 64, 64, 2, 1, 1, 9) + some_tokens() + tensor(b"model/wte"),
    "gpt-2, large": GGML + words(50257, 1024, 768, 12, 12, 1, 50257) + some_tokens(),
    "starcoder": GGML + words(49152, 8192, 6144, 48, 40, 2001, 49152) + some_tokens(),
    "gpt-j": GGML + words(50400, 2048, 4096, 16, 28, 64, 1, 50400) + some_tokens(),
    "gpt-neox": GGML + words(50432, 2048, 2048, 16, 16, 32, 1, 1) + some_tokens(),
    "whisper": GGML + words(51864, 1500, 384, 6, 4, 448, 384, 6, 4, 80, 1, 80, 201) + bytes(80 * 4),
    "bloom": GGML + words(250880, 1024, 1, 16, 24, 1) + some_tokens(),
    "gpt-neox, one residual": GGML
    + words(9, 2048, 64, 4, 2, 16, 0, 0)
    + some_tokens()
    + tensor(b"gpt_neox.embed_in.weight"),
    "clip": GGML + words(49408, 77, 512, 2048, 512, 8, 12, 224, 32, 768, 3072, 512, 12, 12, 1) + some_tokens(),
    "mpt": GGML + words(4096, 2048, 32, 32, 50432, 0x41000000, 0, 1) + some_tokens(),
    "sam": GGML + words(768, 12, 12, 256, 16, 1) + words(3, 23, 0, 4, 4, 768) + b"image_encoder.pos_embed",
    "encodec": GGML
    + words(1, 128, 32, 8, 5, 4, 2, 7, 3, 2, 2, 1, 1024, 24, 24000, 1)
    + tensor(b"decoder.model.0.bias"),
    "bert": GGML + words(9, 512, 384, 1536, 12, 6, 1) + some_tokens() + tensor(b"embeddings.word_embeddings.weight"),
    "falcon": GGML + words(9, 64, 1, 1, 1, 7, 1) + some_tokens() + tensor(b"transformer.word_embeddings.weight"),
    "no numbers": GGML + tensor(b"fc1.weight"),
    "roberta": GGML + words(9, 64, 32, 32, 2, 16, 0) + some_tokens() + tensor(b"roberta.embeddings.LayerNorm.bias"),
    "falcon, cut": GGML + words(9, 64, 1, 1, 1, 7, 1) + some_tokens() + tensor(b"transformer.wte.weight")[:-9],
    "rwkv 100": GGMF + words(100, 50277, 768, 12, 1) + tensor(b"emb.weight"),
    "rwkv 101": GGMF + words(101, 50277, 768, 12, 1) + tensor(b"emb.weight"),
    "tensors after three numbers": GGML + words(256, 404, 1024) + tensor(b"inference_model.lm_head.1.weight"),
    "vit": GGML
    + words(192, 12, 3, 1000, 16, 224, 1)
    + b"".join(words(index, 7) + b"class %d" % index for index in range(9))
    + tensor(b"cls_token"),
    "whisper, voice activity": GGML + words(10) + b"silero-16k" + words(5, 1, 2, 512, 64, 4, 128, 64, 64, 128),
    "chatglm": b"ggml" + words(*range(1, 10)),
    "baichuan": b"ggml" + words(1024, 0, 64000, 4096, 32, 32, 4096, 11008, 1, 2, 0, 0),
    "stable diffusion": GGML + words(1, 49408) + some_tokens(),
    "ggcc": b"ccgg" + words(*range(1, 10)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_ggml_file_of_another_program_is_not_read_and_is_no_vocabulary(name: str, tmp_path: Path) -> None:
    path = tmp_path / "ggml-model-f16.bin"
    path.write_bytes(OTHERS[name])
    for command in ("info", "validate", "tensors", "info --json", "validate --json"):
        result = run_cli(*command.split(), path)
        assert result.returncode == 4
        assert "a ggml file of another program, which this does not read" in result.stderr
    with pytest.raises(NotACheckpointError, match="a ggml file of another program"):
        read_vocabulary(path)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_vocabulary_of_few_tokens_is_llamas(count: int) -> None:
    hparams = words(count, 32, 32, 2, 1, 16, 0)
    assert identify(GGML + hparams + some_tokens(count) + tensor(b"tok_embeddings.weight"))[0] == (
        "an unversioned ggml file (of llama.cpp before 25 March 2023, or of another program)"
    )


@pytest.mark.parametrize("name", ["vocab.gguf", "vocab.ggjt"])
def test_changed_line_ends_of_a_small_file_are_told_if_it_is_whole_without_them(name: str, tmp_path: Path) -> None:
    data, path = (FIXTURES / name).read_bytes().replace(b"\n", b"\r\n"), tmp_path / "x"
    for changed, is_told in ((data, True), (data[:-20], False)):
        path.write_bytes(changed)
        assert ("a carriage return was put before each line feed" in run_cli("info", path).stderr) is is_told
