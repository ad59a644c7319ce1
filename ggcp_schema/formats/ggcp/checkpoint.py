"""A ggcp checkpoint as a program sees it: typed fields, and tensors that are read when asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache, cached_property, partial
from itertools import takewhile
from math import isclose, prod
from typing import TYPE_CHECKING, Any, ClassVar

from construct import Container

from ggcp_schema.constructs import Field, FieldError, Steps, counted, nodes
from ggcp_schema.errors import UsageError
from ggcp_schema.files.later import Later
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.formats.file import File, Format, Recovered, Repairable
from ggcp_schema.formats.ggcp.rules import expected_records, misplaced_names, odd_hparams, odd_optimizer, oddities
from ggcp_schema.formats.paths import parse_path
from ggcp_schema.formats.records.extent import expected_size, expected_sizes, expected_tensors, model_end
from ggcp_schema.formats.records.tensors import tensor_of, tensor_of_record, tensor_records, tensors_in
from ggcp_schema.formats.rules import Finding, Rules
from ggcp_schema.formats.trailing import trailing_bytes
from ggcp_schema.llama import keys
from ggcp_schema.llama.context import context_of
from ggcp_schema.llama.eras import Evidence
from ggcp_schema.llama.model import Model
from ggcp_schema.llama.names import field_path, is_optimizer, llama_field_path, n_tensors, tensor_name
from ggcp_schema.llama.parameters import CHECKPOINT_ORDERS, Order
from ggcp_schema.llama.scale import BETA2
from ggcp_schema.llama.training import Training, modification_date
from ggcp_schema.schema.checkpoint import CHECKPOINT
from ggcp_schema.schema.inference import ADAM, LBFGS, n_ff_by_formula, optimizer_text

if TYPE_CHECKING:
    from ggcp_schema.files.source import Source
    from ggcp_schema.formats.ggcp import records, repair
    from ggcp_schema.formats.ggcp.records import Hparams, Layer, Optimizer
    from ggcp_schema.formats.parsing import Parse
    from ggcp_schema.formats.records import headers, recovery
else:
    headers, records = Later("formats.records.headers"), Later("formats.ggcp.records")
    recovery, repair = Later("formats.records.recovery"), Later("formats.ggcp.repair")

_MISSING = object()
KEYS = ("general.", "llama.", "tokenizer.", "training.", "ggcp.")  # how those of a GGUF file begin


class Checkpoint(File):
    """A ggcp checkpoint. The schema's fields are attributes: `ckpt.hparams.n_embd`, `ckpt.layers[0].wq`.

    If the file is damaged, a part that is not whole raises the damage when it is asked for; `get(path)` returns None
    for it instead.
    """

    copied_lists: ClassVar = {"layers": ("train_its", "train_samples", "train_tokens", "optimizer")}

    def _value(self, name: str) -> Any:
        if self.container.get(name) is None:
            if self.damage is not None:
                raise self.damage.again()
            raise AttributeError(name)
        return self.container[name]

    def _whole(self, name: str) -> Container:
        """Return a record that is whole. Raises the damage if it is not."""
        value: Container = self._value(name)
        if self.damage is not None and not self._is_whole(value):
            raise self.damage.again()
        return value

    def _is_whole(self, record: Container) -> bool:
        """Return True if a record was parsed to its end, and all records in it, and is not of zeros at the end."""
        within = (value for value in record.values() if isinstance(value, Container))
        is_proven = "_size" in record and record["_offset"] + record["_size"] <= self.proven_end
        return is_proven and all(map(self._is_whole, within))

    @property
    def version(self) -> int:
        """The version of the file: 0."""
        return int(self._value("version"))

    @property
    def train_its(self) -> int:
        """Iterations of the training, modulo 2**32."""
        return int(self._value("train_its"))

    @property
    def train_samples(self) -> int:
        """Samples seen, modulo 2**32."""
        return int(self._value("train_samples"))

    @property
    def train_tokens(self) -> int:
        """Tokens seen, modulo 2**32."""
        return int(self._value("train_tokens"))

    @cached_property
    def hparams(self) -> Hparams:
        """The hyper-parameters of the model."""
        return records.record_of(records.Hparams, self._whole("hparams"), "hparams", self.source)

    @property
    def tok_embeddings(self) -> Tensor:
        """The token embeddings, `[n_embd, n_vocab]`."""
        return tensor_of_record(self._whole("tok_embeddings"), "tok_embeddings", self.source)

    @property
    def norm(self) -> Tensor:
        """The weight of the last norm, `[n_embd]`."""
        return tensor_of_record(self._whole("norm"), "norm", self.source)

    @property
    def output(self) -> Tensor:
        """The output matrix, `[n_embd, n_vocab]`."""
        return tensor_of_record(self._whole("output"), "output", self.source)

    @cached_property
    def layers(self) -> Sequence[Layer]:
        """The layers up to the first that is not whole."""
        return records.Layers(
            records.record_of(records.Layer, record, f"layers[{index}]", self.source)
            for index, record in enumerate(takewhile(self._is_whole, self._value("layers")))
        )

    @cached_property
    def optimizer(self) -> Optimizer:
        """The optimizer block."""
        return records.record_of(records.Optimizer, self._whole("optimizer"), "optimizer", self.source)

    @property
    def n_ff(self) -> int | None:
        """The width of the feed-forward layers, from the shape of w1; None if damage hides it."""
        width: int | None = self.container.get("n_ff")
        return width

    @property
    def _n_ff_by_formula(self) -> int | None:
        n_embd, n_mult = self.get("hparams.n_embd"), self.get("hparams.n_mult")
        return None if n_embd is None or n_mult is None else n_ff_by_formula(n_embd, n_mult)

    @property
    def past(self) -> int:
        """The number of past losses that the optimizer keeps."""
        return self.optimizer.past

    @property
    def lbfgs_m(self) -> int:
        """The number of iterations that L-BFGS remembers."""
        return self.optimizer.lbfgs_m

    def stored_tensors(self) -> Iterator[Tensor]:
        return tensors_in(self)

    @property
    def n_params(self) -> int:
        """The number of parameters: the elements of the model's tensors."""
        return self.model_tensors.n_elements

    def tensor(self, path: str) -> Tensor:
        """Return the tensor at a path: `layers[0].wq`, or the part `optimizer.state.m[layers[0].wq]` of a vector.

        Raises `PathError` if there is no such path, `UsageError` if there is something else, and the damage if that
        hides the tensor.
        """
        found = self[path]
        if isinstance(found, Tensor):
            return found
        if self.damage is not None:
            raise self.damage.again()
        raise UsageError(f"{path} is not a tensor")

    def tensor_of_data(self, field: Field) -> Tensor | None:
        """Return the tensor whose data a field is, from its record: a table of all tensors is not needed."""
        return tensor_of(field.parent, self.source) if field.size and field.parent is not None else None

    def get(self, path: str, default: Any = None) -> Any:
        """Return the value or the values at a path; `default` if the layout has none, or damage hides it.

        Raises `PathError` for what is no path of any layout.
        """
        if (found := super().get(path, _MISSING)) is not _MISSING:
            return found
        if self.damage is None:
            steps = self.alias(path) or parse_path(path)
            names = [step for step in steps or () if isinstance(step, str)]
            is_key = path.startswith(KEYS)  # of a GGUF file, which this one might have been
            if steps is None or not (is_key or _names().issuperset(names)):
                self.lookup(path)  # raises the error that says what is wrong
        return default

    def alias(self, name: str) -> Steps | None:
        """Return the path of the tensor with that name, as `blk.0.attn_q.weight`, or of the field of the GGUF key."""
        path = field_path(name) or llama_field_path(name) or keys.paths_by_key(self._optimizer_type).get(name)
        return None if path is None else parse_path(path)

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """What is odd but does not prevent reading, in file order. A damaged file is examined up to the damage."""
        parameters = (record for path, record in tensor_records(self.container) if not is_optimizer(path))
        n_params = sum(prod(record.get("ne", ())) for record in parameters)  # also of tensors that are not whole
        return (
            *odd_hparams(self.container),
            *misplaced_names(self.model_tensors),
            *odd_optimizer(self.container, n_params),
            *trailing_bytes(self.container),
        )

    @property
    def what(self) -> str:
        layout = self.get("optimizer.layout")
        return "ggcp training checkpoint" + (f", optimizer block {layout}" if layout else "")

    @property
    def short(self) -> str:
        return "ggcp checkpoint"

    def facts(self) -> dict[str, Any]:
        return {
            **keys.stated_of(partial(File.get, self), self.state_tensors.get("pf")),
            "version": self.get("version"),
            "layout": self.get("optimizer.layout"),
            "hparams": self.hparams_stated(),
            "n_ff": self.n_ff,
            "n_ff_source": None if self.n_ff is None else "shape" if "layers[0].w1" in self.tensors else "n-mult",
            "n_ff_by_n_mult": self._n_ff_by_formula,
            "n_params": self.n_params if "optimizer.version" in self else None,
            "bytes": self._uses(),
        }

    def _uses(self) -> dict[str, int] | None:
        state = {tensor.path: tensor.nbytes for tensor in self.state_tensors.values()}
        needed = sum(nbytes for path, nbytes in state.items() if tensor_name(path, self._optimizer_type))
        return self.uses(self.model_tensors.nbytes, needed, sum(state.values()) - needed + self.tensors.padding)

    def model(self) -> Model:
        self.check_whole(len(self.model_tensors), n_tensors(self.hparams.n_layer))
        return self._model.checked()

    def training(self) -> Training:
        if self.damage is not None:
            raise self.damage.again()
        optimizer, params = self.optimizer, self.optimizer.params
        adam = params.adam if params and optimizer.type == ADAM else None
        state = {name: tensor for name, tensor in self.state_tensors.items() if not tensor.is_null}
        return self._training(self._model, state, optimizer.type)._replace(
            iteration=optimizer.iter,
            n_iter=adam.n_iter if adam else None,
            has_usual_beta2=adam is not None and isclose(adam.beta2, BETA2, rel_tol=1e-6),
            n_threads=params.n_threads if params else None,
        )

    def model_training(self) -> Training:
        return self._training(self.model(), {}, ADAM)

    def _training(self, model: Model, state: Mapping[str, Tensor], optimizer: str) -> Training:
        paths = (path for _, _, path in (*keys.COUNTS, *keys.OPTIMIZER, *keys.STATE[optimizer]))
        return Training(
            model=model,
            state=state,
            optimizer=optimizer,
            train_its=self.get("train_its") or 0,
            train_samples=self.get("train_samples") or 0,
            train_tokens=self.get("train_tokens") or 0,
            iteration=0,
            past=self.get("optimizer.past") or 0,
            stated={path: value for path in paths if (value := self.get(path)) is not None},  # damage may hide some
        )

    @property
    def _model(self) -> Model:
        """The model, whether llama.cpp can run it or not."""
        hparams = self.hparams
        return Model(
            path=self.path,
            n_vocab=hparams.n_vocab,
            n_embd=hparams.n_embd,
            n_head=hparams.n_head,
            n_layer=hparams.n_layer,
            n_ff=self.n_ff or 0,
            n_rot=hparams.n_rot,
            tensors=self.model_tensors,
            evidence=self.evidence(),
            context=context_of(self.get("train_samples"), self.get("train_tokens")),
        )

    def evidence(self) -> Evidence:
        name = self.get("tok_embeddings.name")
        losses = (self.get("optimizer.state.fx_best"), self.get("optimizer.state.fx_prev"))
        return Evidence(
            layout=self.get("optimizer.layout"),
            first_tensor=None if name is None else name.decode("utf-8", "backslashreplace"),
            n_mult=self.get("hparams.n_mult"),
            n_ff=self.n_ff,
            n_ff_by_formula=self._n_ff_by_formula,
            losses_differ=None if None in losses else losses[0] != losses[1],
            modified=modification_date(self.source),
            damaged=self.damage is not None,
        )

    @property
    def orders(self) -> tuple[Order, ...]:
        return CHECKPOINT_ORDERS

    def names_of(self, tensor: Tensor) -> tuple[str | None, str | None, str | None]:
        name = None if tensor.is_null else tensor_name(tensor.path, self._optimizer_type)
        return tensor.path, name, self._optimizer_type

    def path_of(self, tensor: Tensor) -> str:
        return tensor.path

    @cached_property
    def _optimizer_type(self) -> str | None:
        kind: str | None = self.container.get("optimizer", {}).get("type")
        return kind

    def compares_by_field(self, other: File) -> bool:
        """Return True for another checkpoint of the same layout. Before the optimizer there is only one."""
        layouts = {file.get("optimizer.layout") for file in (self, other)} - {None}
        return isinstance(other, Checkpoint) and len(layouts) < 2

    def rules(self, parse: Parse) -> Rules:
        return Rules(len(self.tensors), expected_records(parse), [], oddities(parse))

    @classmethod
    def is_proven(cls, source: Source, format: Format) -> bool:
        return recovery.is_proven(source, headers.GGCP)

    @classmethod
    def doubt(cls, source: Source, container: Container) -> FieldError | None:
        if container["trailing"] is None:
            return None
        return recovery.doubt(source, container)

    @classmethod
    def recovered(cls, source: Source, format: Format, error: FieldError) -> Recovered | None:
        return recovery.recover(source, error, headers.GGCP)

    @classmethod
    def repairable(cls, source: Source) -> Repairable:
        return repair.repairable(source)

    def expected_tensors(self) -> list[str] | None:
        return expected_tensors(self)

    def whole_sizes(self) -> dict[str, int]:
        return expected_sizes(self.container)

    def least_size(self) -> int | None:
        return model_end(self)

    def describe(self) -> str:
        if self.damage is not None:
            return f"damaged, {counted(len(self.tensors), 'whole tensor')} before {self.damage.path}"
        hparams, optimizer = self.hparams, self.optimizer
        model = f"{counted(hparams.n_layer, 'layer')}, n_embd {hparams.n_embd}, n_vocab {hparams.n_vocab}"
        iteration = "" if optimizer.type == LBFGS else f" at iteration {optimizer.iter:,}"  # not counted
        return f"{model}, {self.n_params:,} parameters, {optimizer_text(optimizer.type)}{iteration}"

    def _ipython_key_completions_(self) -> list[str]:
        return [*self.tensors, *self]

    def _repr_html_(self) -> str:
        from html import escape

        rows = [(tensor.path, str(list(tensor.shape)), tensor.nbytes, tensor.name) for tensor in self.tensors.values()]
        head = "".join(f"<th>{title}</th>" for title in ("tensor", "shape (ggml order)", "bytes", "name in the file"))
        body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
        title = f"<b>{escape(self.path)}</b>: {escape(self.describe())}"
        return f"<p>{title}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


@cache
def _names() -> frozenset[str]:
    """Return the names of the fields of all layouts."""
    return frozenset(
        field["name"] for node in nodes(CHECKPOINT.reference()) for field in node.get("fields", ()) if field["name"]
    )


FORMATS = (Format("ggcp", b"pcgg", CHECKPOINT, "ggcp checkpoint", Checkpoint, expected_size=expected_size),)
