"""What a Hugging Face model folder consists of, as plain data: tensors, configuration, tokenizer, model card."""
