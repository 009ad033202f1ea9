"""Writes golden.npz with the published PyTorch package.

`python tests/helpers/make_golden.py` needs `pip install -e ".[parity]"`, and gives the
same file each time.
"""

import golden
from parity_cases import FAMILIES, draw_problem, product_of_hyperparameters
from parity_runs import assert_decisive, record
from torch_reference import run_reference


def main() -> None:
    problem = draw_problem(seed=0)
    runs = {}
    for family in FAMILIES:
        hyperparameters = product_of_hyperparameters(family)
        run = run_reference(family, hyperparameters, problem, "float64")
        assert_decisive(run)
        runs[str(family)] = run._replace(weights=record(run.weights))
    golden.save(golden.Golden(problem, runs))
    print(f"{golden.PATH}: {golden.PATH.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
