"""The names of tensors in GGUF checkpoints, by their fields: a table apart from the package's."""

MODEL = {"tok_embeddings": "token_embd.weight", "norm": "output_norm.weight", "output": "output.weight"}
LAYER = {
    "attention_norm": "attn_norm",
    "wq": "attn_q",
    "wk": "attn_k",
    "wv": "attn_v",
    "wo": "attn_output",
    "ffn_norm": "ffn_norm",
    "w1": "ffn_gate",
    "w2": "ffn_down",
    "w3": "ffn_up",
}
STATE = {
    "adam": {"m": "first_moments", "v": "second_moments", "pf": "past_loss_values"},
    "lbfgs": {
        "x": "current_parameters",
        "xp": "previous_parameters",
        "g": "current_gradients",
        "gp": "previous_gradients",
        "d": "search_direction",
        "pf": "past_loss_values",
        "lmal": "memory_alpha",
        "lmys": "memory_ys",
        "lms": "memory_s",
        "lmy": "memory_y",
    },
}
