"""The keys that all screens have, and the text of the help window."""

from __future__ import annotations

from ggcp_schema.browse.bars import Key

KEYS = (
    Key("Tab", "pane", "pane(1)"),
    Key("/", "search", "search"),
    Key("g", "go to", "go_to"),
    Key("n", "next tensor", "tensor(1)"),
    Key("f", "finding", "finding"),
    Key("y", "copy path", "copy_path"),
    Key("x", "extract", "extract"),
    Key("e", "export", "export"),
    Key("c", "convert", "convert"),
    Key("?", "help", "help"),
    Key("q", "quit", "app.quit"),
)

HELP = [
    (
        "Moving",
        [
            ("↑ ↓ ← → hjkl", "move; in the tree → expands and ← collapses"),
            ("Enter", "expand or collapse; in lists, go there"),
            ("Tab Shift+Tab", "next and previous pane"),
            ("1 … 7", "open a tab"),
            ("z", "let one pane fill the screen, or show all again"),
            ("[ ]", "in the bytes: previous and next field"),
            ("PgUp PgDn Home End", "as usual; with Ctrl the start and end of the file"),
        ],
    ),
    (
        "Finding",
        [
            ("/", "fuzzy search over paths and tensor names"),
            ("g", "go to a path or an offset"),
            ("n N", "next and previous tensor"),
            ("f", "next finding: NaN, infinity, damage, odd padding"),
            ("Esc", "stop looking"),
        ],
    ),
    (
        "Tabs",
        [
            ("o", "Histogram: logarithmic scale"),
            ("p + − 0", "Picture: pool by mean, min or max; zoom; whole matrix"),
            ("s", "Layers: next statistic"),
        ],
    ),
    (
        "Doing",
        [
            ("y", "copy the path"),
            ("Y", "copy the command that prints the same"),
            ("x e c", "extract the tensor, export a model, convert: shows the command first"),
            ("r", "open the file again"),
            ("t", "light or dark"),
            ("Ctrl+P", "all commands"),
            ("? q", "these keys; quit"),
        ],
    ),
]
