"""The open families by what config.json calls their architecture, and sizes as people say them.

Pure words: nothing here reads a file.
"""

from app.errors import N_

# The beginning of an architecture's name, and the family it tells.
FAMILIES = {
    "Qwen3": "Qwen3", "Qwen2": "Qwen2.5", "Llama": "Llama", "Glm": "GLM", "ChatGLM": "GLM",
    "Deepseek": "DeepSeek", "Gemma": "Gemma", "Mistral": "Mistral", "Mixtral": "Mistral",
    "Phi": "Phi",
}  # fmt: skip
OTHER = "other"  # of a filter
# Architectures that transformers and vLLM have code of their own for. What a repository brings
# beside them (auto_map) is not needed.
NATIVE = {
    f"{name}ForCausalLM"
    for name in (
        "Qwen2", "Qwen2Moe", "Qwen3", "Qwen3Moe", "Llama", "Glm", "Glm4", "Glm4Moe", "DeepseekV2",
        "DeepseekV3", "Gemma", "Gemma2", "Gemma3", "Mistral", "Mixtral", "Phi", "Phi3", "Olmo2",
        "Granite", "Starcoder2", "Cohere", "Cohere2", "GptOss", "SmolLM3",
    )
}  # fmt: skip
BILLION = 10**9
# Name in addresses → (words, from, below) in parameters.
SIZES = {
    "tiny": (N_("under 1B"), 0, BILLION),
    "small": (N_("1B to 4B"), BILLION, 4 * BILLION),
    "medium": (N_("4B to 10B"), 4 * BILLION, 10 * BILLION),
    "large": (N_("10B to 40B"), 10 * BILLION, 40 * BILLION),
    "huge": (N_("40B and more"), 40 * BILLION, 2**62),
}


def family_of(architecture: str) -> str:
    """“Qwen3” of Qwen3ForCausalLM; what stands before “For” of one that is not known."""
    for start, family in FAMILIES.items():
        if architecture.startswith(start):
            return family
    return architecture.partition("For")[0]
