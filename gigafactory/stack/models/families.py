"""The decoder of a config: which family reads which `model_type`."""

from collections.abc import Callable, Mapping

from gigafactory.stack.models.config import Config
from gigafactory.stack.models.gpts import GPT_FIELDS, gpt
from gigafactory.stack.models.grouped import Decoder, grouped_query
from gigafactory.stack.models.hybrids import delta_hybrid, mamba_hybrid
from gigafactory.stack.models.latents import compressed, latent

FAMILIES: Mapping[str, Callable[[Config], Decoder]] = {
    **dict.fromkeys(
        (
            "llama",
            "mistral",
            "mixtral",
            "internlm",
            "qwen2",
            "qwen2_moe",
            "qwen3",
            "qwen3_moe",
            "qwen3_vl_text",
            "qwen3_vl_moe_text",
            "qwen3_omni_moe_text",
            "llama4_text",
            "glm4_moe",
            "gpt_oss",
            "minimax_m2",
            "gemma3_text",
        ),
        grouped_query,
    ),
    **dict.fromkeys(
        ("deepseek_v2", "deepseek_v3", "deepseek_v32", "kimi_k2", "glm_moe_dsa"), latent
    ),
    **dict.fromkeys(("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"), delta_hybrid),
    **dict.fromkeys(GPT_FIELDS, gpt),
    "deepseek_v4": compressed,
    "nemotron_h": mamba_hybrid,
}
