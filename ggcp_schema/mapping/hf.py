"""From a checkpoint or a model to a folder that transformers opens: to run the model, and to train it on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ggcp_schema.constructs import counted
from ggcp_schema.errors import UsageError
from ggcp_schema.files.contents import Blob, Content, Json, Safetensors, Text
from ggcp_schema.files.tensor_entries import TensorEntry
from ggcp_schema.formats.file import File
from ggcp_schema.formats.state import state_of
from ggcp_schema.huggingface.card import model_card
from ggcp_schema.huggingface.config import generation_config, json_bytes, model_config
from ggcp_schema.huggingface.sentencepiece_writer import checked_types, sentencepiece_model
from ggcp_schema.huggingface.tensors import moment_tensors, weight_tensors
from ggcp_schema.huggingface.tokenizer import inexpressible, tokenizer_config, tokenizer_json
from ggcp_schema.llama.eras import EraConclusion
from ggcp_schema.llama.facts import Fact
from ggcp_schema.llama.losses import stored_losses
from ggcp_schema.llama.model import Model
from ggcp_schema.llama.soundness import examine_moments
from ggcp_schema.llama.training import Study, Training
from ggcp_schema.llama.vocabulary import Vocabulary
from ggcp_schema.mapping.export import Choices, ModelOptions, choose, name_of
from ggcp_schema.mapping.plan import OUTPUT, Command, Plan
from ggcp_schema.schema.inference import ADAM

HF: Final = "hf"
DTYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16"}
WEIGHTS, MOMENTS, CARD = "model.safetensors", "optimizer.safetensors", "README.md"
CONFIG, GENERATION = "config.json", "generation_config.json"
TOKENIZER, TOKENIZER_CONFIG, TOKENIZER_MODEL = "tokenizer.json", "tokenizer_config.json", "tokenizer.model"
METADATA = {"format": "pt"}  # without it transformers refuses the file
README = Command("programs that continue a text and train the model", ("cat", f"{OUTPUT}/{CARD}"))
SCALE_DOUBTFUL = "the scale of its gradients is not certain"
BATCH_FIRST = "to keep the state, write it with `ggcp-schema convert --batch N`, and export that"
COSTS = {"f16": "0.05", "bf16": "0.44"}  # the worst difference of a log probability, of fixtures/alice.ggcp


def plan_hf(file: File, options: ModelOptions) -> Plan:
    """Plan a model folder for transformers 4 and 5, and what else reads such folders.

    The exceptions are those of `plan_model`. Raises `UsageError` too for quantized weights, for a `dtype` that is not
    in `DTYPES`, and for a vocabulary that is not of sentencepiece.
    """
    chosen = choose(file, options, needs_study=True)
    moments, optimizer = moments_of(file, chosen.study)
    history = _training_facts(file, chosen.era, chosen.study)
    parts, facts = hf_parts(chosen, options, moments=moments, facts=(optimizer,), history=history)
    return Plan(
        target=HF,
        file=file,
        inputs=chosen.inputs,
        parts=parts,
        facts=facts,
        warnings=chosen.warnings,
        next=(README,),
        study=chosen.study,
        optional=(MOMENTS,),
    )


def hf_parts(
    chosen: Choices,
    options: ModelOptions,
    *,
    tensors: Sequence[TensorEntry] | None = None,
    moments: Sequence[TensorEntry] = (),
    facts: Iterable[Fact] = (),
    history: Iterable[Fact] = (),
) -> tuple[dict[str, Content], tuple[Fact, ...]]:
    """Return the files of a model folder, and what there is to say of them.

    `tensors` are the weights; None takes those of the model. `facts` are told too; the card alone has `history`.
    """
    vocabulary, dtype = chosen.vocabulary, options.dtype or "f32"
    checked_types(vocabulary)
    folder = Folder(chosen.model, vocabulary, chosen.context_length, chosen.epsilon.value, dtype)
    told = (*chosen.facts, *_changes(vocabulary, dtype), *facts)
    card = model_card(
        name=name_of(chosen.model, options.name),
        facts=[*history, *_for_others(told, chosen.vocabulary)],
        context_length=chosen.context_length,
        has_moments=bool(moments),
    )
    parts: dict[str, Content] = {WEIGHTS: folder.weights() if tensors is None else Safetensors(METADATA, tensors)}
    if moments:
        parts[MOMENTS] = Safetensors(METADATA, moments)
    return {**parts, CONFIG: folder.config(), **folder.tokens(), CARD: Text(card)}, told


def element_type(dtype: str) -> str:
    """Return ggml's name of a type of weights. Raises `UsageError` if a folder cannot have it."""
    if dtype not in DTYPES:
        raise UsageError(f"weights cannot be of the type {dtype!r}", f"Choose from: {', '.join(DTYPES)}.")
    return DTYPES[dtype]


@dataclass(frozen=True)
class Folder:
    """What a folder is made of, except for the optimizer's state and the card. `dtype` is a name in `DTYPES`."""

    model: Model
    vocabulary: Vocabulary
    context_length: int
    rms_eps: float
    dtype: str = "f32"

    def weights(self) -> Safetensors:
        """Return model.safetensors. Raises `UsageError` for quantized weights, or another `dtype`."""
        model, dtype = self.model, element_type(self.dtype)
        tensors = weight_tensors(model.tensors, n_head=model.n_head, n_head_kv=model.n_head_kv, dtype=dtype)
        return Safetensors(METADATA, tensors)

    def config(self) -> Json:
        """Return config.json."""
        ids, dtype = self.vocabulary.ids, DTYPES[self.dtype]
        return Json(json_bytes(model_config(self.model, self.rms_eps, self.context_length, ids, dtype)))

    def tokens(self) -> dict[str, Content]:
        """Return the files of the vocabulary. Raises `UsageError` if sentencepiece could not load its model."""
        return {
            GENERATION: Json(json_bytes(generation_config(self.vocabulary.ids))),
            TOKENIZER: Json(json_bytes(tokenizer_json(self.vocabulary))),
            TOKENIZER_CONFIG: Json(json_bytes(tokenizer_config(self.vocabulary, self.context_length))),
            TOKENIZER_MODEL: Blob(sentencepiece_model(self.vocabulary)),
        }


# The optimizer's state -------------------------------------------------------------------------------------


def moments_of(file: File, conclusions: Study | None) -> tuple[list[TensorEntry], Fact]:
    """Return the tensors of optimizer.safetensors, none if it is left out, and what is in it, or why it is left out.

    A wrong state costs more than a new one: on alice.ggcp 0.22 against 0.165 of mean loss in iterations 31 to 60, and
    0.161 with the right one. So it is written only if the order of the vectors is certain, and their scale certain or
    that of likely means.
    """
    if conclusions is None:
        why = "it is damaged" if file.damage is not None else "the file has no state of an optimizer"
        return [], _left_out(why)
    training, order, scale = file.training(), conclusions.order, conclusions.scale
    if why := _why_left_out(training, conclusions) or _unsound_text(file):
        is_estimated = why.startswith(SCALE_DOUBTFUL) and scale.summed
        return [], _left_out(why, f"; {BATCH_FIRST}" if is_estimated else "")
    divisor = scale.s if scale.summed and scale.s is not None else 1
    tensors = moment_tensors(
        training.model.tensors,
        training.state,
        order=str(order.order),
        scale=divisor,
        step=training.iteration,
        n_head=training.model.n_head,
    )
    effect = f"m is divided by {divisor:,}, v by its square" if divisor != 1 else ""
    if scale.gradient is None:
        effect = "taken to be of mean gradients, not of sums"
    text = f"Adam's moments after {counted(training.iteration, 'iteration')} are in {MOMENTS}"
    short = f"{text}; {effect}" if effect else text
    return tensors, Fact("optimizer", text, f"order {order.order}: {order.reason}; {scale.reason}", effect, short=short)


def _why_left_out(training: Training, conclusions: Study) -> str:
    """Return why the state is not written; empty if it is."""
    order, scale = conclusions.order, conclusions.scale
    flat = [training.state.get(field) for field in ("m", "v")]
    is_whole = all(vector and vector.type == "F32" and vector.shape == (training.model.n_params,) for vector in flat)
    is_known = scale.summed and scale.s is not None and not scale.assumed
    guessed = training.divided is not None and not training.divided_exactly
    estimate = ", which was an estimate or may have been one" if guessed else ""
    reasons = {
        "it is that of L-BFGS, which is not PyTorch's": training.optimizer != ADAM,
        "it has made no iteration": not training.iteration,
        "m and v do not hold a value for each parameter": not is_whole,
        f"the order of its parameters is not certain: {order.reason}": not order.is_certain,
        f"{SCALE_DOUBTFUL}: {scale.reason}{estimate}": guessed
        or not (scale.gradient == "mean" or scale.short or is_known),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _unsound_text(file: File) -> str:
    """Return what is unsound in the moments; empty if nothing is. Reads them."""
    state = state_of(file)
    bad = None if state is None else next(iter(examine_moments(state)), None)
    return "" if bad is None else f"{bad.path}: {bad.message}"


def _left_out(why: str, remedy: str = "") -> Fact:
    return Fact("optimizer", f"{MOMENTS} is left out", why, f"training begins with a new optimizer{remedy}")


# What there is to say --------------------------------------------------------------------------------------


def _changes(vocabulary: Vocabulary, dtype: str) -> Iterator[Fact]:
    """Yield what is not the same in the folder."""
    for reason in inexpressible(vocabulary):
        yield Fact("tokenizer", f"{TOKENIZER} gives some texts other tokens than llama.cpp does", reason)
    if dtype in COSTS:
        cost = f"it moved log probabilities of a small model by up to {COSTS[dtype]}"
        yield Fact("dtype", f"weights are rounded to {DTYPES[dtype]}", effect=cost)


def _training_facts(file: File, era: EraConclusion, conclusions: Study | None) -> Iterator[Fact]:
    """Yield what the card says of the training; nothing of a file that is not known to be a checkpoint."""
    evidence = file.evidence()
    if evidence is None:
        return
    yield Fact("written by", era.writer_text, "; ".join(clue.statement for clue in era.evidence))
    stated = file.facts()
    counts = {"iterations": "train_its", "samples": "train_samples", "tokens": "train_tokens"}
    for label, key in counts.items():
        if stated.get(key):  # iterations of L-BFGS are not counted
            yield Fact(label, f"{stated[key]:,}", "counted by the trainer, of the whole training")
    losses = stored_losses(stated, era)
    for label, text in losses.lines if losses else ():
        yield Fact(f"{label} loss" if label in ("best", "untrained") else label, text)


def _for_others(facts: Iterable[Fact], vocabulary: Vocabulary) -> Iterator[Fact]:
    """Yield the facts as they stand in a card: without folders of this machine, and with their effects."""
    for fact in facts:
        text = fact.text.replace(vocabulary.path, Path(vocabulary.path).name)
        yield fact._replace(text=f"{text}; {fact.effect}" if fact.effect else text)
