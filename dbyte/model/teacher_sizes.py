"""The published sizes of the teachers that the paper and its readers use, to build their students without a download.

Numbers are those of each model's config.json; `python -m dbyte plan` and the throughput benchmark read them. Weights
built from them are random, or, on the meta device, absent.
"""

from pathlib import Path

from transformers import AutoConfig, PreTrainedConfig

LLAMA3_ROPE = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 32.0, "low_freq_factor": 1.0,
               "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}

LLAMA = dict(
    model_type="llama", num_key_value_heads=8, intermediate_size=8192, vocab_size=128_256,
    max_position_embeddings=131_072, tie_word_embeddings=True, rms_norm_eps=1e-5, rope_parameters=LLAMA3_ROPE)
QWEN = dict(
    model_type="qwen3", num_key_value_heads=8, head_dim=128, vocab_size=151_936, max_position_embeddings=40_960,
    tie_word_embeddings=True, rms_norm_eps=1e-6, rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0})
CORES: dict[str, dict] = {
    "meta-llama/Llama-3.2-1B": LLAMA | dict(
        hidden_size=2048, num_hidden_layers=16, num_attention_heads=32, head_dim=64),
    "meta-llama/Llama-3.2-3B": LLAMA | dict(
        hidden_size=3072, num_hidden_layers=28, num_attention_heads=24, head_dim=128),
    "smollm2-135m": dict(
        model_type="llama", hidden_size=576, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
        intermediate_size=1536, vocab_size=49_152, max_position_embeddings=8192, tie_word_embeddings=True,
        rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 100_000.0}),
    "Qwen/Qwen3-0.6B": QWEN | dict(
        hidden_size=1024, num_hidden_layers=28, num_attention_heads=16, intermediate_size=3072),
    "Qwen/Qwen3-4B": QWEN | dict(
        hidden_size=2560, num_hidden_layers=36, num_attention_heads=32, intermediate_size=9728),
    "allenai/OLMo-2-0425-1B": dict(
        model_type="olmo2", hidden_size=2048, num_hidden_layers=16, num_attention_heads=16, num_key_value_heads=16,
        intermediate_size=8192, vocab_size=100_352, max_position_embeddings=4096, tie_word_embeddings=False,
        rms_norm_eps=1e-6, rope_parameters={"rope_type": "default", "rope_theta": 500_000.0}),
}
PAPER = ("meta-llama/Llama-3.2-3B", "Qwen/Qwen3-4B", "allenai/OLMo-2-0425-1B")


def core_config(name: str) -> PreTrainedConfig:
    """The config of a published teacher, or of the one in a folder; ValueError naming those that are known."""
    if (Path(name) / "config.json").is_file():
        return AutoConfig.from_pretrained(name)
    if name not in CORES:
        raise ValueError(f"the sizes of {name!r} are not kept here; known: {', '.join(CORES)}")
    sizes = dict(CORES[name])
    return AutoConfig.for_model(sizes.pop("model_type"), **sizes)
