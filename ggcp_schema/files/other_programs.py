"""Recognise the ggml, ggmf and ggjt files of other programs than llama.cpp."""

from __future__ import annotations

import re

from ggcp_schema.files.head import Head

FTYPES = {kind + 1000 * version for kind in range(40) for version in range(3)}  # ggml's examples add the version
MOST_NUMBERS = 32  # before the first tensor of a program without tokens
MOST_BEFORE_TOKENS = 9
TOKENS = 3  # that are looked at
LONGEST = 128  # bytes of one of the first tokens


def is_of_another_program(head: bytes) -> bool:
    """Return True if a ggml, ggmf or ggjt file cannot be a llama's: if its hyper-parameters are others.

    A llama has 7 numbers and then its tokens. GPT-2, GPT-J, StarCoder and others state the number of tokens again
    before these; Whisper has its filters there, RWKV its tensors; other programs have more or fewer numbers, or such
    as no llama has.
    """
    versioned = head[:4] != b"lmgg"
    if head[:4] == b"fmgg" and Head(head).words(1, 4)[0] in range(100, 110):
        return True  # RWKV
    start = 8 if versioned else 4
    words = Head(head).words(12, start)
    if words[6] == words[0] and words[6] not in FTYPES:
        return True  # GPT-2, StarCoder
    has_name = re.fullmatch(rb"[\w.-]{4,64}", head[start + 4 : start + 4 + words[0]])
    is_whisper = words[9] == words[11] and words[9] in (80, 128) and words[1] == 1500
    if has_name or is_whisper or _has_classes(head, start + 7 * 4):
        return True  # Whisper, whose models of voice activity begin with a name; ViT
    few = words[0] if 0 < words[0] < TOKENS else 0
    end = _end_of_tokens(head, start + 7 * 4, versioned, least=int(few > 0), count=few or TOKENS)
    if end and (not few or end == len(head) or Head(head).begins_a_tensor(end)):
        return False
    _, n_embd, _, n_head, n_layer, n_rot = first = words[:6]
    if min(first) > 0 and max(first) < 1 << 20 and (n_layer > 1000 or n_embd % n_head or n_rot * n_head > n_embd):
        return True  # CLIP, Bark
    others = [start + 4 * count for count in range(MOST_NUMBERS) if count != 7]  # where tokens or tensors may begin
    near = [at for at in others if start < at <= start + 4 * MOST_BEFORE_TOKENS]
    has_tokens = any(_end_of_tokens(head, at, scored, least=1) for at in near for scored in (False, True))
    return has_tokens or any(map(Head(head).begins_a_tensor, others))


def _has_classes(head: bytes, at: int) -> bool:
    """Return True if numbered names begin there, as those of the classes that a model of images tells apart."""
    for index in range(3):
        number, length = Head(head).words(2, at)
        if number != index or not re.fullmatch(rb"[ -~]{2,}", head[at + 8 : at + 8 + max(0, length)]):
            return False
        at += 8 + length
    return True


def _end_of_tokens(head: bytes, at: int, scored: bool, *, least: int = 0, count: int = TOKENS) -> int | None:
    """Return where tokens end that follow each other from there: lengths, texts without zeros, and scores or not."""
    for _ in range(count):
        length = int.from_bytes(head[at : at + 4], "little")
        text = head[at + 4 : at + 4 + length]
        if not least <= length <= LONGEST or len(text) < length or b"\0" in text:
            return None
        at += 4 + length + 4 * scored
    return at


OTHER_NAMES = re.compile(
    rb"(?<![\w.])(transformer\.|model/|gpt_neox\.|(en|de)coder\.|blocks\.\d|emb\.weight$|(\w+\.)?word_embeddings"
    rb"|(\w+\.)?embeddings\.|bert\.|shared\.weight|text_model\.|vision_model\.|model\.(diffusion_model|decoder)\."
    rb"|image_encoder\.)"
)
"""How a tensor's name begins that is one of GPT-2's, Falcon's, RWKV's or another model's that is no llama."""
