"""The tables of the experiments, made from what the notebooks' outputs keep.

    python notebooks/summary.py                   writes them into README.md, here and
                                                  above: all, and the clearest
    python notebooks/summary.py --against FOLDER  compares with another run's notebooks

In the table of the paper's tasks it fills in, after the comparisons that a comment
names, whether their direction was reproduced.

The second prints each kept difference with its interval beside the one of the other
run, and fails where the new mean lies outside of the kept interval.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats

NOTEBOOKS = Path(__file__).parent
ALL, CLEAREST = NOTEBOOKS / "README.md", NOTEBOOKS.parent / "README.md"

# Under this type of its own, a notebook's output keeps what its tables were made of.
RESULT_TYPE = "application/vnd.optax-adamp.result+json"


def results_of(notebook: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What `experiments.compare` kept in the outputs of a notebook."""
    return [
        output["data"][RESULT_TYPE]
        for cell in notebook["cells"]
        for output in cell.get("outputs", [])
        if RESULT_TYPE in output.get("data", {})
    ]


def results(notebooks: Path) -> list[dict[str, Any]]:
    """The results of all notebooks in a folder, in the order of their names."""
    return [
        result
        for path in sorted(notebooks.glob("*.ipynb"))
        for result in results_of(json.loads(path.read_text()))
    ]


def p_value(row: Mapping[str, Any]) -> float:
    """Of the paired t-test, from what is kept: the difference and its 95 % interval."""
    freedom = row["seeds"] - 1
    low, high = row["interval"]
    error = (high - low) / 2 / scipy.stats.t.ppf(0.975, freedom)
    if not np.isfinite(error) or not row["difference"]:
        return 1.0  # A run diverged, or there is no difference at all.
    if not error:
        return 0.0
    return float(2 * scipy.stats.t.sf(abs(row["difference"]) / error, freedom))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected by Holm's step-down method for their number.

    In at most one of twenty such families does chance bring any of them below 0.05.
    """
    p_values = np.asarray(p_values)
    order = np.argsort(p_values)
    # The smallest is one of all, the next one of those that are left, ...
    times_left = p_values[order] * np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(times_left), 1)
    return corrected.tolist()


def with_holm(kept: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The results, with `p_holm` in each row: corrected for all rows of all results."""
    kept = list(kept)
    rows = [row for result in kept for row in result["comparisons"]]
    corrected = iter(holm([p_value(row) for row in rows]))
    return [
        result
        | {
            "comparisons": [
                row | {"p_holm": next(corrected)} for row in result["comparisons"]
            ]
        }
        for result in kept
    ]


def table(kept: Iterable[dict[str, Any]]) -> str:
    """Markdown: a row for each comparison of each experiment, of `with_holm`."""
    rows = [
        "| experiment | comparison | ours | difference [95 %], wins | the paper's | "
        "seeds; tuning | verdict | p, by Holm |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in kept:
        # Only the first row of an experiment says what all of them share.
        name = result["experiment"]
        task = f"[{name}]({name}.ipynb): {result['task']}; {result['metric']}"
        for row in result["comparisons"]:
            rows.append(
                f"| {task} | {_compared(row)}, {row['wins']} of {row['seeds']} "
                f"| {row['paper']} | {row['seeds']}; {result['budget']} "
                f"| {row['verdict']} | {_shown(row['p_holm'])} |"
            )
            task = ""
    return "\n".join(rows) + "\n"


def clearest(kept: Iterable[dict[str, Any]]) -> str:
    """Markdown: of each experiment the clearest gain and loss, of `with_holm`.

    Where no difference was seen at all, the comparison that came nearest to one.
    Controls are left out: what follows the comma in both labels must be the same.
    """

    def alike(row: Mapping[str, Any]) -> bool:
        return row["baseline"].partition(",")[2] == row["ours"].partition(",")[2]

    def clearness(row: Mapping[str, Any]) -> float:
        low, high = row["interval"]
        return abs(row["difference"]) / (high - low)

    rows = [
        "| experiment | comparison | means | difference [95 %] | verdict "
        "| p, by Holm |",
        "|---|---|---|---|---|---|",
    ]
    for result in kept:
        experiment = (
            f"[{result['task']}](notebooks/{result['experiment']}.ipynb); "
            f"{result['metric']}"
        )
        in_order = sorted(
            filter(alike, result["comparisons"]), key=clearness, reverse=True
        )
        first = {row["verdict"]: row for row in reversed(in_order)}
        seen = [first[verdict] for verdict in ("better", "worse") if verdict in first]
        for row in seen or in_order[:1]:
            rows.append(
                f"| {experiment} | {_compared(row)} | {row['verdict']} "
                f"| {_shown(row['p_holm'])} |"
            )
            experiment = ""
    return "\n".join(rows) + "\n"


def _compared(row: Mapping[str, Any]) -> str:
    low, high = row["interval"]
    return (
        f"{row['baseline']} → {row['ours']} "
        f"| {row['baseline_mean']:.2f} → {row['mean']:.2f} "
        f"| {row['difference']:+.2f} [{low:+.2f}, {high:+.2f}]"
    )


def with_directions(page: str, kept: Iterable[dict[str, Any]]) -> str:
    """Fills in cells `<!-- experiment: baseline → ours; baseline → ours -->...`.

    The paper's figures favour the projection in each of its tasks.
    """
    verdicts = {
        (result["experiment"], f"{row['baseline']} → {row['ours']}"): row["verdict"]
        for result in kept
        for row in result["comparisons"]
    }
    directions = {"better": "reproduced", "worse": "opposite"}

    def filled(cell: re.Match[str]) -> str:
        experiment, comparisons = cell["experiment"], cell["comparisons"].split("; ")
        found = {
            name: directions.get(verdicts[experiment, name], "not seen")
            for name in comparisons
        }
        if len(set(found.values())) == 1:
            seen = found[comparisons[0]]
        else:
            seen = "; ".join(
                f"{name}: {direction}" for name, direction in found.items()
            )
        return f"{cell['comment']} {seen} |"

    return re.sub(
        r"(?P<comment><!-- (?P<experiment>\w+): (?P<comparisons>[^|]* → [^|]*?) -->)"
        r"[^|]*\|",
        filled,
        page,
    )


def _shown(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def with_tables(kept: Iterable[dict[str, Any]]) -> dict[Path, str]:
    """The pages, with each table between its marks."""
    kept = with_holm(kept)
    pages = {}
    for page, name, content in (
        (ALL, "experiments", table(kept)),
        (CLEAREST, "clearest", clearest(kept)),
    ):
        start, end = f"<!-- {name}: start -->\n", f"<!-- {name}: end -->\n"
        before, rest = page.read_text().split(start)
        _, after = rest.split(end)
        pages[page] = f"{before}{start}{content}{end}{with_directions(after, kept)}"
    return pages


def compare_runs(
    kept: list[dict[str, Any]], again: list[dict[str, Any]]
) -> tuple[list[str], bool]:
    """A line for each comparison, and whether all new means lie in kept intervals."""
    new = {
        (result["experiment"], row["baseline"], row["ours"]): row
        for result in again
        for row in result["comparisons"]
    }
    lines, agree = [], True
    for result in kept:
        for row in result["comparisons"]:
            key = result["experiment"], row["baseline"], row["ours"]
            label = f"{key[0]}: {key[1]} → {key[2]}"
            low, high = row["interval"]
            line = f"{label}: {row['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"
            if key not in new:
                lines.append(f"{line}; not run again")
                agree = False
                continue
            difference = new[key]["difference"]
            inside = low <= difference <= high
            agree &= inside
            lines.append(
                f"{line}; again {difference:+.3f}, {'in' if inside else 'OUTSIDE'}"
            )
    return lines, agree


def main() -> int:
    """Runs the command that the module's docstring describes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, metavar="FOLDER")
    folder = parser.parse_args().against
    kept = results(NOTEBOOKS)
    if folder is None:
        for page, text in with_tables(kept).items():
            page.write_text(text)
        return 0
    lines, agree = compare_runs(kept, results(folder))
    print("\n".join(lines))
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
