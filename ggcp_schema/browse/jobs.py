"""Work in the background that stops as soon as its result is no longer wanted, and files that cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from functools import wraps
from threading import Thread
from time import monotonic
from typing import Any, TypeVar, cast

from textual.message_pump import MessagePump

from ggcp_schema.browse.document import READ_ERRORS
from ggcp_schema.inspect import Report

EVERY = 0.05  # seconds between two reports that reach the screen

F = TypeVar("F", bound=Callable[..., None])


def reads_file(handler: F) -> F:
    """Let the screen say so if a handler of a key, a click or a message fails because the file cannot be read."""

    @wraps(handler)
    def guarded(self: Any, *args: Any, **options: Any) -> None:
        try:
            handler(self, *args, **options)
        except READ_ERRORS as error:
            self.screen.look_for_changes(error)

    return cast(F, guarded)


class Cancelled(Exception):  # noqa: N818 - not an error: it ends a job
    """Raised by a job's `report` when the job is no longer wanted."""


class Job:
    """Work that a widget or a screen does in a thread.

    `start` runs a function there. The function gets a `report` to call often: it passes on what was found so far, and
    raises `Cancelled` after another function was started, `stop` was called or the owner was removed. `reported` is
    called in the application's thread with what was found, or with the error that ended the work; `done` is true at the
    end. At most one report waits for it, so a function should pass on an object to which it adds, and never a copy.

    The threads are daemons, not those of Textual's workers: quitting waits for no work, even if it cannot be cancelled.
    """

    def __init__(self, owner: MessagePump, reported: Callable[..., None]) -> None:
        self.owner, self.reported = owner, reported
        self.working = False
        self._turn = 0
        self._unread = False  # a report is on its way

    def start(self, work: Callable[[Report], Any], *, delay: float = 0.0) -> None:
        """Start work, after a delay in seconds unless other is started before. What runs is cancelled."""
        self.stop()
        self.working, turn = True, self._turn

        def begin() -> None:
            if turn == self._turn:
                Thread(target=copy_context().run, args=(self._run, work, turn), daemon=True).start()

        if delay:
            self.owner.set_timer(delay, begin)
        else:
            begin()

    def stop(self) -> None:
        """Cancel the work, if there is any."""
        self._turn += 1
        self.working = self._unread = False

    def _run(self, work: Callable[[Report], Any], turn: int) -> None:
        last = monotonic()

        def report(result: Any) -> None:
            nonlocal last
            if turn != self._turn or not self.owner.is_running:
                raise Cancelled
            if result is not None and not self._unread and monotonic() - last >= EVERY:
                self._unread, last = True, monotonic()
                self.owner.call_later(self._show, turn, result, done=False)

        try:
            result = work(report)
        except Cancelled:
            return
        except Exception as error:  # raised again in the application's thread
            result = error
        with suppress(RuntimeError):  # the application has ended
            self.owner.call_later(self._show, turn, result, done=True)

    def _show(self, turn: int, result: Any, *, done: bool) -> None:
        if turn != self._turn:
            return
        self._unread = False
        if isinstance(result, Exception) and not isinstance(result, READ_ERRORS):
            raise result
        self.working = not done
        self.reported(result, done=done)
