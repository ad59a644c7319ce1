"""The layout of a ggcp file, and nothing else. The fields are named as in the program that wrote them."""

from ggcp_schema.schema.checkpoint import CHECKPOINT
from ggcp_schema.schema.model import HPARAMS, LAYER
from ggcp_schema.schema.optimizer import OPTIMIZER
from ggcp_schema.schema.tensor import TENSOR, Tensor

__all__ = ["CHECKPOINT", "HPARAMS", "LAYER", "OPTIMIZER", "TENSOR", "Tensor"]
