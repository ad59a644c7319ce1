"""README.md of a model folder: a model card with the facts of the training, and programs that run in the folder."""

from __future__ import annotations

import json
from collections.abc import Iterable

from ggcp_schema.llama.facts import Fact

PROMPT = "Once upon a time"
NEW_TOKENS = 30


def model_card(*, name: str, facts: Iterable[Fact], context_length: int, has_moments: bool) -> str:
    """Return README.md, in which the facts make a table. With `has_moments` the folder has an optimizer.safetensors."""
    rows = "\n".join(f"| {' | '.join(map(_cell, (fact.label, fact.text, fact.reason)))} |" for fact in facts)
    return CARD.format(
        name=_line(name) or "A Llama model",
        rows=rows,
        generate=GENERATE.format(prompt=json.dumps(PROMPT), new_tokens=max(1, min(NEW_TOKENS, context_length // 2))),
        optimizer=WITH_MOMENTS if has_moments else WITHOUT_MOMENTS,
        train=TRAIN.format(
            context_length=context_length,
            imports="from safetensors.torch import load_file\n" if has_moments else "",
            load_moments=LOAD_MOMENTS if has_moments else "",
            loading="load_moments(trainer.create_optimizer(), trainer.model)\n" if has_moments else "",
        ),
    )


def _cell(text: str) -> str:
    return _line(text).replace("|", "\\|")


def _line(text: str) -> str:
    return " ".join(text.split())


CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
---

# {name}

A Llama model, written by ggcp-schema for transformers 4 and 5 (`pip install torch transformers accelerate`). The
programs below run in this folder.

| | | |
|---|---|---|
{rows}

## Continue a text

```python
{generate}```

`pipeline` of transformers 5 decodes the new tokens alone and so loses the space before the first one.

## Train it

{optimizer}

```python
{train}```

`tokenizer.model` has the scores of the tokens. `save_pretrained` does not copy it: do so, as above, before llama.cpp's
`convert_hf_to_gguf.py` makes a GGUF file of the trained model. Without `tokenizer.model` the converter gives all tokens
the same score, and llama.cpp then tokenizes text otherwise.
"""

GENERATE = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = AutoModelForCausalLM.from_pretrained(".")
inputs = tokenizer({prompt}, return_tensors="pt")
outputs = model.generate(**inputs, max_new_tokens={new_tokens}, do_sample=False, pad_token_id=tokenizer.unk_token_id)
print(tokenizer.decode(outputs[0], skip_special_tokens=True))
"""

WITH_MOMENTS = """\
`optimizer.safetensors` has Adam's moments: `exp_avg.NAME` and `exp_avg_sq.NAME` for each parameter, and `step`. With
them training goes on where it stopped; a new optimizer needs some tens of steps for that. The learning rate and the
weight decay are those of `TrainingArguments`."""

WITHOUT_MOMENTS = "The state of an optimizer is not here, so training begins with a new one."

LOAD_MOMENTS = '''
def load_moments(optimizer, model):
    """Give AdamW the state that the trainer's optimizer had."""
    tensors = load_file("optimizer.safetensors")
    names = {parameter: name for name, parameter in model.named_parameters()}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = {
        index: {key: tensors[f"{key}.{names[parameter]}"] for key in ("exp_avg", "exp_avg_sq")}
        | {"step": tensors["step"].clone()}
        for index, parameter in enumerate(parameters)
    }
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})

'''

TRAIN = """\
import shutil

{imports}from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
)

{load_moments}
texts = ["Your own texts."] * 16
tokenizer = AutoTokenizer.from_pretrained(".")
tokenizer.pad_token = tokenizer.unk_token  # the model has none of its own
model = AutoModelForCausalLM.from_pretrained(".", dtype="float32")
trainer = Trainer(
    model=model,
    args=TrainingArguments("trained", learning_rate=4e-4, per_device_train_batch_size=8, report_to="none"),
    # a text's first {context_length} tokens, the context of the model; cut longer texts into several
    train_dataset=[tokenizer(text, truncation=True, max_length={context_length}) for text in texts],
    data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    processing_class=tokenizer,
)
{loading}trainer.train()
trainer.save_model("trained")
shutil.copy("tokenizer.model", "trained")
"""
