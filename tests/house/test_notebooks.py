"""The notebooks run; what they keep is whole, and is what the pages say of them."""

import ast
import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

import summary

NOTEBOOKS = Path(summary.__file__).parent
NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
RESULTS = summary.results(NOTEBOOKS)

EXPERIMENTS = {
    "adversarial_robustness",
    "any_optimizer",
    "audio_classification",
    "biased_data",
    "image_classification",
    "image_retrieval",
    "language_modelling",
    "object_detection",
    "quickstart",
}
each = pytest.mark.parametrize("name", NAMES)


def load(name):
    return json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())


def code_cells(name):
    return [cell for cell in load(name)["cells"] if cell["cell_type"] == "code"]


def source(cell):
    return "".join(cell["source"])


def text_of(name):
    """All that a notebook printed, and the text of what it displayed."""
    return "\n".join(
        "".join(output.get("text") or output.get("data", {}).get("text/plain", ""))
        for cell in code_cells(name)
        for output in cell["outputs"]
    )


@each
def test_runs(name, monkeypatch, tmp_path):
    reason = 'needs pip install -e ".[notebooks]"'
    nbformat = pytest.importorskip("nbformat", reason=reason)
    nbclient = pytest.importorskip("nbclient", reason=reason)
    pytest.importorskip("pycocotools", reason=reason)
    monkeypatch.setenv("OPTAX_ADAMP_QUICK", "1")
    # The kernel's own, as a user has it: not what the tests' jax runs on.
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    resources = {"metadata": {"path": str(NOTEBOOKS)}}
    nbclient.NotebookClient(notebook, timeout=900, resources=resources).execute()
    # The same experiment, only smaller, and marked as no result.
    kept = [result for result in RESULTS if result["experiment"] == name]
    for quick, full in zip(summary.results_of(notebook), kept, strict=True):
        assert quick["mode"] == "quick"
        assert rows(quick)
        assert rows(quick) <= rows(full)


def test_script_for_a_gpu_runs_small_on_a_cpu():
    pytest.importorskip("pandas", reason='needs pip install -e ".[notebooks]"')
    ran = subprocess.run(
        [sys.executable, NOTEBOOKS / "resnet_on_gpu.py"],
        env=os.environ | {"OPTAX_ADAMP_QUICK": "1", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    compared = re.findall(r"(?m)^ *(\w+)(\D*) → (\w+)\2 ", ran.stdout)
    pairs = ["SGD", "SGDP"], ["AdamW", "AdamP"]
    assert [(before, ours, rest) for before, rest, ours in compared] == [
        (*pair, rest) for pair in pairs for rest in ("", ", no decay")
    ]


def rows(result):
    return {
        (row["baseline"], row["ours"], row["paper"]) for row in result["comparisons"]
    }


@each
def test_opens_with_what_it_shows_and_how_to_install_it(name):
    cells = load(name)["cells"]
    heading, *lines = "".join(cells[0]["source"]).splitlines()
    assert re.match("# .+", heading)
    purpose = " ".join(lines)
    assert 1 <= len(re.findall(r"[.?!](?=\s|$)", purpose)) <= 3, purpose
    assert source(code_cells(name)[0]) == INSTALL
    closing = "".join(cells[-1]["source"])
    assert closing.startswith("## What was shown, and what was not\n\n")
    assert len(closing.split()) > 50


# What all notebooks begin with.
INSTALL = source(code_cells("quickstart")[0])


@pytest.fixture
def install(monkeypatch, tmp_path):
    """Runs the install cell in a folder, where nothing is cloned or installed."""
    commands = []

    def run(command, *, check):
        assert check
        commands.append(command)
        if command[0] == "git":
            notebooks_in(Path(command[-1]))

    def install(folder, cell=INSTALL, found=lambda name: True):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(subprocess, "run", run)
        monkeypatch.setattr(importlib.util, "find_spec", found)
        exec(cell, {})
        return commands

    return install


def notebooks_in(checkout):
    notebooks = checkout / "notebooks"
    notebooks.mkdir(parents=True)
    (notebooks / "experiments.py").touch()
    return notebooks


def test_install_says_what_to_set_where_nothing_is(install, tmp_path):
    with pytest.raises(FileNotFoundError, match="set ADDRESS in this cell"):
        install(tmp_path)


def test_install_clones_from_the_address(install, tmp_path):
    assert INSTALL.count('ADDRESS = ""') == 1
    cell = INSTALL.replace('ADDRESS = ""', 'ADDRESS = "somewhere"')
    ((git, clone, *_, address, folder),) = install(tmp_path, cell)
    assert (git, clone, address, folder) == (
        "git",
        "clone",
        "somewhere",
        "optax-adamp",
    )
    assert Path.cwd() == tmp_path / "optax-adamp" / "notebooks"


def test_install_finds_the_checkout_beside(install, tmp_path):
    notebooks = notebooks_in(tmp_path / "optax-adamp")
    assert install(tmp_path) == []
    assert Path.cwd() == notebooks


def test_install_stays_in_the_checkout(install, tmp_path):
    notebooks = notebooks_in(tmp_path / "optax-adamp")
    # Again, as where a cell is run twice.
    assert install(notebooks) == install(notebooks) == []
    assert Path.cwd() == notebooks


@pytest.mark.parametrize("missing", ["optax_adamp", "pandas", "soundfile"])
def test_install_installs_where_anything_is_missing(install, tmp_path, missing):
    notebooks = notebooks_in(tmp_path)
    (command,) = install(notebooks, found=lambda name: name != missing)
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    assert command[-1] == "..[notebooks]"


def test_install_lets_import_what_is_new(install, tmp_path, monkeypatch):
    notebooks = notebooks_in(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.util.find_spec("made_up") is None
    before = tmp_path.stat()

    def found(name):
        """As if pip had written it just now: too soon for the folder's time to tell."""
        (tmp_path / "made_up.py").touch()
        os.utime(tmp_path, ns=(before.st_atime_ns, before.st_mtime_ns))

    install(notebooks, found=found)
    importlib.import_module("made_up")


def test_install_looks_for_all_that_is_imported():
    own = {path.stem for path in NOTEBOOKS.glob("*.py")}
    texts = [source(cell) for name in NAMES for cell in code_cells(name)]
    texts += [(NOTEBOOKS / f"{name}.py").read_text() for name in own - {"conf"}]
    imported = set()
    for node in (node for text in texts for node in ast.walk(ast.parse(text))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    (needed,) = re.findall(r'NEEDED = """(.*?)"""', INSTALL, re.DOTALL)
    assert set(needed.split()) == imported - sys.stdlib_module_names - own


@each
def test_keeps_the_outputs_of_one_whole_run_in_full_mode(name):
    cells = code_cells(name)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    text = text_of(name)
    assert re.search(r"; jax \d+\.\d+\.\d+; \d{4}-\d\d-\d\d; full mode", text)
    assert "Warning" not in text


@each
def test_shows_pictures(name):
    pictures = [
        output
        for cell in code_cells(name)
        for output in cell["outputs"]
        if {"image/png", "image/gif"} & set(output.get("data", {}))
        or "data:image/" in "".join(output.get("data", {}).get("text/html", ""))
    ]
    assert pictures


def test_every_experiment_keeps_its_result():
    assert [result["experiment"] for result in RESULTS] == sorted(EXPERIMENTS)


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: result["experiment"])
def test_result_is_whole(result):
    assert result["mode"] == "full"
    assert result["minutes"] <= 90  # where others share the cores
    for row in result["comparisons"]:
        assert row["seeds"] >= 5
        low, high = row["interval"]
        assert low <= row["difference"] <= high
        assert row["difference"] == pytest.approx(row["mean"] - row["baseline_mean"])
        assert (row["verdict"] == "no difference seen") == (low <= 0 <= high)
        assert 0 <= row["wins"] <= row["seeds"]


def test_pages_show_the_notebooks_own_results():
    for page, text in summary.with_tables(RESULTS).items():
        assert text == page.read_text()


def test_clearest_gain_and_loss_beside_their_intervals():
    def row(ours, difference, interval, verdict):
        return {
            "baseline": "a",
            "ours": ours,
            "baseline_mean": 1.0,
            "mean": 1.0 + difference,
            "difference": difference,
            "interval": interval,
            "verdict": verdict,
            "p_holm": 0.0123 if verdict == "better" else 0.0004,
        }

    def shown(*rows):
        result = {"experiment": "x", "task": "t", "metric": "m", "comparisons": rows}
        _, _, *lines = summary.clearest([result]).splitlines()
        return lines

    wide = row("wide", 3.0, [0.5, 5.5], "better")
    narrow = row("narrow", 2.0, [1.5, 2.5], "better")
    loss = row("loss", -1.0, [-1.2, -0.8], "worse")
    unseen = row("unseen", 0.1, [-0.2, 0.4], "no difference seen")
    less = row("less", 0.1, [-0.9, 1.1], "no difference seen")
    assert shown(loss, wide, unseen, narrow) == [
        "| [t](notebooks/x.ipynb); m | a → narrow | 1.00 → 3.00 "
        "| +2.00 [+1.50, +2.50] | better | 0.012 |",
        "|  | a → loss | 1.00 → 0.00 | -1.00 [-1.20, -0.80] | worse | < 0.001 |",
    ]
    (line,) = shown(less, unseen)
    assert "a → unseen" in line
    control = row("a, less decay", -5.0, [-5.1, -4.9], "worse")
    (line,) = shown(wide, control)
    assert "a → wide" in line


def test_directions_are_those_of_the_verdicts():
    def row(ours, verdict):
        return {"baseline": "a", "ours": ours, "verdict": verdict}

    rows = [row("up", "better"), row("down", "worse"), row("no", "no difference seen")]
    kept = [{"experiment": "x", "comparisons": [*rows, row("too", "better")]}]

    def filled(comparisons):
        comment = f"| <!-- x: {comparisons} -->"
        # The second time it replaces what the first one wrote.
        once = summary.with_directions(f"{comment} | why |", kept)
        assert summary.with_directions(once, kept) == once
        assert once.startswith(comment)
        assert once.endswith(" | why |")
        return once.removeprefix(comment).removesuffix(" | why |").strip()

    assert filled("a → up") == "reproduced"
    assert filled("a → down") == "opposite"
    assert filled("a → no") == "not seen"
    assert filled("a → up; a → too") == "reproduced"
    assert filled("a → up; a → no") == "a → up: reproduced; a → no: not seen"
    with pytest.raises(KeyError):
        filled("a → nobody")


def test_every_task_of_the_paper_has_a_direction():
    """Whatever is compared beside a figure of the paper, stands in its table."""
    page = (NOTEBOOKS / "README.md").read_text()
    _, tasks = page.split("\n## The paper's own figures\n")
    missing = [
        (result["experiment"], row["ours"])
        for result in RESULTS
        for row in result["comparisons"]
        if any(map(str.isdigit, row["paper"]))
        and not re.search(
            rf"<!-- {result['experiment']}: [^|]*{row['baseline']} → {row['ours']}",
            tasks,
        )
    ]
    assert not missing


def test_holm_by_hand():
    # 4 × 0.005, 3 × 0.01, 2 × 0.03; and 1 × 0.04 is no less than the one before it.
    np.testing.assert_allclose(
        summary.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02]
    )
    assert summary.holm([0.8, 0.7]) == [1, 1]


@pytest.mark.parametrize(
    ("before", "after", "p"),
    [
        ([1.0, 2.0, 4.0, 3.0], [2.0, 3.5, 4.5, 5.0], None),
        ([1.0, 2.0, 4.0, 3.0], [1.5, 1.0, 4.5, 2.5], None),
        ([1.0, 2.0], [1.0, 2.0], 1.0),  # no difference at all
        ([1.0, 2.0], [3.0, 4.0], 0.0),  # always the same one
        ([1.0, 2.0], [3.0, np.nan], 1.0),  # a run diverged
    ],
)
def test_p_value_is_that_of_the_t_test(before, after, p):
    if p is None:
        p = scipy.stats.ttest_rel(after, before).pvalue
    differences = np.subtract(after, before)
    count = len(differences)
    half = scipy.stats.t.ppf(0.975, count - 1) * differences.std(ddof=1) / count**0.5
    mean = differences.mean()
    row = {"difference": mean, "interval": [mean - half, mean + half], "seeds": count}
    assert summary.p_value(row) == pytest.approx(p)


def test_p_values_are_corrected_for_all_comparisons_of_all_experiments():
    corrected = [
        row["p_holm"]
        for result in summary.with_holm(RESULTS)
        for row in result["comparisons"]
    ]
    rows = [row for result in RESULTS for row in result["comparisons"]]
    assert corrected == summary.holm([summary.p_value(row) for row in rows])
    # Holm's correction takes away verdicts, and gives none.
    assert all(
        row["verdict"] in ("better", "worse")
        for row, p in zip(rows, corrected, strict=True)
        if p < 0.05
    )
    assert all("p_holm" not in row for row in rows)


def test_every_notebook_is_in_the_list():
    page = (NOTEBOOKS / "README.md").read_text()
    assert {name for name in NAMES if f"| [{name}]({name}.ipynb) |" in page} == set(
        NAMES
    )


def test_runs_are_compared_by_their_intervals():
    def result(difference, interval):
        row = {"baseline": "a", "ours": "b", "difference": difference}
        return [{"experiment": "x", "comparisons": [row | {"interval": interval}]}]

    kept = result(1.0, [0.5, 1.5])
    lines, agree = summary.compare_runs(kept, result(1.4, [0.0, 9.0]))
    assert agree
    assert lines == ["x: a → b: +1.000 [+0.500, +1.500]; again +1.400, in"]
    lines, agree = summary.compare_runs(kept, result(1.6, [0.0, 9.0]))
    assert not agree
    assert "OUTSIDE" in lines[0]
    lines, agree = summary.compare_runs(kept, [])
    assert not agree
    assert lines[0].endswith("not run again")


def test_kept_outputs_are_small():
    sizes = {name: os.path.getsize(NOTEBOOKS / f"{name}.ipynb") for name in NAMES}
    assert max(sizes.values()) < 3e6, sizes


@each
def test_no_cell_is_long(name):
    """Lines of code, blank ones among them."""
    assert max(len(source(cell).splitlines()) for cell in code_cells(name)) <= 40
