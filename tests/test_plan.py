"""The plan: sizes of Table 12 on the meta device, hours that add up, memory that fits or not, input that is refused."""

from dataclasses import replace

import pytest

from dbyte.__main__ import main
from dbyte.distill.curriculum import curriculum
from dbyte.model.student_config import StudentConfig
from dbyte.model.teacher_sizes import CORES, PAPER, core_config
from dbyte.plan.devices import device
from dbyte.plan.plan import Setting, meta_student, parameters_by_part, plan_steps, plan_text, teacher_parameters
from dbyte.presets import PAPER_SIZES, SCALES, scale
from dbyte_paper.published import published

pytestmark = pytest.mark.usefixtures("counted_once")

# The parameters that each model's card or weight index gives, embeddings counted once where they are tied.
PUBLISHED = {"meta-llama/Llama-3.2-1B": 1_235_814_400, "meta-llama/Llama-3.2-3B": 3_212_749_824,
             "Qwen/Qwen3-0.6B": 596_049_920, "Qwen/Qwen3-4B": 4_022_468_096,
             "allenai/OLMo-2-0425-1B": 1_484_916_736, "smollm2-135m": 134_515_008}


@pytest.mark.parametrize("name", CORES)
def test_a_teacher_has_its_published_size(name):
    student = meta_student(core_config(name), PAPER_SIZES)
    assert teacher_parameters(student) == PUBLISHED[name]
    assert all(weight.device.type == "meta" for weight in student.parameters())
    assert sum(parameters_by_part(student).values()) == sum(weight.numel() for weight in student.parameters())


def test_a_stack_of_table_12_by_hand():
    D, F, N, inner = 1536, 8192, 128, 3072
    H, X = inner // 64, inner + 2 * N
    mixer = D * (2 * inner + 2 * N + H) + X * 4 + X + 3 * H + inner + inner * D
    stack = 4 * (mixer + 3 * D * F + 2 * D) + D
    parts = parameters_by_part(meta_student(core_config(PAPER[0]), PAPER_SIZES))
    assert parts["encoder"] == parts["decoder"] == stack


def test_the_split_router_is_that_of_appendix_b():
    rows = published("table12_architecture").set_index(["component", "parameter"])["value"]
    shape = StudentConfig(**PAPER_SIZES, router="split").router_shape()
    assert rows["split router (appendix B)", "hidden dimension"] == str(shape.width)
    assert rows["split router (appendix B)", "layers"] == f"{shape.layers} x Mamba2" and shape.mixer == "mamba2"


@pytest.fixture(scope="module")
def paper():
    return Setting(scale("paper"), device("h100"))


def test_hours_are_bytes_times_flops_over_what_the_gpus_reach(paper):
    student, row, planned = plan_steps(paper)
    assert row.token_ids_BM.shape == (1, 1911)
    for one in planned:
        assert one.seconds == pytest.approx(one.step.train_bytes * one.flops_per_byte / (8 * 989e12 * 0.4))
    assert sum(one.step.train_bytes for one in planned if one.step.stage == 1) == 30e9
    assert sum(one.step.train_bytes for one in planned) == 125e9
    core, full = parameters_by_part(student)["core"], planned[4].flops["core"]
    assert 6 * core * 7 / 30 < full < 1.15 * 6 * core * 7 / 30  # six FLOPs a weight and chunk, and attention
    again = sum(one.seconds for one in plan_steps(replace(paper, checkpointing=True))[2])
    assert 1 < again / sum(one.seconds for one in planned) < 1.5


def test_memory_is_shared_out_or_not(paper):
    fsdp, ddp, alone = (plan_steps(setting)[2][4].memory for setting in (
        paper, replace(paper, sharding="ddp"), replace(paper, gpus=1)))
    assert fsdp.kinds["weights"] == ddp.kinds["weights"] / 8 and alone.kinds["weights"] == ddp.kinds["weights"]
    assert fsdp.rows_that_fit(80e9) >= 1 and ddp.rows_that_fit(80e9) == 0


@pytest.mark.parametrize("name", SCALES)
def test_every_scale_has_a_plan(name):
    setting = Setting(scale(name), device("cpu", flops_per_second=1e11), gpus=1)
    text = plan_text(setting)
    for step in curriculum(setting.scale):
        assert f"| {step.name} |" in text
    assert "0.1 TFLOP/s" in text and "rows at a time" not in text  # nobody said how much memory
    assert ("| Muon |" in text) == (name in ("smoke", "real", "small", "gpu"))


def test_a_router_that_will_drift_is_warned_of():
    for name, settings in (("paper", ()), ("paper", ("stage2.boundary_loss=true",)), ("small", ())):
        text = plan_text(Setting(scale(name, settings), device("cpu", flops_per_second=1e11), gpus=1))
        assert ("Step 2.2 full trains the encoder under a frozen router" in text) == (name == "paper" and not settings)
        assert ("## Warnings" in text) == ("boundary_loss" in text)


def test_swiglu_maps_of_the_router_are_offered_at_the_papers_sizes():
    plain, offered = (parameters_by_part(meta_student(core_config(PAPER[0]), scale("paper", settings).student))
                      for settings in ((), ("student.router_ffn_width=1536",)))
    assert offered.pop("router") > plain.pop("router") and offered == plain


def test_the_command_prints_the_plan(capsys):
    assert main(["plan", "--gpus", "2", "--device", "a100", "--recompute", "--teacher", PAPER[2], "--teacher",
                 PAPER[1], "--bytes-per-token", "4"]) == 0
    text = capsys.readouterr().out
    assert f"| part, million parameters | {PAPER[2]} | {PAPER[1]} |" in text
    assert "| core | 1,073.87 | 3,633.51 |" in text
    assert "2 x a100 (312 TFLOP/s, 80 GB, 2.039 TB/s), sharding fsdp2" in text and "has 2,048 chunks" in text
    for heading in ("## Time", "| stage 1 | 30 |", "| stage 2 | 95 |", "| all | 125 |", "| fits | yes |", "## Assump"):
        assert heading in text


@pytest.mark.parametrize("arguments, message", [
    ("--gpus 0", "--gpus 0"), ("--utilisation 1.5", "found 1.5"), ("--device tpu", "h100, h200, a100, rtx4090, cpu"),
    ("--device cpu", "--flops-per-second"), ("--flops-per-second 0", "positive"), ("--teacher gpt2", "Llama-3.2"),
    ("--sharding none", "one GPU"), ("--sharding zero3", "none, ddp, fsdp2"), ("--bytes-per-token 0.5", "0.5"),
    ("--backend cuda", "torch, fast, triton"), ("--device h100 --backend fast", "'torch' or 'triton'"),
])
def test_wrong_input_is_refused_by_name(arguments, message, capsys):
    assert main(["plan", *arguments.split()]) == 2
    assert message in capsys.readouterr().err
