"""Elastic columns: text with tabs in, aligned text out.

kubectl lays everything out with Go's text/tabwriter, and people compare its output by eye and by script, so the rule
is the same here. A cell is text *ended by* a tab; what follows the last tab of a line is not a cell and never padded.
Cells of neighbouring lines at the same position form a column; a line without such a cell ends the column. Each
column is as wide as its widest cell plus ``padding``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def align(text: str, *, padding: int = 2, minimum: int = 0) -> str:
    """``text`` with every tab replaced by the spaces that line its column up. ``minimum``: of a column's width."""
    lines = [line.split("\t") for line in text.split("\n")]
    for column in range(max(len(cells) for cells in lines) - 1):
        for block in _blocks(lines, column):
            width = max(minimum, padding + max(len(lines[row][column]) for row in block))
            for row in block:
                lines[row][column] = lines[row][column].ljust(width)
    return "\n".join("".join(cells) for cells in lines)


def _blocks(lines: Sequence[Sequence[str]], column: int) -> Iterator[list[int]]:
    """Runs of neighbouring lines that have a cell at this column."""
    block: list[int] = []
    for row, cells in enumerate(lines):
        if len(cells) - 1 > column:
            block.append(row)
        elif block:
            yield block
            block = []
    if block:
        yield block
