"""The paper's students on the meta device: sizes of Table 12, cores of the published size, parts that add up."""

import pytest

from dbyte.model.cores import CORES, PAPER, core_config
from dbyte.model.student import StudentConfig
from dbyte.presets import PAPER_SIZES
from dbyte.report.plan import meta_student, parameters_by_part, parameters_table
from dbyte.report.published import published

# The parameters that each model's card or weight index gives, embeddings counted once where they are tied.
PUBLISHED = {"meta-llama/Llama-3.2-1B": 1_235_814_400, "meta-llama/Llama-3.2-3B": 3_212_749_824,
             "Qwen/Qwen3-0.6B": 596_049_920, "Qwen/Qwen3-4B": 4_022_468_096,
             "allenai/OLMo-2-0425-1B": 1_484_916_736}


@pytest.mark.parametrize("name", CORES)
def test_core_and_head_have_the_published_size(name):
    student, config = meta_student(name), core_config(name)
    parts = parameters_by_part(student)
    embedding = 0 if config.tie_word_embeddings else config.vocab_size * config.hidden_size
    assert parts["core"] + parts["token_head"] + embedding == PUBLISHED[name]
    assert all(weight.device.type == "meta" for weight in student.parameters())
    assert sum(parts.values()) == sum(weight.numel() for weight in student.parameters())


def test_a_stack_of_table_12_by_hand():
    D, F, N, inner = 1536, 8192, 128, 3072
    H, X = inner // 64, inner + 2 * N
    mixer = D * (2 * inner + 2 * N + H) + X * 4 + X + 3 * H + inner + inner * D
    stack = 4 * (mixer + 3 * D * F + 2 * D) + D
    parts = parameters_by_part(meta_student(PAPER[0]))
    assert parts["encoder"] == parts["decoder"] == stack


def test_the_split_router_is_that_of_appendix_b():
    rows = published("table12_architecture").set_index(["component", "parameter"])["value"]
    shape = StudentConfig(**PAPER_SIZES, router="split").router_shape()
    assert rows["split router (appendix B)", "hidden dimension"] == str(shape.width)
    assert rows["split router (appendix B)", "layers"] == f"{shape.layers} x Mamba2" and shape.mixer == "mamba2"


def test_the_transformer_encoder_is_as_large_at_the_papers_scale():
    parts, plain = (parameters_by_part(meta_student(PAPER[2], StudentConfig(**PAPER_SIZES, encoder_mixer=mixer)))
                    for mixer in ("attention", "mamba2"))
    assert parts["encoder"] == pytest.approx(plain["encoder"], rel=1e-4)


def test_the_table_and_the_names():
    text = parameters_table((PAPER[2],))
    assert "| core | 1,073.87 |" in text and text.endswith("1,713.89 |")
    with pytest.raises(ValueError, match="Llama-3.2-1B"):
        core_config("gpt2")
