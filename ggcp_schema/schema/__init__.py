"""The layouts of the files. The fields are named as in the programs and specifications that define them."""

from ggcp_schema.schema.checkpoint import CHECKPOINT
from ggcp_schema.schema.ggml_model import GGJT, GGMF, GGML
from ggcp_schema.schema.gguf import GGUF
from ggcp_schema.schema.model import HPARAMS, LAYER
from ggcp_schema.schema.optimizer import OPTIMIZER
from ggcp_schema.schema.tensor import TENSOR, Tensor

__all__ = ["CHECKPOINT", "GGJT", "GGMF", "GGML", "GGUF", "HPARAMS", "LAYER", "OPTIMIZER", "TENSOR", "Tensor"]
