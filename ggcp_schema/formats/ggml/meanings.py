"""What a ggml, ggmf or ggjt file means: a model, and a vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ggcp_schema.errors import UsageError
from ggcp_schema.formats.file import CHECKPOINT_NEEDED
from ggcp_schema.formats.vocabularies import check_damage, items_of
from ggcp_schema.llama import names
from ggcp_schema.llama.eras import Evidence
from ggcp_schema.llama.model import Model, check_no_others
from ggcp_schema.llama.training import modification_date, whole_model
from ggcp_schema.llama.vocabulary import BYTE, CONTROL, NO_SCORES, NORMAL, UNKNOWN, Token, Vocabulary
from ggcp_schema.schema.inference import n_ff_by_formula

if TYPE_CHECKING:
    from ggcp_schema.formats.ggml.file import GgmlFile

# The first tokens of a file before GGUF, and the texts by which they are recognised; sentencepiece decodes <unk> to
# " ⁇ ". A vocabulary of single characters has other tokens there; each sample began with token 1 all the same.
SPECIAL = (("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL))
SPECIAL_TEXTS = ((b"<unk>", " ⁇ ".encode(), b""), (b"<s>", b""), (b"</s>", b""))
SPECIAL_IDS = {"bos": 1, "eos": 2, "unknown": 0}
N_BYTES = 256  # tokens that follow the special ones: the single bytes


def model_of_ggml(file: GgmlFile) -> Model:
    """Return the model of a file before GGUF, whose quantized tensors must be of a type that GGUF stores alike."""
    hparams = file.hparams
    file.check_whole(len(file.tensors), names.n_tensors(hparams.n_layer))
    if not file.tensors:
        raise UsageError(f"{file.path} is a vocabulary", CHECKPOINT_NEEDED)
    w1 = file.tensors.get(str(names.llama_name("layers[0].w1")))
    n_ff = w1.shape[-1] if w1 else 0
    tensors = whole_model(
        file.path, file.tensors, names.llama_name, hparams.n_vocab, hparams.n_embd, hparams.n_layer, n_ff, any_type=True
    )
    check_no_others(file.path, file.tensors, tensors.values())
    for tensor in tensors.values():
        if tensor.type not in file.types_of_gguf:
            version = f" version {file.container['version']}" if "version" in file.container else ""
            raise UsageError(
                f"{file.path}: tensor {tensor.name} is {tensor.type} as {file.format.name}{version} stores it; "
                "GGUF's blocks of this type are different ones, or it has none",
                "Quantize the model again from the file with F16 or F32 weights that this one was made from.",
            )
    is_f32 = all(tensor.type == "F32" for tensor in tensors.values())
    return Model(
        path=file.path,
        n_vocab=hparams.n_vocab,
        n_embd=hparams.n_embd,
        n_head=hparams.n_head,
        n_layer=hparams.n_layer,
        n_ff=n_ff,
        n_rot=hparams.n_rot,
        tensors=tensors,
        evidence=Evidence(
            first_tensor=next(iter(file.tensors)),
            n_mult=hparams.n_mult,
            n_ff=n_ff,
            n_ff_by_formula=n_ff_by_formula(hparams.n_embd, hparams.n_mult),
            modified=modification_date(file.source),
            is_model=True,
        ),
        has_vocabulary=True,
        file_type=0 if is_f32 else file.container["ftype"],
    ).checked()


def vocabulary_of_ggml(file: GgmlFile) -> Vocabulary:
    """Return the vocabulary. Damage after it, in the tensors, is ignored; and before it, if all tokens were found."""
    root = file.container
    is_before = file.damage is not None and file.damage.path in {"magic", "version"}
    if not is_before or file.get("hparams.n_vocab") != len(root.get("tokens") or ()):
        check_damage(file)
    tokens = [_ggml_token(index, token) for index, token in enumerate(items_of(file, "tokens", root["tokens"]))]
    if len(tokens) > 4 and not tokens[3].text and tokens[4].type == BYTE:
        # The trainer of August 2023 wrote texts up to a zero byte, which is the whole text of byte 0.
        tokens[3] = tokens[3]._replace(text="<0x00>", type=BYTE)

    def locate(key: str, index: int | None) -> tuple[str, int]:
        column = "score" if key == names.TOKEN_SCORES else "text"
        path = "hparams.n_vocab" if index is None else f"tokens[{index}].{column}"
        return path, file.find(path).offset

    ids = {name: index for name, index in SPECIAL_IDS.items() if index < len(tokens)}
    if tokens and tokens[0].type != UNKNOWN:
        del ids["unknown"]
    name = file.format.name
    kind, note = (f"{name} version {root['version']}", "") if "version" in root else (f"unversioned {name}", NO_SCORES)
    return Vocabulary.of(file.path, kind, tokens, ids, note).checked(locate)


def _ggml_token(index: int, token: dict[str, Any]) -> Token:
    """Return a token: the first three may be special ones, 3 to 258 single bytes; spaces stand for `▁`."""
    text, score = token["text"], token.get("score", 0.0)
    if index < len(SPECIAL) and text in SPECIAL_TEXTS[index]:
        name, kind = SPECIAL[index]
        return Token(name, score, kind)
    byte = index - len(SPECIAL)
    if 0 <= byte < N_BYTES and text == bytes([byte]):
        return Token(f"<0x{byte:02X}>", score, BYTE)
    return Token(text.decode("utf-8", "surrogateescape").replace(" ", "▁"), score, NORMAL if text else CONTROL)
