"""The command line: options, exit codes, printing.

Exit codes: 0 done, 1 a negative verdict (invalid, different), 2 usage or I/O, 4 the file is malformed, 128 + N ended by
signal N.
"""

from __future__ import annotations

# Until `run` has set its signal handlers, Ctrl-C gives a traceback. So nothing is imported here that takes time.
import gc
import os
import signal
import sys

from ggcp_schema.cli.streams import discard_output, open_standard_streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ggcp_schema.errors import GgcpError

__all__ = ["main", "run"]

ENDINGS: dict[int, str] = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
if hasattr(signal, "SIGHUP"):  # not on Windows
    ENDINGS[signal.SIGHUP] = "the terminal was closed"


def main() -> None:
    """Run the command line and end the process."""
    code = run()
    from contextlib import suppress

    with suppress(OSError):
        sys.stderr.flush()
    os._exit(code)  # all is written; Python's own end, which frees each object, takes a tenth of a short command


def run() -> int:
    """Run the command line and return the exit code. What it printed is flushed."""
    for number in ENDINGS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, and background jobs of scripts
            signal.signal(number, _end)
    gc.disable()  # it takes a tenth of the import time; the values of a file are freed without it
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # no command multiplies matrices; starting threads takes time
    open_standard_streams()
    code, error = _outcome()
    from contextlib import suppress

    from ggcp_schema.cli.errors import echo_error
    from ggcp_schema.errors import FileError

    try:
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, for example `head`, has seen enough
        discard_output()
    except OSError as failure:
        discard_output()
        code, error = max(code, 2), error or FileError(f"standard output: {failure.strerror}")
    if error is not None:
        with suppress(OSError):  # the exit code remains
            echo_error(error)
    for number in ENDINGS:  # the work is done, and the exit code says so
        signal.signal(number, signal.SIG_IGN)
    return code


def _outcome() -> tuple[int, GgcpError | None]:  # noqa: PLR0911 - a return for each outcome
    """Run the command; return its exit code, and the error that is still to be told."""
    from ggcp_schema.cli.app import WrongUsage, app, usage_error
    from ggcp_schema.errors import FileError, GgcpError

    try:
        return app(prog_name="ggcp-schema", standalone_mode=False) or 0, None
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # typer ends its own help, with 1
            return 0, None
        return end.code if isinstance(end.code, int) else 0, None
    except WrongUsage as error:
        return 2, usage_error(error)
    except GgcpError as error:
        return error.exit_code, error
    except BrokenPipeError:
        return 0, None
    except OSError as error:
        return 2, FileError(f"{error.filename or 'standard output'}: {error.strerror}")
    except MemoryError:
        return 2, GgcpError("out of memory")


def _end(number: int, frame: object) -> None:
    """Remove temporary files and end the process, with one line on stderr.

    No exception is raised, since it would be lost where Python or a library ignores exceptions, as in callbacks while a
    module is imported.
    """
    try:
        for other in ENDINGS:
            signal.signal(other, signal.SIG_IGN)
        abandon_output = getattr(sys.modules.get("ggcp_schema.files.atomic"), "abandon_output", None)
        written = abandon_output() if abandon_output else []
        text = f"{written[-1]} was written" if len(written) == 1 else f"{len(written)} files were written"
        text = text if written else "no file was changed"
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
        clear = "\r\x1b[K\x1b[?25h" if "rich.live" in sys.modules and os.isatty(2) else ""  # end the progress bar
        os.write(2, f"{clear}ggcp-schema: {ENDINGS[number]}; {line}\n".encode(errors="backslashreplace"))
    finally:
        os._exit(128 + number)
