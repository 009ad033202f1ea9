"""What was measured, as a table, as JSON, and as a picture."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator


def markdown(report: Mapping[str, Any]) -> str:
    """The table: a row for a problem, a column for a comparison."""
    pairs = list(dict.fromkeys(_pair(entry) for entry in report["ratios"]))
    rows: dict[str, dict[str, str]] = {}
    for entry in report["ratios"]:
        low, high = entry["quartiles"]
        cell = f"**{entry['ratio']:.2f}** ({low:.2f} to {high:.2f})"
        rows.setdefault(entry["problem"], {})[_pair(entry)] = cell
    table = [["", *pairs], ["---"] * (len(pairs) + 1)]
    table += [
        [problem, *(cells.get(pair, "–") for pair in pairs)]
        for problem, cells in rows.items()
    ]
    lines = [f"{report['hardware']}:", ""]
    lines += [f"| {' | '.join(row)} |" for row in table]
    return "\n".join([*lines, "", *(f"- {note}" for note in report["notes"])])


def write(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes benchmarks.json and benchmarks.png."""
    folder.mkdir(parents=True, exist_ok=True)
    data, picture = folder / "benchmarks.json", folder / "benchmarks.png"
    data.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    figure = draw(report)
    figure.savefig(picture, dpi=150)
    plt.close(figure)
    return [data, picture]


def draw(report: Mapping[str, Any]) -> Figure:
    """Each ratio as a dot in its quartiles; one panel a comparison, all on one axis."""
    pairs: dict[str, list[Any]] = {}
    for entry in report["ratios"]:
        pairs.setdefault(_pair(entry), []).append(entry)
    heights = [len(entries) + 1 for entries in pairs.values()]
    figure, panels = plt.subplots(
        len(pairs),
        figsize=(8, 0.3 * sum(heights) + 0.8),
        height_ratios=heights,
        layout="constrained",
        squeeze=False,
        sharex=True,
    )
    for panel, (pair, entries) in zip(panels[:, 0], pairs.items(), strict=True):
        for place, entry in enumerate(entries):
            low, high = entry["quartiles"]
            panel.plot([low, high], [place, place], color="#0072B2", linewidth=2)
            panel.plot(entry["ratio"], place, "o", color="#0072B2")
            # Beyond both of them, whichever is further.
            panel.annotate(
                f"{entry['ratio']:.2f}",
                (max(high, entry["ratio"]), place),
                xytext=(7, 0),
                textcoords="offset points",
                va="center",
                fontsize="small",
            )
        panel.set_yticks(range(len(entries)), [entry["problem"] for entry in entries])
        panel.set_ylim(len(entries) - 0.5, -0.5)
        panel.axvline(1, color="0.3", linewidth=1)
        panel.grid(axis="x", alpha=0.25)
        panel.set_title(pair, loc="left", fontsize="medium", fontweight="bold")
        panel.spines[["top", "right"]].set_visible(False)
        panel.margins(x=0.12)
    axis = panels[-1, 0]
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_locator(NullLocator())
    figure.supxlabel(
        "time of the first over time of the second, side by side, and its quartiles; "
        "right of 1 the second is faster",
        fontsize="small",
    )
    figure.suptitle(report["hardware"], fontsize="small")
    return figure


def _pair(entry: Mapping[str, Any]) -> str:
    return f"{entry['name']} / {entry['baseline']}"
