"""All steps at a toy size: lineage, reuse, plan, measurement of every stage, and errors that a user can act on."""

import dataclasses
import json
import math
from functools import partial

import pytest
import torch
from conftest import make_teacher
from safetensors.torch import load_file

import dbyte
from dbyte.distill.curriculum import curriculum, execute, plan_steps, run_steps
from dbyte.distill.loader import StreamFeed
from dbyte.distill.runs import Run
from dbyte.distill.teacher import teacher_run
from dbyte.evaluate.measure import Measurer
from dbyte.model import core
from dbyte.model.student import ByteStudent
from dbyte.model.teacher import load_teacher
from dbyte.presets import TeacherShape, scale
from dbyte.text.corpus import load_corpus
from dbyte.text.spans import TokenBytes
from dbyte_tasks import minibench

TOY = dataclasses.replace(
    scale("smoke"), name="toy", corpora=(("world", 60_000),), heldout_bytes=8_000, row_bytes=1024, batch_rows=2,
    teacher=TeacherShape(vocabulary=320, width=32, layers=1, heads=2, ffn_width=32, train_bytes=20_000, rate=5e-3),
    student=dict(byte_width=16, encoder_layers=1, decoder_layers=1, ffn_width=16, state_size=8, head_width=8),
    stage1=dict(align_bytes=8_000, distill_bytes=8_000, boundary_bytes=8_000, snapshots=1),
    stage2=dict(head_bytes=8_000, full_bytes=8_000), items=4, dynamics_items=4)


@pytest.fixture(scope="module")
def runs():
    return run_steps(TOY, curriculum(TOY), seed=0)


def test_runs_are_a_chain(runs):
    assert [run.parent.hash if run.parent else None for run in runs] == [None, *(run.hash for run in runs[:-1])]
    rows = [run.facts()["next_row"] for run in runs]
    assert rows == sorted(set(rows)), "each step continues reading where the one before stopped"


def test_the_run_of_a_teacher_stands_for_its_model(runs):
    folder = teacher_run(TOY, seed=0)
    by_folder, by_run = (dataclasses.replace(TOY, teacher=str(name)) for name in (folder, folder.parent))
    assert teacher_run(by_run, seed=0) == folder
    addresses = [[one.address for one in plan_steps(scale, curriculum(TOY), seed=0)] for scale in (by_folder, by_run)]
    assert addresses[0] == addresses[1] and addresses[0][0] == runs[0].folder.name


def test_mbp_is_another_tuple_on_the_same_stage_1_at_equal_bytes(runs):
    other = run_steps(TOY, curriculum(TOY, decoding="mbp"), seed=0)
    assert [one.hash == run.hash for one, run in zip(other, runs, strict=True)] == [True] * 3 + [False] * 2
    assert [one.facts()["train_bytes"] for one in other] == [run.facts()["train_bytes"] for run in runs]
    assert [one.facts()["next_row"] for one in other] == [run.facts()["next_row"] for run in runs]
    stage1, first, last = (ByteStudent.from_pretrained(run.model_folder) for run in (runs[2], other[3], other[4]))
    assert (stage1.config.decoding, first.config.decoding, last.config.decoding) == ("jbp", "mbp", "mbp")
    assert (stage1.config.stage, last.config.stage) == (1, 2)
    assert isinstance(dbyte.generate(last, ["Where does Anna"], max_new_bytes=8)[0], str)
    for name, weight in stage1.state_dict().items():  # step 2.1 trains the decoder's side alone
        if name.startswith(("encoder", "router", "core", "token_")):
            assert torch.equal(weight, first.state_dict()[name]), name
    assert not torch.equal(last.second_head.weight, first.second_head.weight)


def test_a_plan_is_what_is_executed(runs, monkeypatch):
    planned = plan_steps(TOY, curriculum(TOY), seed=0)
    assert [(one.run.hash, one.status) for one in planned] == [(run.hash, "complete") for run in runs]
    assert [one.parent for one in planned] == [None, *(one.address for one in planned[:-1])]
    before = [(run.folder / "complete.json").stat().st_mtime_ns for run in runs]
    monkeypatch.setattr("dbyte.distill.curriculum.load_teacher", None)
    again = execute(TOY, planned, seed=0)
    assert [run.hash for run in again] == [run.hash for run in runs], "nothing is loaded"
    assert [(run.folder / "complete.json").stat().st_mtime_ns for run in again] == before


def test_a_streamed_scale_trains_and_each_step_reads_on(tmp_path):
    for shard in range(2):
        lines = [json.dumps({"text": text}) for text in load_corpus("world", seed=shard, max_bytes=40_000).documents]
        (tmp_path / f"train-{shard}.jsonl").write_text("\n".join(lines))
    streamed = dataclasses.replace(TOY, corpora=((f"hub:{tmp_path}", 60_000),), streamed=True)
    first, second = run_steps(streamed, curriculum(streamed)[:2], seed=0)
    states = [run.facts()["feed"] for run in (first, second)]
    assert states[0].keys() == states[1].keys() == {"0", "1"} and states[0] != states[1]
    assert first.hash not in [run.hash for run in run_steps(TOY, curriculum(TOY)[:1], seed=0)]
    feed = StreamFeed(streamed.corpora, TokenBytes.from_tokenizer(load_teacher(teacher_run(streamed, seed=0))[1]),
                      row_bytes=TOY.row_bytes, batch_rows=TOY.batch_rows, seed=0)
    for update in range(first.facts()["updates"] + second.facts()["updates"]):
        feed.batch(update)
    assert feed.state() == states[1], "two steps read what one stream reads"
    feed.close()


@pytest.mark.parametrize("streamed", [False, True])
def test_a_core_of_few_positions_trains_on_long_documents_through_every_step(streamed, monkeypatch, tmp_path):
    """Rows are cut for the teacher's tokens; the untrained router cuts finer, and the core begins anew."""
    seen, whole = [], core.run_core

    def watched(part, input_BME, document_BM, cache=None):
        seen.append(int(core.positions_within(document_BM).masked_fill(document_BM < 0, 0).max()) + 1)
        return whole(part, input_BME, document_BM, cache)

    for module in ("teacher", "curriculum"):  # a run that an earlier session completed would train nothing
        monkeypatch.setattr(f"dbyte.distill.{module}.Run", partial(Run, root=tmp_path))
    monkeypatch.setattr("dbyte.model.student.run_core", watched)
    tight = dataclasses.replace(TOY, streamed=streamed, teacher=dataclasses.replace(TOY.teacher, positions=24))
    tight_runs = run_steps(tight, curriculum(tight), seed=0)
    assert all(run.is_complete() for run in tight_runs)
    assert max(seen) == 24
    assert ByteStudent.from_pretrained(tight_runs[-1].model_folder).config.core_config.max_position_embeddings == 24


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_step_runs_from_a_folder_in_half_precision_and_trains_in_full(dtype, tokenizer, monkeypatch, tmp_path):
    monkeypatch.setattr("dbyte.distill.curriculum.Run", partial(Run, root=tmp_path))
    make_teacher().to(dtype).save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    half = dataclasses.replace(TOY, teacher=str(tmp_path / "teacher"))
    made = run_steps(half, curriculum(half), seed=0)
    assert len(made) == 5 and all(math.isfinite(run.metrics()[-1]["loss"]) for run in made)
    for run in made:
        weights = load_file(run.model_folder / "model.safetensors").values()
        assert {weight.dtype for weight in weights if weight.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize("reading, run", [("token", None), ("stage1/tokenizer", 0), ("stage1/router", 2),
                                          ("stage2/router", 4)])
def test_every_reading_is_measured_and_remembered(runs, reading, run):
    folder = teacher_run(TOY, seed=0) if run is None else runs[run].model_folder
    measurer = Measurer(TOY, 0)
    first, second = (measurer.columns(folder, reading) for _ in range(2))
    assert first == second and all(result.n == 4 for result in first.values())
    bits = measurer.bits(folder, reading, "world")
    assert 0 < bits["value"] < 12 and bits["n"] > 0 and bits == measurer.bits(folder, reading, "world")


@pytest.mark.parametrize("reading, apart", [("stage2/router", True), ("stage1/router", True), ("token", False)])
def test_what_compiled_steps_wrote_is_remembered_apart_and_scores_are_not(reading, apart, monkeypatch, tmp_path):
    keys, answered = {}, dict(column="", metric="", accuracy=0.0, stderr=0.0, n=2, chance=0.0, correct=[0.0, 0.0],
                              items_hash="")
    for compiler in ("c++", None):
        monkeypatch.setattr("dbyte.evaluate.measure.find_compiler", lambda compiler=compiler: compiler)
        monkeypatch.setattr(Measurer, "_known",
                            lambda self, key, *rest: keys.setdefault(key["column"], []).append(key) or answered.copy())
        for name in ("GSM8K", "PIQA"):
            Measurer(TOY, 0).column(tmp_path, reading, minibench.EVERY[name], items=2)
    assert (keys["GSM8K"][0] != keys["GSM8K"][1]) == apart and keys["PIQA"][0] == keys["PIQA"][1]


def test_an_unknown_reading_is_refused(runs):
    with pytest.raises(ValueError, match="stage1/router"):
        Measurer(TOY, 0).bits(runs[0].model_folder, "stage3", "world")


def test_a_teacher_folder_without_weights_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="weights"):
        load_teacher(tmp_path)
    with pytest.raises(FileNotFoundError, match="hub"):
        load_teacher("no-such-owner/no-such-model")


def test_another_family_is_refused(tmp_path, tokenizer):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=16, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="gpt2"):
        load_teacher(tmp_path)
