"""The command line: options, exit codes, rendering. It knows no byte of the format.

Exit codes: 0 done, 1 a negative verdict (invalid, different), 2 usage or I/O, 4 the file is malformed.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import Any

__all__ = ["main"]


def main() -> None:
    """Runs the command line and exits."""
    gc.disable()  # start-up is imports, of which collecting is a tenth; and nothing here leaves cycles behind
    try:
        signal.signal(signal.SIGTERM, _stop)
        _run()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:  # `| head` has seen enough
        _drop_output()
        sys.exit(0)
    except OSError as error:
        _drop_output()
        sys.stderr.write(f"ggcp-schema: {error.filename or 'standard output'}: {error.strerror}\n")
        sys.exit(2)
    finally:  # all is done or undone: what Python does at exit had better not be interrupted by an exception
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _run() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # an old locale is no error

    from ggcp_schema.cli.app import app
    from ggcp_schema.errors import GgcpError

    try:
        app(prog_name="ggcp-schema")
    except GgcpError as error:
        from ggcp_schema.cli.output import escape

        sys.stdout.flush()
        sys.stderr.write(f"ggcp-schema: {escape(str(error), keep_newlines=True)}\n")
        sys.exit(error.exit_code)
    finally:
        sys.stdout.flush()


def _drop_output() -> None:
    """What is still buffered goes nowhere: Python would complain of it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _stop(number: int, frame: Any) -> None:
    """Ends by an exception, so that what is half written is removed."""
    sys.exit(128 + number)
