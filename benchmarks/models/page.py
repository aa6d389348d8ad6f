"""Write the table of docs/models.md between its two marks. The text around it is written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs/models.md"
START, END = "<!-- table: make models -->", "<!-- end of table -->"
HEAD = (
    "| network | pixels | blocks by section | student | parameters, M | FLOPs, G | loss, first → last step | "
    "largest difference, ONNX / pt2 |\n|---|---|---|---|---|---|---|---|"
)


def write_page(rows: list[dict[str, Any]]) -> None:
    text = PAGE.read_text() if PAGE.exists() else f"{START}\n{END}\n"
    before, _, rest = text.partition(START)
    after = rest.partition(END)[2]
    lines = [HEAD, *map(_line, rows)]
    PAGE.write_text(f"{before}{START}\n" + "\n".join(lines) + f"\n{END}{after}")


def _line(row: dict[str, Any]) -> str:
    name = f"{row['library']} {row['name']}"
    if row["outcome"] != "passed":
        return f"| {name} | {row['outcome']}: {row['reason']} | | | | | | |"
    parameters = " → ".join(f"{value / 1e6:.2f}" for value in row["parameters"])
    flops = " → ".join(f"{value / 1e9:.3g}" for value in row["flops"])
    loss = " → ".join(f"{value:.4g}" for value in row["loss"])
    differences = " / ".join(f"{row['differences'][kind]:.1g}" for kind in ("onnx", "pt2"))
    blocks = ", ".join(map(str, row["blocks"]))
    student = ", ".join(map(str, row["student_blocks"]))
    return f"| {name} | {row['size'][0]} | {blocks} | {student} | {parameters} | {flops} | {loss} | {differences} |"
