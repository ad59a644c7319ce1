"""Pictures of what the commands show, as SVG files in tests/goldens: `python -m tests.pictures` writes them anew."""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tests.browse.driver import Browser, browse
from tests.golden import GOLDENS
from tests.helpers import FIXTURES, run_pty

VERSIONS = GOLDENS / "pictures" / "versions.json"
COLUMNS = 100  # of a terminal in which the README's commands run
SESSIONS = {  # picture, and the section of the README whose commands it shows
    "pictures/run.svg": "Run the model",
    "pictures/train.svg": "Go on training",
    "pictures/finetune.svg": "Use a finetune of 2023",
    "pictures/rescue.svg": "Check, compare, rescue, change",
}
ALICE = "fixtures/alice.ggcp"
State = tuple[str, tuple[int, int], str, str]
STATES: Sequence[State] = (  # picture, size of the terminal, selected field, and the key that opens the tab
    ("pictures/browse.svg", (120, 40), "tok_embeddings", "4"),
    ("browse/60x15.svg", (60, 15), "norm", "5"),
    ("browse/80x24.svg", (80, 24), "layers[1].wq", "3"),
    ("browse/120x40.svg", (120, 40), "layers[0].w2", "5"),
    ("browse/200x50.svg", (200, 50), "layers[1].wq", "6"),
)


def versions() -> dict[str, str]:
    """Return the installed versions of the packages that draw the pictures."""
    return {name: version(name) for name in ("rich", "textual")}


def pictures(states: Sequence[State] = STATES) -> dict[str, str]:
    """Return the pictures, of the README's commands and of the browser in these states, by their names."""
    return {name: picture_of_commands(section) for name, section in SESSIONS.items()} | pictures_of_browse(states)


def commands(section: str) -> list[str]:
    """Return the lines of the blocks of commands in a section of the README.

    What `--to peft` writes has the absolute path of the base, and so another size in each folder.
    """
    text = FIXTURES.parent.joinpath("README.md").read_text("utf-8").partition(f"\n## {section}\n")[2]
    blocks = re.findall(r"^```sh\n(.*?)^```", text.partition("\n## ")[0], re.DOTALL | re.MULTILINE)
    return [line for line in "".join(blocks).splitlines() if "--to peft" not in line]


def picture_of_commands(section: str) -> str:
    """Return what a terminal shows when the commands of a section run."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(FIXTURES, Path(folder, "fixtures"))
        for line in commands(section):
            console.print(Text(f"$ {line}", style="bold"))
            program, *arguments = shlex.split(line.partition("||")[0])
            if program == "ggcp-schema":
                code, output = run_pty(*arguments, columns=COLUMNS, cwd=folder)
                assert code == 0 or "||" in line, output
                console.print(Text.from_ansi(output))
            else:
                subprocess.run(line, shell=True, cwd=folder, check=True)  # noqa: S602 -- a line of the README
    return compact(console.export_svg(title=section))


def pictures_of_browse(states: Sequence[State]) -> dict[str, str]:
    """Return the browser's screen in each of these states."""
    found = {}

    async def script(browser: Browser) -> None:
        for name, size, place, key in states:
            await browser.begin_again()
            await browser.resize(*size)
            await browser.go_to(place)
            await browser.press(key)
            await browser.settle()
            svg = browser.app.export_screenshot(title=f"ggcp-schema browse {ALICE}", simplify=True)
            found[name] = compact(svg)

    browse(FIXTURES.parent / ALICE, script=script)
    return found


def compact(svg: str) -> str:
    """Return a picture that needs no font from the network, has the same ids each time, and takes half of the space."""
    svg = re.sub(r"terminal-\d+-", "", svg)
    svg = re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<clipPath id="line-.*?</clipPath>\s*', "", svg, flags=re.DOTALL)
    svg = re.sub(r' clip-path="url\(#line-\d+\)"', "", svg)  # `textLength` keeps a text in its cells
    svg = re.sub(r' textLength="12.2"(?=[^<]*>[^<]<)', "", svg)  # a single character has no spaces to adjust
    svg = svg.replace(' shape-rendering="crispEdges"', "")
    svg = svg.replace("</style>", "g rect { shape-rendering: crispEdges }\n    </style>", 1)
    svg = svg.replace("&#160;", "\N{NO-BREAK SPACE}").replace("/><rect", "/>\n<rect")
    return "\n".join(line.rstrip(" ") for line in svg.splitlines()) + "\n"


def main() -> None:
    """Write the pictures, and the versions that drew them."""
    for name, svg in pictures().items():
        path = GOLDENS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(svg, "utf-8")
    VERSIONS.write_text(json.dumps(versions(), indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
