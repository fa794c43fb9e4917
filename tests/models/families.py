"""The model families of the matrix: a chat template, an architecture and control tokens each.

Templates are those that TRL carries (Apache-2.0), read from the installed package. The control
tokens are those that the family's own tokenizer keeps whole, among them all that its template
writes.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

CHATML = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
THINK = ("<think>", "</think>")
CALLS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
QWEN3 = (*CHATML, *CALLS, *THINK)
LLAMA = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eot_id|>", "<|eom_id|>", "<|python_tag|>",
)  # fmt: skip
GEMMA = ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>")
GEMMA4 = (
    "<bos>", "<eos>", "<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|think|>", "<|tool>",
    "<tool|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>',
    "<|image|>", "<|audio|>", "<|video|>",
)  # fmt: skip
COHERE = (
    "<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>",
    "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>",
)  # fmt: skip
COHERE2 = (*COHERE, "<|START_RESPONSE|>", "<|END_RESPONSE|>")
PHI = ("<s>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
LFM = (
    "<|startoftext|>", "<|im_start|>", "<|im_end|>", "<|tool_list_start|>", "<|tool_list_end|>",
    "<|tool_call_start|>", "<|tool_call_end|>", "<|tool_response_start|>", "<|tool_response_end|>",
)  # fmt: skip
LFM25 = (*LFM, *THINK)
GLM = (
    "[gMASK]", "<sop>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>",
    "<|observation|>", *THINK, *CALLS, "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>",
)  # fmt: skip
HARMONY = (
    "<|startoftext|>", "<|endoftext|>", "<|return|>", "<|constrain|>", "<|channel|>", "<|start|>",
    "<|end|>", "<|message|>", "<|call|>",
)  # fmt: skip
DEEPSEEK = (
    "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>",
    "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>", "<｜tool▁outputs▁begin｜>", "<｜tool▁outputs▁end｜>",
    "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>", "<｜tool▁sep｜>",
)  # fmt: skip

MOE = {"num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_routed_experts": 4}
TIED = {"tie_word_embeddings": True}
SHAPES: dict[str, Mapping[str, Any]] = {
    "Qwen2Config": TIED,
    "Qwen3Config": {"head_dim": 16},
    "Qwen3_5TextConfig": {
        "head_dim": 32, "num_hidden_layers": 4,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25,
            "mrope_section": [2, 1, 1], "mrope_interleaved": True,
        },
        "linear_key_head_dim": 16, "linear_value_head_dim": 16,
        "linear_num_key_heads": 2, "linear_num_value_heads": 4, "mtp_num_hidden_layers": 1,
    },
    "LlamaConfig": {},
    "GemmaConfig": {"head_dim": 16, **TIED},
    "Gemma3TextConfig": {**TIED, "head_dim": 16, "sliding_window": 64},
    "Gemma4TextConfig": {
        **TIED, "head_dim": 16, "global_head_dim": 32, "sliding_window": 64,
        "hidden_size_per_layer_input": 0,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "Phi3Config": {},
    "Lfm2Config": {
        **TIED, "layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False,
    },
    "CohereConfig": TIED,
    "Cohere2Config": {"sliding_window": 64, "rotary_pct": 1.0, **TIED},
    "Glm4MoeConfig": {**MOE, "head_dim": 16, "first_k_dense_replace": 1},
    "GptOssConfig": {"head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2},
    "DeepseekV3Config": {
        **MOE, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
        "q_lora_rank": 32, "kv_lora_rank": 32, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16,
        "v_head_dim": 16, "num_key_value_heads": 4,
    },
    "NemotronHConfig": {
        **MOE, "head_dim": 16, "layers_block_type": ["mamba", "attention", "moe"],
        "mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 16, "n_groups": 2,
        "moe_shared_expert_intermediate_size": 32, "chunk_size": 16,
    },
}  # fmt: skip
"""What differs from `tiny.SHAPE`, by configuration class in transformers."""


class Family(NamedTuple):
    """One row of the matrix.

    template: its file in TRL's folder of chat templates, without ending; empty for the template in
    SmolLM2's GGUF. config: the configuration class in transformers. control: the control tokens.
    eos, bos: of the tokenizer. split: llama.cpp's name of how the family's tokenizer splits text
    into words, of those in `tiny.SPLITS` the nearest. plain: those of `control` that aren't
    special, as Qwen's `<think>`.
    """

    name: str
    template: str
    config: str
    control: tuple[str, ...]
    eos: str
    bos: str | None = None
    split: str = "smollm"
    plain: tuple[str, ...] = (*THINK, *CALLS)

    @property
    def architecture(self) -> str:
        """The configuration's name without its ending."""
        return self.config.removesuffix("Config").removesuffix("Text")


IM_END, EOT, TEXT_END = "<|im_end|>", "<|eot_id|>", "<|endoftext|>"
BEGIN, START, R1 = "<|begin_of_text|>", "<|startoftext|>", DEEPSEEK[:2]
QWEN, BPE = "qwen2", "llama-bpe"
_COHERE_END = "<|END_OF_TURN_TOKEN|>"

FAMILIES = (
    Family("SmolLM2", "", "LlamaConfig", CHATML, IM_END, "<|im_start|>"),
    Family("Qwen2.5", "qwen2_5", "Qwen2Config", (*CHATML, *CALLS[:2]), IM_END, split=QWEN),
    Family("Qwen3", "qwen3", "Qwen3Config", QWEN3, IM_END, split=QWEN),
    Family("Qwen3 Instruct 2507", "qwen3_instruct_2507", "Qwen3Config", QWEN3, IM_END, split=QWEN),
    Family("Qwen3.5 (thinks)", "qwen3_5_think", "Qwen3_5TextConfig", QWEN3, IM_END, split=QWEN),
    Family("Qwen3.5 (doesn't think)", "qwen3_5_nothink", "Qwen3_5TextConfig", QWEN3, IM_END,
           split=QWEN),
    Family("Qwen3.6", "qwen3_6", "Qwen3_5TextConfig", QWEN3, IM_END, split=QWEN),
    Family("Qwen3.8", "qwen3_8", "Qwen3_5TextConfig", QWEN3, IM_END, split=QWEN),
    Family("Llama 3", "llama3", "LlamaConfig", LLAMA, EOT, BEGIN, split=BPE),
    Family("Llama 3.1", "llama3_1", "LlamaConfig", LLAMA, EOT, BEGIN, split=BPE),
    Family("Llama 3.2", "llama3_2", "LlamaConfig", LLAMA, EOT, BEGIN, split=BPE),
    Family("Gemma and Gemma 2", "gemma", "GemmaConfig", GEMMA, "<eos>", "<bos>"),
    Family("Gemma 3", "gemma3", "Gemma3TextConfig", GEMMA, "<eos>", "<bos>"),
    Family("Gemma 4, first", "gemma4_v2", "Gemma4TextConfig", GEMMA4, "<eos>", "<bos>"),
    Family("Gemma 4, second", "gemma4_v3", "Gemma4TextConfig", GEMMA4, "<eos>", "<bos>"),
    Family("Gemma 4, third", "gemma4", "Gemma4TextConfig", GEMMA4, "<eos>", "<bos>"),
    Family("Gemma 4, fourth", "gemma4_v4", "Gemma4TextConfig", GEMMA4, "<eos>", "<bos>"),
    Family("Gemma 4, fifth", "gemma4_v5", "Gemma4TextConfig", GEMMA4, "<eos>", "<bos>"),
    Family("Phi-3", "phi3", "Phi3Config", PHI, TEXT_END, "<s>"),
    Family("Phi-3.5", "phi3_5", "Phi3Config", PHI, TEXT_END, "<s>"),
    Family("LFM2, first", "lfm2", "Lfm2Config", LFM, IM_END, START, split=BPE),
    Family("LFM2, second", "lfm2_v2", "Lfm2Config", LFM, IM_END, START, split=BPE),
    Family("LFM2.5, first", "lfm2_2_5", "Lfm2Config", LFM25, IM_END, START, split=BPE),
    Family("LFM2.5, second", "lfm2_2_5_v2", "Lfm2Config", LFM25, IM_END, START, split=BPE),
    Family("Cohere Aya Expanse", "cohere", "CohereConfig", COHERE, _COHERE_END, "<BOS_TOKEN>"),
    Family("Cohere2 Tiny Aya", "cohere2", "Cohere2Config", COHERE2, _COHERE_END, "<BOS_TOKEN>"),
    Family("GLM-4 MoE", "glm4moe", "Glm4MoeConfig", GLM, TEXT_END, split=BPE),
    Family("gpt-oss", "gptoss", "GptOssConfig", HARMONY, "<|return|>", START),
    Family("DeepSeek V3", "deepseekv3", "DeepseekV3Config", DEEPSEEK, R1[1], R1[0]),
    Family("DeepSeek R1 Distill", "deepseek_r1_distill", "Qwen2Config", (*DEEPSEEK, *THINK),
           R1[1], R1[0], split=QWEN),
    Family("Nemotron 3 Nano", "nemotron_3_nano", "NemotronHConfig", QWEN3, IM_END,
           "<s>", split=BPE),
    Family("Nemotron 3 Super", "nemotron_3_super", "NemotronHConfig", QWEN3, IM_END,
           "<s>", split=BPE),
    Family("Nemotron 3 Ultra", "nemotron_3_ultra", "NemotronHConfig", QWEN3, IM_END,
           "<s>", split=BPE),
    Family("Nemotron 3.5 Lightning", "nemotron_3_5_lightning", "NemotronHConfig", QWEN3, IM_END,
           "<s>", split=BPE),
)  # fmt: skip

LEFT_OUT = {
    "diffusion_gemma": "a diffusion model",
    "idefics3": "a model of images",
    "lfm2_2_5_vl": "a model of images",
    "llava_next": "a model of images",
    "muse_glimmer": "a model of images",
    "qwen2_5_vl": "a model of images",
    "qwen3_vl": "a model of images",
    "smolvlm": "a model of images",
}
"""The templates that TRL carries and the matrix doesn't have, and why."""


@cache
def carried() -> dict[str, str]:
    """The chat templates of the installed TRL by name, without its variants for training."""
    import importlib.util

    package = importlib.util.find_spec("trl")
    assert package is not None
    assert package.origin is not None
    folder = Path(package.origin).with_name("chat_templates")
    files = [f for f in folder.glob("*.jinja") if not f.stem.endswith("_training")]
    return {file.stem: file.read_text("utf-8") for file in sorted(files)}
