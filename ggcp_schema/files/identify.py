"""Identify files that this package does not read by their first bytes.

They are named here, in one table, with what to do with them. What the bytes do not prove is not said. The module is
imported when a file cannot be read, since its patterns take a while to compile.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from math import prod
from typing import NamedTuple

from ggcp_schema.files.altered import BINARY
from ggcp_schema.files.head import CONTROL, Head
from ggcp_schema.files.other_programs import is_of_another_program

LEAST_TEXT = 12
MESSAGE = 4096  # bytes of the longest message of an error
MESSAGE_LINES = 3  # at most, of a message that is neither JSON nor XML
BEGINNING = 400  # characters of it among which the word is
PICKLE = "Not opened: pickles can run code. Let the program that wrote it save the tensors as GGUF or safetensors."
PROGRAM = "A llamafile is a zip archive too: `unzip FILE` takes the GGUF file out of it."
AGAIN = "Get the file again."


class Kind(NamedTuple):
    """A kind of file: how it is recognised, what it is called, and what to do with it.

    `sign` is a pattern of the first bytes, or a function, which may return words to put in the place of {} in `what`.
    """

    sign: bytes | Callable[[Head], bool | str]
    what: str
    remedy: str = ""

    def matches(self, head: Head) -> bool | str:
        """Return whether the file is of this kind, or the words for it."""
        if isinstance(self.sign, bytes):
            return re.match(self.sign, head.data, re.DOTALL) is not None
        return self.sign(head)


def _has_member(end: bytes) -> Callable[[Head], bool]:
    """Return what recognises a zip archive in which the name of one of the first members ends so."""

    def matches(head: Head) -> bool:
        places = (match.start() for match in re.finditer(rb"PK\x03\x04", head.data))
        return head.data.startswith(b"PK\x03\x04") and any(
            _name_of_member(head.data, at).endswith(end) for at in places
        )

    return matches


def _name_of_member(data: bytes, at: int) -> bytes:
    return data[at + 30 : at + 30 + int.from_bytes(data[at + 26 : at + 28], "little")]


def _is_npz(head: Head) -> bool:
    return head.data.startswith(b"PK\x03\x04") and _name_of_member(head.data, 0).endswith(b".npy")


def _is_idx(head: Head) -> bool:
    """Recognise numbers of one type in an array, whose dimensions tell the size of the file."""
    zeros, kind, n_dims = int.from_bytes(head.data[:2], "big"), head.data[2:3], int.from_bytes(head.data[3:4], "big")
    if zeros or kind not in IDX_SIZES or not 1 <= n_dims <= 4 or len(head.data) < 4 + 4 * n_dims:
        return False
    ne = struct.unpack_from(f">{n_dims}I", head.data, 4)
    return bool(head.size == 4 + 4 * n_dims + IDX_SIZES[kind] * prod(ne))


def _is_msgpack(head: Head) -> bool:
    """Recognise a map of up to 15 names, of which the first has a map, an array, a text or bytes."""
    found = re.match(rb"[\x81-\x8f](?:[\xa3-\xbf]|\xd9.)([\w./ -]{3,255})", head.data, re.DOTALL)
    if found is None:
        return False
    begin, last = found.start(1), head.data[found.start(1) - 1]
    end = begin + (last if head.data[1] == 0xD9 else last - 0xA0)  # a length of one byte follows
    return end <= found.end() and head.data[end : end + 1] in MSGPACK_VALUES


def _is_windows_program(head: Head) -> bool:
    at = int.from_bytes(head.data[60:64], "little")
    return head.data.startswith(b"MZ") and head.data[at : at + 4] == b"PE\0\0"


def _is_aria2(head: Head) -> bool:
    """Recognise the record of a download: pieces of a size, of which each has a bit."""
    if len(head.data) < 54:
        return False
    version, n_hash = struct.unpack_from(">H4xI", head.data)
    n_piece, total, n_bits = struct.unpack_from(">IQ8xI", head.data, 10 + n_hash) if n_hash in (0, 20) else (0, 0, 0)
    return bool(version <= 1 and n_piece and n_bits == -(-total // n_piece // 8))


def _is_caffe(head: Head) -> bool:
    """Recognise the name of a network, and a layer after it: of the first version, or of the second."""
    found = re.match(rb"\n([\x01-\x7f])([ -~]+)", head.data)
    end = 2 + found[1][0] if found else 0
    layer = re.compile(rb"(\xa2\x06[\x80-\xff]{0,4}[\0-\x7f]\n|\x12[\x80-\xff]{0,4}[\0-\x7f][\n\x12\x1a\x22])")
    return bool(found and end <= found.end() and layer.match(head.data, end))


def _is_tfrecord(head: Head) -> bool:
    """Recognise the length of the first record, which its checksum follows: a masked CRC-32C."""
    crc = (1 << 32) - 1
    for byte in head.data[:8]:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    crc ^= (1 << 32) - 1
    masked = (crc >> 15 | crc << 17) + 0xA282EAD8 & (1 << 32) - 1
    return len(head.data) > 16 and head.data[8:12] == masked.to_bytes(4, "little")


def _is_safetensors(head: Head) -> bool:
    length = int.from_bytes(head.data[:8], "little")
    fits = head.size is None or length + 8 <= head.size or b'"dtype":' in head.data
    return fits and length < 1 << 32 and re.match(rb'\{\s*["}]', head.data[8:]) is not None


def _is_llama2c(head: Head) -> bool:
    """Recognise a model of llama2.c by the numbers of its header, which fit together, and the weights after them."""
    dim, hidden, n_layer, n_head, n_kv_head, n_vocab, n_ctx = head.words(7)
    numbers = (dim, hidden, n_layer, n_head, n_kv_head, abs(n_vocab), n_ctx)
    if len(head.data) < 92 or min(numbers) <= 0 or max(numbers) > 1 << 20 or n_layer > 1000:
        return False
    weights = struct.unpack("<16f", head.data[28:92])
    fits = dim % n_head == 0 and n_head % n_kv_head == 0 and hidden > dim
    return fits and max(map(abs, weights)) < 100 and sum(abs(weight) > 1e-9 for weight in weights) > 12


def _is_sentencepiece(head: Head) -> bool:
    """Recognise a message whose first field is a message of a text and a score."""
    data = head.data[:132]
    if len(data) < 5 or (data[0], data[2]) != (0x0A, 0x0A) or max(data[1], data[3]) > 127:
        return False
    return data[4 + data[3] : 5 + data[3]] == b"\x15" and data[1] in (data[3] + 7, data[3] + 9)


def _is_filled(byte: bytes) -> Callable[[Head], bool | str]:
    """Return what recognises a file that has nothing else in it, as far as one looks."""

    def matches(head: Head) -> bool | str:
        if not head.data or head.data.strip(byte):
            return False
        whole = head.size is not None and head.size <= len(head.data)
        return "nothing else" if whole else f"perhaps more after {len(head.data):,} bytes"

    return matches


def _error_message(head: Head) -> bool | str:
    """Recognise the answer of a server in the place of a file: a short text about an error, no table and no log."""
    text = (head.text or "").strip()
    if head.size is None or head.size > MESSAGE or not ERROR.search(text[:BEGINNING]):
        return False
    is_short = len(text.splitlines()) <= MESSAGE_LINES or text.startswith(("{", "<"))
    return is_short and _line(head, ERROR)


def _text(head: Head) -> bool | str:
    return head.text is not None and len(head.text.strip()) >= LEAST_TEXT and _line(head, re.compile(r"\S"))


def _text_of_bytes(head: Head) -> bool | str:
    """Recognise a text with a byte for each character, of which most are ASCII."""
    text = head.data.decode("ascii", "replace")
    is_text = len(text.strip()) >= LEAST_TEXT and not CONTROL.search(text) and text.count("\ufffd") < len(text) / 4
    return is_text and _shortened(next(filter(str.strip, text.splitlines())))


def _line(head: Head, pattern: re.Pattern[str]) -> str:
    """Return the first line with the pattern in it."""
    text = head.text or ""
    return _shortened(next((line for line in text.splitlines() if pattern.search(line)), text))


def _shortened(line: str) -> str:
    line = line.strip()
    return repr(line if len(line) <= 100 else f"{line[:97]}...")


def _contained(head: Head) -> bool | str:
    """Return how a file of llama.cpp is cut out that begins later in this one, as after the head of a mail."""
    found = re.search(rb"(GGUF|tjgg)[\x01-\x03]\0\0\0|algg\x01\0\0\0", head.data)
    if found is None:
        return False
    at = found.start()
    return f"a {CONTAINED[found[0][:4]]} file, which begins at offset {at:,}: `tail -c +{at + 1} FILE > OUTPUT`"


def _lfs_size(head: Head) -> bool | str:
    pattern = rb"(?:\xef\xbb\xbf)?version https://(?:git-lfs|hawser)\.github\.com/spec/.*?\nsize (\d+)"
    match = re.match(pattern, head.data, re.DOTALL)
    return f"{int(match[1]):,}" if match else False


IDX_SIZES = {b"\x08": 1, b"\x09": 1, b"\x0b": 2, b"\x0c": 4, b"\x0d": 4, b"\x0e": 8}  # of a number, by its type
MSGPACK_VALUES = {bytes((byte,)) for byte in (*range(0x80, 0xC0), *range(0xC4, 0xCA), *range(0xD4, 0xE0))}
CONTAINED = {b"GGUF": "GGUF", b"tjgg": "ggjt", b"algg": "ggla"}
BASE64 = rb"(\xef\xbb\xbf)?\s*(cGNnZ|R0dVR|dGpnZ|Zm1nZ|bG1nZ|bGNnZ|YWxnZ)"  # of the first bytes of each format
HEX = rb"(?i:70 ?63|74 ?6a|66 ?6d|6c ?6d|6c ?63|61 ?6c) ?67 ?67|47 ?47 ?55 ?46"  # of the same
GGML = (b"tjgg", b"fmgg", b"lmgg")
OTHER = "a ggml file of another program, which this does not read"
LLAMA_ONLY = "Only llama.cpp's own files are read; use the program that wrote it, or a converter of its files to GGUF."


ERROR = re.compile(
    r"error|denied|forbidden|unauthori[sz]ed|authenticat|credentials|not found|no ?such|do(es)? not exist|invalid"
    r"|expired|exceeded|restricted|throttled|too many requests|\blog ?in|unavailable|bad (request|gateway)"
    r"|gateway time|redirect",
    re.IGNORECASE,
)

# fmt: off
KINDS = (
    Kind(b"pcgg", "a ggcp checkpoint"),
    Kind(b"GGUF", "a GGUF file"),
    Kind(b"ggcp", "a big-endian ggcp checkpoint (only little-endian checkpoints are supported)"),
    Kind(rb"gg(?:jt|mf)\0\0\0[\x01-\x03]|ggla\0\0\0\x01|ggcl\0\0\0\0",
         "a big-endian ggjt, ggmf, ggla or ggcl file (only little-endian ones are supported)"),
    Kind(b"FUGG", "a GGUF file with the bytes of its magic swapped"),
    Kind(lambda head: head.data.startswith(GGML) and is_of_another_program(head.data), OTHER, LLAMA_ONLY),
    Kind(b"tjgg", "a ggjt model or vocabulary file (llama.cpp of April to August 2023)"),
    Kind(b"fmgg", "a ggmf model or vocabulary file (llama.cpp of March 2023)"),
    Kind(b"lmgg", "an unversioned ggml file (of llama.cpp before 25 March 2023, or of another program)"),
    Kind(b"algg", "a ggla LoRA adapter (llama.cpp's finetune or convert-lora, 2023)"),
    Kind(b"lcgg", "a ggcl LoRA training checkpoint (llama.cpp's finetune, 2023)"),
    # Altered on the way
    Kind(BASE64 + rb"[A-Za-z0-9\s]*[-_]", "a checkpoint or model file in base64, as addresses carry it",
         "Decode it: `tr -- -_ +/ < FILE | base64 -di > OUTPUT`."),
    Kind(BASE64 + rb"[\w+/]", "a checkpoint or model file in base64", "Decode it: `base64 -di FILE > OUTPUT`."),
    Kind(rb"(\xef\xbb\xbf)?\s*(" + HEX + rb")[\da-fA-F\s]{12}", "a checkpoint or model file in hexadecimal digits",
         "Restore it: `xxd -r -p FILE > OUTPUT`."),
    Kind(rb"0{6,8}:? (" + HEX + rb")[\da-fA-F ]{12}", "a hex dump of a checkpoint or model file",
         "Restore it: `xxd -r FILE > OUTPUT`, if no line of it is `*`."),
    Kind(rb"0{8}  (" + HEX + rb")[\da-fA-F ]{12}", "a hex dump of a checkpoint or model file",
         "Restore it: `sed 's/  / /g' FILE | xxd -r > OUTPUT`, if no line of it is `*`."),
    Kind(rb"begin [0-7]{3,4} [^\r\n]+\r?\nM[ -`]{60}", "a file in uuencode, as mail carried it",
         "Decode it: `uudecode -o OUTPUT FILE`."),
    Kind(rb"\xff\xfe(?:[^\0]\0)+|\xfe\xff(?:\0[^\0])+|(?:[\t\n\r -~]\0){12}|(?:\0[\t\n\r -~]){12}"
         rb"|\0?(?:G\0G\0U\0F|[pltfa]\0[cmjl]\0g\0g)",
         "text in UTF-16, as PowerShell writes what is redirected with `>`", BINARY),
    Kind(rb"(?:\xff\xfe\0\0)?(?:[\t\n\r -~]\0\0\0){8}|(?:\0\0\xfe\xff)?(?:\0\0\0[\t\n\r -~]){8}",
         "text in UTF-32", BINARY),
    Kind(_is_filled(b"\0"), "a file of zeros and {}", AGAIN),
    Kind(_is_filled(b"\xff"), "a file of bytes 0xFF and {}", AGAIN),
    # In the place of a file
    Kind(_lfs_size, "a Git LFS pointer to a file of {} bytes, not the file",
         "Run `git lfs pull` in its repository, or download the file itself."),
    Kind(rb"(/|(\.\./)*\.git/)annex/objects/", "a pointer of git-annex, not the file",
         "Run `git annex get` in its repository."),
    Kind(b"# xet version ", "a pointer of Git-Xet, not the file", "Download the file itself."),
    Kind(rb"(\xef\xbb\xbf)?\s*((<\?xml[^>]*>|<!--.*?-->)\s*)*"
         rb"(?i:<!doctype html|<(html|head|meta|title|body|script)[\s>])",
         "a web page, not the file", "Download the file itself: the page has a link to it, or asks to log in."),
    Kind(rb"\0\x05\x16\x07\0[\x01\x02]\0\0",
         "an AppleDouble file, in which macOS keeps the attributes of a file, not its data",
         "The file itself has the name without the `._` at the beginning."),
    Kind(b"L\0\0\0\x01\x14\x02\0\0\0\0\0\xc0\0\0\0\0\0\0F", "a shortcut of Windows to a file, not the file",
         "Give the path of the file itself."),
    Kind(_is_aria2, "the record of a download by aria2, not the file",
         "The file has the name without `.aria2`; `aria2c -c` goes on with its download."),
    # Other formats
    Kind(_has_member(b"/data.pkl"), "a PyTorch checkpoint", PICKLE),
    Kind(_is_npz, "a NumPy .npz archive", "Load it with numpy.load."),
    Kind(rb"\x80([\x02\x03][\]}\(ccX\x8aKMG]|[\x04\x05]\x95)", "a Python pickle, as PyTorch wrote until 2020", PICKLE),
    Kind(rb"\([dl]p[01]\n|[\]}]q\0[(X]", "a Python pickle", PICKLE),
    Kind(_is_safetensors, "a safetensors file", "llama.cpp's convert_hf_to_gguf.py makes GGUF of a model's folder."),
    Kind(b"\x93NUMPY", "a NumPy array", "Load it with numpy.load."),
    Kind(b"\x89HDF\r\n\x1a\n", "an HDF5 file", "Keras models and h5py's files are such; h5py reads it."),
    Kind(
        rb"\x08[\x01-\x20](\x12[\x01-\x40][\x20-\x7e]+[\x1a\x22\x3a\x42]|(\x12\0)?(\x1a\0)?:[\x80-\xff]{1,4}[\0-\x7f]\n)",
        "an ONNX model",
        "The package onnx reads it.",
    ),
    Kind(rb"....TFL3", "a TensorFlow Lite model"),
    Kind(rb"\x08\x01\x12[\x80-\xff]{1,4}[\0-\x7f]\n[\x80-\xff]{0,4}[\0-\x7f][\x12\x22\x2a]",
         "a SavedModel of TensorFlow"),
    Kind(rb"\n[\x80-\xff]{0,4}[\0-\x7f](\n[\x01-\x7f][\w./-]+\x12[\x01-\x40][A-Z]\w+[\x1a\x22\x2a\n\x12]"
         rb"|\x12[\x80-\xff]{0,4}[\0-\x7f]\n[\x80-\xff]?[\0-\x7f]\n[\x01-\x40][A-Z]\w+\x12)", "a graph of TensorFlow"),
    Kind(lambda head: head.data.endswith(b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"),
         "a table of LevelDB, such as the index of a TensorFlow checkpoint"),
    Kind(_is_tfrecord, "a TFRecord file, such as TensorBoard's events"),
    Kind(_is_caffe, "a model of Caffe"),
    Kind(rb"\x04\0\0\0\x01\0\0\0\x03\0\0\0V 1|\x03\0\0\0\x01\0\0\0.{4}\x02\0\0\0.\0\0\0[ -~]", "a file of Torch7",
         "The package torchfile reads it."),
    Kind(rb"\x08[\x02-\x0c]\x12[\x80-\xff]{0,4}[\0-\x7f]\n[\x80-\xff]?[\0-\x7f]\n[\x01-\x7f][ -~]", "a Core ML model"),
    Kind(rb"[\x01-\x0c]\0\0\0[\x08-\x40]\0[A-Z]\w+Spec\0", "a model of CTranslate2", "CTranslate2 reads it."),
    Kind(rb"[\xc6\xc8]\xd7\x34\x01|\x88\xd8\x34\x01", "a file of llm.c", "llm.c's programs read it."),
    Kind(rb"\xba\x16\x4f\x2f[\x0b\x0c]\0\0\0", "a fastText model", "The package fasttext reads it."),
    Kind(_is_msgpack, "a msgpack file, as Flax saves parameters", "flax.serialization.msgpack_restore reads it."),
    Kind(_is_idx, "an IDX file, as MNIST's images and labels are"),
    Kind(rb"MATLAB 5\.0 MAT-file", "a file of MATLAB", "scipy.io.loadmat reads it."),
    Kind(rb"PAR1[\x15\x19]", "a Parquet file", "pyarrow reads it."),
    Kind(rb"ARROW1\0\0|FEA1\0{4}|\xff{4}.{3}\0\x10\0{5}\n\0", "an Arrow file", "pyarrow reads it."),
    Kind(rb"Obj\x01[\x02-\x08]\x14avro\.codec|Obj\x01[\x02-\x08]\x16avro\.schema", "an Avro file"),
    Kind(rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff[\xc0-\xfe]|GIF8[79]a|RIFF....WEBP", "an image"),
    Kind(rb"RIFF....WAVE|ID3[\x02-\x04]\0|OggS\0[\x02\0]|fLaC\0\0\0\x22|\0\0\0.ftyp", "a recording of sound or film"),
    Kind(rb"%PDF-\d", "a PDF document"),
    Kind(rb"\0asm\x01\0\0\0", "a program for WebAssembly"),
    Kind(b"\0\0\0\x01Bud1", "a .DS_Store, which macOS leaves in folders"),
    Kind(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a compound file, as Thumbs.db and old Office documents are"),
    Kind(b"SQLite format 3\0", "an SQLite database"),
    Kind(rb"MZqFpD=|jartsr=", "a program for several systems, such as a llamafile", PROGRAM),
    Kind(b"\x7fELF", "a program or library (ELF)", PROGRAM),
    Kind(_is_windows_program, "a program or library for Windows", PROGRAM),
    Kind(rb"[\xce\xcf]\xfa\xed\xfe|\xfe\xed\xfa[\xce\xcf]|\xca\xfe\xba\xbe\0\0\0[\1-\5]",
         "a program or library for macOS", PROGRAM),
    Kind(rb"24ka[\x01-\x03]\0\0\0", "a model of llama2.c", "llama2.c's run reads it."),
    Kind(_is_llama2c, "a model of llama2.c", "llama2.c's run reads it."),
    Kind(rb"[^\0].\0\0....\x05\0\0\0<unk>|[^\0]\0\0\0....\x05\0\0\0<unk>", "a tokenizer of llama2.c",
         "Use the tokenizer.model that it was made from."),
    Kind(_is_sentencepiece, "a sentencepiece model, a vocabulary", "Use it with `ggcp-schema export --vocab FILE`."),
    Kind(rb"..[\0\x01]\0[\x05-\x7f]\0\0\0[\w.]+\.weight", "an importance matrix of llama.cpp in its old format",
         "`llama-imatrix --in-file FILE -o OUTPUT.gguf` converts it."),
    Kind(rb"[anq]sgg", "a saved session of llama.cpp (--prompt-cache, or a slot of its server), without a model",
         "It belongs to the model that it was made with."),
    Kind(rb"(ccgg|ggml)..\0\0", OTHER, LLAMA_ONLY),
    # Archives
    Kind(rb"PK(\x03\x04|\x05\x06|\x07\x08)", "a zip archive", "Unpack it with `unzip FILE`."),
    Kind(b"\x1f\x8b", "a gzip file", "Unpack it with `gzip -dc FILE > OUTPUT`, or `tar xzf FILE` for a .tar.gz."),
    Kind(b"BZh", "a bzip2 file", "Unpack it with `bzip2 -dc FILE > OUTPUT`, or `tar xjf FILE` for a .tar.bz2."),
    Kind(b"\xfd7zXZ", "an xz file", "Unpack it with `xz -dc FILE > OUTPUT`, or `tar xJf FILE` for a .tar.xz."),
    Kind(rb"\x28\xb5\x2f\xfd", "a zstd file", "Unpack it with `zstd -dc FILE > OUTPUT`."),
    Kind(rb"\x04\x22\x4d\x18|\x02\x21\x4c\x18", "an lz4 file", "Unpack it with `lz4 -dc FILE > OUTPUT`."),
    Kind(rb"\x5d\0\0[\0-\x80][\0-\x08](\xff{8}|.{5}\0{3})\0", "an LZMA file",
         "Unpack it with `xz --format=lzma -dc FILE > OUTPUT`."),
    Kind(rb"LZIP[\0\x01]", "an lzip file", "Unpack it with `lzip -dc FILE > OUTPUT`."),
    Kind(rb"\x1f\x9d[\x89-\x90]", "a file of compress", "Unpack it with `gzip -dc FILE > OUTPUT`."),
    Kind(b"7z\xbc\xaf", "a 7-Zip archive", "Unpack it with `7z x FILE`."),
    Kind(b"Rar!\x1a\x07", "a RAR archive", "Unpack it with `unrar x FILE`."),
    Kind(rb".{257}ustar", "a tar archive", "Unpack it with `tar xf FILE`."),
    # Text
    Kind(_error_message, "a short text in the place of a file, such as a server's error message: {}",
         "Download it again."),
    Kind(_text, "a text that begins with {}"),
    Kind(_text_of_bytes, "a text, not in UTF-8, that begins with {}"),
    Kind(rb"\d{1,9} \d{1,5}\n[^\s\0]{1,100} ", "vectors of word2vec", "gensim's KeyedVectors reads them."),
    Kind(_contained, "a file with other bytes before {} cuts it out"),
)
# fmt: on
"""What files are, in the order in which it is tried."""


def identify(head: bytes, size: int | None = None) -> tuple[str, str]:
    """Return what a file is and what to do with it, in words; empty if not known.

    `head` is its first bytes, at most `HEAD` of them, and `size` its size in bytes.
    """
    whole = Head(head, size)
    for kind in KINDS:
        if found := kind.matches(whole):
            return kind.what.format(found), kind.remedy
    return "", ""
