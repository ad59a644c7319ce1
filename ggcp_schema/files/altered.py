"""Tell how a file of binary data was changed on its way, as in a transfer as text."""

from __future__ import annotations

import codecs
import re
from typing import NamedTuple

BINARY = "Copy the original again in binary mode."
NEIGHBOURS = (b"\x09", b"\x0b", b"\x0c", b"\x0e", b"\x0f")  # of a carriage return: as frequent in numbers of all sizes
QUOTED = re.compile(rb"(pcgg|GGUF|tjgg|fmgg|lcgg|algg)=0[0-3]=00")


class Alteration(NamedTuple):
    """What was done to all of a file, and what to do now. `is_restorable` is False if it cannot be undone."""

    what: str
    remedy: str
    is_restorable: bool = True

    def __str__(self) -> str:
        return f"{self.what} {self.remedy}"


QUOTED_PRINTABLE = Alteration("It is in quoted-printable, as mail carries text.", BINARY)
RETURNS_ADDED = Alteration(
    "Its line ends were changed: a carriage return was put before each line feed.",
    r"`perl -pe 's/\r\n/\n/' FILE > OUTPUT` restores it, unless only some line ends were changed: validate it.",
)
RETURNS_LOST = Alteration(
    "Its line ends were changed: the carriage returns were taken out.",
    "Copy the original again in binary mode: it cannot be restored from this copy.",
    is_restorable=False,
)
REPLACED = RETURNS_LOST._replace(what="It was saved as text: bytes that are not UTF-8 were replaced.")
LATIN = Alteration(
    "It was saved as text: each byte above 127 was taken for a character.",
    "`iconv -f UTF-8 -t ISO-8859-1 FILE > OUTPUT` restores it.",
)
MARK_ADDED = Alteration(
    "A UTF-8 byte order mark was put before it, as by an editor of texts.", "`tail -c +4 FILE > OUTPUT` takes it away."
)


def alteration(sample: bytes) -> Alteration | None:
    """Return how a file was changed on its way; None if the bytes do not prove it.

    `sample` is the beginning of the file, at most `head.HEAD` bytes. Numbers hold each pair of bytes sooner or later,
    so that in data of this size no pair is missing by chance, unless it is of a few values only.
    """
    if QUOTED.match(sample):
        return QUOTED_PRINTABLE
    line_feeds, returns = sample.count(b"\n"), sample.count(b"\r")
    least = 4 if sample.count(b"\r\n\0") > 1 else 20  # in a number, not in a text that may really have such line ends
    if line_feeds >= least and sample.count(b"\r\n") == line_feeds:
        return RETURNS_ADDED
    if line_feeds >= 40 and not returns and min(map(sample.count, NEIGHBOURS)) >= 20:
        return RETURNS_LOST
    if sample.count(b"\xef\xbf\xbd") >= 8:
        return REPLACED if _is_utf8(sample) else None
    controls = len(re.findall(rb"\xc2[\x80-\x9f]", sample))  # of which texts have none
    if controls >= 40 and re.sub(rb"[\xc2\xc3][\x80-\xbf]", b"", sample)[:-1].isascii():  # the last may be cut
        return LATIN
    return MARK_ADDED if sample.startswith(codecs.BOM_UTF8) else None


def _is_utf8(sample: bytes) -> bool:
    """Return True if a sample is UTF-8, but for its last bytes, which may be cut."""
    try:
        sample[:-4].decode("utf-8")
    except UnicodeDecodeError as error:
        return error.end >= len(sample) - 8
    return True
