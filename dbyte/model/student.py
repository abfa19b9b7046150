"""The byte-level student: encoder, router, chunk, the teacher's core and head, dechunk, decoder (paper section 4.1).

    bytes -> embedding -> encoder -> projection to E -> router -> chunk -> core -> token head            (Stage 1)
                                                   core -> dechunk + residual -> projection to D -> decoder -> heads
                                                                                                 (Stage 2, JBP or MBP)

It is a transformers model: config.json and safetensors, save_pretrained, from_pretrained, Auto classes.

Shape letters: B rows, L bytes, D byte width, E core width (the teacher's), M chunks, V teacher vocabulary,
K2 = 512 joint symbols (byte + 256 * a chunk ends there).
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from dbyte.model.backends import check_backend
from dbyte.model.blocks import Stack
from dbyte.model.chunking import Chunks, chunk, dechunk, find_chunks, opening_confidence, smooth, straight_through
from dbyte.model.core import run_core
from dbyte.model.entropy_router import EntropyRouter
from dbyte.model.packed_attention import PACKED
from dbyte.model.router import BYTES, THRESHOLD, Router, SplitRouter, over_documents
from dbyte.model.student_config import StudentConfig
from dbyte.model.suffix import SuffixOdds, SuffixProjection, SuffixTable
from dbyte.model.teacher import check_family, has_tokenizer, load_model, model_kind, read_teacher
from dbyte.model.token_prior import TokenPrior
from dbyte.model.weights import check_sizes, reading_weights
from dbyte.text.sorted_vocabulary import JOINT, SortedVocabulary
from dbyte.text.spans import TokenBytes, is_special
from dbyte.text.token_pieces import TokenPieces
from dbyte.version import __version__

ROUTERS_OF_BYTES = {"split": SplitRouter, "entropy": EntropyRouter}


def new_core(config: PreTrainedConfig) -> PreTrainedModel:
    """Return a core of new weights: a teacher's transformer without embeddings and head."""
    core = AutoModel.from_config(config, attn_implementation=PACKED)
    core.set_input_embeddings(None)
    return core


@dataclass
class StudentOutput(ModelOutput):
    """What a student returns.

    token_logits [B, M, V]: the k-th predicts the token after the row's k-th chunk (Stage 1).
    byte_logits [B, L, 512]: the i-th predicts byte i + 1 and whether it ends a chunk (Stage 2, JBP); [B, L, 256] with
        MBP, the byte alone, and then second_logits [B, L, 256] predict byte i + 2.
    boundary_prob [B, L] in [0, 1]: the router's. boundary [B, L] bool: the one used.
    chunk_mask [B, M] bool: which of the M chunks are real.
    """

    token_logits: Tensor | None = None
    byte_logits: Tensor | None = None
    second_logits: Tensor | None = None
    boundary_prob: Tensor | None = None
    boundary: Tensor | None = None
    chunk_mask: Tensor | None = None


class ByteStudent(PreTrainedModel):
    """A byte-level language model whose core is a token-trained transformer."""

    config_class = StudentConfig
    base_model_prefix = "student"
    main_input_name = "byte_ids_BL"
    _supports_sdpa = True

    def __init__(self, config: StudentConfig):
        super().__init__(config)
        if config.core_config is None:
            raise ValueError("StudentConfig has no core_config: build a student with ByteStudent.from_teacher(teacher)")
        E = config.core_config.hidden_size
        D = config.byte_width
        self.byte_embedding = nn.Embedding(BYTES, D)
        self.encoder = Stack(config.encoder_shape())
        self.encoder_projection = (SuffixProjection(D, E, vocabulary=config.core_config.vocab_size) if config.suffix
                                   else nn.Linear(D, E, bias=False))
        suffixes = SuffixOdds(config.core_config.vocab_size, width) if (width := config.router_suffixes) else None
        self.router = (Router(D, config.router_ffn_width, suffixes) if config.router == "integrated" else
                       ROUTERS_OF_BYTES[config.router](config.router_shape()))
        self.core = new_core(config.core_config)
        self.token_head = nn.Linear(E, config.core_config.vocab_size, bias=False)
        self.null_E = nn.Parameter(torch.zeros(E))
        self.residual = nn.Linear(D, E, bias=False)
        nn.init.zeros_(self.residual.weight)  # the core starts as the decoder's only source (H-Net)
        self.decoder_projection = nn.Linear(E, D, bias=False)
        self.decoder = Stack(config.decoder_shape())
        self.byte_head = nn.Linear(D, BYTES if config.decoding == "mbp" else JOINT, bias=False)
        if config.decoding == "prior":
            nn.init.zeros_(self.byte_head.weight)
        self.second_head = nn.Linear(D, BYTES, bias=False) if config.decoding == "mbp" else None
        self.register_buffer("token_table", torch.zeros(config.token_table_bytes, dtype=torch.uint8))
        self.register_buffer("token_offset", torch.zeros(config.core_config.vocab_size + 1, dtype=torch.long))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Leave modules as their constructors made them; `from_pretrained` raises if a folder lacks weights."""

    def with_decoding(self, decoding: str) -> "ByteStudent":
        """Return a student with new, untrained byte heads of one of DECODINGS; all else is copied from this one."""
        config = copy.deepcopy(self.config)
        config.decoding = decoding
        student = ByteStudent(config).to(self.device, self.dtype)
        kept = {name: weight for name, weight in self.state_dict().items()
                if not name.startswith(("byte_head.", "second_head."))}
        student.load_state_dict(kept, strict=False)
        return student

    def use_backend(self, backend: str) -> "ByteStudent":
        """Run every mixer by a backend of backends.py; ValueError with the remedy if that cannot run here."""
        check_backend(backend)
        for module in self.modules():
            if hasattr(module, "backend"):
                module.backend = backend
        return self

    # -- parts, in the order of the data ------------------------------------------------------------------------------

    def encode(self, byte_ids_BL: Tensor, document_BL: Tensor) -> Tensor:
        """Encode bytes (int64, 0..255): encoded_BLD."""
        return self.encoder(self.byte_embedding(byte_ids_BL), document_BL)

    def route(self, encoded_BLD: Tensor, byte_ids_BL: Tensor, document_BL: Tensor) -> Tensor:
        """Return boundary_prob_BL in [0, 1]: 1 at and before a byte that is a token by itself, by contract."""
        read = encoded_BLD if self.config.router == "integrated" else byte_ids_BL
        special_BL = is_special(byte_ids_BL)
        prob_BL = self.router(read, document_BL)
        if self.config.router_suffixes:
            suffix_BL = self.suffix_table.find(byte_ids_BL)
            prob_BL = over_documents(self.router.suffixes(prob_BL[:, :-1], suffix_BL[:, :-1], suffix_BL[:, 1:]),
                                     document_BL)
        return prob_BL.masked_fill(special_BL | F.pad(special_BL[:, 1:], (0, 1)), 1.0)

    def end_chunks(self, prob_BL: Tensor, byte_ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """The router's decisions (bool [B, L]) by its probabilities; with a prior chunks are split into tokens."""
        boundary_BL = (prob_BL >= THRESHOLD) & mask_BL
        if self.token_prior is None:
            return boundary_BL
        length_B = mask_BL.sum(1).tolist()
        texts = [bytes(ids_L[:length]) for ids_L, length in zip(byte_ids_BL.tolist(), length_B, strict=True)]
        split_BL = self.token_prior.split_rows(boundary_BL.cpu().numpy(), texts, length_B)
        return torch.from_numpy(split_BL).to(boundary_BL.device)

    def chunk_embeddings(self, encoded_BLD: Tensor, chunks: Chunks, byte_ids_BL: Tensor | None = None) -> Tensor:
        """Project the states at boundaries to the core's width: [B, M, E], comparable to the teacher's embeddings.

        byte_ids_BL: int64, the bytes; only a student with suffixes reads them.
        """
        return self.project_chunks(chunk(encoded_BLD, chunks),
                                   lambda: self.suffix_table.find(byte_ids_BL).gather(1, chunks.position_BM))

    def project_chunks(
        self, encoded_XD: Tensor, suffix: Callable[[], Tensor], *, project: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """Project the encoder's states at the last bytes of chunks to the core's width: [X, E].

        suffix: returns the longest tokens that end at these bytes (int64 [X]); only a student with suffixes calls it.
        project: the engine's `encoder_projection`, None: the student's own.
        """
        embedding_XE = (project or self.encoder_projection)(encoded_XD)
        if self.config.suffix:
            embedding_XE = embedding_XE + self.encoder_projection.of_suffix(encoded_XD, suffix())
        # back from autocast's half precision: the core adds up many small changes
        return embedding_XE.to(encoded_XD.dtype)

    @cached_property
    def suffix_table(self) -> SuffixTable:
        """The teacher's tokens by hash, to find the longest one that ends at a byte; see suffix.py."""
        return SuffixTable(self.token_texts(), bos_token_id=self.config.bos_token_id,
                           eos_token_id=self.config.eos_token_id)

    def run_core(self, chunk_BME: Tensor, chunks: Chunks) -> Tensor:
        """Run the teacher's transformer over the chunks of each document: core_BME."""
        return run_core(self.core, chunk_BME, chunks.document_BM)

    def decode(
        self, core_BME: Tensor, encoded_BLD: Tensor, chunks: Chunks, document_BL: Tensor, boundary_prob_BL: Tensor
    ) -> Tensor:
        """Turn chunks back into bytes: decoded_BLD, which the byte heads map to logits.

        boundary_prob_BL matters with smoothing and, for gradients alone, with confidence.
        """
        if self.config.smoothing:
            core_BME = smooth(core_BME, opening_confidence(boundary_prob_BL, chunks), chunks)
        up_BLE = dechunk(core_BME, self.null_E, chunks)
        if self.config.confidence:
            up_BLE = straight_through(up_BLE, boundary_prob_BL, chunks.boundary_BL)
        decoder_BLD = self.decoder_projection(up_BLE + self.residual(encoded_BLD)).to(encoded_BLD.dtype)
        return self.decoder(decoder_BLD, document_BL)

    @cached_property
    def sorted_vocabulary(self) -> SortedVocabulary:
        """The teacher's tokens in the order of their bytes."""
        return SortedVocabulary(self.token_texts())

    @cached_property
    def token_pieces(self) -> TokenPieces:
        """The teacher's tokens, to split chunks that are none."""
        return TokenPieces(self.token_texts(), eos_token_id=self.config.eos_token_id)

    @cached_property
    def token_prior(self) -> TokenPrior | None:
        """What turns the token head's logits into a prior of the byte head's; None unless decoding is "prior"."""
        return TokenPrior(self.sorted_vocabulary, self.token_pieces) if self.config.decoding == "prior" else None

    def prior_along(self, core_BME: Tensor, byte_ids_BL: Tensor, chunks: Chunks) -> Tensor | None:
        """The prior at each byte of what follows it ([B, L, 512]), for `byte_logits`; no gradient flows back."""
        return self.token_prior and self.token_prior.along(core_BME, self.token_head, byte_ids_BL, chunks)

    def byte_logits(self, decoded_XD: Tensor, prior_XK: Tensor | None) -> Tensor:
        """The byte head's logits [X, 512] (MBP: [X, 256]), added to the prior if there is one."""
        logits_XK = self.byte_head(decoded_XD)
        return logits_XK if prior_XK is None else logits_XK + prior_XK

    def around_core(self) -> Tensor:
        """The weight [D, D] of the path around the core: the residual, then the projection to the decoder's width."""
        return self.decoder_projection.weight @ self.residual.weight

    # -- both stages --------------------------------------------------------------------------------------------------

    def forward(
        self,
        byte_ids_BL: Tensor,
        boundary_BL: Tensor | None = None,
        document_BL: Tensor | None = None,
        mask_BL: Tensor | None = None,
        *,
        token_logits: bool = True,
        byte_logits: bool = True,
    ) -> StudentOutput:
        """Run both stages' heads over rows of bytes.

        Args:
            byte_ids_BL: int64, 0..255, each document BOS + bytes (+ EOS).
            boundary_BL: bool, the last byte of each chunk; None: the router decides.
            document_BL: int, equal and contiguous inside a document; None: one document a row.
            mask_BL: bool, False for padding at a row's tail; None: no padding.
            token_logits, byte_logits: leave a head out to save its time.
        Raises:
            ValueError: if shapes or ranges are wrong, boundaries lie on padding, padding is not at the tail, or a
                document has more chunks than the core has positions.
        """
        document_BL, mask_BL = self._check_rows(byte_ids_BL, boundary_BL, document_BL, mask_BL)
        encoded_BLD = self.encode(byte_ids_BL, document_BL)
        boundary_prob_BL = self.route(encoded_BLD, byte_ids_BL, document_BL)
        if boundary_BL is None:
            boundary_BL = self.end_chunks(boundary_prob_BL, byte_ids_BL, mask_BL)
        chunks = find_chunks(boundary_BL, document_BL, mask_BL)
        core_BME = self.run_core(self.chunk_embeddings(encoded_BLD, chunks, byte_ids_BL), chunks)
        out = StudentOutput(boundary_prob=boundary_prob_BL, boundary=boundary_BL, chunk_mask=chunks.mask_BM)
        if token_logits:
            out.token_logits = self.token_head(core_BME)
        if byte_logits:
            decoded_BLD = self.decode(core_BME, encoded_BLD, chunks, document_BL, boundary_prob_BL)
            out.byte_logits = self.byte_logits(decoded_BLD, self.prior_along(core_BME, byte_ids_BL, chunks))
            out.second_logits = None if self.second_head is None else self.second_head(decoded_BLD)
        return out

    def check_jbp(self, what: str) -> None:
        """Raise ValueError if the student has MBP's heads: `what` needs the joint distribution of byte and flag."""
        if self.second_head is not None:
            raise ValueError(f"{what} need the joint head, and this student has decoding='mbp': use one with "
                             "decoding='jbp'")

    def _check_rows(
        self, byte_ids_BL: Tensor, boundary_BL: Tensor | None, document_BL: Tensor | None, mask_BL: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return document_BL with -1 on padding, and mask_BL; ValueError where the input contradicts itself."""
        if byte_ids_BL.dim() != 2 or byte_ids_BL.shape[1] == 0 or byte_ids_BL.is_floating_point():
            raise ValueError("byte_ids_BL must be integers of shape [rows, bytes >= 1]; found "
                             f"{tuple(byte_ids_BL.shape)} of {byte_ids_BL.dtype}: an empty text still has its BOS byte")
        if int(byte_ids_BL.min()) < 0 or int(byte_ids_BL.max()) >= BYTES:
            raise ValueError(f"byte ids lie in 0..255; found {int(byte_ids_BL.min())}..{int(byte_ids_BL.max())}: pass "
                             "UTF-8 bytes, not token ids")
        for name, given in (("boundary_BL", boundary_BL), ("document_BL", document_BL), ("mask_BL", mask_BL)):
            if given is not None and given.shape != byte_ids_BL.shape:
                raise ValueError(f"{name} must have the shape of byte_ids_BL, {tuple(byte_ids_BL.shape)}; found "
                                 f"{tuple(given.shape)}")
        mask_BL = torch.ones_like(byte_ids_BL, dtype=torch.bool) if mask_BL is None else mask_BL.bool()
        if bool((mask_BL[:, 1:] & ~mask_BL[:, :-1]).any()):
            raise ValueError("mask_BL must be False only at a row's tail, found True after False: pad at the end")
        document_BL = torch.zeros_like(byte_ids_BL) if document_BL is None else document_BL
        return document_BL.masked_fill(~mask_BL, -1), mask_BL

    # -- from and to disk ---------------------------------------------------------------------------------------------

    @classmethod
    def from_teacher(
        cls, teacher: str | Path | PreTrainedModel, *, config: StudentConfig | None = None, tokenizer=None
    ) -> "ByteStudent":
        """Build an untrained student around a teacher's transformer and head, both copied bit for bit.

        Args:
            teacher: a transformers causal language model, or its folder or hub name.
            config: sizes of the new parts; its core_config is replaced by the teacher's.
            tokenizer: the teacher's, for the table of token bytes that Stage 1 writes text with; with a folder or hub
                name it is loaded from there.
        Raises:
            ValueError: if the teacher is not a decoder with a token head, its tokenizer is not byte-exact or has other
                tokens, or a config with suffixes has no tokenizer. FileNotFoundError: for a missing folder or name.
        """
        if not isinstance(teacher, PreTrainedModel):
            if tokenizer is None and has_tokenizer(teacher):
                tokenizer = read_teacher(teacher)[1]
            teacher = load_model(teacher)
        check_family(teacher)
        config = StudentConfig() if config is None else copy.deepcopy(config)
        config.core_config = teacher.config
        config.dtype = teacher.dtype
        config.dbyte_version = __version__
        if tokenizer is not None:
            token_bytes = TokenBytes.from_tokenizer(tokenizer)
            config.bos_token_id = token_bytes.bos_token_id
            config.eos_token_id = token_bytes.eos_token_id
            rows = teacher.config.vocab_size
            if any(token_bytes.token_bytes[rows:]):
                raise ValueError(f"{token_bytes.name} has {len(token_bytes)} tokens with text among those beyond the "
                                 f"teacher's {rows} embeddings: use the tokenizer that the teacher was trained with")
            texts = b"".join(token_bytes.token_bytes)
            config.token_table_bytes = len(texts)
        elif config.suffix or config.router_suffixes:
            raise ValueError("suffix and router_suffixes look up the teacher's tokens, and no tokenizer is here: give "
                             "it, or switch both off")
        student = cls(config)
        if tokenizer is not None:
            student.token_table.copy_(torch.tensor(list(texts)))
            student.token_offset.fill_(len(texts))
            ends = [0, *token_bytes.lengths.cumsum()][: rows + 1]  # ids without bytes may lie beyond the embeddings
            student.token_offset[: len(ends)] = torch.tensor(ends)
        for weight in student.parameters():  # not .to(dtype), which would also round the rotary frequencies
            weight.data = weight.data.to(teacher.dtype)
        student.core.load_state_dict({name: weight for name, weight in teacher.model.state_dict().items()
                                      if not name.startswith("embed_tokens.")})
        with torch.no_grad():
            student.token_head.weight.copy_(teacher.get_output_embeddings().weight)
            if config.suffix:
                student.encoder_projection.embedding_VE = teacher.get_input_embeddings().weight.detach().clone()
        return student

    @classmethod
    def from_pretrained(cls, folder: str | Path, **options) -> "ByteStudent":
        """Load a student as transformers does, from safetensors alone, which must fit the config (see weights.py).

        Raises ValueError for another kind of model, or weights that are missing, damaged or of other sizes.
        """
        if (kind := model_kind(folder)) != cls.config_class.model_type:
            raise ValueError(f"{folder} holds a {kind} model, not a byte-level student: name the folder of a student, "
                             "as `python -m dbyte train` prints it. A teacher is evaluated by `evaluate --teacher` or "
                             "the harness's own adapter (lm_eval --model hf), and a student made of it by `train "
                             "--teacher`")
        wants_info = options.pop("output_loading_info", False)
        options["use_safetensors"] = True
        with reading_weights(folder):
            if Path(folder).is_dir():
                config = cls.config_class.from_pretrained(folder)
                routed = config.router_layers if config.router == "split" else 0
                core = config.core_config.num_hidden_layers
                check_sizes(Path(folder), cls, layers=config.encoder_layers + config.decoder_layers + routed + core)
            student, info = super().from_pretrained(folder, output_loading_info=True, **options)
        if info["missing_keys"]:
            raise ValueError(f"{folder} lacks weights of the student: {sorted(info['missing_keys'])[:5]}; it was not "
                             "saved whole, or by another version: save it again with save_pretrained")
        return (student, info) if wants_info else student

    def token_texts(self) -> list[bytes]:
        """The bytes of each of the teacher's tokens; ValueError if the student was built without a tokenizer."""
        if not self.config.token_table_bytes:
            raise ValueError("this student has no table of token bytes: build it with from_teacher(..., tokenizer=...)")
        table = bytes(self.token_table.tolist())
        return [table[start:end] for start, end in pairwise(self.token_offset.tolist())]


AutoConfig.register("dbyte", StudentConfig)
AutoModel.register(StudentConfig, ByteStudent)
