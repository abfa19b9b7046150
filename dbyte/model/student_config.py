"""What a student is built from: its sizes and kinds, as a transformers configuration (paper Table 12)."""

from dataclasses import replace

import torch
from transformers import AutoConfig, PreTrainedConfig

from dbyte.model.blocks import StackShape
from dbyte.presets import PAPER_SIZES

ROUTERS = ("integrated", "split", "entropy")
DECODINGS = ("jbp", "mbp", "prior")
OF_EVERY_CONFIG = frozenset(PreTrainedConfig().to_dict()) | {"auto_map", "name_or_path"}


class StudentConfig(PreTrainedConfig):
    """Sizes of a student; the defaults fit a laptop, `StudentConfig.paper()` is Table 12.

    byte_width D; encoder_layers, decoder_layers >= 1; ffn_width 0 leaves the feed-forward networks out (the authors'
    code); state_size, conv_width, expand, head_width, chunk_size are Mamba2's.
    encoder_mixer "attention" is Table 5's Transformer encoder, "convolution" a control that sees near bytes alone, both
    with as many parameters; encoder_window: how many bytes they see, 0: all (attention). router "integrated" reads the
    encoder (router_ffn_width 0: two linear maps), "split" has router_layers of router_width of its own (appendix B), so
    has "entropy", BLT's byte model (entropy_router.py).
    router_suffixes: width of the integrated router's own embeddings of suffixes, 0: it reads none, see suffix.py.
    smoothing, confidence: see chunking.py. suffix: a chunk's embedding starts from that of the longest token that ends
    there, see suffix.py. decoding "jbp" has one head over (byte, chunk ends), "prior" the same, which corrects what the
    token head says (token_prior.py), "mbp" two heads, over the next byte and the one after it. stage is the stage that
    the student was last trained in: 1 writes tokens, 2 writes bytes.
    core_config is the teacher's, filled in by `ByteStudent.from_teacher`. Raises ValueError where sizes do not fit.
    """

    model_type = "dbyte"

    core_config: dict | PreTrainedConfig | None = None
    byte_width: int = 128
    encoder_layers: int = 2
    decoder_layers: int = 2
    ffn_width: int = 256
    state_size: int = 64
    conv_width: int = 4
    expand: int = 2
    head_width: int = 64
    chunk_size: int = 64
    encoder_mixer: str = "mamba2"
    encoder_window: int = 0
    router: str = "integrated"
    router_ffn_width: int = 0
    router_width: int = 512
    router_layers: int = 4
    router_suffixes: int = 0
    smoothing: bool = False
    confidence: bool = False
    suffix: bool = False
    decoding: str = "jbp"
    token_table_bytes: int = 0
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    stage: int = 2
    tie_word_embeddings: bool = False
    dbyte_version: str | None = None

    def __post_init__(self, **kwargs):
        unknown = [name for name in kwargs if not name.startswith("_") and name not in OF_EVERY_CONFIG]
        if unknown:
            raise ValueError(f"StudentConfig has no {', '.join(unknown)}: see its docstring for the sizes it knows")
        if isinstance(self.core_config, dict):
            core = dict(self.core_config)
            self.core_config = AutoConfig.for_model(core.pop("model_type"), **core)
        super().__post_init__(**kwargs)
        for name, choices in (("router", ROUTERS), ("decoding", DECODINGS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, found {getattr(self, name)!r}")
        if self.router_suffixes and (self.smoothing or self.router != "integrated"):
            raise ValueError("router_suffixes needs router='integrated' and smoothing=False, whose steps know bytes; "
                             f"found {self.router!r} and {self.smoothing}: set it to 0")
        if (self.smoothing or self.confidence) and self.router != "integrated":
            raise ValueError("smoothing and confidence need the integrated router: another one does not run while "
                             "text is written, so what it would say then is not known")
        if self.router == "entropy" and self.decoding != "jbp":
            raise ValueError("MBP's look-ahead and a prior's chunks depend on later bytes, and router='entropy' reads "
                             "none: use decoding='jbp'")
        for shape in (self.encoder_shape(), self.decoder_shape(), self.router_shape()):
            with torch.device("meta"):
                try:
                    shape.make_mixer()  # raises where widths do not divide, before any weight is made
                except RuntimeError as error:  # torch counts the bytes even of a tensor without values
                    raise ValueError(f"no memory holds a part of these sizes ({str(error).splitlines()[0]}): "
                                     "choose smaller widths") from error

    @classmethod
    def paper(cls) -> "StudentConfig":
        """The sizes of the paper's Table 12, the same for all three teachers."""
        return cls(**PAPER_SIZES)

    def encoder_shape(self) -> StackShape:
        """The shape of the encoder."""
        return replace(self.decoder_shape(), layers=self.encoder_layers, mixer=self.encoder_mixer,
                       window=self.encoder_window)

    def decoder_shape(self) -> StackShape:
        """The shape of the local decoder."""
        return StackShape(self.byte_width, self.decoder_layers, self.ffn_width, self.state_size, self.conv_width,
                          self.expand, self.head_width, self.chunk_size)

    def router_shape(self) -> StackShape:
        """The shape of the split router's stack: Mamba2 without feed-forward networks."""
        return replace(self.decoder_shape(), width=self.router_width, layers=self.router_layers, ffn_width=0)
