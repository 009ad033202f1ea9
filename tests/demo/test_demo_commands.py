"""`python -m optax_adamp`, but for the training."""

import io
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from optax_adamp._demo import cli, demo, terminal, training
from optax_adamp._demo.optimizers import OPTIMIZERS

NONE = np.full((5, 1), 0.5)
HISTORY = training.History(
    validation=training.Score(NONE, NONE),
    test=training.Score(NONE, NONE),
    norm_growth=np.array([NONE, NONE]),
    effective_step=np.array([NONE]),
)


@pytest.fixture
def trained(monkeypatch):
    """What would be trained; nothing is."""
    calls = []

    def run(*args, **kwargs):
        calls.append((*args, *kwargs.values()))
        return {"sgd": HISTORY}

    monkeypatch.setattr(demo, "run", run)
    return calls


@pytest.fixture
def no_training(monkeypatch):
    """What must be refused, must be so before any training."""

    def run(*args, **kwargs):
        raise AssertionError("training began")

    monkeypatch.setattr(demo, "run", run)


def refusal(capsys, *arguments):
    """The one line that the command ends with."""
    with pytest.raises(SystemExit) as exit_info:
        cli.main(list(arguments))
    captured = capsys.readouterr()
    assert exit_info.value.code == 2
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    program, words = line.split(": error: ")
    assert program == "python -m optax_adamp"
    return words


# The options


def test_help_names_every_optimizer_and_where_the_picture_goes(capsys):
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["--help"])
    assert exit_info.value.code == 0
    printed = capsys.readouterr().out
    for word in (*OPTIMIZERS, cli.PICTURE):
        assert word in printed
    options = re.split(r"\n  (?=--)", printed.partition("\nexamples:")[0])[1:]
    assert len(options) == 4
    assert all("(default:" in option for option in options)


def test_examples_of_the_help_run(trained, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    prefix = "  python -m optax_adamp"
    lines = capsys.readouterr().out.splitlines()
    examples = [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]
    assert [cli.main(example.split()) for example in examples] == [0, 0, 0]


def test_defaults(trained, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main([]) == 0
    assert trained == [(list(OPTIMIZERS), 10, range(4))]
    assert capsys.readouterr().out == "\nPicture: adamp_demo.png\n"
    assert Path("adamp_demo.png").exists()


@pytest.mark.parametrize(("epochs", "seeds"), [(1, 256), (10_000, 1)])
def test_all_options(trained, tmp_path, epochs, seeds):
    folder = tmp_path / "made" / "by the demo"
    arguments = ["--optimizers", "sgdp", "adamw", "sgdp"]  # Twice is once.
    arguments += ["--epochs", str(epochs), "--seeds", str(seeds)]
    assert cli.main([*arguments, "--output", str(folder)]) == 0
    assert trained == [(["sgdp", "adamw"], epochs, range(seeds))]
    assert (folder / "adamp_demo.png").exists()


WHOLE = "must be a whole number from 1 to {}, but got {!r}"


@pytest.mark.parametrize(
    ("option", "text", "words"),
    [
        ("epochs", "0", WHOLE.format(10_000, "0")),
        ("seeds", "257", WHOLE.format(256, "257")),
        ("epochs", "2.5", WHOLE.format(10_000, "2.5")),
        ("epochs", "9" * 5000, WHOLE.format(10_000, "9" * 5000)),
        ("epochs", "-1", WHOLE.format(10_000, "-1")),
        ("seeds", "", WHOLE.format(256, "")),
    ],
)
@pytest.mark.usefixtures("no_training")
def test_number_that_is_none(capsys, option, text, words):
    assert refusal(capsys, f"--{option}={text}") == f"argument --{option}: {words}"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--optimizers", "adam"], "argument --optimizers: invalid choice: 'adam' "),
        (["--epoch", "3"], "unrecognized arguments: --epoch 3"),
        (["--momentum\n0.5"], "unrecognized arguments: --momentum 0.5"),
    ],
)
@pytest.mark.usefixtures("no_training")
def test_bad_option(capsys, arguments, words):
    assert refusal(capsys, *arguments).startswith(words)


# The extra


def test_package_does_without_the_extra_and_the_command_says_how_to_get_it():
    code = f"""
import runpy, sys
for module in {terminal.EXTRA_MODULES}:
    sys.modules[module] = None  # As if not installed.
import optax_adamp
assert not [name for name in sys.modules if name.startswith("optax_adamp._demo")]
runpy.run_module("optax_adamp", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.endswith(
        ": error: cannot import tqdm, matplotlib, sklearn, flax. From a checkout, "
        "install what the demo needs with: pip install -e '.[demo]'\n"
    )


# The folder


@pytest.mark.parametrize("place", ["a file", "below a file", "picture is a folder"])
@pytest.mark.usefixtures("no_training")
def test_folder_that_cannot_be_written(capsys, tmp_path, place):
    file = tmp_path / "file"
    file.write_text("not a folder")
    folder = {"a file": file, "below a file": file / "deep" / "down"}.get(
        place, tmp_path
    )
    (tmp_path / cli.PICTURE).mkdir()
    words = refusal(capsys, "--output", str(folder))
    assert words.startswith(f"cannot write {folder / cli.PICTURE}: ")
    assert file.read_text() == "not a folder"


def test_folder_that_vanishes_in_the_meantime(capsys, monkeypatch, tmp_path):
    def run(*args, **kwargs):
        os.rmdir(tmp_path)
        return {"sgd": HISTORY}

    monkeypatch.setattr(demo, "run", run)
    words = refusal(capsys, "--output", str(tmp_path))
    assert words == f"cannot write {tmp_path / cli.PICTURE}: No such file or directory"


@pytest.mark.parametrize("earlier", [None, b"an earlier picture"])
def test_interruption_leaves_the_folder_as_it_was(
    capsys, monkeypatch, tmp_path, earlier
):
    def run(*args, **kwargs):
        raise KeyboardInterrupt

    path = tmp_path / cli.PICTURE
    if earlier:
        path.write_bytes(earlier)
    monkeypatch.setattr(demo, "run", run)
    assert cli.main(["--output", str(tmp_path)]) == 130
    assert capsys.readouterr() == ("", "Interrupted: no picture was written.\n")
    assert (path.read_bytes() if path.exists() else None) == earlier


# Terminals, logs and notebooks


def test_progress_is_shown_from_before_the_compilation(monkeypatch):
    stderr = io.StringIO()
    monkeypatch.setattr(stderr, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", stderr)
    epochs = iter(demo._progress("SGDP", 3))
    assert next(epochs) == 0
    assert re.search(r"SGDP  compiling +0% .* 0/3 epochs", stderr.getvalue())
    assert list(epochs) == [1, 2]
    *_, last = stderr.getvalue().split("\r")
    assert re.fullmatch(r"SGDP  training +100% \S+ 3/3 epochs, \d\d:\d\d\n", last)


def run_as_program(monkeypatch):
    """Ends as the program would; gives its status."""
    # What is run must not have been imported, says runpy.
    monkeypatch.delitem(sys.modules, "optax_adamp.__main__", raising=False)
    with pytest.raises(SystemExit) as exit_info:
        runpy.run_module("optax_adamp", run_name="__main__")
    return exit_info.value.code


def test_an_old_terminal_shows_what_it_can(monkeypatch):
    written = io.BytesIO()

    def main():
        print("1 \N{PLUS-MINUS SIGN} 2", flush=True)
        return 7

    monkeypatch.setattr(cli, "main", main)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert run_as_program(monkeypatch) == 7
    assert written.getvalue() == b"1 ? 2\n"


def test_a_notebook_is_no_terminal(monkeypatch):
    monkeypatch.setattr(cli, "main", lambda: 0)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert run_as_program(monkeypatch) == 0
