"""README's table of the experiments, made from what the notebooks' outputs keep.

    python notebooks/summary.py                   writes the table into README.md
    python notebooks/summary.py --against FOLDER  compares with another run's notebooks

The second prints each kept difference with its interval beside the one of the other
run, and fails where the new mean lies outside of the kept interval.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

NOTEBOOKS = Path(__file__).parent
README = NOTEBOOKS.parent / "README.md"
START, END = "<!-- experiments: start -->\n", "<!-- experiments: end -->\n"

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


def table(kept: Iterable[dict[str, Any]]) -> str:
    """Markdown: a row for each comparison of each experiment."""
    rows = [
        "| experiment | comparison | ours | difference [95 %], wins | the paper's | "
        "seeds; tuning | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in kept:
        # Only the first row of an experiment says what all of them share.
        name = result["experiment"]
        task = f"[{name}](notebooks/{name}.ipynb): {result['task']}; {result['metric']}"
        for row in result["comparisons"]:
            low, high = row["interval"]
            rows.append(
                f"| {task} | {row['baseline']} → {row['ours']} "
                f"| {row['baseline_mean']:.2f} → {row['mean']:.2f} "
                f"| {row['difference']:+.2f} [{low:+.2f}, {high:+.2f}], "
                f"{row['wins']} of {row['seeds']} "
                f"| {row['paper']} | {row['seeds']}; {result['budget']} "
                f"| {row['verdict']} |"
            )
            task = ""
    return "\n".join(rows) + "\n"


def with_table(readme: str, kept: Iterable[dict[str, Any]]) -> str:
    """README with the table between its marks."""
    before, rest = readme.split(START)
    _, after = rest.split(END)
    return f"{before}{START}{table(kept)}{END}{after}"


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
        README.write_text(with_table(README.read_text(), kept))
        return 0
    lines, agree = compare_runs(kept, results(folder))
    print("\n".join(lines))
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
