"""Students for lm-evaluation-harness: `loglikelihood`, `loglikelihood_rolling` and `generate_until` for both stages.

What is scored: the continuation given BOS and the context, in nats. Stage 1: the sum of log P(token). Stage 2: the
joint, the sum of log p(byte, flag), a lower bound of log p(text); with `beam` the tighter bound of `score_beam.py`.
Along its own cuts (`score_own_boundaries.py`, MBP's only score) the sum of log p(byte) is no bound but exact.
Where the context ends: as in the harness's own Hugging Face adapter, trailing spaces of the context move to the
continuation, and with the tokenizer's boundaries context and continuation are encoded as one text, so that scores
compare token by token with the teacher's. Along the router's boundaries the context ends a chunk at Stage 1; at Stage 2
whether it does belongs to the score. The target text is the tokenizer's own (NFC for Qwen).
Which boundaries: "router", the student's router's; at Stage 1 also "tokenizer", the teacher's tokens; at Stage 2 also
"own", what the decoder decides while it writes.
What does not fit: a text of more chunks than the core has positions loses the beginning of its context, see
`fitting.py`; `cuts` counts that and `lm_eval` reports it among its results. A rolling text is scored in pieces.

The order of requests and the size of batches change no score beyond rounding. An empty continuation is refused.
How: requests that begin alike are read once (`shared_prefix.py`). Where there is a C++ compiler texts are read and
written by compiled code, equal within rounding; so where two symbols nearly tie, a text that is written greedily may be
another one than without (`compiled` says which, and `measure.py` keeps the two apart).
"""

import warnings
from collections.abc import Sequence
from os.path import commonprefix
from pathlib import Path

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.utils import simple_parse_args_string
from transformers import AutoConfig, AutoTokenizer

from dbyte.decode.generate import generate
from dbyte.device import check_device
from dbyte.evaluate.fitting import Cuts, fitted
from dbyte.evaluate.score import Request, Scorer
from dbyte.evaluate.score_beam import beam_scores
from dbyte.evaluate.score_own_boundaries import OwnBoundariesScorer
from dbyte.model.student import ByteStudent
from dbyte.native import engine_for
from dbyte.text.spans import Aligned, TokenBytes

GENERATED_TOKENS = 256  # the harness's default
BYTES_A_TOKEN = 4


class StudentLM(LM):
    """A student behind the harness's interface.

    Args:
        stage: 1 or 2. boundaries: "router", "tokenizer" (Stage 1 only) or "own" (Stage 2: the decoder's own cuts, as it
            writes; the only one for MBP).
        token_bytes: the teacher's, for the tokenizer's boundaries and its normaliser.
        rows: how many texts are generated at a time. batch_bytes: how many bytes are scored at a time, about.
        beam: width of the beam over flags (Stage 2), 0 for the joint score alone.
        compiled: read and write by compiled code; None: where there is a C++ compiler.
    Raises:
        ValueError: for another stage or boundary source, or one that the stage or the student does not have; for a beam
            along other boundaries than Stage 2's router's.
    """

    def __init__(
        self, student: ByteStudent, token_bytes: TokenBytes, *, stage: int, boundaries: str = "router", rows: int = 64,
        batch_bytes: int = 16384, beam: int = 0, compiled: bool | None = None,
    ):
        super().__init__()
        if (stage, boundaries) not in ((1, "router"), (1, "tokenizer"), (2, "router"), (2, "own")):
            raise ValueError(f"expected stage 1 with boundaries 'router' or 'tokenizer', or stage 2 with 'router' or "
                             f"'own'; found stage {stage!r} with {boundaries!r}")
        if beam < 0 or (beam and (stage, boundaries) != (2, "router")):
            raise ValueError(f"a beam over flags (found {beam}) is for Stage 2 along the router's boundaries: nowhere "
                             "else are there flags to choose")
        self.student, self.token_bytes, self.rows, self.beam = student, token_bytes, rows, beam
        self.stage, self.boundaries = stage, boundaries
        self.engine = engine_for(student, compiled)
        options = dict(batch_bytes=batch_bytes, engine=self.engine)
        self.scorer = (OwnBoundariesScorer(student, **options) if boundaries == "own" else
                       Scorer(student, stage=stage, **options))
        self.cuts = Cuts()

    # -- what `lm_eval --model dbyte` calls ---------------------------------------------------------------------------

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict | None = None) -> "StudentLM":
        """As `create_from_arg_obj`, from "pretrained=FOLDER,stage=2"."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict, additional_config: dict | None = None) -> "StudentLM":
        """Load a student for the harness; arguments as of `load_lm`, the folder under the harness's name `pretrained`.

        The harness's own batch_size, if it is a number, is how many texts are generated at a time. Where nobody names a
        device it asks for cuda:0, which is the CPU where there is no GPU, and said so.
        """
        arguments = {**arg_dict, **{k: v for k, v in (additional_config or {}).items() if v is not None}}
        if "pretrained" not in arguments:
            raise ValueError("name the student's folder: --model_args pretrained=FOLDER")
        rows, _ = arguments.pop("batch_size", None), arguments.pop("max_batch_size", None)
        if str(rows).isdigit():
            arguments["rows"] = int(rows)
        if str(arguments.get("device")).startswith("cuda") and not torch.cuda.is_available():
            warnings.warn(f"device {arguments['device']!r}, lm_eval's default, is not here: students run on the CPU "
                          "(--device cpu says so yourself)", stacklevel=2)
            arguments["device"] = "cpu"
        return load_lm(arguments.pop("pretrained"), **arguments)

    def get_model_info(self) -> dict:
        """What the harness writes down beside the scores."""
        return {"stage": self.stage, "boundaries": self.boundaries, "beam": self.beam,
                "compiled": self.engine.compiled} | vars(self.cuts)

    # -- what the harness asks ----------------------------------------------------------------------------------------

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Score (context, continuation) pairs: (nats, would greedy decoding write it)."""
        asked = [self._fitted(request) for request in self._requests([request.args for request in requests])]
        scores = self.scorer.score(asked)
        nats = [score.nats for score in scores]
        if self.beam and asked:
            nats = beam_scores(self.scorer, asked, width=self.beam)
        return [(value, score.greedy) for value, score in zip(nats, scores, strict=True)]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Score whole texts given BOS, in nats; a text longer than the limit is scored in pieces, each from BOS."""
        pieces = [self._pieces(request.args[0]) for request in requests]
        asked = [piece for some in pieces for piece in some]
        nats = (beam_scores(self.scorer, asked, width=self.beam) if self.beam and asked else
                [score.nats for score in self.scorer.score(asked)])
        scores = iter(nats)
        return [sum(next(scores) for _ in some) for some in pieces]

    @torch.no_grad()
    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continue contexts until one of `until`, greedily unless told otherwise.

        The limit is `max_gen_bytes`, else `max_gen_toks` (the harness's default: 256) times BYTES_A_TOKEN.
        """
        texts: list[str] = [""] * len(requests)
        order = sorted(range(len(requests)), key=lambda k: (repr(requests[k].args[1]), len(requests[k].args[0])))
        groups = self._alike(order, requests)  # fitted here, since one thread counts what is cut
        begun = [(options := requests[places[0]].args[1],
                  self._prompts([requests[place].args[0] for place in places], _limit(options) // BYTES_A_TOKEN))
                 for places in groups]
        for places, written in zip(groups, map(self._written, begun), strict=True):
            for place, text in zip(places, written, strict=True):
                texts[place] = text
        return texts

    def _written(self, group: tuple[dict, list["Request | _Prompt"]]) -> list[str]:
        """The texts behind prompts that share their generation options."""
        options, prompts = group
        return generate(
            self.student, [prompt.text for prompt in prompts], stage=self.stage, max_new_bytes=_limit(options),
            prompt_ends=None if self.boundaries != "tokenizer" else [list(prompt.token_ends) for prompt in prompts],
            stop=_stops(options.get("until", [])), valid_utf8=False, engine=self.engine,
            temperature=options.get("temperature", 0.0) if options.get("do_sample") else 0.0)

    # -- from strings to bytes ----------------------------------------------------------------------------------------

    def _fitted(self, request: Request, *, room: int = 0) -> Request:
        """The request as it fits, and the count of what did not."""
        after = fitted(self.scorer, request, room=room)
        self.cuts.count(request, after)
        return after

    def _prompts(self, contexts: list[str], room: int) -> list["_Prompt"]:
        """Prompts as bytes, cut from the left to leave room for so many chunks, or half of the core's positions."""
        room = min(room, self.student.core.config.max_position_embeddings // 2)
        texts = [self.token_bytes.normalise(context).encode() for context in contexts]
        ends = ([None] * len(texts) if self.boundaries != "tokenizer" else
                [self._ends(aligned) for aligned in self.token_bytes.align_batch(contexts)])
        return [self._fitted(Request(text, len(text) - 1, given), room=room) if text else _Prompt()
                for text, given in zip(texts, ends, strict=True)]

    def _ends(self, aligned: Aligned) -> tuple[int, ...]:
        """Where each token ends, in bytes from the text's start."""
        return tuple(self.token_bytes.lengths[aligned.token_ids.numpy()].cumsum().tolist())

    def _alike(self, order: list[int], requests: list[Instance]) -> list[list[int]]:
        """Places in groups of at most `rows` that share their generation options."""
        groups: list[list[int]] = []
        for place in order:
            if not groups or len(groups[-1]) == self.rows or requests[groups[-1][0]].args[1] != requests[place].args[1]:
                groups.append([])
            groups[-1].append(place)
        return groups

    def _requests(self, pairs: list[tuple[str, str]]) -> list[Request]:
        """(context, continuation) pairs as requests; ValueError for an empty continuation."""
        split = [_moved(context, continuation) for context, continuation in pairs]
        wholes = [self.token_bytes.normalise(context + continuation) for context, continuation in split]
        if self.boundaries != "tokenizer":
            return [Request(whole.encode(), self._start(context, whole))
                    for (context, _), whole in zip(split, wholes, strict=True)]
        contexts = list(dict.fromkeys(context for context, _ in split))  # the choices of an item have one
        before = {context: len(aligned.token_ids) for context, aligned in
                  zip(contexts, self.token_bytes.align_batch(contexts), strict=True)}
        return [self._along_tokens(whole, aligned, before[context]) for whole, aligned, (context, _) in
                zip(wholes, self.token_bytes.align_batch(wholes), split, strict=True)]

    def _start(self, context: str, whole: str) -> int:
        """Where the continuation starts, in bytes; a character that the two make together belongs to it."""
        return len(commonprefix([self.token_bytes.normalise(context), whole]).encode())

    def _along_tokens(self, whole: str, aligned: Aligned, before: int) -> Request:
        ends = self._ends(aligned)
        before = min(before, len(ends) - 1)  # context and continuation may join to fewer tokens than the context alone
        return Request(whole.encode(), ends[before - 1] if before else 0, ends)

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


class _Prompt:
    """The empty prompt, which is no request: there is nothing to score in it."""

    text, token_ends = b"", ()


def load_lm(
    folder: str | Path, *, stage: int | None = None, boundaries: str | None = None, beam: int = 0, rows: int = 64,
    device: str = "cpu", compiled: bool | None = None,
) -> StudentLM:
    """A student from its folder, as the harness sees it.

    stage: None for the one that the student was trained to; the other one is refused, since what it needs was never
    trained (Stage 2) or not kept along (Stage 1). boundaries: None for the router's, or with MBP the decoder's own. The
    rest: see `StudentLM`.
    Raises:
        FileNotFoundError: if the folder holds no model or no tokenizer. ValueError: if it holds another kind of model,
        a student of another stage, the device is not here, or arguments do not fit.
    """
    check_device(device)
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no student (looked for config.json): name a folder that `python -m "
                                "dbyte train` printed, or one that save_pretrained wrote")
    kind = AutoConfig.from_pretrained(folder).model_type
    if kind != "dbyte":
        raise ValueError(f"{folder} holds a {kind} model, not a student: give it as --teacher, or to the harness's own "
                         "adapter (lm_eval --model hf)")
    student = ByteStudent.from_pretrained(folder).eval().to(device)
    if stage is not None and stage != student.config.stage:
        raise ValueError(f"{folder} holds a student of Stage {student.config.stage}, asked for Stage {stage}: name the "
                         f"folder of step {'1.3' if stage == 1 else '2.2'}, or leave the stage out")
    if not (folder / "tokenizer.json").is_file():
        raise FileNotFoundError(f"{folder} has no tokenizer (looked for tokenizer.json): save the teacher's there")
    token_bytes = TokenBytes.from_tokenizer(AutoTokenizer.from_pretrained(folder))
    stage, two_heads = student.config.stage, student.second_head is not None
    boundaries = boundaries or ("own" if stage == 2 and two_heads else "router")
    return StudentLM(student, token_bytes, stage=stage, boundaries=boundaries, beam=beam, rows=rows,
                     compiled=compiled)


def _moved(context: str, continuation: str) -> tuple[str, str]:
    """The pair with the context's trailing white space moved to the continuation."""
    if not continuation:
        raise ValueError(f"nothing to score: the continuation of {context[-40:]!r} is empty: give some text")
    bare = context.rstrip()
    return bare, context[len(bare):] + continuation


def _stops(until: str | Sequence[str]) -> list[str]:
    return [until] if isinstance(until, str) else list(until)


def _limit(options: dict) -> int:
    """How many bytes are written at most."""
    return options.get("max_gen_bytes", options.get("max_gen_toks", GENERATED_TOKENS) * BYTES_A_TOKEN)
