"""Work in the background that stops as soon as its result is no longer wanted."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from threading import Thread
from time import monotonic
from typing import Any

from textual.message import Message
from textual.widget import Widget

from ggcp_schema.browse.document import READ_ERRORS
from ggcp_schema.inspect import Report

EVERY = 0.05  # seconds between two reports that reach the screen


class Cancelled(Exception):  # noqa: N818 - not an error: it ends a job
    """Raised by a job's `report` when the job is no longer wanted."""


class Reported(Message, bubble=False):
    """What a job has found so far, or at its end (`done`), or the error that ended it."""

    def __init__(self, turn: int, result: Any, *, done: bool) -> None:
        super().__init__()
        self.turn, self.result, self.done = turn, result, done


class Working(Widget):
    """A widget that shows the result of a job.

    `start` runs a function in a thread. The function gets a `report` to call often: it passes on what was found so far,
    and raises `Cancelled` after another job was started, `stop` was called or the widget was removed. Subclasses define
    `reported`, which is called in the application's thread. At most one report waits for it, so a job should pass on an
    object to which it adds, and never a copy.

    The threads are daemons, not those of Textual's workers: quitting waits for no job, even if it cannot be cancelled.
    """

    turn = 0
    working = False
    _unread = False  # a report is on its way

    def start(self, job: Callable[[Report], Any], *, delay: float = 0.0) -> None:
        """Start a job, after a delay in seconds unless another is started before. A running job is cancelled."""
        self.stop()
        self.working = True
        turn = self.turn

        def begin() -> None:
            if turn == self.turn:
                Thread(target=copy_context().run, args=(self._run, job, turn), daemon=True).start()

        if delay:
            self.set_timer(delay, begin)
        else:
            begin()

    def stop(self) -> None:
        """Cancel the job that runs, if there is one."""
        self.turn += 1
        self.working = self._unread = False

    def _run(self, job: Callable[[Report], Any], turn: int) -> None:
        last = monotonic()

        def report(result: Any) -> None:
            nonlocal last
            if turn != self.turn:
                raise Cancelled
            if result is not None and not self._unread and monotonic() - last >= EVERY:
                self._unread = True
                self.post_message(Reported(turn, result, done=False))
                last = monotonic()

        try:
            result = job(report)
        except Cancelled:
            return
        except Exception as error:  # raised again in the application's thread
            result = error
        with suppress(RuntimeError):  # the application has ended
            self.post_message(Reported(turn, result, done=True))

    def on_reported(self, message: Reported) -> None:
        if message.turn != self.turn:
            return
        self._unread = False
        if isinstance(message.result, Exception) and not isinstance(message.result, READ_ERRORS):
            raise message.result
        self.working = self.working and not message.done
        self.reported(message.result, done=message.done)

    def reported(self, result: Any, *, done: bool) -> None:
        """Show what the job has found, or the error that ended it."""
        raise NotImplementedError

    def on_unmount(self) -> None:
        self.stop()


class Job(Working):
    """Work that has no picture of its own: what it finds is given to a function, as to `Working.reported`."""

    def __init__(self, found: Callable[..., None]) -> None:
        super().__init__()
        self.display = False
        self.found = found

    def reported(self, result: Any, *, done: bool) -> None:
        self.found(result, done=done)
