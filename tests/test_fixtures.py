"""The genuine files are as they came: no test may change what all others are measured by."""

import hashlib
import re

from tests.helpers import FIXTURES


def test_every_fixture_has_the_hash_that_the_readme_states() -> None:
    readme = (FIXTURES / "README.md").read_text("utf-8")
    stated = {name: digest for digest, name in re.findall(r"^([0-9a-f]{64})  (\S+)$", readme, re.MULTILINE)}
    found = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in FIXTURES.iterdir() if p.name != "README.md"}
    assert found == stated
