"""An encoder that returns the teacher's embedding of each token: with it a student must be its teacher, step by step.

It stands in for `chunk_embeddings` (whole rows, and trees of texts) and for the projection (a chunk that closes while
text is written), and knows the bytes of rows from the embedding of bytes, through which all of them go.
"""

from torch import nn
from torch.nn.utils.rnn import pad_sequence

from dbyte.decode.stream import ByteStream
from dbyte.evaluate.shared_prefix import SharedTexts
from dbyte.text.spans import BOS


class Oracle(nn.Module):
    def __init__(self, student, teacher, token_bytes, monkeypatch):
        super().__init__()
        self.embedding = teacher.get_input_embeddings()
        self.id_of = {text: token for token, text in enumerate(token_bytes.token_bytes) if text}
        self.id_of[bytes([BOS])] = token_bytes.bos_token_id
        self.closing, self.open = [], {}
        student.byte_embedding.register_forward_hook(self.remember)
        monkeypatch.setattr(student, "chunk_embeddings", self.chunk_embeddings)
        monkeypatch.setattr(student, "encoder_projection", self)
        monkeypatch.setattr(SharedTexts, "chunk_embeddings", lambda texts, *given: self.of_trees(texts, *given))
        self.watch(monkeypatch)

    def remember(self, module, arguments, output):
        if arguments[0].dim() == 2:
            self.ids_BL = arguments[0]

    def ids(self, tokens):
        return self.embedding.weight.new_tensor([self.id_of[bytes(token)] for token in tokens]).long()

    def chunk_embeddings(self, encoded_BLD, chunks, byte_ids_BL):
        rows = []
        for ids, position, mask in zip(self.ids_BL.tolist(), chunks.position_BM, chunks.mask_BM, strict=True):
            ends = [end + 1 for end in position[mask].tolist()]
            rows.append(self.ids(ids[start:end] for start, end in zip([0, *ends], ends, strict=False)))
        return self.embedding(pad_sequence(rows, batch_first=True))

    def of_trees(self, texts, encoded_TD, chunks):
        """`SharedTexts.chunk_embeddings`: a chunk's bytes lie between its parent's last node and its own."""
        tokens = []
        for end, parent in zip(chunks.symbol_T.tolist(), chunks.parent_T.tolist(), strict=True):
            before, token = chunks.symbol_T[parent] if parent >= 0 else -1, []
            while end != before:
                token.insert(0, int(texts.tree.symbol_T[end]))
                end = texts.tree.parent_T[end]
            tokens.append(token)
        return self.embedding(self.ids(tokens))

    def forward(self, encoded_RD):
        assert len(self.closing) == len(encoded_RD)
        return self.embedding(self.ids(self.closing))

    def watch(self, monkeypatch):
        """Note which bytes each row of a stream has taken in since its last chunk closed."""
        oracle, begin, step, take = self, ByteStream.__init__, ByteStream.step, ByteStream.take

        def beginning(stream, student, prompts, *, prompt_ends=None, **options):
            starts = [([0, *ends[:-1]] or [0])[-1] for ends in prompt_ends]
            oracle.open = [b""] * len(prompts)
            oracle.closing = [prompt[start:] or bytes([BOS]) for prompt, start in zip(prompts, starts, strict=True)]
            begin(stream, student, prompts, prompt_ends=prompt_ends, **options)

        def stepping(stream, byte_B, ends_B=None, **options):
            oracle.closing = []
            for row, (byte, ends) in enumerate(zip(byte_B.tolist(), ends_B.tolist(), strict=True)):
                oracle.open[row] += bytes([byte])
                if ends:
                    oracle.closing.append(oracle.open[row])
                    oracle.open[row] = b""
            step(stream, byte_B, ends_B, **options)

        monkeypatch.setattr(ByteStream, "__init__", beginning)
        def taking(stream, rows):
            oracle.open = [oracle.open[row] for row in rows]
            take(stream, rows)

        monkeypatch.setattr(ByteStream, "step", stepping)
        monkeypatch.setattr(ByteStream, "take", taking)
