"""`info`: one screen that says what a file is and what can be done with it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

Line = tuple[str, str]


def info(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A ggcp checkpoint, or a GGUF file made from one.")],
    as_json: Annotated[bool, typer.Option("--json", help="The same as JSON, under stable keys.")] = False,
) -> None:
    """Say what a file is: training, loss, optimizer, model, and what to do next.

    JSON keys: file, kind, size, layout, writer, rms_eps, train_its, train_samples, train_tokens, loss,
    optimizer, hparams, n_ff, n_ff_source, n_params, bytes, findings, damage, next.
    """
    from ggcp_schema.cli.output import echo, escape, paint, print_json, raise_damage
    from ggcp_schema.errors import MalformedError
    from ggcp_schema.gguf.opening import open_any
    from ggcp_schema.inspect.summary import summary

    with open_any(file, partial=True) as opened:
        facts = summary(opened)
        damage: MalformedError | None = getattr(opened, "damage", None)
        facts["next"] = next_commands(facts) if damage is None else []
        if as_json:
            print_json(facts)
        else:
            for label, text in lines(facts):
                echo(f"{paint(label.ljust(12), 'cyan')} {escape(text)}")
        raise_damage(damage)


def lines(facts: dict[str, Any]) -> Iterator[Line]:
    """The screen, line by line; what is not known has none."""
    from ggcp_schema.cli.output import size

    kinds = {
        "ggcp": "ggcp training checkpoint",
        "gguf-resume": "GGUF training checkpoint, to resume from",
        "gguf-model": "GGUF model, to run",
        "gguf": "GGUF file",
    }
    yield "file", facts["file"]
    layout = f", optimizer block {facts['layout']}" if facts["layout"] else ""
    yield "what", f"{kinds[facts['kind']]}{layout}, {size(facts['size'])}"
    if facts["writer"]:
        yield "written by", facts["writer"]
    if facts["train_its"] is not None:
        its, samples, tokens = (facts[f"train_{unit}"] for unit in ("its", "samples", "tokens"))
        yield "training", f"{its:,} iterations, {samples:,} samples, {tokens:,} tokens"
    yield from _optimizer_lines(facts)
    yield from _model_lines(facts)
    for finding in facts["findings"]:
        yield "note", f"{finding['path']}: {finding['message']}"
    for command in facts["next"]:
        yield "next", command


def _optimizer_lines(facts: dict[str, Any]) -> Iterator[Line]:
    from ggcp_schema.cli.output import float32

    loss, optimizer = facts["loss"], facts["optimizer"] or {}
    if loss["best"] is not None:
        previous = "" if loss["previous"] is None else f", previous {float32(loss['previous'])}"
        yield "loss", f"best {float32(loss['best'])}{previous}"
    if optimizer.get("type"):
        words = [f"{optimizer['type']}, iteration {optimizer['iter']:,}"]
        if optimizer["past"]:
            words.append(f"{optimizer['past']} past losses")
        if optimizer["type"] == "lbfgs":
            words.append(f"memory of {optimizer['lbfgs_m']}")
        yield "optimizer", ", ".join(words)
        if facts["kind"] == "ggcp":
            yield "type", _evidence(optimizer)


def _evidence(optimizer: dict[str, Any]) -> str:
    if not optimizer["inferred"]:
        return "stored in the file"
    if optimizer["confirmed"]:
        return "not stored; inferred from the size of the state, confirmed by the shape of its third tensor"
    if optimizer["by_records"]:
        return f"not stored; by the shape of the third tensor, against the size, which says {optimizer['by_size']}"
    return "not stored; inferred from the size of the state, the third tensor does not tell"


def _model_lines(facts: dict[str, Any]) -> Iterator[Line]:
    from ggcp_schema.cli.output import size

    hparams = facts["hparams"]
    if hparams:
        yield "model", ", ".join(f"{name} {value}" for name, value in hparams.items() if value is not None)
    if facts["n_ff"] is not None:
        yield "n_ff", f"{facts['n_ff']} ({facts['n_ff_source']})"
    if facts["n_params"] is not None:
        yield "parameters", f"{facts['n_params']:,}"
    if facts["rms_eps"] is not None:
        from ggcp_schema.cli.output import float32

        stated = isinstance(facts["rms_eps"], float)
        yield "RMS epsilon", float32(facts["rms_eps"]) if stated else f"not stored; {facts['rms_eps']} (--rms-eps)"
    if facts["bytes"]:
        yield "bytes", "; ".join(f"{use} {size(count)}" for use, count in facts["bytes"].items())


def next_commands(facts: dict[str, Any]) -> list[str]:
    """The exact commands that make something of the file."""
    path = Path(facts["file"])
    source = shlex.quote(str(path))
    resume, model = (shlex.quote(f"{path.stem}{suffix}") for suffix in (".resume.gguf", ".model.gguf"))
    export = f"ggcp-schema export {source} {model} --vocab VOCABULARY --context-length N"
    if facts["kind"] == "ggcp":
        return [f"ggcp-schema convert {source} {resume}", export]
    return [export] if facts["kind"] == "gguf-resume" else []
