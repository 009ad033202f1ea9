"""The notebooks as files."""

import json
from pathlib import Path

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))


def load(name):
    return json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())
