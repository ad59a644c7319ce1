"""The vocabulary in a ggml, ggmf or ggjt file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ggcp_schema.formats.vocabularies import check_damage, items_of
from ggcp_schema.llama import names
from ggcp_schema.llama.vocabulary import BYTE, CONTROL, NO_SCORES, NORMAL, UNKNOWN, Token, Vocabulary

if TYPE_CHECKING:
    from ggcp_schema.formats.ggml.file import GgmlFile

# The first tokens of a file before GGUF, and the texts by which they are recognised; sentencepiece decodes <unk> to
# " ⁇ ". A vocabulary of single characters has other tokens there; each sample began with token 1 all the same.
SPECIAL = (("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL))
SPECIAL_TEXTS = ((b"<unk>", " ⁇ ".encode(), b""), (b"<s>", b""), (b"</s>", b""))
SPECIAL_IDS = {"bos": 1, "eos": 2, "unknown": 0}
N_BYTES = 256  # tokens that follow the special ones: the single bytes


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
