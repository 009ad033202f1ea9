"""What was measured, as a table, as JSON, and as a picture."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

COLUMNS = {
    "problem": "problem",
    "what": "what",
    "baseline_ms": "baseline, ms",
    "ratio": "ratio",
    "quartiles": "quartiles",
    "rounds": "rounds",
}


def markdown(report: Mapping[str, Any]) -> str:
    """The table, with the hardware's name above and what the memory can do below."""
    lines = [report["hardware"], "", _row(COLUMNS.values()), _row(["---"] * 6)]
    for entry in report["ratios"]:
        low, high = entry["quartiles"]
        lines.append(
            _row(
                [
                    entry["problem"],
                    f"{entry['name']} / {entry['baseline']}",
                    f"{1e3 * entry['baseline_seconds']:.3g}",
                    f"**{entry['ratio']:.2f}**",
                    f"{low:.2f} to {high:.2f}",
                    str(entry["rounds"]),
                ]
            )
        )
    lines += ["", *(f"- {note}" for note in report["notes"])]
    return "\n".join(lines)


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
    """Each ratio as a bar, its quartiles as a whisker; one panel a comparison."""
    pairs: dict[str, list[Any]] = {}
    for entry in report["ratios"]:
        pair = f"{entry['name']} / {entry['baseline']}"
        pairs.setdefault(pair, []).append(entry)
    heights = [len(entries) + 1 for entries in pairs.values()]
    figure, panels = plt.subplots(
        len(pairs),
        figsize=(8, 0.3 * sum(heights) + 0.8),
        height_ratios=heights,
        layout="constrained",
        squeeze=False,
    )
    for panel, (pair, entries) in zip(panels[:, 0], pairs.items(), strict=True):
        ratios = [entry["ratio"] for entry in entries]
        whiskers = [
            [entry["ratio"] - entry["quartiles"][0] for entry in entries],
            [entry["quartiles"][1] - entry["ratio"] for entry in entries],
        ]
        panel.barh(range(len(entries)), ratios, xerr=whiskers, color="#0072B2")
        panel.set_yticks(range(len(entries)), [entry["problem"] for entry in entries])
        panel.invert_yaxis()
        panel.axvline(1, color="0.3", linewidth=1)
        panel.set_title(pair, loc="left", fontsize="medium", fontweight="bold")
        panel.spines[["top", "right"]].set_visible(False)
        # Beyond the whiskers
        for place, entry in enumerate(entries):
            panel.annotate(
                f" {entry['ratio']:.2f}",
                (entry["quartiles"][1], place),
                va="center",
                fontsize="small",
            )
        panel.margins(x=0.12)
        panel.set_xlim(left=0)
    panels[-1, 0].set_xlabel("time of the first over time of the second, side by side")
    figure.suptitle(report["hardware"], fontsize="small")
    return figure


def _row(cells: Sequence[str] | Any) -> str:
    return f"| {' | '.join(cells)} |"
