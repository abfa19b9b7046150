"""Recipes beside the paper's: losses by hand, boundaries that look back alone, what trains, what resumes, fairness."""

import dataclasses
import json
import math
import shutil

import pandas as pd
import pytest
import torch
from conftest import make_student
from oracle import Oracle
from test_variants import TINY

from dbyte import presets
from dbyte.distill import losses, recipes, terms, trainer
from dbyte.distill.curriculum import curriculum, new_student
from dbyte.distill.recipes import token_log_probs
from dbyte.distill.teacher import teacher_run
from dbyte.distill.terms import Forward, language_model
from dbyte.evaluate.measure import Measurer
from dbyte.evaluate.score import Request, Scorer
from dbyte.model.core import first_layers, run_core
from dbyte.model.entropy_router import entropy
from dbyte.model.student import ByteStudent
from dbyte.model.student_config import StudentConfig
from dbyte.model.teacher import load_teacher
from dbyte.presets import SCALES
from dbyte.text.spans import BOS
from dbyte_paper import baselines, claims, results
from dbyte_paper.baselines import RECIPES, STAGE1, STAGES, TO_BYTES, runs_of, students
from dbyte_paper.equal_loss import bytes_ratio

STUDENTS = [name for name in RECIPES if name not in TO_BYTES]
UPDATE = TINY.batch_rows * TINY.row_bytes
TOTAL = 4 * UPDATE
BYTE_LM = dict(router="entropy", router_width=16, router_layers=1)


# -- losses -----------------------------------------------------------------------------------------------------------


def test_the_ratio_loss_by_hand_a_row_at_a_time():
    prob_BL = torch.tensor([[0.6, 0.2, 0.1, 0.1, 0.9], [0.5, 0.5, 0.9, 0.9, 0.9]], requires_grad=True)
    boundary_BL = torch.tensor([[True, False, False, False, True], [True, False, True, True, True]])
    label_BL = torch.tensor([[True, True, False, False, True], [True, False, False, False, False]])
    mask_BL = torch.tensor([[True] * 4 + [False], [True] * 2 + [False] * 3])
    total, count = losses.ratio(prob_BL, boundary_BL, label_BL, mask_BL)
    # row 0: F 1/4, G 1/4, s 1/2: 1/8 + 9/8; row 1: F = G = s = 1/2: 1, the least
    assert (total.item(), int(count)) == (pytest.approx(4 * 1.25 + 2 * 1), 6)
    total.backward()
    assert (prob_BL.grad[0, :4] < 0).all() and not prob_BL.grad[1].any(), "too few boundaries: all rise; enough: none"
    assert not prob_BL.grad[~mask_BL].any()
    parts = [losses.ratio(*(each[row : row + 1] for each in (prob_BL, boundary_BL, label_BL, mask_BL)))[0]
             for row in (0, 1)]
    assert sum(parts).item() == pytest.approx(total.item()), "however a batch is split"


def test_a_perfect_encoder_matches_and_the_gradient_stays_below_the_layers(
    teacher, student, token_bytes, batch, monkeypatch
):
    total, count = terms.match(1).loss(Forward(student, teacher, batch), batch.token_mask_BM)
    assert count == batch.token_mask_BM.sum() and total > 0
    embedding_BME = student.chunk_embeddings(student.encode(batch.byte_ids_BL, batch.document_BL),
                                             Forward(student, teacher, batch).teacher_chunks, batch.byte_ids_BL)
    states = [run_core(first_layers(model, 1), embeddings, batch.token_document_BM) for model, embeddings in (
        (student.core, embedding_BME), (teacher.model, teacher.get_input_embeddings()(batch.token_ids_BM)))]
    by_hand = ((states[0] - states[1]) ** 2).mean(-1).sqrt()[batch.token_mask_BM].sum()
    torch.testing.assert_close(total, by_hand)
    total.backward()
    moved = {name.split(".")[0] for name, weight in student.named_parameters()
             if weight.grad is not None and weight.grad.any()}
    assert moved == {"byte_embedding", "encoder", "encoder_projection", "core"}
    assert all(weight.grad is None for weight in (*student.core.layers[1].parameters(), student.core.norm.weight))
    assert all(weight.grad is None for weight in teacher.parameters())
    Oracle(student, teacher, token_bytes, monkeypatch)
    total, _ = terms.match(1).loss(Forward(student, teacher, batch), terms.predicted_tokens(batch))  # it knows no EOS
    assert total.item() == 0
    with pytest.raises(ValueError, match="this core has 2 layers: name 1 to 2 of them"):
        first_layers(student.core, 3)


@torch.inference_mode()
def test_the_first_layers_are_those_of_the_whole_core(teacher, batch):
    embedding_BME = teacher.get_input_embeddings()(batch.token_ids_BM)
    whole = run_core(teacher.model, embedding_BME, batch.token_document_BM)
    kept = len(teacher.model.layers)
    all_of_it = run_core(first_layers(teacher.model, 2), embedding_BME, batch.token_document_BM)
    torch.testing.assert_close(teacher.model.norm(all_of_it), whole)
    assert len(teacher.model.layers) == kept and teacher.model.norm(whole) is not whole
    torch.testing.assert_close(run_core(teacher.model, embedding_BME, batch.token_document_BM), whole)


@torch.inference_mode()
def test_the_probability_of_a_token_is_that_of_its_symbols(student, batch):
    logits_BLK2 = torch.randn(*batch.byte_ids_BL.shape, 512)
    found = token_log_probs(logits_BLK2, batch.byte_ids_BL, batch.boundary_BL, losses.has_next(batch.document_BL))
    log_BLK2 = logits_BLK2.log_softmax(-1)
    for row in range(len(batch.byte_ids_BL)):
        ends = batch.boundary_BL[row].nonzero()[:, 0].tolist()
        for token in range(1, len(ends)):
            if batch.document_BL[row, ends[token - 1]] != batch.document_BL[row, ends[token]]:
                continue
            wanted = sum(log_BLK2[row, place - 1, batch.byte_ids_BL[row, place] + 256 * (place == ends[token])]
                         for place in range(ends[token - 1] + 1, ends[token] + 1))
            torch.testing.assert_close(found[row, token], wanted)


def test_the_likelihood_of_a_token_is_least_where_both_agree(teacher, student, batch):
    forward = Forward(student, teacher, batch)
    mask_BM = terms.predicted_tokens(batch)
    total, count = recipes.token_likelihood.loss(forward, mask_BM)
    log_T = language_model(teacher, batch) @ teacher.get_output_embeddings().weight.T
    log_T = log_T.log_softmax(-1).gather(-1, batch.token_ids_BM.roll(-1, 1)[..., None])[..., 0][mask_BM]
    of_student = token_log_probs(forward.byte_logits_from_teacher_BLK, batch.byte_ids_BL,
                                 batch.boundary_BL, losses.has_next(batch.document_BL))
    of_student = of_student[:, 1 : mask_BM.shape[1] + 1][mask_BM]
    p, q = (log / 5 for log in (log_T, of_student))
    by_hand = (p.exp() * (p - q) + (1 - p.exp()) * ((1 - p.exp()).log() - (1 - q.exp()).log())).sum()
    torch.testing.assert_close(total, by_hand, rtol=1e-3, atol=1e-3)
    assert total > 0 and count == mask_BM.sum()
    total.backward()
    assert all(weight.grad is None for weight in student.core.parameters()), "the decoder reads the teacher's states"


# -- boundaries by entropy --------------------------------------------------------------------------------------------


@pytest.fixture
def by_entropy(teacher, tokenizer):
    """A student whose byte model is sure of some bytes and not of others."""
    student = make_student(teacher, tokenizer, **BYTE_LM)
    with torch.no_grad():
        student.router.byte_head.weight.normal_()
        ids_BL = torch.randint(0, 250, (4, 100))
        logits = student.router.byte_head(student.router.read(ids_BL, torch.zeros_like(ids_BL)))
        student.router.threshold.copy_(entropy(logits).median())
    return student


@torch.inference_mode()
def test_entropy_boundaries_look_back_alone_and_stay_in_their_document(by_entropy, batch):
    ids_BL = torch.randint(32, 120, (3, 60))
    document_BL = torch.zeros_like(ids_BL)
    prob_BL = by_entropy.route(None, ids_BL, document_BL)
    assert 0.2 < (prob_BL >= 0.5).float().mean() < 0.8
    changed_BL = ids_BL.clone()
    changed_BL[:, 40] = (changed_BL[:, 40] - 32 + 1) % 88 + 32
    other_BL = by_entropy.route(None, changed_BL, document_BL)
    assert torch.equal(prob_BL[:, :40], other_BL[:, :40]), "a later byte, the next one included, changes nothing"
    assert (prob_BL[:, 40:59] != other_BL[:, 40:59]).any()
    packed_BL = by_entropy.route(None, batch.byte_ids_BL, batch.document_BL)
    second_L = batch.document_BL[0] == 1
    alone_L = by_entropy.route(None, batch.byte_ids_BL[:1, second_L], batch.document_BL[:1, second_L])[0]
    torch.testing.assert_close(packed_BL[0, second_L], alone_L)
    assert alone_L[-1] == 1


def test_the_threshold_is_where_as_many_entropies_are_above_as_tokens_end():
    generator = torch.Generator().manual_seed(0)
    entropy_BL = torch.rand(8, 400, generator=generator) * 4
    label_BL = torch.rand(8, 400, generator=generator) < 0.25
    mask_BL = torch.ones_like(label_BL)
    mask_BL[:, 300:] = False
    threshold_1 = torch.ones(1, requires_grad=True)
    optimiser = torch.optim.SGD([threshold_1], lr=1.0)
    for _ in range(400):
        optimiser.zero_grad()
        total, count = losses.threshold(entropy_BL, threshold_1, label_BL, mask_BL)
        (total / count).backward()
        optimiser.step()
    asked, found = (float(each[mask_BL].float().mean()) for each in (label_BL, entropy_BL >= threshold_1))
    assert found == pytest.approx(asked, abs=0.005), "so the mean length of chunks is that of tokens"
    assert threshold_1.item() == pytest.approx(4 * (1 - asked), abs=0.1)


@torch.inference_mode()
def test_a_text_along_entropy_boundaries_has_the_sum_over_both_flags_as_its_score(by_entropy):
    text = b"Where does Mira live?"
    (score,) = Scorer(by_entropy, stage=2).score([Request(text, 6)])
    ids_BL = torch.tensor([[BOS, *text]])
    log_LK = by_entropy(ids_BL).byte_logits[0].log_softmax(-1)
    folded_L = torch.logaddexp(log_LK[:, :256], log_LK[:, 256:])
    wanted = sum(folded_L[place - 1, ids_BL[0, place]] for place in range(7, len(text) + 1))
    assert score.nats == pytest.approx(wanted.item(), abs=1e-4) and score.nats == score.folded_nats
    total = folded_L.exp().sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total))


def test_settings_that_do_not_go_with_an_entropy_router_are_refused():
    for given in (dict(smoothing=True), dict(decoding="mbp"), dict(router_suffixes=4)):
        with pytest.raises(ValueError, match="entropy|integrated"):
            StudentConfig(**BYTE_LM, **given)


# -- as steps of the one loop -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES.values(), ids=list(SCALES))
def test_all_recipes_read_as_many_bytes_at_every_budget(scale):
    if isinstance(scale.teacher, str):
        scale = dataclasses.replace(scale, teacher=SCALES["smoke"].teacher)  # its layers are on a disk elsewhere
    assert baselines.budgets(scale) == sorted(set(baselines.budgets(scale)))
    for total in (*baselines.budgets(scale), 123_457):
        found = students(scale, total)
        assert set(found) == set(STUDENTS)
        assert {sum(step.train_bytes for step in one.steps) for one in found.values()} == {total}
    assert scale.name != "small" or baselines.budgets(scale) == [1_000_000, 3_000_000, 9_000_000, 20_000_000]
    stages = [step.objective.name for step in found[STAGES].steps]
    assert stages == [step.objective.name for step in curriculum(scale)], "the two stages are the scale's own"


TRAINED = {  # what each step of a recipe moves, of the parts of a student
    "H-Net distillation": [{"encoder", "router", "decoder"}],
    "H-Net, own boundaries": [{"encoder", "router", "decoder", "core"}],
    "from scratch": [{"encoder", "router", "decoder", "core"}],
    "BLT-style": [{"router"}, {"encoder", "decoder", "core"}],
    "Bolmo-style": [{"encoder", "router", "decoder"}, {"encoder", "router", "decoder", "core"}],
}


def weights(folder):
    return {name: weight for name, weight in ByteStudent.from_pretrained(folder).state_dict().items()
            if not name.startswith("token_")}


def moved(before, after):
    return {part for part in ("encoder", "router", "decoder", "core")
            if any(not torch.equal(weight, before[name]) for name, weight in after.items()
                   if name.startswith(f"{part}."))}


@pytest.fixture(scope="module")
def first():
    """The teacher, and the weights of the student of a recipe before its first update."""
    model, tokenizer = load_teacher(teacher_run(TINY, seed=0))

    def begun(name):
        student = TINY.student | students(TINY, TOTAL)[name].student
        new = new_student(dataclasses.replace(TINY, student=student), model, tokenizer, seed=0)
        return {key: weight for key, weight in new.state_dict().items() if not key.startswith("token_")}

    return model, begun


@pytest.mark.parametrize("name", TRAINED)
def test_a_recipe_trains_its_parts_and_nothing_else(name, first):
    runs = runs_of(TINY, name, TOTAL, factor=1.0, seed=0)
    assert sum(run.facts()["updates"] for run in runs) == 4 and len(runs) == len(TRAINED[name])
    kept = [first[1](name), *(weights(run.model_folder) for run in runs)]
    for before, after, parts in zip(kept, kept[1:], TRAINED[name], strict=False):
        assert moved(before, after) == parts
    same = all(torch.equal(kept[0][f"core.{key}"], weight) for key, weight in first[0].model.state_dict().items()
               if "embed_tokens" not in key)
    assert same, "each begins with the teacher's core"
    if name == "from scratch":  # four updates do not turn a core around
        near = [torch.nn.functional.cosine_similarity(weight.flatten(), kept[0][key].flatten(), dim=0).abs()
                for key, weight in kept[1].items() if key.startswith("core.") and weight.ndim == 2]
        assert max(near) < 0.5, "a core of its own"


@pytest.mark.parametrize("name", ["from scratch", "Bolmo-style"])
def test_a_recipe_resumes_to_the_bit(name, monkeypatch):
    runs = runs_of(TINY, name, TOTAL, factor=1.0, seed=0)
    wanted = weights(runs[-1].model_folder)
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(trainer, "CHECKPOINT_SHARE", float("inf"))
    shutil.rmtree(runs[-1].folder)
    update, done = trainer.train_on, []

    def killed_after_one(*arguments, **options):
        if done:
            raise InterruptedError
        done.append(None)
        return update(*arguments, **options)

    monkeypatch.setattr(trainer, "train_on", killed_after_one)
    with pytest.raises(InterruptedError):
        runs_of(TINY, name, TOTAL, factor=1.0, seed=0)
    assert runs[-1].status() == "resumable"
    monkeypatch.setattr(trainer, "train_on", update)
    again = runs_of(TINY, name, TOTAL, factor=1.0, seed=0)
    assert again[-1].hash == runs[-1].hash and again[-1].facts()["updates"] == runs[-1].facts()["updates"]
    for key, weight in weights(again[-1].model_folder).items():
        assert torch.equal(weight, wanted[key]), key


# -- what notebook 11 says of them ------------------------------------------------------------------------------------


def test_bytes_at_equal_bits_are_read_between_budgets_and_bounded_beyond_them():
    slow = [(1e6, 3.0), (4e6, 2.0), (16e6, 1.5)]
    fast = [(1e6, 2.5), (4e6, 1.5), (16e6, 1.0)]
    ratio, side = bytes_ratio(fast, slow)  # both reach 1.5: after 16 and after 4 MB
    assert (ratio, side) == (pytest.approx(4), "")
    ratio, side = bytes_ratio(slow, fast)
    assert (ratio, side) == (pytest.approx(0.25), "")
    middle, _ = bytes_ratio([(1e6, 2.0), (4e6, 1.0)], [(1e6, 2.5), (16e6, 1.5)])
    assert middle == pytest.approx(9), "bits fall as a power of bytes: 1.5 of 2.0 and 1.0 is at (4/3)^2 MB"
    assert bytes_ratio([(2e6, 1.0)], slow) == (pytest.approx(8), "at least")
    assert bytes_ratio(slow, [(2e6, 1.0)]) == (pytest.approx(1 / 8), "at most")


def test_a_ratio_has_an_interval_over_seeds_and_no_end_where_a_curve_has_none():
    bits = pd.DataFrame([{"model": model, "corpus": "world", "train_bytes": size, "by_seed": values}
                         for model, size, values in (("a", 1e6, "2.5 2.5"), ("a", 4e6, "1.5 1.5"),
                                                     ("b", 1e6, "3 3"), ("b", 16e6, "1.5 2.0"), ("c", 1e6, "9 9"))])
    both, bound = baselines.ratio_rows(bits, "a", ["b", "c"])
    between = 4 ** (math.log(2.5 / 2) / math.log(2.5 / 1.5))  # MB at which a reaches 2 bits with its second seed
    assert both["value"] == pytest.approx(math.sqrt(4 * 16 / between)) and both["low"] < both["value"] < both["high"]
    assert (both["bound"], both["seeds"], both["what"]) == ("", 2, "b / a")
    assert bound["bound"] == "at least" and bound["high"] == math.inf and bound["value"] == pytest.approx(1)
    worse = pd.concat([bits, bits.tail(1).assign(train_bytes=4e6, by_seed="9.5 8")])
    assert [each[-1][1] for each in baselines.curve(worse[worse["model"] == "c"])] == [9, 8]


def test_every_page_of_the_notebook_at_a_toy_size(tmp_path):
    scale = dataclasses.replace(TINY, ablation=dataclasses.replace(TINY.ablation, seeds=1))
    names = [STAGES, "BLT-style", "ALM to bytes"]
    rates = dict.fromkeys(names, 1.0)
    measurer = Measurer(scale, 0)
    level = measurer.columns(teacher_run(scale, seed=0), "token", items=scale.ablation.items)
    trained = baselines.train(scale, rates, TOTAL, seed=0)
    assert set(trained) == {*names, STAGE1} and {len(by_seed) for by_seed in trained.values()} == {1}
    assert all(run.config["step"]["stage"] == 1 for run in trained[STAGE1][0]) and len(trained[STAGE1][0]) == 3
    given = baselines.arms(trained, rates, TOTAL)
    assert {arm["train_bytes"] for name, arm in given.items() if name != STAGE1} == {TOTAL}
    assert given[STAGE1]["train_bytes"] < TOTAL and {arm["budget"] for arm in given.values()} == {TOTAL}
    measured = baselines.measure(measurer, trained)
    assert {tuple(columns) for by_seed in measured.values() for columns in by_seed} == {tuple(level)}
    record = results.Recorder("toy", seeds=[0, 1], folder=tmp_path)
    with record("bits", keys=["model", "corpus", "budget"], of="test") as rows:
        rows += baselines.bits_rows(measurer, trained, given)
    bits = record.read("bits")
    assert (bits["value"] > 0).all() and bits["by_seed"].str.split().str.len().eq(1).all()
    with record("recipes", keys=["model", "task"], of="test") as rows:
        rows += [{"model": "teacher", "task": name, "value": 100 * one.accuracy, "stderr": 1.0, "n": one.n,
                  "chance": 100 * one.chance} for name, one in level.items()]
        rows += baselines.ablation_runs.accuracy_rows(measured, arms=given)
    table = baselines.beside_published(record.read("recipes"))
    assert dict(zip(table["model"], table["drop, Table 1"], strict=True))["ALM to bytes"] == "4.50"
    kept = pd.DataFrame([{"model": STAGES, "train_bytes": TOTAL, "value": 90.0, "stderr": 1.0}])
    for found in (None, kept):
        figure = baselines.recipes_figure(found, bits, list(trained))
        assert len(figure.axes) == len(set(bits["corpus"])) + (found is not None)
    rows = baselines.kept_rows(measured, {name: dataclasses.replace(
        one, accuracy=1.0, correct=type(one.correct)([1.0] * len(one.correct))) for name, one in level.items()}, given)
    assert {row["model"] for row in rows} == set(trained) and all(row["value"] <= 100 for row in rows)


def test_the_claims_on_other_recipes_are_judged_where_the_notebook_has_run(tmp_path):
    asked = [one for one in claims.every_claim(presets.scale("smoke")) if one.notebook == "11_baselines"]
    assert len(asked) == 7 and all(one.criteria for one in asked)
    arm = {"sweep": "1/3 1 3", "rate": 1.0, "budget": 100, "train_bytes": 100, "n": 100, "clusters": 100, "seeds": 3}
    record = results.Recorder("smoke", seeds=[0], folder=tmp_path)
    with record("recipes", keys=["model", "task"], of="test") as rows:
        for model in (*RECIPES, STAGE1):
            rows += [arm | {"model": model, "task": task, "value": 60.0, "stderr": 1.0, "chance": 25.0}
                     for task in ("average", "ARC-E")]
    with record("recipes_difference", keys=["what", "task"], of="test") as rows:
        for one in (STAGES, STAGE1, "BLT-style"):
            rows += [arm | {"what": f"{one} - {other}", "task": task, "value": 5.0, "stderr": 1.0, "low": 3.0,
                            "high": 7.0} for other in (*RECIPES, STAGE1) if other != one
                     for task in ("average", "ARC-E")]
    with record("recipes_ratio", keys=["what", "corpus"], of="test") as rows:
        rows += [{"what": f"{other} / {one}", "corpus": corpus, "value": 7.0, "stderr": math.inf, "n": 3, "low": 6.5,
                  "high": math.inf, "bound": "at least"} for one in (STAGES, STAGE1) for other in RECIPES
                 for corpus in ("world", "pydocs") if other != one]
    found = claims.judged(scale=presets.scale("smoke"), folder=tmp_path).set_index("id")
    verdicts = found.loc[[one.id for one in asked], "verdict"]
    assert set(verdicts.drop("less than Bolmo")) == {"shown"} and verdicts["less than Bolmo"] == "opposite"
    assert json.loads((tmp_path / "smoke" / "recipes_ratio.json").read_text())["keys"] == ["what", "corpus"]
