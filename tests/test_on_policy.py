"""On-policy distillation: the loss on written tokens, its batches, and a run that resumes to the bit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import TEXTS, make_student, make_teacher
from test_chat import smollm, template

from dbyte.decode.trajectories import Sample
from dbyte.distill import losses, objectives, terms, trainer
from dbyte.distill.loader import Feed
from dbyte.distill.on_policy import OnPolicyFeed, judged_batch, told
from dbyte.distill.on_policy_loss import Side, judged, spans
from dbyte.distill.runs import Run
from dbyte.distill.steps import CORE, ENCODER, ROUTER, Group, Step, check_sharding
from dbyte.distill.terms import Forward
from dbyte.distill.trainer import train
from dbyte.model.core import run_core
from dbyte.presets import OnPolicy
from dbyte.text.packing import document, pack
from dbyte.text.spans import EOS

PROMPTS = ["The cat sat", "Where does Mira live?", "", "naïve café 😀", "1 + 2 ="]
POLICY = OnPolicy(prompts="none", most=9, rows=4, updates=6, prompt_bytes=24, new_bytes=24, rate=1e-3)
STEP = Step("on-policy", 1, objectives.on_policy(), (Group(ENCODER + CORE + ROUTER + ("token_head",), 1e-3),),
            POLICY.updates * POLICY.rows * POLICY.row_bytes, warmup=0.1, policy=POLICY)
BETAS = (0.0, 0.3, 1.0)


@pytest.fixture
def feed(token_bytes):
    return make_feed(token_bytes)


def make_feed(token_bytes, **changes):
    rows = pack([document(a, token_bytes) for a in token_bytes.align_batch(TEXTS)], row_bytes=POLICY.row_bytes)
    policy = replace(POLICY, **changes)
    corpus = Feed(rows, round(policy.corpus_share * policy.rows), 0) if policy.corpus_share else None
    return OnPolicyFeed(policy, token_bytes.align_batch(PROMPTS), token_bytes, seed=0, corpus=corpus)


def written(token_bytes, text, *, pieces=None, ended=True):
    """A sample of this text in the tokenizer's tokens, or in those of its pieces."""
    ids = [token for piece in pieces or [text] for token in token_bytes.align(piece).token_ids.tolist()]
    ends = np.cumsum([len(token_bytes.token_bytes[token]) for token in ids] + [1] * ended).tolist()
    return Sample(text.encode() + bytes([EOS] * ended), (*ids, *[token_bytes.eos_token_id] * ended), tuple(ends), "")


def batch_of(feed, samples):
    return judged_batch([feed._row(prompt, one) for prompt, one in zip(feed.prompts, samples, strict=False)])


def loss_of(beta, student, teacher, batch):
    term = judged(beta)
    return term.loss(Forward(student, teacher, batch), term.where(batch))


# -- the loss ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", BETAS)
def test_with_equal_boundaries_it_is_the_divergence_of_each_token_to_the_bit(beta, student, teacher, token_bytes):
    feed = make_feed(token_bytes, corpus_share=1.0)
    batch = judged_batch([feed._corpus_row(number) for number in range(len(feed.corpus.rows))])
    student.requires_grad_()
    total, count = loss_of(beta, student, teacher, batch)
    mask_BM = losses.has_next(batch.token_document_BM)
    plain, tokens = terms._divergence(Forward(student, teacher, batch), mask_BM, divergence=losses.generalised(beta))
    assert torch.equal(total, plain) and count == tokens == mask_BM.sum()
    weights = [weight for part in ("encoder", "core") for weight in getattr(student, part).parameters()]
    for one, two in zip(torch.autograd.grad(total, weights, allow_unused=True),
                        torch.autograd.grad(plain, weights, allow_unused=True), strict=True):
        assert (one is None and two is None) or torch.equal(one, two)


@pytest.mark.parametrize("beta", BETAS)
def test_merged_spans_compare_what_the_chain_rule_says_of_their_bytes(beta, student, teacher, token_bytes, feed):
    text, pieces = "the house of Mira", ["the h", "ou", "se of", " Mi", "ra"]
    ours = written(token_bytes, text, pieces=pieces)
    batch = batch_of(feed, [ours])
    own, other = Side.of(batch.own_boundary_BL, batch), Side.of(batch.boundary_BL, batch)
    assert 0 < spans(own, other, batch).sum() < len(spans(own, other, batch)), "some merge and some do not"
    total, count = loss_of(beta, student, teacher, batch)

    prob_BL = student.route(student.encode(batch.byte_ids_BL, batch.document_BL), batch.byte_ids_BL, batch.document_BL)
    boundary_BL = torch.where(batch.routed_BL, prob_BL >= 0.5, batch.own_boundary_BL)
    own_MV = student(batch.byte_ids_BL, boundary_BL=boundary_BL).token_logits[0].log_softmax(-1)
    other_MV = teacher.lm_head(run_core(teacher.model, teacher.model.embed_tokens(batch.token_ids_BM),
                                        batch.token_document_BM))[0].log_softmax(-1)
    prompt = len(feed.prompts[0].token_ids)
    chunk, token = int(boundary_BL[0, : 1 + len(PROMPTS[0])].sum()), 1 + prompt  # of the first written token
    theirs = batch.token_ids_BM[0, token:].tolist()
    lengths = [[len(token_bytes.token_bytes[each]) or 1 for each in ids] for ids in (ours.token_ids, theirs)]
    ends = [np.cumsum(each).tolist() for each in lengths]
    expected, places, spans_seen = 0.0, [0, 0], 0
    for end in sorted(set(ends[0]) & set(ends[1])):
        stops = [each.index(end) + 1 for each in ends]
        at = [own_MV[chunk - 1 + places[0]], other_MV[token - 1 + places[1]]]
        if stops[0] - places[0] == stops[1] - places[1] == 1:
            pair = [each[None] for each in at]
        else:
            sums = [sum(log_MV[first - 1 + k, ids[k]] for k in range(place, stop)) for log_MV, first, ids, place, stop
                    in zip((own_MV, other_MV), (chunk, token), (ours.token_ids, theirs), places, stops, strict=True)]
            pair = [torch.stack([each, torch.log1p(-each.exp())])[None] for each in sums]
        expected += losses.generalised(beta)(*pair)[0]
        places = stops
        spans_seen += 1
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-5)
    assert count == spans_seen


def test_rows_and_their_padding_do_not_matter_to_each_other(student, teacher, token_bytes, feed):
    samples = [written(token_bytes, "the house", pieces=["t", "he hou", "se"]), written(token_bytes, " Oslo and on"),
               Sample(bytes([EOS]), (token_bytes.eos_token_id,), (1,), "empty"), written(token_bytes, "x", ended=False)]
    together, count = loss_of(1.0, student, teacher, batch_of(feed, samples))
    alone = [loss_of(1.0, student, teacher, judged_batch([feed._row(prompt, one)]))
             for prompt, one in zip(feed.prompts, samples, strict=False)]
    torch.testing.assert_close(together, sum(total for total, _ in alone))
    parts = [loss_of(1.0, student, teacher, part) for part in batch_of(feed, samples).split(3)]
    torch.testing.assert_close(together, sum(total for total, _ in parts))
    assert count == sum(each for _, each in alone) == sum(each for _, each in parts)


def test_the_router_learns_from_eq_4_alone(student, teacher, token_bytes, feed):
    batch = batch_of(feed, [written(token_bytes, " on the mat"), written(token_bytes, "In", pieces=["I", "n"])])
    student.requires_grad_()
    loss_of(1.0, student, teacher, batch)[0].backward()
    assert all(weight.grad is None for weight in student.router.parameters())
    assert student.token_head.weight.grad.abs().sum() > 0 and student.byte_embedding.weight.grad.abs().sum() > 0
    objectives.on_policy()(student, teacher, batch).backward()
    assert all(weight.grad.abs().sum() > 0 for weight in student.router.parameters())


def test_the_teacher_reads_a_batch_once(student, teacher, token_bytes, feed):
    calls = []
    teacher.model.layers[0].register_forward_hook(lambda *_: calls.append(None))
    batch = batch_of(feed, [written(token_bytes, " on the mat"), written(token_bytes, "In", pieces=["I", "n"])])
    objectives.on_policy()(student, teacher, batch)
    assert len(calls) == 1


def test_a_judged_end_that_is_not_common_is_refused(student, teacher, token_bytes, feed):
    batch = batch_of(feed, [written(token_bytes, "the mat")])
    last = int(batch.judged_BL[0].nonzero()[-1])
    batch.own_boundary_BL[0, last] = False
    with pytest.raises(AssertionError, match="ends with a token on both sides"):
        loss_of(1.0, student, teacher, batch)


def test_nothing_to_judge_is_no_loss_and_still_a_step(student, teacher, feed):
    batch = batch_of(feed, [Sample(b"", (), (), "endless")] * 2)
    student.requires_grad_()
    loss = objectives.on_policy()(student, teacher, batch)
    loss.backward()
    assert loss.isfinite() and loss_of(1.0, student, teacher, batch)[1] == 0


# -- batches ----------------------------------------------------------------------------------------------------------


def test_an_update_writes_the_same_again_and_its_parts_make_it_up(student, teacher, token_bytes):
    feed = make_feed(token_bytes, teacher_share=0.25, corpus_share=0.25)
    feed.watch(student, teacher)
    whole, again = feed.batch(3), feed.batch(3)
    assert all(torch.equal(one, two) for one, two in zip(vars(whole).values(), vars(again).values(), strict=True))
    texts = [bytes(row[mask].tolist()) for part in range(2) for batch in [feed.batch(3, part=part, parts=2)]
             for row, mask in zip(batch.byte_ids_BL, batch.mask_BL, strict=True)]
    assert sorted(texts) == sorted(bytes(row[mask].tolist())
                                   for row, mask in zip(whole.byte_ids_BL, whole.mask_BL, strict=True))
    assert not torch.equal(feed.batch(4).byte_ids_BL, whole.byte_ids_BL)
    assert feed.batch(0).byte_ids_BL.shape[1] <= feed.row_bytes
    with pytest.raises(ValueError, match="4 prompts, which 3 processes"):
        feed.batch(0, part=0, parts=3)


def test_a_batch_tells_lengths_shares_and_coverage(token_bytes, feed):
    samples = [written(token_bytes, "the house", pieces=["t", "he hou", "se"]),
               Sample(bytes([EOS]), (token_bytes.eos_token_id,), (1,), "empty")]
    found = told(batch_of(feed, samples), samples)
    assert found["coverage"] == 1 and found["empty"] == 0.5 and found["length"] == 5.5
    assert 0 < found["in_full"] < 1 and 0 < found["boundary_f1"] < 1
    equal = told(batch_of(feed, [written(token_bytes, "the house")]), [])
    assert equal == {"coverage": 1, "in_full": 1, "boundary_f1": 1}


def test_every_prompt_comes_once_in_a_pass(feed):
    passes = [[feed._prompt(number).byte_ids.tolist() for number in range(start, start + 5)] for start in (0, 5)]
    assert sorted(passes[0]) == sorted(passes[1]) == sorted(prompt.byte_ids.tolist() for prompt in feed.prompts)


@pytest.mark.parametrize("wrong, message", [
    (dict(teacher_share=0.3), "whole rows of 4"), (dict(teacher_share=0.75, corpus_share=0.5), "parts of one"),
    (dict(new_bytes=0), "new_bytes must be at least 1"), (dict(temperature=-1.0), "temperature must be at least 0"),
])
def test_an_impossible_mixture_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        replace(POLICY, **wrong)


def test_sharded_weights_cannot_write():
    with pytest.raises(ValueError, match="writes its own samples.*--sharding ddp"):
        check_sharding((STEP,), "fsdp2")


def test_turns_of_a_chat_are_written_after_and_judged():
    chat = template(smollm())
    teacher = make_teacher(vocabulary=len(smollm()))
    student = make_student(teacher, smollm()).requires_grad_()
    messages = [[{"role": "user", "content": text}] for text in ("Why is it so? 😀", "", "Hello")]
    prompts = [chat.encode(each, reply=True) for each in messages]
    feed = OnPolicyFeed(replace(POLICY, teacher_share=0.5, chat=True, prompt_bytes=64), prompts, chat.token_bytes,
                        seed=0)
    feed.watch(student, teacher)
    batch = feed.batch(0)
    for row, (ids_M, byte_ids_L, judged_L) in enumerate(zip(batch.token_ids_BM, batch.byte_ids_BL, batch.judged_BL,
                                                           strict=True)):
        prompt = feed._prompt(row)
        assert ids_M[1 : 1 + len(prompt.token_ids)].equal(prompt.token_ids)
        begun = len(prompt.byte_ids) + 1
        assert byte_ids_L[1:begun].equal(prompt.byte_ids) and not judged_L[:begun].any()
    assert batch.judged_BL.any() and feed.told["coverage"] == 1
    loss = objectives.on_policy()(student, teacher, batch)
    loss.backward()
    assert loss.isfinite() and loss > 0


# -- in the one loop --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, dict(suffix=True)], ids=["plain", "suffix"])
def test_a_resumed_run_equals_an_uninterrupted_one(changes, tokenizer, token_bytes, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def go(run):
        student, teacher = make_student(make_teacher(), tokenizer, **changes), make_teacher()
        feed = make_feed(token_bytes, teacher_share=0.25, corpus_share=0.25)
        feed.watch(student, teacher)
        train(run, STEP, feed, model=student, teacher=teacher)

    straight, killed = Run({"what": "straight"}, root=tmp_path), Run({"what": "killed"}, root=tmp_path)
    go(straight)
    done, update = [], trainer.train_on

    def counted(*arguments, **options):
        done.append(None)
        if len(done) == 4:
            raise Killed
        return update(*arguments, **options)

    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(trainer, "CHECKPOINT_SHARE", float("inf"))
    monkeypatch.setattr(trainer, "train_on", counted)
    with pytest.raises(Killed):
        go(killed)
    monkeypatch.setattr(trainer, "train_on", update)
    go(killed)
    logs = [[line | {"seconds": None, "sampling_seconds": None} for line in run.metrics()]
            for run in (straight, killed)]
    assert logs[0] == logs[1] and len(logs[0]) == POLICY.updates
    one, two = (run.model_folder / "model.safetensors" for run in (straight, killed))
    assert one.read_bytes() == two.read_bytes()
    assert logs[0][-1]["loss"] == pytest.approx(sum(logs[0][-1]["terms"])) and logs[0][-1]["coverage"] == 1
