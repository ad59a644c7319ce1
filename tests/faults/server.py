"""Run commands in forks of this process, so that a run takes milliseconds. Requests and answers are lines of JSON.

A request has the arguments of the command, the fault, the path of the output and what is there before; the answer has
what the command returned and printed, the I/O calls it made and the checksums of the files in the output's folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ggcp_schema import cli
from ggcp_schema.files import atomic_folder
from ggcp_schema.files.contents import Safetensors, Text
from ggcp_schema.files.output import WHOLE
from ggcp_schema.formats.file import File
from ggcp_schema.mapping.export import ModelOptions, plan_model
from ggcp_schema.mapping.plan import Plan
from ggcp_schema.mapping.targets import EXPORTS
from tests.faults.shim import Shim

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def serve() -> None:
    """Answer requests until stdin is closed."""
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    for line in requests:
        request = json.loads(line)
        if request.get("mount"):
            folder, options = request["mount"]
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
        if request.get("load"):
            load(request["load"])
        answer = answer_to(request) if "args" in request else {}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def load(args: list[str]) -> None:
    """Import the modules that a command imports."""
    ours, theirs = os.pipe()
    if not os.fork():
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        code = run(args)
        os.write(theirs, "\n".join(sys.modules).encode())
        os._exit(code)
    os.close(theirs)
    with os.fdopen(ours) as file:
        names = file.read().split()
    for name in names:
        with suppress(ImportError):
            import_module(name)


def answer_to(request: dict[str, Any]) -> dict[str, Any]:
    output = Path(request["output"])
    if output.is_dir():
        shutil.rmtree(output)
    output.unlink(missing_ok=True)
    if request["old"] is not None:
        if request["old_file"]:
            output.mkdir()
        (output / request["old_file"]).write_text(request["old"])
    pipes = {name: os.pipe() for name in ("stdout", "stderr", "calls")}
    start = time.monotonic()
    pid = os.fork()
    if not pid:
        child(request, {name: ends[1] for name, ends in pipes.items()})
    for _, theirs in pipes.values():
        os.close(theirs)
    if request.get("kill") is not None:
        time.sleep(request["kill"])
        os.kill(pid, signal.SIGKILL)
    read = {}
    for name, (ours, _) in pipes.items():  # what a command prints here fits into a pipe
        with os.fdopen(ours, errors="backslashreplace") as file:
            read[name] = file.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    seconds = time.monotonic() - start
    return {**read, "calls": read["calls"].split(), "code": code, "seconds": seconds, "files": files(output.parent)}


def child(request: dict[str, Any], pipes: dict[str, int]) -> None:
    os.dup2(pipes["stdout"], 1)
    os.dup2(pipes["stderr"], 2)
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  # the old one may believe that it can seek
    if request.get("limit"):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["limit"], request["limit"]))
    if request.get("named"):
        del os.O_TMPFILE
        atomic_folder.renameat2 = lambda *names: False
    fault = request.get("fault", "EIO")
    special = {"RUN": lambda: another_run(request["args"]), "CHANGE": lambda: change(*request["change"])}
    shim = Shim(special.get(fault, fault))
    shim.install()
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  # so that its calls are counted
    shim.start(request.get("at", 0))
    code = run(request["args"])
    shim.real["write"](pipes["calls"], " ".join(shim.calls).encode())
    os._exit(code)


def run(args: list[str]) -> int:
    """Run the command as the interpreter would; return its exit code."""
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    sys.argv = ["ggcp-schema", *args]
    try:
        code = cli.run()
    except BaseException:
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return code


def another_run(args: list[str]) -> None:
    """Run the same command, to the same output, in the middle of the first run."""
    pid = os.fork()
    if not pid:
        os._exit(run(args))
    if os.waitpid(pid, 0)[1]:
        raise SystemExit("the other run failed")


def change(how: str, path: str) -> None:
    """Change an input while the command runs."""
    data = Path(path).read_bytes()
    if how == "shrink":
        os.truncate(path, len(data) // 2)
    elif how == "grow":
        with open(path, "ab") as file:
            file.write(bytes(100))
    else:  # change weights and second moments: they are copied at the start and at the end
        with open(path, "r+b") as file:
            for start in (4096, len(data) * 4 // 5):
                file.seek(start)
                file.write(bytes(byte ^ 1 for byte in data[start : start + 1000]))


def files(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file in the folder; that of a folder is that of its files' names and sums."""
    return {path.name: checksum(path) for path in sorted(folder.iterdir())}


def checksum(path: Path) -> str:
    if path.is_dir():
        content = "\n".join(f"{name} {checksum(path / name)}" for name in sorted(os.listdir(path))).encode()
    else:
        content = path.read_bytes()
    return hashlib.sha256(content).hexdigest()


def plan_folder(file: File, options: ModelOptions) -> Plan:
    """Plan a folder with contents of each kind."""
    plan = plan_model(file, options)
    tensors = [tensor for tensor in plan.tensors if tensor.type == "F32"]
    parts = {
        "config.json": Text("{}\n"),
        "model.safetensors": Safetensors({}, tensors),
        "model.gguf": plan.parts[WHOLE],
    }
    return replace(plan, target="folder", parts=parts)


EXPORTS["folder"] = plan_folder


if __name__ == "__main__":
    serve()
