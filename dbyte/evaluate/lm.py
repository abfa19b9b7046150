"""Students for lm-evaluation-harness: `loglikelihood`, `loglikelihood_rolling` and `generate_until` for both stages.

What is scored: the continuation given BOS and the context, in nats. Stage 1: the sum of log P(token). Stage 2: the
joint score, the sum of log p(byte, flag), a lower bound of log p(text), or with `beam` the tighter bound of
`score_beam.py`. Along the decoder's own boundaries (`score_own_boundaries.py`, the only score of MBP) the sum of
log p(byte) is exact.

Where the context ends: as in the harness's own Hugging Face adapter, its trailing white space moves to the
continuation. With the tokenizer's boundaries context and continuation are encoded as one text, so that scores compare
token by token with the teacher's. Along the router's boundaries the context ends a chunk at Stage 1; at Stage 2 whether
it does belongs to the score. The target text is the tokenizer's own (NFC for Qwen). An empty continuation is an error.

What does not fit: the context of a text of more chunks than the core has positions is truncated from the left, at the
end of a chunk and never inside a character. What remains begins a document of its own, with BOS. The router sees
another beginning then and may chunk the text otherwise, so truncation is repeated until the text fits. The continuation
is never truncated. `truncated` holds the counts, which `lm_eval` reports. A rolling text is scored in pieces of as
many chunks as the core has positions.

The order of requests, the size of batches and compiled code (`dbyte.native`) change no score beyond rounding, and no
random draw: a draw depends on the seed, the prompt and the number of its repeat.
"""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from os.path import commonprefix
from pathlib import Path

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.models.utils import Collator, normalize_gen_kwargs
from lm_eval.utils import simple_parse_args_string

from dbyte.decode.generate import generate, load_student
from dbyte.decode.sampling import equal_before
from dbyte.device import check_device
from dbyte.distill.progress import told
from dbyte.distill.runs import model_folder
from dbyte.evaluate.score import Request, Scorer
from dbyte.evaluate.score_beam import ROUNDS, beam_scores
from dbyte.evaluate.score_own_boundaries import OwnBoundariesScorer
from dbyte.model.student import ByteStudent
from dbyte.model.teacher import load_tokenizer
from dbyte.native import engine_for
from dbyte.text.chat import ChatTemplate
from dbyte.text.spans import TokenBytes

BYTES_A_TOKEN = 4  # of a limit that is given in tokens
READINGS = {"stage1/tokenizer": (1, "tokenizer"), "stage1/router": (1, "router"), "stage2/router": (2, "router"),
            "stage2/own": (2, "own")}  # stage and boundaries by the names that notebooks and addresses have
ARGUMENTS = {"stage": int, "boundaries": str, "beam": int, "rows": int, "device": str, "compiled": bool, "dtype": str}
NUMBERS = {"temperature": float, "top_k": int, "top_p": float, "seed": int, "max_gen_bytes": int}
LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # the harness's names for one limit


# -- texts that do not fit --------------------------------------------------------------------------------------------


@dataclass
class Truncated:
    """How many texts were read, how many lost the beginning of their context, and how many bytes that was."""

    texts: int = 0
    cut_texts: int = 0
    cut_bytes: int = 0

    def __str__(self) -> str:
        return (f"{self.cut_texts} of {self.texts} texts had more chunks than the core has positions: "
                f"{self.cut_bytes} bytes at the beginning of their contexts were left out")


def truncate(scorer: Scorer, request: Request, *, room: int = 0) -> Request:
    """The request with as much of its context as fits, leaving `room` positions free.

    Raises:
        ValueError: if the continuation alone has more chunks than there are positions.
    """
    positions = scorer.student.core.config.max_position_embeddings - 1 - room  # BOS has one
    while len(request.text) > positions:  # a chunk has at least one byte: shorter texts fit
        ends = scorer.chunk_ends(request)
        if len(ends) <= positions:
            break
        first = ends[len(ends) - positions - 1] if positions > 0 else len(request.text)
        while first < len(request.text) and request.text[first] & 0xC0 == 0x80:  # inside a character
            first += 1
        if first > request.start:
            raise ValueError(f"{request.text[request.start:][:40]!r} .. has more chunks than the core has positions "
                             f"({positions} next to BOS and {room} kept free): score it in shorter pieces")
        given = request.token_ends
        if given is not None:
            given = tuple(end - first for end in given if end > first)
        request = Request(request.text[first:], request.start - first, given)
    return request


# -- what the harness may ask for -------------------------------------------------------------------------------------


def generation_options(given: dict) -> dict:
    """The harness's generation arguments as those of `generate`, read as the harness reads them; None: not given.

    Sampling without a temperature is at 1. Without a seed the draws have torch's, which the harness sets (--seed).
    Raises:
        ValueError: for an argument that is not known here, or a value that it cannot have.
    """
    options = {name: value for name, value in given.items() if value is not None and (name, value) != ("num_beams", 1)}
    if unknown := sorted(options.keys() - {"until", "do_sample", *NUMBERS, *LIMITS}):
        raise ValueError(f"generation arguments that students do not know: {_listed(options, unknown)}; they know "
                         f"until, do_sample, {', '.join((*NUMBERS, *LIMITS))}")
    try:
        options = normalize_gen_kwargs({"temperature": float(options.get("do_sample", 0))} | options)
        number = {name: kind(options[name]) for name, kind in NUMBERS.items() if name in options}
    except (TypeError, ValueError) as error:
        raise ValueError(f"generation arguments that cannot be used: {_listed(given, given)} ({error})") from error
    if not all(isinstance(text, str) for text in options["until"]):
        raise ValueError(f"until must be a string or a list of strings, found {options['until']!r}")
    limit = number.pop("max_gen_bytes", options["max_gen_toks"] * BYTES_A_TOKEN)
    return {"max_new_bytes": limit, "stop": list(filter(None, options["until"])), "seed": torch.initial_seed()} | number


def _listed(values: dict, names: Iterable[str]) -> str:
    return ", ".join(f"{name}={values[name]!r}" for name in names)


# -- the adapter ------------------------------------------------------------------------------------------------------


class StudentLM(LM):
    """A student as lm-evaluation-harness sees it.

    Args:
        stage: 1 or 2. boundaries: "router", "tokenizer" (Stage 1 only) or "own" (Stage 2; the only ones for MBP).
        token_bytes: the teacher's, for the tokenizer's boundaries and its normaliser.
        rows: how many texts are generated at a time. batch_bytes: about how many bytes are scored at a time.
        beam: width of the beam over flags (Stage 2), 0 for the joint score alone.
        compiled: read and write by compiled code; None: where there is a C++ compiler.
        chat: the teacher's template, for --apply_chat_template; None: there is none.
    Raises:
        ValueError: for another stage or boundaries, or those that the stage or the student does not have; for a beam
            along other boundaries than Stage 2's router's; for no rows; for another table of tokens than the student's.
    """

    def __init__(
        self, student: ByteStudent, token_bytes: TokenBytes, *, stage: int, boundaries: str = "router", rows: int = 64,
        batch_bytes: int = 16384, beam: int = 0, compiled: bool | None = None, chat: ChatTemplate | None = None,
    ):
        super().__init__()
        if (stage, boundaries) not in READINGS.values():
            raise ValueError(f"expected stage 1 with boundaries 'router' or 'tokenizer', or stage 2 with 'router' or "
                             f"'own'; found stage {stage!r} with {boundaries!r}")
        if beam < 0 or (beam and (stage, boundaries) != (2, "router")):
            raise ValueError(f"a beam over flags (found {beam}) is for Stage 2 along the router's boundaries: nowhere "
                             "else are there flags to choose")
        if rows < 1:
            raise ValueError(f"rows (lm_eval's --batch_size) must be at least 1, found {rows}")
        check_tokens(student, token_bytes)
        self.student = student
        self.token_bytes = token_bytes
        self.stage = stage
        self.boundaries = boundaries
        self.rows = rows
        self.beam = beam
        self.engine = engine_for(student, compiled)
        kind = OwnBoundariesScorer if boundaries == "own" else Scorer
        self.scorer = kind(student, stage=stage, batch_bytes=batch_bytes, engine=self.engine)
        self.truncated = Truncated()
        self.chat = chat
        self.in_chat = False  # whether contexts are conversations

    # -- what `lm_eval --model dbyte` calls ---------------------------------------------------------------------------

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict | None = None) -> "StudentLM":
        """Load a student for the harness from a string such as "pretrained=FOLDER,stage=2"."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict, additional_config: dict | None = None) -> "StudentLM":
        """Load a student for the harness; arguments as of `load_lm`, the folder under the harness's name `pretrained`.

        These arguments win over the harness's own options. Its batch_size is another word for rows: the number 1 is its
        default and is ignored (--batch_size 1 comes as text), and "auto" is max_batch_size. If no
        device is named, the harness asks for cuda:0; without a GPU that becomes the CPU, with a warning.
        Raises:
            ValueError: for arguments that are not known here, and as of `load_lm`.
        """
        options = {name: value for name, value in (additional_config or {}).items()
                   if (name, value) != ("batch_size", 1)}
        arguments = {name: value for name, value in (options | arg_dict).items()
                     if value is not None and (name, value) != ("add_bos_token", True)}  # BOS is always there
        if "pretrained" not in arguments:
            raise ValueError("name the student's folder: --model_args pretrained=FOLDER")
        folder = str(arguments.pop("pretrained"))
        size = str(arguments.pop("batch_size", "auto"))
        most = arguments.pop("max_batch_size", 64)
        if size.startswith("auto"):
            size = most
        elif "rows" in arguments:
            raise ValueError(f"rows={arguments['rows']} and batch_size={size} are one thing: give one of them")
        arguments.setdefault("rows", int(size) if str(size).isdigit() else size)
        if arguments.pop("trust_remote_code", False):
            warnings.warn("no code in a student's folder is ever run: trust_remote_code is for data sets alone",
                          stacklevel=2)
        if wrong := [name for name, value in arguments.items() if type(value) is not ARGUMENTS.get(name)]:
            known = ", ".join(f"{name} ({kind.__name__})" for name, kind in ARGUMENTS.items())
            raise ValueError(f"model arguments that students do not know: {_listed(arguments, wrong)}; they know "
                             f"pretrained=FOLDER, {known}")
        if str(arguments.get("device")).startswith("cuda") and not torch.cuda.is_available():
            warnings.warn(f"device {arguments['device']!r}, lm_eval's default, is not here: students run on the CPU "
                          "(--device cpu asks for it)", stacklevel=2)
            arguments["device"] = "cpu"
        return load_lm(folder, **arguments)

    def get_model_info(self) -> dict:
        """What the harness writes down with the scores."""
        return {"stage": self.stage, "boundaries": self.boundaries, "beam": self.beam,
                "compiled": self.engine.compiled} | asdict(self.truncated)

    @property
    def tokenizer_name(self) -> str:
        """The name under which the harness caches requests."""
        return self.token_bytes.name

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as the teacher's template writes it; from now on contexts are such texts.

        Raises:
            ValueError: if the tokenizer has no template, or as `ChatTemplate.render`.
        """
        if self.chat is None:
            raise ValueError("the student's tokenizer has no chat template: leave out --apply_chat_template, or "
                             "evaluate a student of an instruct teacher")
        self.in_chat = True
        return self.chat.render(chat_history, reply=add_generation_prompt)

    # -- what the harness asks ----------------------------------------------------------------------------------------

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Score (context, continuation) pairs: (nats, would greedy decoding write it)."""
        room = ROUNDS if self.beam else 0  # each round of a beam may add a chunk
        return self._scores([self._fitting(request, room=room)
                             for request in self._requests([request.args for request in requests])])

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Score texts given BOS, in nats; a text longer than the limit is scored in pieces, each given BOS."""
        pieces = [self._pieces(request.args[0]) for request in requests]
        scores = iter(self._scores([piece for some in pieces for piece in some]))
        return [sum(next(scores)[0] for _ in some) for some in pieces]

    def _scores(self, asked: list[Request]) -> list[tuple[float, bool]]:
        scores = self.scorer.score(asked)
        nats = beam_scores(self.scorer, asked, width=self.beam) if self.beam else [score.nats for score in scores]
        return [(value, score.greedy) for value, score in zip(nats, scores, strict=True)]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continue contexts until one of `until`, greedily by default; at most `rows` of them at a time.

        The limit is `max_gen_bytes`, else `max_gen_toks` (the harness's default: 256) times BYTES_A_TOKEN. See
        `generation_options`. Equal requests, the harness's repeats, get different draws.
        """
        contexts = [request.args[0] for request in requests]
        options = [generation_options(request.args[1]) for request in requests]
        repeats = equal_before(list(zip(contexts, map(repr, options), strict=True)))
        collator = Collator(list(zip(contexts, options, repeats, strict=True)), sort_fn=lambda asked: len(asked[0]),
                            group_by="gen_kwargs")  # of each element the second
        written = []
        for batch in told(list(collator.get_batched(n=self.rows)), "written batches",
                          lambda batch: sum(len(text.encode()) for text in written[-len(batch):])):
            texts, (alike, *_), again = zip(*batch, strict=True)
            written.extend(self._write(texts, again, alike))
        return collator.get_original(written)

    def _write(self, contexts: Sequence[str], repeats: Sequence[int], options: dict) -> list[str]:
        """Continue contexts that share their generation options."""
        room = min(options["max_new_bytes"] // BYTES_A_TOKEN, self.student.core.config.max_position_embeddings // 2)
        prompts = []
        ends = []
        for text, token_ends in self._encoded(contexts):
            if text:
                kept = self._fitting(Request(text, len(text) - 1, token_ends), room=room)
                text, token_ends = kept.text, kept.token_ends
            prompts.append(text)
            ends.append(token_ends)
        return generate(
            self.student, prompts, stage=self.stage, valid_utf8=False, repeats=repeats, engine=self.engine,
            prompt_ends=ends if self.boundaries == "tokenizer" else None, chat=self.in_chat, **options)

    # -- from strings to bytes ----------------------------------------------------------------------------------------

    def _fitting(self, request: Request, *, room: int = 0) -> Request:
        """The truncated request; counts what is left out."""
        fitting = truncate(self.scorer, request, room=room)
        lost = len(request.text) - len(fitting.text)
        self.truncated.texts += 1
        self.truncated.cut_texts += lost > 0
        self.truncated.cut_bytes += lost
        return fitting

    def _encoded(self, texts: Sequence[str]) -> list[tuple[bytes, tuple[int, ...] | None]]:
        """The bytes of each text and, with the tokenizer's boundaries, where its tokens end."""
        given = self.boundaries == "tokenizer"
        if not given and not self.in_chat:
            return [(self.token_bytes.normalise(text).encode(), None) for text in texts]
        found = map(self.chat.align, texts) if self.in_chat else self.token_bytes.align_batch(texts)
        return [(bytes(aligned.byte_ids.tolist()),
                 tuple((aligned.boundary.nonzero()[:, 0] + 1).tolist()) if given else None) for aligned in found]

    def _requests(self, pairs: list[tuple[str, str]]) -> list[Request]:
        """(context, continuation) pairs as requests; ValueError for an empty continuation."""
        split = []
        for context, continuation in pairs:
            if not continuation:
                raise ValueError(f"nothing to score: the continuation of {context[-40:]!r} is empty: give some text")
            bare = context.rstrip()
            split.append((bare, context[len(bare):] + continuation))
        once = list(dict.fromkeys(context for context, _ in split))  # the choices of an item have one context
        contexts = dict(zip(once, self._encoded(once), strict=True))
        texts = self._encoded([context + continuation for context, continuation in split])
        requests = []
        for (context, _), (text, ends) in zip(split, texts, strict=True):
            alone, alone_ends = contexts[context]
            if ends is None:  # a character that the two make together belongs to the continuation
                both = [each.decode(errors="surrogateescape") for each in (alone, text)]
                start = len(commonprefix(both).encode(errors="surrogateescape"))
            else:  # context and continuation may join to fewer tokens than the context alone has
                before = min(len(alone_ends), len(ends) - 1)
                start = ends[before - 1] if before else 0
            requests.append(Request(text, start, ends))
        return requests

    def _pieces(self, text: str) -> list[Request]:
        """A text as requests of as many chunks as the core has positions, each up to a whole character."""
        limit = self.student.core.config.max_position_embeddings - 1 - (ROUNDS if self.beam else 0)
        ((rest, given),) = self._encoded([text])
        pieces = []
        while rest:
            ends = (self._first_ends(rest, limit) if given is None else given)[:limit]
            whole = [end for end in ends if end == len(rest) or rest[end] & 0xC0 != 0x80]
            size = (whole or ends)[-1]
            pieces.append(Request(rest[:size], 0, given and tuple(end for end in ends if end <= size)))
            rest = rest[size:]
            given = given and tuple(end - size for end in given if end > size)
        return pieces

    def _first_ends(self, text: bytes, most: int) -> list[int]:
        """Where at least the first `most` chunks end that the student decides; a long text is not read to its end."""
        size = 8 * most
        while len(ends := self.scorer.chunk_ends(Request(text[:size], 0))) <= most and size < len(text):
            size *= 8
        return ends


def check_tokens(student: ByteStudent, token_bytes: TokenBytes) -> None:
    """Raise ValueError where a tokenizer's tokens are not those that the student was built with."""
    texts = student.token_texts() if student.config.token_table_bytes else token_bytes.token_bytes
    for token, (own, other) in enumerate(zip_longest(texts, token_bytes.token_bytes, fillvalue=b"")):
        if own != other:  # ids without bytes may lie beyond the embeddings
            raise ValueError(f"{token_bytes.name} is not the one that the student was built with: token {token} is "
                             f"{other!r} there and {own!r} in the student; save the student's own tokenizer next to it")


def load_lm(
    folder: str | Path, *, stage: int | None = None, boundaries: str | None = None, beam: int = 0, rows: int = 64,
    device: str = "cpu", compiled: bool | None = None, dtype: str = "auto",
) -> StudentLM:
    """A student from its folder, as the harness sees it.

    stage: None for the one that the student was trained to. The other one is an error, since what it needs was never
    trained (Stage 2) or has changed since (Stage 1). boundaries: None for the router's, or with MBP the decoder's own.
    rows, beam, compiled: see `StudentLM`. dtype: of the weights, "auto" as they were saved, or "float32".
    Raises:
        FileNotFoundError: if the folder holds no model or no tokenizer.
        ValueError: if it holds another kind of model or a student of another stage, if the device is not available, or
            if arguments do not fit.
    """
    check_device(device)
    if dtype not in ("auto", "float32"):
        raise ValueError(f"dtype must be auto (as the student was saved) or float32, found {dtype!r}")
    folder = model_folder(Path(folder))
    student = load_student(folder, stage=stage).to(device)
    if dtype == "float32":
        student.float()
    if not (folder / "tokenizer.json").is_file():
        raise FileNotFoundError(f"{folder} has no tokenizer (looked for tokenizer.json): save the teacher's there")
    tokenizer = load_tokenizer(folder)
    token_bytes = TokenBytes.from_tokenizer(tokenizer)
    chat = ChatTemplate.from_tokenizer(tokenizer, token_bytes) if tokenizer.chat_template else None
    stage = student.config.stage
    if boundaries is None:
        boundaries = "own" if stage == 2 and student.second_head is not None else "router"
    return StudentLM(student, token_bytes, stage=stage, boundaries=boundaries, beam=beam, rows=rows, compiled=compiled,
                     chat=chat)
