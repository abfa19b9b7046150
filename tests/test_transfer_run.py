"""A transfer from beginning to end: what trains, resumed == uninterrupted, precomputed == on the fly, clear errors."""

from dataclasses import replace

import pytest
import torch
from conftest import make_teacher
from safetensors.torch import load_file
from tiny_tokenizers import KINDS
from transformers import AutoModelForCausalLM, AutoTokenizer

from dbyte.__main__ import main
from dbyte.distill import trainer
from dbyte.distill.runs import Run
from dbyte.model.checkpointing import share_frozen
from dbyte.model.teacher import load_model
from dbyte.text.corpus import Corpus, load_corpus
from dbyte.transfer.plan import Transfer, plan, transfer
from dbyte_paper.transferred import bits_table

TEXTS = load_corpus("world", max_bytes=3000).documents
TOY = dict(train_bytes=4 * 2 * 128, row_bytes=128, batch_rows=2, rank=4, reading="joint", rate=1e-2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A teacher with a vocabulary of 500."""
    place = tmp_path_factory.mktemp("teacher")
    make_teacher(vocabulary=500).save_pretrained(place)
    KINDS["qwen"]().save_pretrained(place)
    return str(place)


def planned(folder, root, name="run", **changes):
    asked = Transfer(folder, **({"tokenizer": "bytes"} | TOY | changes))
    found = plan(asked, TEXTS, seed=0)
    return replace(found, run=Run({"what": name}, root=root))


def weights(run):
    return load_file(run.model_folder / "model.safetensors")


def same(one, two):
    first, second = weights(one), weights(two)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("changes", [
    {}, {"rank": 0}, {"method": "alm_sft"}, {"method": "sft", "tokenizer": None}, {"head": "sequential"},
    {"head": "decoder", "method": "byte_ce"}, {"method": "alm", "rank": 0}, {"method": "gold"}])
def test_it_trains_what_it_says_and_saves_a_plain_model_with_its_tokenizer(folder, tmp_path, changes):
    one = planned(folder, tmp_path, **changes)
    before = one.first_student().state_dict()
    run = transfer(one)
    after = weights(run)
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    adapted = {name for name in after if name.endswith(("q_proj.weight", "v_proj.weight"))}
    tables = {"model.embed_tokens.weight", "lm_head.weight"}
    assert after.keys() == before.keys()
    if one.asked.rank:
        assert adapted <= moved <= adapted | tables
    else:
        assert moved == set(after)
    if one.asked.method != "alm":
        assert tables <= moved
    tokenizer = AutoTokenizer.from_pretrained(run.model_folder)
    model = AutoModelForCausalLM.from_pretrained(run.model_folder)
    assert len(tokenizer) <= model.config.vocab_size == (256 if one.asked.tokenizer else 500)
    losses = [line["loss"] for line in run.metrics()]
    assert len(losses) == 4 and (losses[-1] < losses[0] or one.asked.method in ("alm", "gold"))  # too few updates


def test_a_resumed_transfer_equals_an_uninterrupted_one(folder, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    straight = transfer(planned(folder, tmp_path, "straight"))
    update, done = trainer.train_on, []

    def counted(*arguments, **options):
        if len(done) == 2:
            raise Killed
        done.append(None)
        return update(*arguments, **options)

    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(trainer, "CHECKPOINT_SHARE", float("inf"))
    monkeypatch.setattr(trainer, "train_on", counted)
    with pytest.raises(Killed):
        transfer(planned(folder, tmp_path, "killed"))
    monkeypatch.setattr(trainer, "train_on", update)
    one = planned(folder, tmp_path, "killed")
    assert one.run.status() == "resumable"
    run = transfer(one)
    assert same(run, straight)
    assert [line | {"seconds": 0} for line in run.metrics()] == [line | {"seconds": 0} for line in straight.metrics()]
    written = (run.folder / "complete.json").stat().st_mtime_ns
    assert transfer(one) is run and (run.folder / "complete.json").stat().st_mtime_ns == written


@pytest.mark.parametrize("changes", [
    {"method": "alm_sft"}, {"method": "bld"}, {"method": "alm", "tokenizer": None}], ids=["alm", "bld", "own tokens"])
def test_frozen_weights_are_held_once_and_that_changes_no_bit(changes, folder, tmp_path, monkeypatch):
    held = []

    def watched(student, teacher):
        saved = share_frozen(student, teacher)
        places = {weight.data_ptr() for weight in teacher.parameters()}
        frozen = [weight for weight in student.parameters() if not weight.requires_grad]
        held.append((saved, sum(weight.nbytes for weight in frozen),
                     all(weight.data_ptr() in places for weight in frozen), teacher))
        return saved

    monkeypatch.setattr(trainer, "share_frozen", watched)
    shared = transfer(planned(folder, tmp_path, "shared", **changes))
    ((saved, frozen, once, teacher),) = held
    assert saved == frozen > 0 and once
    assert all(torch.equal(*pair) for pair in zip(teacher.parameters(), load_model(folder).parameters(), strict=True))
    monkeypatch.setattr(trainer, "share_frozen", lambda student, teacher: 0)
    apart = transfer(planned(folder, tmp_path, "apart", **changes))
    assert same(shared, apart)
    assert [line["loss"] for line in shared.metrics()] == [line["loss"] for line in apart.metrics()]


def test_precomputed_targets_train_the_same_student(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("dbyte.transfer.byte_targets.RUNS", tmp_path)
    now = transfer(planned(folder, tmp_path, "now"))
    assert not (tmp_path / "data").exists()
    assert same(now, transfer(planned(folder, tmp_path, "before", precompute=True)))
    assert list((tmp_path / "data").glob("targets-*/*/targets.safetensors"))
    assert not same(now, transfer(planned(folder, tmp_path, "sft", method="byte_ce")))


def test_the_address_holds_what_decides_the_weights(folder):
    def address(**changes):
        return plan(Transfer(folder, **({"tokenizer": "bytes"} | TOY | changes)), TEXTS, seed=0).run.hash

    others = [address(**change) for change in (
        {}, {"tokenizer": None}, {"method": "sft"}, {"init": "fvt"}, {"head": "decoder"}, {"rank": 2}, {"rate": 1e-3},
        {"reading": "beam"}, {"kl_weight": 0.5}, {"batch_rows": 1})]
    assert len(set(others)) == len(others)
    assert address(precompute=True) == others[0]
    begun = [plan(Transfer(folder, **TOY | {"tokenizer": name}), TEXTS, seed=0).run.config["init"]
             for name in ("bytes", None)]
    assert begun == ["mean", "mean, single end"], "qwen's one token for both began otherwise once"
    assert address(method="sft", head="decoder", reading="beam") == others[2], "it has no byte head"


def test_bits_compare_the_same_text(folder, tmp_path):
    one = planned(folder, tmp_path, "sft", method="sft", rank=0)
    transfer(one)
    found = bits_table(one, [Corpus("world", "heldout", TEXTS[:3])]).set_index("model").value
    assert found["student"] < found["student before"]
    alike = planned(folder, tmp_path, "alike", tokenizer=None, train_bytes=1)
    with alike.run.locked():
        alike.run.complete(load_model(folder).save_pretrained, facts={})
    found = bits_table(alike, [Corpus("world", "heldout", TEXTS[:3])]).set_index("model").value
    assert found["student"] == found["teacher"] == found["student before"]


def test_a_heldout_corpus_that_no_tokenizer_can_cut_is_told(folder, tmp_path):
    one = planned(folder, tmp_path, "sft", method="sft", rank=0, tokenizer=None)
    one = replace(one, asked=replace(one.asked, row_bytes=3))
    transfer(planned(folder, tmp_path, "sft", method="sft", rank=0, tokenizer=None))
    with pytest.raises(ValueError, match="no held-out text of world is left .*--heldout-bytes"):
        bits_table(one, [Corpus("world", "heldout", ("two  words of many bytes",))])


@pytest.mark.parametrize(("given", "match"), [
    (["--tokenizer", "nowhere/at/all"], "the tokenizer 'nowhere/at/all' is no local folder"),
    (["--method", "dskd"], "unknown method"), (["--head", "deep"], "unknown head"),
    (["--rank", "-1"], "the rank of LoRA"), (["--reading", "exact"], "unknown reading"),
    (["--row-bytes", "512"], "has only 256 positions: take shorter rows"), (["--rate", "0"], "positive rates"),
    (["--kl-weight", "-1"], "must be at least 0"), (["--corpus", "nothing=10"], "unknown corpus"),
    (["--tokenizer", "bytes", "--init", "best"], "unknown init"), (["--batch-rows", "0"], "at least one row"),
    (["--device", "tpu"], "device 'tpu' was asked for"), (["--heldout-bytes", "0"], "max_bytes must be positive"),
    (["--kl-weight", "nan"], "must be at least 0"), (["--row-bytes", "2"], "longer rows"),
    (["--train-bytes", "0"], "positive byte budget")])
def test_wrong_input_is_told_in_one_line(folder, given, match, capsys):
    small = ["--corpus", "world=3000", "--row-bytes", "128", "--train-bytes", "256", "--batch-rows", "1", "--rank", "2"]
    assert main(["transfer", "--teacher", folder, *small, *given]) == 2
    assert match in capsys.readouterr().err


def test_a_folder_without_a_tokenizer_is_named(tmp_path, folder, capsys):
    assert main(["transfer", "--teacher", folder, "--tokenizer", str(tmp_path), "--corpus", "world=3000",
                 "--row-bytes", "128"]) == 2
    assert "has no tokenizer (looked for tokenizer.json" in capsys.readouterr().err


def test_the_command_trains_evaluates_and_does_nothing_twice(folder, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(Run.__init__, "__kwdefaults__", Run.__init__.__kwdefaults__ | {"root": tmp_path})
    command = ["transfer", "--teacher", folder, "--tokenizer", "bytes", "--corpus", "world=3000", "--row-bytes", "128",
               "--train-bytes", "256", "--batch-rows", "1", "--rank", "2", "--heldout-bytes", "2000", "--reading",
               "joint"]
    assert main(command) == 0
    first = capsys.readouterr().out
    assert "transfer: 2 updates" in first and "student before" in first
    assert main(command) == 0
    second = capsys.readouterr().out
    assert "updates" not in second and second.splitlines()[-1] == first.splitlines()[-1]
