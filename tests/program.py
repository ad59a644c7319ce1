"""A user's program, which mypy checks with the installed package: every error that it marks has to be found.

`.ci/run` does it. It is not made to be run.
"""

from typing_extensions import assert_type

from ggcp_schema import FileError, MalformedError, PathError, open_checkpoint
from ggcp_schema.constructs import Array, Int32ul, Struct, this
from ggcp_schema.schema import CHECKPOINT

with open_checkpoint("x.ggcp") as ckpt:
    assert_type(ckpt.hparams.n_embd, int)
    assert_type(ckpt.layers[0].wq.shape, tuple[int, ...])
    assert_type(ckpt.optimizer.type, str)
    assert_type(ckpt.damage, MalformedError | None)
    ckpt.train_itz.bit_length()  # type: ignore[attr-defined]
    ckpt.hparams.n_embed.bit_length()  # type: ignore[attr-defined]
    ckpt.layers[0].wqq.array()  # type: ignore[attr-defined]
    ckpt.train_its = 3  # type: ignore[misc]
error: OSError = FileError("")
missing: KeyError = PathError("")

PAGE = Struct("n" / Int32ul, "values" / Array(this.n, Int32ul) * "n of them")
PAGE.build(PAGE.parse(bytes(4)))
CHECKPOINT.parse_file("x.ggcp")
