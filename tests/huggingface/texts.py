"""Texts on which tokenizers are compared."""

from __future__ import annotations

import random

from tests.helpers import thinned

PARAGRAPH = (
    "Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to do: once or "
    "twice she had peeped into the book her sister was reading, but it had no pictures or conversations in it, 'and "
    "what is the use of a book,' thought Alice 'without pictures or conversations?'"
)
WORDS = PARAGRAPH.split()
FOREIGN = [
    "日本語のテキスト",
    "Привет, мир",
    "שלום עולם",
    "مرحبا",
    "नमस्ते",
    "Ελληνικά",
    "한국어",
    "ไทย",
    "Tiếng Việt",
    "naïve café",
]
EMOJI = ["🙂", "👩‍👩‍👧", "🇫🇷", "❤️", "a🙂b", "🙂🙂 🙂"]
SPACES = [
    "",
    " ",
    "  ",
    "   ",
    "\n",
    "\n\n",
    "\r\n",
    "\t",
    "\t\t",
    " \n",
    "\n ",
    " \t ",
    "\u00a0",
    "\u3000",
    "\u200b",
    "\ufeff",
]
LITERAL = ["▁", "▁▁", " ▁", "▁ ", "▁a", "a▁b", " ▁ a", "the▁bank"]
SPECIAL = ["<s>", "</s>", "<unk>", "<0x41>", "<0x0A>", "a<s>b", " <s>", "<s> a", "</s></s>", "<s", "s>", "<unk> <unk>"]
TOGETHER = ["a" * 50, "ab" * 30, "aaa aaa  aaa", "the the", "    the", "1234567890", "...", "''", "!?!?"]


def texts() -> list[str]:
    """Return the texts, the same each time, each once."""
    draw = random.Random(19)
    characters = [chr(code) for code in range(1, 0x100)]
    alphabet = "".join(sorted(set(PARAGRAPH))) * 3 + "\n\t ▁éß日🙂\u00a0"
    mixed = ["".join(draw.choices(alphabet, k=draw.randrange(1, 40))) for _ in thinned(range(400), range(60))]
    phrases = [" ".join(draw.choices(WORDS, k=draw.randrange(1, 12))) for _ in thinned(range(100), range(20))]
    kinds = [SPACES, LITERAL, FOREIGN, EMOJI, TOGETHER, characters, mixed, phrases, [PARAGRAPH, PARAGRAPH * 4]]
    kinds += [
        [f"a{character}b" for character in thinned(characters, characters[::8])],
        [f" {word}" for word in WORDS],
        [f"  {word} " for word in WORDS],
    ]
    return list(dict.fromkeys(text for kind in kinds for text in kind))
