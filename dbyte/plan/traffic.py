"""How much more 16 rows can write than one where memory is what a step waits for: bounds from the weights alone.

Weights that a byte passes (encoder, decoder, heads) are read at every step, those that a chunk passes (the core and the
maps to and from it) whenever a chunk closes. One row reads E + C / m numbers a byte, of m bytes a chunk. Rows whose
chunks close at different times read C at nearly every step: with R of them, at a share 1 - (1 - 1/m)^R of the steps, so

    R rows over one  <=  R (E + C / m) / (E + C (1 - (1 - 1/m)^R))

Rows that wait behind a closed chunk until all have closed theirs read C once for all of them, but E as often as the
longest of their chunks has bytes. A byte is taken to end a chunk with chance 1/m whatever came before it (the chunks of
a text vary less, so waiting costs less). States and keys, which every row has for itself, would only lower the ratio.
"""

from dbyte.model.student import ByteStudent
from dbyte.plan.plan import PAPER_BYTES, PAPER_TOKENS, meta_student, parameters_by_part

PER_BYTE = ("encoder", "decoder", "residual", "byte_head")
PER_CHUNK = ("encoder_projection", "core", "decoder_projection")
CASES = ("allenai/OLMo-2-0425-1B", "meta-llama/Llama-3.2-3B")  # the paper's smallest core and its main one


def weights_read(student: ByteStudent) -> tuple[int, int]:
    """How many weights each byte of a student with JBP passes at stage 2, and how many each chunk."""
    counts = parameters_by_part(student)
    per_byte, per_chunk = (sum(counts.get(part, 0) for part in parts) for parts in (PER_BYTE, PER_CHUNK))
    return per_byte, per_chunk


def chance_of_a_chunk(rows: int, bytes_per_chunk: float) -> float:
    """The share of steps at which at least one of the rows closes a chunk."""
    return 1 - (1 - 1 / bytes_per_chunk) ** rows


def longest_chunk(rows: int, bytes_per_chunk: float) -> float:
    """The expected bytes of the longest of so many chunks, one of each row."""
    goes_on = 1 - 1 / bytes_per_chunk
    return sum(1 - (1 - goes_on**size) ** rows for size in range(int(100 * bytes_per_chunk)))


def rows_over_one(rows: int, per_byte: float, per_chunk: float, bytes_per_chunk: float) -> tuple[float, float]:
    """The bound on the ratio for rows that go on by themselves, and for rows that wait for each other's chunks."""
    one = per_byte + per_chunk / bytes_per_chunk
    apart = per_byte + per_chunk * chance_of_a_chunk(rows, bytes_per_chunk)
    waiting = (longest_chunk(rows, bytes_per_chunk) * per_byte + per_chunk) / bytes_per_chunk
    return rows * one / apart, rows * one / waiting


def traffic_text(rows: int = 16) -> str:
    """The bounds for students of the paper's sizes, as Markdown."""
    m = PAPER_BYTES / PAPER_TOKENS
    share = 100 * chance_of_a_chunk(rows, m)
    lines = [f"Where weights fit no cache, {rows} rows of the paper's students write at most so many times what one "
             f"row writes ({m:.2f} bytes a chunk; at {share:.0f} % of the steps some row closes one; "
             "`dbyte/plan/traffic.py`):", "",
             "| core | million weights a byte | a chunk | rows by themselves, as here | rows that wait for others |",
             "|---|---:|---:|---:|---:|"]
    for name in CASES:
        per_byte, per_chunk = weights_read(meta_student(name))
        apart, waiting = rows_over_one(rows, per_byte, per_chunk, m)
        lines.append(f"| {name} | {per_byte / 1e6:,.0f} | {per_chunk / 1e6:,.0f} | {apart:.1f} | {waiting:.1f} |")
    return "\n".join(lines)
