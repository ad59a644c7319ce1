"""Examines random recipes in several processes. This is no part of `__main__`, which new processes cannot import."""

from __future__ import annotations

import json
import multiprocessing
import queue
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.fuzz.mutate import Recipe, draw
from tests.fuzz.oracle import Finding, Oracle

GRACE = 120  # seconds that an input may take before its process is ended


def repeat(text: str) -> int:
    """Run all commands on the file of a recipe; return 1 if anything is found."""
    content = json.loads(text)
    with tempfile.TemporaryDirectory() as folder:
        found = list(Oracle(Path(folder)).examine(Recipe(content["seed"], content["mutations"])))
    print("\n".join(map(str, found)) or "nothing found")
    return int(bool(found))


def fuzz(seconds: float, seed: int, jobs: int, commands: int) -> list[Finding]:
    """Run the jobs; return the findings, one of each kind."""
    context = multiprocessing.get_context("spawn")
    found: list[Finding] = []
    seen: Counter[tuple[str, ...]] = Counter()
    executions = inputs = 0
    with tempfile.TemporaryDirectory() as folder:
        reports: Any = context.Queue()
        end = time.time() + seconds
        workers = []
        for job in range(jobs):
            arguments = (Path(folder) / str(job), seed + job, end, commands, reports)
            workers.append(context.Process(target=_work, args=arguments))
            workers[-1].start()
        while any(worker.is_alive() for worker in workers) or not reports.empty():
            try:
                report = reports.get(timeout=1)
            except queue.Empty:
                report = None
            if isinstance(report, Finding):
                seen[report.signature] += 1
                if seen[report.signature] == 1:
                    found.append(report)
                    print(report, flush=True)
            elif report:
                inputs, executions = inputs + report[0], executions + report[1]
            for worker in workers:
                if worker.is_alive() and time.time() > end + GRACE:
                    worker.kill()
        for job, worker in enumerate(workers):
            worker.join()
            if worker.exitcode:
                recipe = (Path(folder) / str(job) / "recipe.json").read_text("utf-8")
                found.append(Finding("process", "any command", f"the process ended with {worker.exitcode}", recipe))
                print(found[-1])
    print(f"seed {seed}: {inputs} inputs, {executions} executions, {len(found)} findings")
    for signature, count in seen.most_common():
        print(f"{count:6} × {' | '.join(signature)}")
    return found


def _work(folder: Path, seed: int, end: float, commands: int, reports: Any) -> None:
    """Examine random recipes until the time is over, and report findings."""
    rng, oracle = random.Random(seed), Oracle(folder)
    told = oracle.executions
    seen = set()
    while time.time() < end:
        recipe = draw(rng)
        (folder / "recipe.json").write_text(str(recipe), "utf-8")
        for finding in list(oracle.examine(recipe, commands=commands)):
            is_new = finding.signature not in seen
            seen.add(finding.signature)
            reports.put(_smallest(oracle, recipe, finding) if is_new else finding)
        reports.put((1, oracle.executions - told))
        told = oracle.executions


def _smallest(oracle: Oracle, recipe: Recipe, finding: Finding) -> Finding:
    """Return the same finding by only one of the recipe's changes, if there is one that suffices."""
    for mutation in recipe.mutations if len(recipe.mutations) > 1 else ():
        smaller = Recipe(recipe.seed, [mutation])
        for other in list(oracle.examine(smaller)):
            if other.signature == finding.signature:
                return other
    return finding
