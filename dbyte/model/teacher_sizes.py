"""The published sizes of the teachers that the paper and its readers use, to build their students without a download.

Numbers are those of each model's config.json, kept in dbyte/teachers.toml; `python -m dbyte plan` and the throughput
benchmark read them. Weights built from them are random, or, on the meta device, absent.
"""

from pathlib import Path

from transformers import AutoConfig, PreTrainedConfig

from dbyte.presets import PUBLISHED

CORES: dict[str, dict] = {name: one["config"] for name, one in PUBLISHED.items()}
PAPER = ("meta-llama/Llama-3.2-3B", "Qwen/Qwen3-4B", "allenai/OLMo-2-0425-1B")


def core_config(name: str) -> PreTrainedConfig:
    """The config of a published teacher, or of the one in a folder; ValueError, with the known names, for others."""
    if (Path(name) / "config.json").is_file():
        return AutoConfig.from_pretrained(name)
    if name not in CORES:
        raise ValueError(f"the sizes of {name!r} are not kept here; known: {', '.join(CORES)}")
    sizes = dict(CORES[name])
    return AutoConfig.for_model(sizes.pop("model_type"), **sizes)
