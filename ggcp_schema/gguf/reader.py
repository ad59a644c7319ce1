"""A GGUF file as `gguf.GGUFReader` sees it: keys with their types, and tensors that are read when asked."""

from __future__ import annotations

import os
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from ggcp_schema.errors import FileError, MalformedError
from ggcp_schema.gguf import keys
from ggcp_schema.gguf.entries import KeyValue
from ggcp_schema.source import Source, Tensor

MAX_ARRAY = 1 << 24  # elements: no vocabulary is larger


@dataclass(frozen=True)
class GgufFile:
    """`keys` and `tensors` by name, in file order; `data_end` is where the last tensor ends, padding included."""

    source: Source
    keys: dict[str, KeyValue]
    tensors: dict[str, Tensor]
    data_end: int

    @property
    def path(self) -> str:
        return self.source.path

    @property
    def size(self) -> int:
        return self.source.size

    @property
    def optimizer_type(self) -> str | None:
        """`adam` or `lbfgs`; None in a file without an optimizer."""
        entry = self.keys.get(keys.OPTIMIZER_TYPE)
        return str(entry.value) if entry else None

    def close(self) -> None:
        self.source.close()

    def __enter__(self) -> GgufFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_gguf(path: str | os.PathLike[str]) -> GgufFile:
    """Opens a GGUF file. Raises `FileError` if it cannot be read, `MalformedError` if it is damaged."""
    source = Source(path)
    try:
        return _read(source)
    except FileError:
        source.close()
        raise
    except Exception as error:  # GGUFReader trusts what it reads: a damaged file raises whatever it runs into
        source.close()
        raise MalformedError(
            f"{source.path}: is not a whole GGUF file: {error}",
            path="file",
            offset=0,
            expected="a GGUF file",
            found=str(error),
        ) from error


def _read(source: Source) -> GgufFile:
    import numpy as np

    with np.errstate(over="raise"):  # an offset that wraps is damage
        reader = _checked_reader()(source.path)
    values = {name: field for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    tensors = {}
    end = int(reader.data_offset)
    for tensor in reader.tensors:
        shape, offset, nbytes = tuple(int(n) for n in tensor.shape), int(tensor.data_offset), int(tensor.n_bytes)
        kind = tensor.tensor_type.name
        tensors[tensor.name] = Tensor(tensor.name, tensor.name, shape, offset, nbytes, source, kind)
        end = max(end, offset + nbytes + -nbytes % reader.alignment)
    return GgufFile(
        source,
        {
            name: KeyValue(name, "/".join(kind.name for kind in field.types), field.contents())
            for name, field in values.items()
        },
        tensors,
        end,
    )


def _checked_reader() -> Any:
    """GGUFReader loops for ever over a false array length, and reads past the end as if nothing were there: this one
    checks both. It refines two methods that are not of its public interface; without them the checks are void."""
    import numpy as np
    from gguf import GGUFReader, GGUFValueType

    class CheckedReader(GGUFReader):  # type: ignore[misc]  # gguf has no types
        def _get(self, offset: Any, dtype: Any, count: Any = 1, override_order: Any = None) -> Any:
            end = int(offset) + int(count) * np.dtype(dtype).itemsize
            if end > len(self.data):
                raise ValueError(f"it ends before offset {end}")
            return super()._get(offset, dtype, count, override_order)

        def _get_field_parts(self, orig_offs: Any, raw_type: Any) -> Any:
            if raw_type == GGUFValueType.ARRAY and (count := int(self._get(orig_offs + 4, np.uint64)[0])) > MAX_ARRAY:
                raise ValueError(f"the array at offset {int(orig_offs)} claims {count} elements")
            return super()._get_field_parts(orig_offs, raw_type)

    return CheckedReader
