"""What the readings of byte probabilities cost next to the teacher's own forward pass, and how far they are apart.

    python benchmarks/byte_probabilities.py FOLDER [--text PATH] [--peer]      writes benchmarks/byte_probabilities.md

FOLDER: a teacher, such as `python -m dbyte teacher smollm2-135m --out FOLDER` makes. Timed in turn in one process, on
the beginning of a text (by default documentation strings of Python): its forward pass with logits; the same with the
sums of "joint" in place of the logits; "coverings" of the same bytes; and once the beam, byte by byte. Distance: the
Jensen-Shannon divergence to "coverings", mean over bytes, in nats.

--peer: genlm-bytes too, with the same beams (pip install --no-deps genlm-bytes genlm-backend arsenal numba llvmlite,
development only). It spells special tokens by the bytes of their names, which are text there and not here.
"""

import argparse
import asyncio
import time
from pathlib import Path
from statistics import median

import torch
from measuring import begin, interleaved, machine, write
from torch import Tensor

from dbyte.byte_probabilities import ByteTeacher, within_token
from dbyte.byte_probabilities.teacher_lm import Reading
from dbyte.model.teacher import load_tokenizer
from dbyte.text.corpus import load_corpus
from dbyte.text.sorted_vocabulary import BYTES, STOP

TIMED, BEAMED = 1000, 300  # bytes
ROUNDS = 3
BEAMS = ((1, 0.01), (3, 1e-9), (10, 0.01))


def of_bytes(joint_RS: Tensor) -> Tensor:
    """What the joint symbols say of the next byte alone: log-probabilities over 256 bytes and STOP."""
    prob_R2B = joint_RS.exp().unflatten(1, (2, BYTES))
    prob_RB = prob_R2B.sum(1)
    return torch.cat((prob_RB[:, :-1], torch.zeros_like(prob_RB[:, :1]), prob_RB[:, -1:]), 1)[:, : STOP + 1].log()


def divergence(one_RS: Tensor, two_RS: Tensor) -> float:
    """Jensen-Shannon divergence in nats, mean over rows."""
    one_RS, two_RS = one_RS.double().exp(), two_RS.double().exp()
    mean_RS = (one_RS + two_RS) / 2
    return sum(torch.xlogy(each_RS, each_RS / mean_RS.clamp(min=1e-300)).sum(1).mean().item() / 2
               for each_RS in (one_RS, two_RS))


async def peer(teacher: ByteTeacher, tokenizer: object, text: bytes, *, K: int, epsilon: float) -> Reading:
    """What genlm-bytes says of a text by its own beam."""
    from genlm.backend.llm.hf import AsyncTransformer
    from genlm.bytes import BeamParams, ByteBeamState

    model = AsyncTransformer(teacher.model, tokenizer, timeout=0)
    state = await ByteBeamState.initial(model, BeamParams(K=K, prune_threshold=epsilon))
    log_RS = []
    for byte in [*text, None]:
        state = state.prune()
        said = torch.from_numpy((await state.logp_next()).ps)
        log_RS.append(torch.cat((said[:BYTES], said[-1:])).log_softmax(0))
        state = state if byte is None else await (state << byte)
    await state.cleanup()
    return Reading(torch.stack(log_RS), torch.tensor([*text]))


def main(folder: Path, text: str, *, with_peer: bool) -> None:
    begin()
    teacher = ByteTeacher.from_pretrained(folder)
    timed = text.encode()[:TIMED].decode(errors="ignore")
    token_M = [teacher.tokens.bos_token_id, *teacher.tokens.align(timed).token_ids.tolist()]
    ids_1M = torch.tensor([token_M])

    @torch.inference_mode()
    def joint() -> Tensor:
        hidden_ME = teacher.model.model(ids_1M).last_hidden_state[0]
        return within_token.log_probs(hidden_ME[:-1], teacher.sorted_head_VE, token_M[1:], teacher.vocabulary)

    calls = {"forward": torch.inference_mode()(lambda: teacher.model(ids_1M)), "joint": joint,
             "coverings": lambda: teacher.read(timed)}
    spent = {name: median(seconds) for name, seconds in interleaved(calls, rounds=ROUNDS).items()}
    lines = [f"{folder.name}: {len(token_M) - 1} tokens, {len(timed.encode())} bytes, {len(teacher.vocabulary):,} "
             f"token ids. {machine()}; medians of {ROUNDS} rounds in turn.", "",
             "| reading | ms | of the forward pass |", "|---|---:|---:|"]
    lines += [f"| {name} | {1e3 * seconds:.0f} | {seconds / spent['forward']:.2f} |" for name, seconds in spent.items()]
    part = text.encode()[:BEAMED].decode(errors="ignore")
    exact = teacher.read(part)
    lines += ["", f"Of {len(part.encode())} bytes:", "",
              "| reading | nats a byte | distance to coverings | ms a byte |", "|---|---:|---:|---:|"]
    readings = {"coverings": lambda: exact, "joint, of bytes": lambda: teacher.read(part, "joint")}
    readings |= {f"beam, K = {K}, epsilon = {epsilon:g}": lambda K=K, epsilon=epsilon: teacher.read(
        part, "beam", K=K, epsilon=epsilon) for K, epsilon in BEAMS}
    if with_peer:
        tokenizer = load_tokenizer(folder)
        readings |= {f"genlm-bytes, K = {K}, epsilon = {epsilon:g}": lambda K=K, epsilon=epsilon: asyncio.run(peer(
            teacher, tokenizer, part.encode(), K=K, epsilon=epsilon)) for K, epsilon in BEAMS}
    for name, read in readings.items():
        began = time.perf_counter()
        found = read()
        each = 1e3 * (time.perf_counter() - began) / len(part.encode())
        table_RS = of_bytes(found.log_prob_RS) if "joint" in name else found.log_prob_RS
        lines.append(f"| {name} | {-found.nats / len(part.encode()):.4f} | "
                     f"{divergence(table_RS, exact.log_prob_RS):.4f} | {'' if found is exact else f'{each:.0f}'} |")
    write(Path(__file__).with_suffix(".md"), "\n".join(lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--text", type=Path, help="a text in UTF-8")
    parser.add_argument("--peer", action="store_true", help="genlm-bytes too")
    arguments = parser.parse_args()
    main(arguments.folder, arguments.text.read_text(encoding="utf-8") if arguments.text
         else load_corpus("pydocs", split="heldout").documents[0], with_peer=arguments.peer)
