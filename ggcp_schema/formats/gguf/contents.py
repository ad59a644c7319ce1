"""What a GGUF file is and states of itself by its keys, which damage may hide; and the parts of a split file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ggcp_schema.constructs import LazyList, counted
from ggcp_schema.errors import GgcpError, UsageError
from ggcp_schema.files.source import STREAMS
from ggcp_schema.formats.gguf.keys import Keys, shown
from ggcp_schema.formats.rules import Finding
from ggcp_schema.llama import names
from ggcp_schema.llama.keys import HPARAMS, stated_of
from ggcp_schema.llama.rotation import n_rot_of

if TYPE_CHECKING:
    from ggcp_schema.formats.gguf.file import GgufFile

FILE_TYPES = {
    number: name
    for numbers, texts in (
        (range(4), "F32 F16 Q4_0 Q4_1"),
        (range(7, 20), "Q8_0 Q5_0 Q5_1 Q2_K Q3_K_S Q3_K_M Q3_K_L Q4_K_S Q4_K_M Q5_K_S Q5_K_M Q6_K IQ2_XXS"),
        (range(20, 30), "IQ2_XS Q2_K_S IQ3_XS IQ3_XXS IQ1_S IQ4_NL IQ3_S IQ3_M IQ2_S IQ2_M"),
        (range(30, 38), "IQ4_XS IQ1_M BF16 Q4_0_4_4 Q4_0_4_8 Q4_0_8_8 TQ1_0 TQ2_0"),
        (range(38, 41), "MXFP4 NVFP4 Q1_0"),
    )
    for number, name in zip(numbers, texts.split(), strict=True)
}
"""The numbers of general.file_type: llama.cpp's `llama_ftype`."""
OTHER_TYPES = {"IQ2_S": "IQ2_XS", "IQ2_M": "IQ2_S", "IQ3_XS": "IQ3_S", "IQ3_M": "IQ3_S"}
"""The element type of most tensors of a file type, where its name tells another or none; of Q4_K_M it is Q4_K."""
GUESSED = 1024  # is added to a file type that was guessed
FILE_TYPE = "general.file_type"
SIZES = ("context_length", "block_count", "embedding_length", "attention.head_count", "attention.head_count_kv")
EXPERTS = "expert_count", "expert_used_count"
PART = re.compile(r"(?P<stem>.*)-(?P<no>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)
MAX_PARTS = 1000  # that are looked for
MAX_BLOCKS = 100  # whose sizes are shown
MAX_NAME = 40  # characters of a name among others
SHOWN = 3  # missing parts that are named
NO_MODELS = {"gguf-imatrix", "gguf-controlvector"}  # whose numbers are no weights
SPLIT_NO, SPLIT_COUNT, SPLIT_TENSORS = "split.no", "split.count", "split.tensors.count"
SPLIT_TYPES = {SPLIT_NO: "UINT16", SPLIT_COUNT: "UINT16", SPLIT_TENSORS: "INT32"}
MOST_PARTS = (1 << 16) - 1
KINDS = {
    "gguf-resume": ("GGUF training checkpoint, to resume from", "GGUF checkpoint"),
    "gguf-finetune": (
        "GGUF training checkpoint of llama.cpp's finetune: the state of a LoRA adapter, without a model",
        "GGUF LoRA checkpoint",
    ),
    "gguf-model": ("GGUF model", "GGUF model"),
    "gguf-vocabulary": ("GGUF vocabulary, without a model", "GGUF vocabulary"),
    "gguf-part": ("part of a split GGUF file", "part of a GGUF file"),
    "gguf-adapter": ("GGUF adapter", "GGUF adapter"),
    "gguf-mmproj": ("GGUF projector of a multimodal model", "GGUF projector"),
    "gguf-imatrix": ("GGUF importance matrix", "importance matrix"),
    "gguf-controlvector": ("GGUF control vector", "GGUF control vector"),
    "gguf": ("GGUF file", "GGUF file"),
}
"""What a GGUF file is, in words and in two words."""
TOKENIZERS = {"llama", "gpt2"}  # those of which the trainers saved checkpoints
OF_ARCHITECTURE = {"clip": "mmproj", "controlvector": "controlvector"}


def contents(gguf: GgufFile) -> tuple[tuple[str, str], ...]:
    """Return what the keys say of the contents, in words, each with a label."""
    keys = Keys(gguf)
    stated = (keys.text(key) for key in (names.ARCHITECTURE, "general.type", "tokenizer.ggml.model"))
    architecture, kind, tokenizer = (text and text[:MAX_NAME] + "…" * (len(text) > MAX_NAME) for text in stated)
    words = [
        architecture or "no architecture" * (gguf.damage is None and needs_architecture(gguf)),
        None if gguf.kind == f"gguf-{kind}" else kind,
        f"tokenizer {tokenizer}" if tokenizer else None,
        *_counts(gguf),
        f"{gguf.tensors.n_elements:,} parameters" if names.LORA_ALPHA in gguf.key_values else None,
    ]
    lines = {"name": keys.text("general.name"), "contents": ", ".join(filter(None, words))}
    if gguf.tensors.n_elements and gguf.kind not in NO_MODELS:
        bits = f"{8 * gguf.tensors.nbytes / gguf.tensors.n_elements:.4g} bits per weight"
        lines["weights"] = ", ".join(filter(None, (file_type(gguf), bits)))
    lines["sizes"] = ", ".join(f"{name} {value}" for name, value in _sizes(keys) if value)
    return tuple((label, line) for label, line in lines.items() if line)


def _counts(gguf: GgufFile) -> Iterator[str]:
    """Yield the version, the byte order if it is unusual, and the numbers of keys and tensors, where they are known."""
    version, n_keys, n_tensors = (gguf.container.get(name) for name in ("version", "metadata_kv_count", "tensor_count"))
    if version is not None:
        yield f"version {version}" + ", big-endian" * (gguf.byte_order == "big")
    if n_keys is not None:
        cut = "" if "tensor_infos" in gguf.container else f"{len(gguf.key_values)} of "
        yield cut + counted(n_keys, "key")
    if n_tensors is not None:
        yield counted(n_tensors, "tensor")


def needs_architecture(gguf: GgufFile) -> bool:
    """Return False for the kinds of files that llama.cpp writes without an architecture."""
    return gguf.kind != "gguf-imatrix" and SPLIT_NO not in gguf.key_values


def _sizes(keys: Keys) -> Iterator[tuple[str, str]]:
    """Yield the sizes in the keys of the architecture, also of its parts: a projector has `clip.vision.block_count`.

    The numbers that every summary has of a model are left out, and that of the keys' heads where it is that of all.
    """
    gguf, prefix = keys.gguf, f"{keys.text(names.ARCHITECTURE)}."
    n_blocks, width, of_all, of_keys = (prefix + name for name in SIZES[1:])
    told = (n_blocks, width, of_all) if keys.integer(n_blocks) is not None else ()
    left_out = {key for key in told if keys.integer(key) is not None}
    if gguf.value(of_keys) == gguf.value(of_all):
        left_out.add(of_keys)
    own = [key for key in gguf.key_values if key.startswith(prefix) and key not in left_out]
    for name in (*SIZES, *EXPERTS):
        for key in own:
            if key.endswith(f".{name}"):
                yield key.removeprefix(prefix), _size_text(gguf.value(key))


def _size_text(value: Any) -> str:
    """Return a number, or those of all blocks, in words; empty for anything else."""
    if isinstance(value, LazyList):
        return " ".join(map(str, value[:MAX_BLOCKS])) + " …" * (len(value) > MAX_BLOCKS)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""


def file_type(gguf: GgufFile) -> str | None:
    """Return of what type the weights are by general.file_type; None if it is no number.

    Where the tensors are not so, or some of them are elsewhere or lost, it is told that the key says it.
    """
    number = Keys(gguf).integer(FILE_TYPE)
    if number is None:
        return None
    name = FILE_TYPES.get(number % GUESSED)
    if name is None:
        return f"file type {number}"
    kind = OTHER_TYPES.get(name) or re.sub("_K_[SML]$", "_K", name)
    types, is_all = gguf.tensors.types(), name == "F32"
    words = f"all {name}" if is_all else f"mostly {name}"
    if kind in types and not (is_all and len(types) > 1):
        return words
    but = "" if gguf.damage is not None or part_of(gguf) else ", but " + ("not all are" if is_all else "no tensor is")
    return f"{words} by {FILE_TYPE}{but}"


def odd_tokens(gguf: GgufFile) -> Iterator[Finding]:
    """Yield what keeps llama.cpp from using the tokens: they are no texts, or not as many as the embeddings.

    Or there are fewer scores or types than tokens.
    """
    tokens = gguf.key_values.get(names.TOKENS)
    if tokens is None or not tokens.type.startswith("ARRAY/"):
        return
    found = [] if tokens.type == "ARRAY/STRING" else [f"the tokens are {tokens.type}, and not texts"]
    count = counted(len(tokens.value), "token")
    embeddings = gguf.tensors.get(str(names.tensor_name("tok_embeddings")))
    if embeddings is not None and len(embeddings.shape) == 2 and embeddings.shape[1] != len(tokens.value):
        found.append(f"{count}, but {embeddings.path} has {embeddings.shape[1]:,} rows")
    for key, what in ((names.TOKEN_SCORES, "score"), (names.TOKEN_TYPES, "type")):
        length = Keys(gguf).length(key)
        if length is not None and length < len(tokens.value):
            found.append(f"{count}, but {counted(length, what)}")
    if found:
        yield Finding(names.TOKENS, "; ".join(found))


def facts_of(gguf: GgufFile) -> dict[str, Any]:
    """Return values for the fields of a summary, by their names."""
    keys = Keys(gguf)
    model = {name: tensor for name, tensor in gguf.tensors.items() if not names.is_optimizer(name)}
    model_bytes = sum(tensor.nbytes for tensor in model.values())
    n_ff = keys.integer(keys.own(names.FEED_FORWARD_LENGTH))
    optimizer = keys.text(names.OPTIMIZER_TYPE)
    has_model = not (gguf.has_adapter or names.LORA_ALPHA in gguf.key_values or gguf.kind in NO_MODELS)
    n_params = sum(tensor.n_elements for name, tensor in model.items() if name != names.ROPE_FREQS and has_model)
    details = gguf.adapter_facts() if gguf.has_adapter else {}
    details = details or {"details": contents(gguf)}
    stated = stated_of(keys.field, gguf.tensors.get(str(names.tensor_name("optimizer.state.pf", optimizer))))
    if keys.flag(names.CONVERTED_FRESH) and not keys.count(names.OPTIMIZER_ITERATION_COUNT):
        stated["stored_losses"] = None  # the optimizer has not started, whatever the keys of its losses hold
    return {
        **stated,
        **details,
        "version": gguf.container.get("version"),
        "hparams": _hparams_of(gguf, keys),
        "n_ff": n_ff,
        "n_ff_source": None if n_ff is None else "stored",
        "n_params": n_params or None,
        "n_tokens": None if any(odd_tokens(gguf)) else keys.length(names.TOKENS),
        "has_usual_tokenizer": keys.text(names.TOKENIZER_MODEL) in TOKENIZERS,
        "bytes": gguf.uses(model_bytes, gguf.tensors.nbytes - model_bytes),
        "optimizer": stated["optimizer"] if optimizer else None,
        "rms_eps": keys.real(names.RMS_EPSILON),
    }


def kind_of(gguf: GgufFile) -> str:
    """Return what the file is: a key of `KINDS`."""
    keys = Keys(gguf)
    kind, optimizer = keys.text(names.TRAINING_TYPE), keys.text(names.OPTIMIZER_TYPE)
    if kind == names.FINETUNE_LORA:
        return "gguf-finetune"
    if kind == names.TRAIN_MODEL or optimizer:
        return "gguf-resume"
    stated = OF_ARCHITECTURE.get(str(keys.text(names.ARCHITECTURE)), keys.text("general.type"))
    if stated in {"adapter", "mmproj", "imatrix", "controlvector"}:
        return f"gguf-{stated}"
    if part_of(gguf):
        return "gguf-part"
    has_tokens = names.TOKENS in gguf.key_values
    if not gguf.counts_tensors:
        return "gguf-vocabulary" if has_tokens else "gguf"
    return "gguf-model" if has_tokens or keys.own(names.CONTEXT_LENGTH) in gguf.key_values else "gguf"


def in_words(gguf: GgufFile) -> tuple[str, str]:
    """Return what the file is, in words and in two words."""
    part = part_of(gguf) if gguf.kind == "gguf-part" else None
    if part is None:
        return KINDS[gguf.kind]
    return "part {} of {} of a split GGUF file".format(*part), "GGUF part {} of {}".format(*part)


def _hparams_of(gguf: GgufFile, keys: Keys) -> dict[str, int | None] | None:
    embeddings = gguf.tensors.get(str(names.tensor_name("tok_embeddings")))
    found = {name: keys.integer(keys.own(key)) if key else None for name, key in HPARAMS.items()}
    freq_base = keys.real(keys.own(names.ROPE_FREQ_BASE))
    if embeddings and len(embeddings.shape) == 2:
        found["n_vocab"] = embeddings.shape[1]
    if dimensions := found["n_rot"]:
        found["n_rot"] = n_rot_of(dimensions, freq_base)
    return found if any(value is not None for value in found.values()) else None


# Split files -----------------------------------------------------------------------------------------------


def part_of(gguf: GgufFile) -> tuple[int, int] | None:
    """Return the number of this part of a split file, from 1, and the number of parts; None if it is not split.

    None too for numbers that do not fit into the type that llama.cpp gives them.
    """
    no, count = gguf.value(SPLIT_NO), gguf.value(SPLIT_COUNT)
    is_split = isinstance(no, int) and isinstance(count, int) and 0 <= no <= MOST_PARTS and 1 < count <= MOST_PARTS
    return (no + 1, count) if is_split else None


def odd_split_keys(gguf: GgufFile) -> Iterator[Finding]:
    """Yield which keys of a part are of another type than llama.cpp, and the package gguf, write."""
    for key, kind in SPLIT_TYPES.items():
        entry = gguf.key_values.get(key)
        if entry is not None and entry.type != kind:
            yield Finding(key, f"is {shown(entry.value)}, of type {entry.type}; llama.cpp reads and writes {kind}")


def check_not_split(gguf: GgufFile) -> None:
    """Check that the file is no part of a split file. Raises `UsageError`."""
    if part := part_of(gguf):
        what = "part {} of {} of a split GGUF file".format(*part)
        raise UsageError(f"{gguf.path} is {what}", "Join the parts: `llama-gguf-split --merge FIRST-PART OUTPUT`.")


def _parts(gguf: GgufFile) -> list[tuple[int, str]]:
    """Return the numbers and paths of the other parts, by this one's name; none if its name is not that of a part."""
    part, match = part_of(gguf), PART.fullmatch(gguf.path)
    if part is None or match is None:
        return []
    numbers = [number for number in range(1, min(part[1], MAX_PARTS) + 1) if number != part[0]]
    return [(number, f"{match['stem']}-{number:05}-of-{part[1]:05}.gguf") for number in numbers]


def missing_parts(gguf: GgufFile) -> Iterator[Finding]:
    """Yield which parts are missing beside a part of a split file, or that its own name is not that of a part."""
    part, is_named = part_of(gguf), PART.fullmatch(gguf.path) is not None or gguf.path.startswith(STREAMS)
    if part is not None and part[0] <= part[1] and not is_named:
        end = "-{:05}-of-{:05}.gguf".format(*part)
        yield Finding(SPLIT_NO, f"llama.cpp finds the parts by their names: that of this one should end in {end}")
    missing = [os.path.basename(path) for _, path in _parts(gguf) if not os.path.exists(path)]
    if missing:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        yield Finding(SPLIT_NO, f"missing beside this file: {', '.join(missing[:SHOWN])}{more}")


def odd_parts(gguf: GgufFile) -> Iterator[tuple[str, str, str]]:
    """Yield a key of a part, what is expected and what is found, where the parts beside it do not fit.

    Of the other parts the headers are read.
    """
    from ggcp_schema.formats.gguf.file import open_gguf

    part, match = part_of(gguf), PART.fullmatch(gguf.path)
    if part is None:
        return
    if match is not None and (int(match["no"]), int(match["count"])) != part:
        yield SPLIT_NO, f"part {int(match['no'])} of {int(match['count'])} by the name", "part {} of {}".format(*part)
    if part[0] > part[1]:
        yield SPLIT_NO, f"less than {part[1]} ({SPLIT_COUNT})", str(part[0] - 1)
    total, tensors, whole = gguf.value(SPLIT_TENSORS), gguf.container.get("tensor_count") or 0, bool(_parts(gguf))
    for number, path in _parts(gguf):
        name = os.path.basename(path)
        try:
            with open_gguf(path) as other:
                tensors += other.container["tensor_count"]
                if part_of(other) != (number, part[1]):
                    yield SPLIT_COUNT, f"{name} to be part {number} of {part[1]}", "another part"
                if other.value(SPLIT_TENSORS) != total:
                    yield SPLIT_TENSORS, f"{other.value(SPLIT_TENSORS)} as in {name}", str(total)
        except GgcpError as error:
            whole = False
            if os.path.exists(path):
                yield SPLIT_COUNT, f"{name} to be readable", error.message
    if whole and part[1] <= MAX_PARTS and total is not None and tensors != total:
        yield SPLIT_TENSORS, f"{tensors}, the tensors of all parts", str(total)
