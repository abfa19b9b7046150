"""`transfer`: a model to another tokenizer, or to bytes, taught by a teacher; trained, resumed and evaluated."""

import argparse
import dataclasses

from dbyte.commands.train import amount, corpus_amount

OPTIONS = {  # fields of `Transfer`: what is left out has its default there
    "teacher": (str, "a folder or hub name"),
    "tokenizer": (str, "of the student: bytes, a folder, also of a tokenizer alone, or a hub name (default: its own)"),
    "student": (str, "the model to begin with, a folder or hub name (default: the teacher)"),
    "method": (str, "bld (the default), byte_ce, sft, alm, alm_sft or gold"),
    "byte_weight": (float, "BLD's lambda of byte cross-entropy"),
    "kl_weight": (float, "BLD's lambda of the divergence"),
    "temperature": (float, "ALM's, of chunk probabilities"),
    "gamma": (float, "ALM's least probability of a word after a chunk"),
    "init": (str, "of new embeddings: mean (the default), fvt, mined or fresh"),
    "head": (str, "over bytes: parallel (the default), sequential or decoder"),
    "reading": (str, "of the teacher's bytes: coverings (the default), beam or joint"),
    "rank": (int, "of LoRA on queries and values (default 64); 0: train all weights"),
    "rate": (float, "peak learning rate (default 1e-4)"),
    "train_bytes": (amount, "as in a scale"),
    "row_bytes": (amount, "as in a scale"),
    "batch_rows": (amount, "as in a scale"),
}


def declare(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "transfer", help="give a model another tokenizer, or bytes, and distil a teacher into it; the same command "
                         "goes on where it was interrupted")
    for name, (kind, what) in OPTIONS.items():
        command.add_argument(f"--{name.replace('_', '-')}", type=kind, help=what, required=name == "teacher")
    command.add_argument("--precompute", action="store_true", help="read the teacher's bytes once, before training")
    command.add_argument("--corpus", action="append", required=True, metavar="NAME=BYTES",
                         help="repeatable: world, pydocs, file:PATH or hub:NAME")
    command.add_argument("--rows-at-once", type=int, help="rows of a micro-batch: less memory")
    command.add_argument("--heldout-bytes", type=int, default=20_000, help="of each corpus, to evaluate on")
    command.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    command.add_argument("--seed", type=int, default=0, help="of everything random (default 0)")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from dbyte.device import check_device
    from dbyte.distill.data import mixed_texts
    from dbyte.text.corpus import load_corpus
    from dbyte.transfer.plan import Transfer, plan, transfer
    from dbyte_paper.transferred import bits_table

    check_device(arguments.device)
    given = {one.name: getattr(arguments, one.name) for one in dataclasses.fields(Transfer)}
    asked = Transfer(**{name: value for name, value in given.items() if value is not None})
    corpora = dict(map(corpus_amount, arguments.corpus))
    seed = arguments.seed
    texts = mixed_texts([load_corpus(name, seed=seed, max_bytes=amount) for name, amount in corpora.items()], seed=seed)
    heldout = [load_corpus(name, split="heldout", seed=seed, max_bytes=arguments.heldout_bytes) for name in corpora]
    planned = plan(asked, texts, seed=seed)
    finished = transfer(planned, device=arguments.device, rows_at_once=arguments.rows_at_once)
    print(bits_table(planned, heldout, device=arguments.device).to_string(index=False, float_format="{:.4f}".format))
    print(f"model: {finished.model_folder} (`python -m dbyte evaluate --teacher` scores it on tasks)")
    return 0
