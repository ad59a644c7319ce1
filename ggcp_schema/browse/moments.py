"""The moments of each parameter in the optimizer's flat vectors, as far as the bytes tell the order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggcp_schema.browse.health import Moments
from ggcp_schema.errors import GgcpError
from ggcp_schema.inspect.tensors import listing, model_of, moments, order_of

if TYPE_CHECKING:
    from ggcp_schema.files.tensor import Tensor
    from ggcp_schema.formats.file import File

EMBEDDINGS = "tok_embeddings"  # its rows are those of tokens


def find_moments(file: File) -> Moments | str:
    """Return the moments by parameter, or in words why they are not known. Reads as much of them as that takes."""
    items = listing(file)
    model = model_of(items)
    vectors = [item for item in items if item.moment in ("m", "v") and item.tensor.nbytes]
    if len(vectors) < 2:
        return "The file holds no moments of Adam."
    decision = order_of(file, items)
    if decision.order is None:
        return f"The order of the parameters in m and v is undecidable: {decision.reason}."
    try:
        found = list(moments(items, decision, vectors))
    except GgcpError as error:
        return error.message
    parts: dict[str, dict[str, Tensor]] = {}
    for part in found:
        if part.parameter is not None and part.moment is not None:
            parts.setdefault(model[part.parameter].path, {})[part.moment] = part.tensor
    return Moments(
        {path: (both["m"], both["v"]) for path, both in parts.items() if len(both) == 2},
        f"m and v in order {decision.order}, {decision.certainty}: {decision.reason}",
        model[EMBEDDINGS].path if EMBEDDINGS in model else None,
    )
