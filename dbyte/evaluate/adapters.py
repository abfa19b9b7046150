"""Students for lm-evaluation-harness: `loglikelihood`, `loglikelihood_rolling` and `generate_until` for both stages.

What is scored: the continuation given BOS and the context; `dbyte.evaluate.scoring` says along which boundaries. Where
the context ends: as in the harness's own Hugging Face adapter, trailing spaces of the context move to the continuation,
and at Stage 1 with the tokenizer's boundaries context and continuation are encoded as one text, so that scores compare
token by token with the teacher's. The target text is the tokenizer's own (NFC for Qwen). A text with more chunks than
the core has positions is refused (ValueError), never cut silently.
"""

from collections.abc import Sequence

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from dbyte.decode.generate import generate
from dbyte.evaluate.own_cuts import OwnCutsScorer
from dbyte.evaluate.scoring import Request, Scorer
from dbyte.model.student import ByteStudent
from dbyte.text.spans import Aligned, TokenBytes

GENERATED_BYTES = 256
BYTES_A_TOKEN = 4


class StudentLM(LM):
    """A student behind the harness's interface.

    Args:
        stage: 1 or 2. boundaries: "router", "tokenizer" (Stage 1 only) or "own" (Stage 2: the decoder's own cuts, as it
            writes; the only one for MBP).
        token_bytes: the teacher's, for the tokenizer's boundaries and its normaliser.
        rows: how many texts are generated at a time.
    Raises:
        ValueError: for another stage or boundary source, or one that the stage or the student does not have.
    """

    def __init__(
        self, student: ByteStudent, token_bytes: TokenBytes, *, stage: int, boundaries: str = "router", rows: int = 64
    ):
        super().__init__()
        if (stage, boundaries) not in ((1, "router"), (1, "tokenizer"), (2, "router"), (2, "own")):
            raise ValueError(f"expected stage 1 with boundaries 'router' or 'tokenizer', or stage 2 with 'router' or "
                             f"'own'; found stage {stage!r} with {boundaries!r}")
        self.student, self.token_bytes, self.rows = student, token_bytes, rows
        self.stage, self.boundaries = stage, boundaries
        self.scorer = OwnCutsScorer(student) if boundaries == "own" else Scorer(student, stage=stage)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Score (context, continuation) pairs: (nats, would greedy decoding write it)."""
        scores = self.scorer.score([self._request(*request.args) for request in requests])
        return [(score.nats, score.greedy) for score in scores]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Score whole texts given BOS, in nats; a text longer than the limit is scored in pieces, each from BOS."""
        pieces = [self._pieces(request.args[0]) for request in requests]
        scores = iter(self.scorer.score([piece for some in pieces for piece in some]))
        return [sum(next(scores).nats for _ in some) for some in pieces]

    @torch.no_grad()
    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continue contexts until one of `until`, greedily unless told otherwise.

        The limit is `max_gen_bytes`, else `max_gen_toks` times BYTES_A_TOKEN, else GENERATED_BYTES.
        """
        texts: list[str] = [""] * len(requests)
        order = sorted(range(len(requests)), key=lambda k: (repr(requests[k].args[1]), len(requests[k].args[0])))
        for places in self._alike(order, requests):
            options = requests[places[0]].args[1]
            limit = options.get("max_gen_bytes", options.get("max_gen_toks", 0) * BYTES_A_TOKEN or GENERATED_BYTES)
            prompts = [self.token_bytes.normalise(requests[place].args[0]) for place in places]
            written = generate(
                self.student, prompts, prompt_ends=self._prompt_ends(prompts),
                stage=self.stage, max_new_bytes=limit, stop=_stops(options.get("until", [])), valid_utf8=False,
                temperature=options.get("temperature", 0.0) if options.get("do_sample") else 0.0)
            for place, text in zip(places, written, strict=True):
                texts[place] = text
        return texts

    def _prompt_ends(self, prompts: list[str]) -> list[list[int]] | None:
        """Where tokens end in each prompt, for the tokenizer's boundaries."""
        if self.boundaries != "tokenizer":
            return None
        return [self._ends(aligned) for aligned in self.token_bytes.align_batch(prompts)]

    def _ends(self, aligned: Aligned) -> list[int]:
        """Where each token ends, in bytes from the text's start."""
        return self.token_bytes.lengths[aligned.token_ids.numpy()].cumsum().tolist()

    def _alike(self, order: list[int], requests: list[Instance]) -> list[list[int]]:
        """Places in groups of at most `rows` that share their generation options."""
        groups: list[list[int]] = []
        for place in order:
            if not groups or len(groups[-1]) == self.rows or requests[groups[-1][0]].args[1] != requests[place].args[1]:
                groups.append([])
            groups[-1].append(place)
        return groups

    def _request(self, context: str, continuation: str) -> Request:
        moved = len(context) - len(context.rstrip())
        if moved:
            context, continuation = context[:-moved], context[-moved:] + continuation
        whole = self.token_bytes.normalise(context + continuation)
        text, start = whole.encode(), len(self.token_bytes.normalise(context).encode())
        if self.boundaries != "tokenizer":
            return Request(text, start)
        ends = self._ends(self.token_bytes.align(whole))
        before = len(self.token_bytes.align(context).token_ids) if context else 0
        before = min(before, len(ends) - 1)  # context and continuation may join to fewer tokens than the context alone
        return Request(text, ends[before - 1] if before else 0, tuple(ends))

    def _pieces(self, text: str) -> list[Request]:
        """A text as requests of at most as many bytes as the core has positions, cut at token ends."""
        limit = self.student.config.core_config.max_position_embeddings - 1
        aligned = self.token_bytes.align(text)
        ends = self._ends(aligned)
        raw, pieces, start = bytes(aligned.byte_ids.tolist()), [], 0
        while start < len(raw):
            inside = [end for end in ends if start < end <= start + limit]
            given = tuple(end - start for end in inside) if self.boundaries == "tokenizer" else None
            pieces.append(Request(raw[start : inside[-1]], 0, given))
            start = inside[-1]
        return pieces


def _stops(until: str | Sequence[str]) -> list[str]:
    return [until] if isinstance(until, str) else list(until)
