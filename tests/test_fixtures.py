"""The genuine files are unchanged: all other tests are measured by them."""

import hashlib
import json
import re

from ggcp_schema import open_checkpoint
from tests.helpers import FIXTURES, ORDERS


def test_every_fixture_has_the_hash_that_the_readme_states() -> None:
    readme = (FIXTURES / "README.md").read_text("utf-8")
    stated = {name: digest for digest, name in re.findall(r"^([0-9a-f]{64})  (\S+)$", readme, re.MULTILINE)}
    found = {
        path.relative_to(FIXTURES).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in FIXTURES.rglob("*")
        if path.is_file() and path.name != "README.md"
    }
    assert found == stated


def test_the_orders_are_described() -> None:
    """`jun-A-3.ggcp` is a file of order A with 3 layers."""
    described = json.loads((FIXTURES / "orders" / "orders.json").read_text("utf-8"))
    assert {path.name for path in ORDERS} == set(described)
    for path in ORDERS:
        *_, order, layers = path.stem.split("-")
        assert described[path.name]["order"] == order
        with open_checkpoint(path) as ckpt:
            assert ckpt.hparams.n_layer == int(layers)
