"""Writes the tables of docs/performance.md between their marks. The text around them is written by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.service.workers import TWO_TO_ONE

PAGE = Path(__file__).parents[2] / "docs/performance.md"
END = "<!-- end of table -->"

Result = Mapping[str, Any]
"""A benchmark's last line."""


def write_page(results: Mapping[str, Result], page: Path = PAGE) -> None:
    """Raises ValueError if the page lacks the marks of a table."""
    text = checked_text(page)
    for name, table in TABLES.items():
        if name in results:
            before, start, rest = text.partition(_start(name))
            _, end, after = rest.partition(END)
            text = f"{before}{start}\n\n" + "\n".join(table(results[name])) + f"\n\n{end}{after}"
    page.write_text(text)


def checked_text(page: Path = PAGE) -> str:
    """The page, which has the marks of all tables. Raises ValueError if it lacks one."""
    text = page.read_text()
    for name in TABLES:
        _, found, rest = text.partition(_start(name))
        inside, ended, _ = rest.partition(END)
        if not found or not ended or "<!-- table:" in inside:
            raise ValueError(f"{page} lacks the marks {_start(name)} and {END}: put them where the table belongs")
    return text


def _start(name: str) -> str:
    return f"<!-- table: bench-{name} -->"


def train_table(result: Result) -> list[str]:
    """A row for each cell, a column for each arm."""
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    for one in result["results"]:
        cell = (f"{one['networks']}, batch {one['batch']}", one["loss"], one["precision"])
        rows.setdefault(cell, {})[one["arm"]] = one
    arms = list(dict.fromkeys(one["arm"] for one in result["results"]))
    lines = _head(["networks", "loss", "training in", *arms], text=3)
    lines += [
        _row([*cell, *(_rate(found[arm]) if arm in found else "" for arm in arms)]) for cell, found in rows.items()
    ]
    noise = max((one["most"] - one["least"]) / one["per_second"] for one in result["results"])
    return [
        *lines,
        "",
        f"Images (or texts) per second, medians of {result['rounds']} rounds, and in brackets the ratio to `naive`. "
        f"The rounds of an arm differ by up to {noise:.0%}. {_machine(result)}",
    ]


def data_table(result: Result) -> list[str]:
    sizes, arms = result["sizes"], result["arms"]
    lines = _head(["", "decoding alone", "first epoch", "later epoch", "memory, anonymous", "memory, resident"], text=1)
    for name, one in arms.items():
        rates = ["" if one[part] is None else _spread(one[part]) for part in ("decode", "first", "later")]
        lines.append(_row([name, *rates, f"{one['anonymous_mib']} MiB", f"{one['resident_mib']} MiB"]))
    memory = result.get("memory")
    large = (
        f" With {memory['images']:,} images, {memory['data_mib']:,} MiB when decoded, this project needs at most "
        f"{memory['anonymous_mib']} MiB of anonymous memory in all its processes."
        if memory
        else ""
    )
    trained = result.get("train_run")
    job = (
        f" A job with {trained['images']:,} images decoded them in {trained['decode_seconds']:.0f} s, took its first "
        f"step after {trained['first_step_seconds']:.0f} s, and needed {result['above_networks_mib']:,} MiB more than "
        f"the same job with {result['train_baseline']['images']:,} images."
        if trained
        else ""
    )
    return [
        *lines,
        "",
        f"Images per second: {sizes['images']:,} JPEGs of {sizes['side']} pixels, batches of {sizes['batch']} images "
        f"of {sizes['size']} pixels, {sizes['workers']} processes, medians of {sizes['rounds']} rounds (least to most)."
        f"{large}{job} {_machine(result)}",
    ]


def service_table(result: Result) -> list[str]:
    """A row for each measurement and number of connections, a column for each server."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for one in result["figures"]:
        place = "" if one["connections"] is None else str(one["connections"])
        rows.setdefault((one["what"], place), {})[one["server"]] = one
    servers = list(dict.fromkeys(one["server"] for one in result["figures"]))
    lines = _head(["measured", "connections", *servers, "unit"], text=1)
    for (what, place), found in rows.items():
        unit = next(iter(found.values()))["unit"]
        lines.append(_row([what, place, *(_service(found.get(server)) for server in servers), unit]))
    return [
        *lines,
        "",
        f"Medians of {result['rounds']} rounds, and in brackets the median time of an answer and the time that 99 % of "
        f"the answers don't exceed, in milliseconds. {_machine(result)}",
        *_ratios_tables(result["ratios"]),
    ]


def _ratios_tables(ratios: Mapping[str, Mapping[str, float]]) -> list[str]:
    """How this project's figures are to those of the others, and of two processes of its API to those of one."""
    processes = {name: by for name, by in ratios.items() if name.startswith(TWO_TO_ONE)}
    others = {name: by for name, by in ratios.items() if name not in processes}
    return [*_ratios_table("ratio", others), *_ratios_table("2 processes to 1", processes, TWO_TO_ONE)]


def _ratios_table(title: str, ratios: Mapping[str, Mapping[str, float]], prefix: str = "") -> list[str]:
    if not ratios:
        return []
    places = list(dict.fromkeys(place for by in ratios.values() for place in by))
    names = {"-": "all", "1": "1 connection"}
    shown = [names.get(place, f"{place} connections") for place in places]
    rows = [
        _row([name.removeprefix(prefix).replace("_", " "), *(f"{by[at]:.2f}" if at in by else "" for at in places)])
        for name, by in ratios.items()
    ]
    return ["", *_head([title, *shown], text=1), *rows]


def growth_table(result: Result) -> list[str]:
    lines = _head(
        ["call", "p50, small", "p50, large", "p99, small", "p99, large", "ratio of p99", "pages, small → large"], text=1
    )
    for name, one in result["cases"].items():
        small, large = one["small"], one["large"]
        times = [small["p50_ms"], large["p50_ms"], small["p99_ms"], large["p99_ms"]]
        shown = [f"{value:.2f} ms" for value in times]
        pages = f"{small['pages']:.0f} → {large['pages']:.0f}"
        lines.append(_row([name, *shown, f"{one['p99_ratio']:.2f}", pages]))
    small, large = result["sizes"]["small"], result["sizes"]["large"]
    return [
        *lines,
        "",
        f"Small: {small['jobs']:,} jobs, {small['queued']:,} queued, {small['points']:,} metric points. Large: "
        f"{large['jobs']:,}, {large['queued']:,} and {large['points']:,}. {result['rounds']} calls of each. "
        f"{_machine(result)}",
    ]


TABLES: dict[str, Callable[[Result], list[str]]] = {
    "train": train_table,
    "data": data_table,
    "service": service_table,
    "growth": growth_table,
}


def _head(names: Sequence[str], *, text: int) -> list[str]:
    """`text` columns of words, then columns of numbers."""
    return [_row(names), "|" + "---|" * text + "---:|" * (len(names) - text)]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _rate(one: Mapping[str, Any]) -> str:
    ratio = "" if one["ratio_to_naive"] is None else f" ({one['ratio_to_naive']:.2f})"
    return f"{one['per_second']:.3g}{ratio}" if one["per_second"] < 100 else f"{one['per_second']:.0f}{ratio}"


def _spread(rates: Mapping[str, float]) -> str:
    return f"{rates['median']:,.0f} ({rates['least']:,.0f} to {rates['most']:,.0f})"


def _service(one: Mapping[str, Any] | None) -> str:
    if one is None:
        return ""
    value = f"{one['median']:,.0f}" if one["median"] >= 100 else f"{one['median']:.3g}"
    return value if "p50_ms" not in one else f"{value} ({_milliseconds(one['p50_ms'])}, {_milliseconds(one['p99_ms'])})"


def _milliseconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _machine(result: Result) -> str:
    machine = result["machine"]
    load = result.get("load", machine.get("load"))
    busy = "" if load is None else f"; load {load} at the end"
    gpu = "" if machine["gpu"] == "none" else f", {machine['gpu']}"
    return (
        f"Machine: {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB{gpu}; Python "
        f"{machine['python']}, torch {machine['torch']}, {machine['threads']} threads{busy}."
    )
