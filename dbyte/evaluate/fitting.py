"""A text that the core has too few positions for: its context is cut from the left, and what was cut is counted.

The cut lies at the end of a chunk, as the text is read, and never inside a character; what is left begins a document of
its own, with BOS. The continuation is never cut. A shorter context may be cut into chunks anew (the router sees another
beginning), so the cut is repeated until the text fits.
"""

from dataclasses import dataclass

from dbyte.evaluate.score import Request, Scorer


@dataclass
class Cuts:
    """How many texts were read, how many of them lost the beginning of their context, and how many bytes that was."""

    texts: int = 0
    cut_texts: int = 0
    cut_bytes: int = 0

    def count(self, before: Request, after: Request) -> None:
        """Count one text."""
        lost = len(before.text) - len(after.text)
        self.texts, self.cut_texts, self.cut_bytes = self.texts + 1, self.cut_texts + (lost > 0), self.cut_bytes + lost

    def __str__(self) -> str:
        return (f"{self.cut_texts} of {self.texts} texts had more chunks than the core has positions: "
                f"{self.cut_bytes} bytes of their contexts were cut from the left")


def fitted(scorer: Scorer, request: Request, *, room: int = 0) -> Request:
    """The request with as much of its context as fits beside `room` positions for what is written after it.

    Raises:
        ValueError: if the continuation alone has more chunks than there are positions.
    """
    positions = scorer.student.core.config.max_position_embeddings - 1 - room  # BOS has one
    while len(request.text) > positions:  # a chunk has at least one byte: shorter texts fit
        ends = scorer.chunk_ends(request)
        if len(ends) <= positions:
            break
        cut = ends[len(ends) - positions - 1] if positions > 0 else len(request.text)
        while cut < len(request.text) and request.text[cut] & 0xC0 == 0x80:
            cut += 1
        if cut > request.start:
            raise ValueError(f"{request.text[request.start:][:40]!r} .. has more chunks than the core has positions "
                             f"({positions} beside BOS and {room} for text to be written): score it in shorter pieces")
        request = _without(request, cut)
    return request


def _without(request: Request, cut: int) -> Request:
    ends = None if request.token_ends is None else tuple(end - cut for end in request.token_ends if end > cut)
    return Request(request.text[cut:], request.start - cut, ends)
