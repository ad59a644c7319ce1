"""What the screens do if the file cannot be read as it was: another program has changed it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from textual.message import Message
from textual.message_pump import MessagePump

from ggcp_schema.browse.document import READ_ERRORS

P = ParamSpec("P")
M = TypeVar("M", bound=MessagePump)


class Unreadable(Message):
    """The file cannot be read as it was."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


def reads_file(handler: Callable[Concatenate[M, P], None]) -> Callable[Concatenate[M, P], None]:
    """Let a handler of a key, a click or a message send `Unreadable` if it fails because the file has changed."""

    @wraps(handler)
    def guarded(self: M, /, *args: P.args, **options: P.kwargs) -> None:
        try:
            handler(self, *args, **options)
        except READ_ERRORS as error:
            self.post_message(Unreadable(error))

    return guarded
