"""`python -m optax_adamp` and `python -m optax_adamp.layouts`, but for the training."""

import contextlib
import io
import os
import re
import runpy
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from optax_adamp._demo import (
    cli,
    data,
    demo,
    layout_curves,
    layout_pictures,
    layout_trap,
    report,
    terminal,
    training,
)
from optax_adamp._demo.layout_networks import NETWORKS
from optax_adamp._demo.optimizers import OPTIMIZERS
from optax_adamp.layouts import __main__ as layouts_cli

HISTORY = training.History(
    accuracy=np.array([[0.5, 0.75]]),
    norm_growth=np.array([[1.0, 1.0], [2.0, 3.0]]),
    effective_step=np.array([[0.25, 0.25]]),
    views={},
)


@pytest.fixture
def trained(monkeypatch):
    """What would be trained; nothing is."""
    calls = []

    def run(*args, **kwargs):
        calls.append((args, kwargs))
        return {"sgd": HISTORY}

    monkeypatch.setattr(demo, "run", run)
    return calls


@pytest.fixture
def no_training(monkeypatch):
    """What must be refused, must be so before any training."""

    def run(*args, **kwargs):
        raise AssertionError("training began")

    monkeypatch.setattr(demo, "run", run)
    monkeypatch.setattr(layout_trap, "compare", run)


def refusal(capsys, *arguments, main=cli.main):
    """The one line that a command ends with."""
    with pytest.raises(SystemExit) as exit_info:
        main(list(arguments))
    captured = capsys.readouterr()
    assert exit_info.value.code == 2
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert captured.err.endswith("\n")
    return line


def help_of(main, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as exit_info:
        main(["--help"])
    assert exit_info.value.code == 0
    return capsys.readouterr().out


# The options


def test_help(capsys, monkeypatch):
    assert (
        help_of(cli.main, capsys, monkeypatch)
        == """\
usage: python -m optax_adamp [-h] [--optimizers NAME [NAME ...]] [--epochs N]
                             [--seeds N] [--adam-learning-rate RATE]
                             [--sgd-learning-rate RATE] [--weight-decay DECAY]
                             [--output FOLDER]

See what AdamP and SGDP do, on real images, in about half a minute.

Trains a small BatchNorm network on scikit-learn's handwritten digits with each
optimizer, from several seeds, all with the same initial weights and the same
batches. Prints a table, tells which parameters were projected, and draws test
accuracy, weight norm and effective step over training.

options:
  -h, --help            show this help message and exit
  --optimizers NAME [NAME ...]
                        any of adamw, adamp, sgd, sgdp (default: all of them)
  --epochs N            passes through the training images (default: 40)
  --seeds N             networks per optimizer, trained side by side (default:
                        5)
  --adam-learning-rate RATE
                        first rate of AdamW and AdamP; a cosine takes it to
                        zero (default: 0.01)
  --sgd-learning-rate RATE
                        the same of SGD and SGDP, both with momentum 0.9
                        (default: 0.5)
  --weight-decay DECAY  decoupled weight decay of all optimizers; AdamP and
                        SGDP apply a tenth of it to what they project
                        (default: 0.0)
  --output FOLDER       where adamp_demo.png goes, made if missing (default:
                        the current folder)

examples:
  python -m optax_adamp
      all four optimizers, as in the README
  python -m optax_adamp --optimizers adamw adamp --seeds 20
      one pair, and a sharper comparison of its accuracies
  python -m optax_adamp --weight-decay 0.01 --output results
      with weight decay, and the picture in results/adamp_demo.png
"""
    )


def test_help_of_the_layouts(capsys, monkeypatch):
    assert (
        help_of(layouts_cli.main, capsys, monkeypatch)
        == """\
usage: python -m optax_adamp.layouts [-h] [--output FOLDER]

See what the layout of the weights does to the projection.

Trains a convolutional network with BatchNorm and a transformer with scanned
layers on scikit-learn's handwritten digits. At every step, asks which
parameters the test would project if the axes come from the modules, as
optax_adamp.layouts tells them, and if axis 0 is taken for the channel, as a
port from PyTorch would. Then trains with either, and draws what
optax_adamp.measure says of a convolution.

options:
  -h, --help       show this help message and exit
  --output FOLDER  where adamp_layouts.png and adamp_measure.png go, made if
                   missing (default: the current folder)
"""
    )


@pytest.mark.parametrize("module", ["optax_adamp", "optax_adamp.layouts"])
def test_modules_run(module):
    command = [sys.executable, "-m", module, "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: python -m {module} ")


def test_defaults(trained, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main([]) == 0
    assert trained == [
        (
            (["adamw", "adamp", "sgd", "sgdp"],),
            {
                "epochs": 40,
                "seeds": 5,
                "learning_rates": {"Adam": 0.01, "SGD": 0.5},
                "weight_decay": 0.0,
            },
        )
    ]
    assert capsys.readouterr().out == "\nPicture: adamp_demo.png\n"
    with Image.open(tmp_path / "adamp_demo.png") as image:
        assert image.format == "PNG"


@pytest.mark.parametrize(
    ("number", "most", "rate", "decay"),
    [("1", "256", "1000", "1000"), ("10000", "1", "1e-3", "0.0"), ("7", "8", "1", "0")],
)
def test_all_options(trained, tmp_path, capsys, number, most, rate, decay):
    folder = tmp_path / "made" / "by the demo"
    arguments = ["--optimizers", "sgdp", "adamw", "sgdp"]  # Twice is once.
    arguments += ["--epochs", number, "--seeds", most]
    arguments += ["--adam-learning-rate", rate, "--sgd-learning-rate", "0.25"]
    arguments += ["--weight-decay", decay, "--output", str(folder)]
    assert cli.main(arguments) == 0
    ((args, kwargs),) = trained
    assert args == (["sgdp", "adamw"],)
    assert kwargs == {
        "epochs": int(number),
        "seeds": int(most),
        "learning_rates": {"Adam": float(rate), "SGD": 0.25},
        "weight_decay": float(decay),
    }
    assert capsys.readouterr().out == f"\nPicture: {folder / 'adamp_demo.png'}\n"
    assert (folder / "adamp_demo.png").exists()


WHOLE = "must be a whole number from 1 to {}, but got {!r}"
POSITIVE = "must be a number above 0 and up to 1000, but got {!r}"
NOT_NEGATIVE = "must be a number from 0 to 1000, but got {!r}"


@pytest.mark.parametrize(
    ("option", "text", "words"),
    [
        ("epochs", "0", WHOLE.format(10_000, "0")),
        ("epochs", "10001", WHOLE.format(10_000, "10001")),
        ("epochs", "2.5", WHOLE.format(10_000, "2.5")),
        ("epochs", "", WHOLE.format(10_000, "")),
        ("epochs", "9" * 5000, WHOLE.format(10_000, "9" * 5000)),
        ("seeds", "-1", WHOLE.format(256, "-1")),
        ("seeds", "257", WHOLE.format(256, "257")),
        ("adam-learning-rate", "0", POSITIVE.format("0")),
        ("adam-learning-rate", "-1", POSITIVE.format("-1")),
        ("adam-learning-rate", "nan", POSITIVE.format("nan")),
        ("sgd-learning-rate", "inf", POSITIVE.format("inf")),
        ("sgd-learning-rate", "1000.5", POSITIVE.format("1000.5")),
        ("sgd-learning-rate", "fast", POSITIVE.format("fast")),
        ("weight-decay", "-0.1", NOT_NEGATIVE.format("-0.1")),
        ("weight-decay", "1000.5", NOT_NEGATIVE.format("1000.5")),
        ("weight-decay", "nan", NOT_NEGATIVE.format("nan")),
        ("weight-decay", "", NOT_NEGATIVE.format("")),
    ],
)
@pytest.mark.usefixtures("no_training")
def test_number_that_is_none(capsys, option, text, words):
    line = refusal(capsys, f"--{option}={text}")
    assert line == f"python -m optax_adamp: error: argument --{option}: {words}"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--optimizers", "adam"], "argument --optimizers: invalid choice: 'adam' "),
        (["--optimizers"], "argument --optimizers: expected at least one argument"),
        (["--output"], "argument --output: expected one argument"),
        (["--epoch", "3"], "unrecognized arguments: --epoch 3"),
        (["--momentum\n0.5"], "unrecognized arguments: --momentum 0.5"),
    ],
)
@pytest.mark.usefixtures("no_training")
def test_bad_option(capsys, arguments, words):
    line = refusal(capsys, *arguments)
    assert line.startswith(f"python -m optax_adamp: error: {words}")


@pytest.mark.usefixtures("no_training")
def test_bad_option_of_the_layouts(capsys):
    line = refusal(capsys, "--out", "here", main=layouts_cli.main)
    words = "unrecognized arguments: --out here"
    assert line == f"python -m optax_adamp.layouts: error: {words}"


# The extra


@pytest.mark.parametrize(
    "missing", [["tqdm"], ["matplotlib"], ["sklearn", "flax"], ["flax"]]
)
@pytest.mark.parametrize("main", [cli.main, layouts_cli.main])
@pytest.mark.usefixtures("no_training")
def test_missing_extra(capsys, monkeypatch, main, missing):
    for module in missing:
        monkeypatch.setitem(sys.modules, module, None)  # As if not installed.
    assert refusal(capsys, main=main).endswith(
        f": error: cannot import {', '.join(missing)}. From a checkout, install what "
        "the demo needs with: pip install -e '.[demo]'"
    )
    help_of(main, capsys, monkeypatch)


def test_package_does_without_the_extra():
    code = f"""
import sys
for module in {terminal.EXTRA_MODULES}:
    sys.modules[module] = None
import optax_adamp
assert not [name for name in sys.modules if name.startswith("optax_adamp._demo")]
from optax_adamp._demo import cli
cli.main([])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "cannot import tqdm, matplotlib, sklearn, flax." in line


# The folder


@pytest.mark.parametrize("name", ["adamp_layouts.png", "adamp_measure.png"])
@pytest.mark.usefixtures("no_training")
def test_picture_of_the_layouts_that_cannot_be_written(capsys, tmp_path, name):
    (tmp_path / name).mkdir()
    line = refusal(capsys, "--output", str(tmp_path), main=layouts_cli.main)
    assert line == (
        "python -m optax_adamp.layouts: error: cannot write "
        f"{tmp_path / name}: Is a directory"
    )


@pytest.mark.parametrize("place", ["a file", "below a file", "picture is a folder"])
@pytest.mark.usefixtures("no_training")
def test_folder_that_cannot_be_written(capsys, tmp_path, place):
    file = tmp_path / "file"
    file.write_text("not a folder")
    folder = {"a file": file, "below a file": file / "deep" / "down"}.get(
        place, tmp_path
    )
    (tmp_path / cli.PICTURE).mkdir()
    line = refusal(capsys, "--output", str(folder))
    assert f"cannot write {folder / cli.PICTURE}: " in line
    assert file.read_text() == "not a folder"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (OSError("the disk went away"), "the disk went away"),
    ],
)
@pytest.mark.usefixtures("no_training")
def test_folder_that_refuses(capsys, monkeypatch, tmp_path, error, words):
    def refuse(*args, **kwargs):
        raise error

    # Permissions do not hold back a superuser, who may run the tests.
    monkeypatch.setattr(Path, "open", refuse)
    assert refusal(capsys, "--output", str(tmp_path)) == (
        "python -m optax_adamp: error: cannot write "
        f"{tmp_path / 'adamp_demo.png'}: {words}"
    )


def test_folder_that_vanishes_in_the_meantime(capsys, monkeypatch, tmp_path):
    def run(*args, **kwargs):
        os.rmdir(tmp_path)
        return {"sgd": HISTORY}

    monkeypatch.setattr(demo, "run", run)
    path = tmp_path / "adamp_demo.png"
    line = refusal(capsys, "--output", str(tmp_path))
    words = f"error: cannot write {path}: No such file or directory"
    assert line == f"python -m optax_adamp: {words}"


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


def test_a_check_leaves_no_file(tmp_path):
    path = tmp_path / "one" / "two" / "file"
    terminal.check_writable(path)
    assert list(path.parent.iterdir()) == []
    path.write_text("kept")
    terminal.check_writable(path)
    assert path.read_text() == "kept"


# From the images to the tables


class Recorder(io.StringIO):
    """A stream that knows what was flushed."""

    flushed = ""

    def flush(self):
        self.flushed = self.getvalue()


@pytest.fixture
def small(monkeypatch):
    """A run of two optimizers whose training is made up, and all that it was told."""
    images = np.zeros((200, 4)), np.zeros(200)  # Three batches of 64.
    digits = data.Data(*images, *images)
    start = types.SimpleNamespace(params={"kernel": np.zeros((2, 3, 4))})
    views = {"kernel": layout_trap.Shares(0.5, 0.25)}
    seen = types.SimpleNamespace(
        digits=digits, start=start, made=[], calls=[], stdout=Recorder()
    )

    def make(schedule, weight_decay):
        seen.made.append((schedule, weight_decay))
        return f"transformation {len(seen.made)}"

    def start_training(*args):
        seen.started = args
        return start

    def train(*args):
        seen.calls.append(args)
        seen.flushed = seen.stdout.flushed
        return HISTORY._replace(views=views)

    def time_steps(*args):
        seen.calls.append(args)
        return {"adamw": 0.001, "sgdp": 0.002}

    for name in ("adamw", "sgdp"):
        monkeypatch.setitem(OPTIMIZERS, name, OPTIMIZERS[name]._replace(make=make))
    monkeypatch.setattr(data, "load", lambda: digits)
    monkeypatch.setattr(training, "start", start_training)
    monkeypatch.setattr(demo, "_progress", lambda *args: args)
    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(training, "time_steps", time_steps)
    with contextlib.redirect_stdout(seen.stdout):
        seen.histories = demo.run(
            ["adamw", "sgdp"],
            epochs=2,
            seeds=5,
            learning_rates={"Adam": 0.25, "SGD": 0.5},
            weight_decay=0.125,
        )
    return seen


def test_what_is_trained(small):
    assert small.started == (small.digits, 5)
    common = small.start, small.digits
    assert small.calls == [
        ("transformation 1", *common, ("AdamW", 2)),
        ("transformation 2", *common, ("SGDP", 2)),
        (
            {"adamw": "transformation 1", "sgdp": "transformation 2"},
            *common,
            ("Timing", 10),
        ),
    ]
    assert list(small.histories) == ["adamw", "sgdp"]


def test_a_cosine_takes_rates_to_zero(small):
    for (schedule, weight_decay), rate in zip(small.made, (0.25, 0.5), strict=True):
        assert weight_decay == 0.125
        # Two epochs of three steps.
        np.testing.assert_allclose(
            [schedule(step) for step in (0, 3, 6)], [rate, rate / 2, 0], atol=1e-7
        )


def test_what_is_printed(small):
    introduction = report.introduction(
        ["adamw", "sgdp"],
        small.digits,
        epochs=2,
        seeds=5,
        learning_rates={"Adam": 0.25, "SGD": 0.5},
        weight_decay=0.125,
    )
    seconds = {"adamw": 0.001, "sgdp": 0.002}
    parts = [
        introduction,
        report.table(small.histories, seconds, small.digits),
        # Of two that are no pair there is no comparison.
        report.projections(small.histories, small.start.params),
    ]
    assert small.stdout.getvalue() == "\n\n".join(parts) + "\n"
    # Whoever waits knows for what.
    assert small.flushed == f"{introduction}\n"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_shown_to_whoever_watches(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert list(demo._progress("SGDP", 3)) == [0, 1, 2]
    *_, last = sys.stderr.getvalue().split("\r")
    assert re.fullmatch(r"SGDP   100% \S+ 3/3 epochs, \d\d:\d\d\n", last)


def test_progress_is_silent_in_a_log(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert list(demo._progress("SGDP", 3)) == [0, 1, 2]
    assert sys.stderr.getvalue() == ""


# The layouts


def test_report_of_the_layouts(monkeypatch, tmp_path, capsys):
    leaves = [
        layout_trap.Leaf(
            "kernel",
            (3, 4),
            layout_trap.Shares(0.5, 0.25),
            layout_trap.Shares(0.75, 0),
            "channel",
        )
    ]
    metrics = dict.fromkeys(layout_curves.METRICS, np.array([1.0, 2.0]))
    asked = []

    def curves(*args):
        asked.append(args)
        return {name: metrics for name in ("one", "two", "three")}

    stdout = Recorder()
    flushed = []

    def compare(network):
        flushed.append(stdout.flushed)
        asked.append(network)
        return leaves

    monkeypatch.setattr(layout_trap, "compare", compare)
    monkeypatch.setattr(layout_curves, "curves", curves)
    with contextlib.redirect_stdout(stdout):
        assert layouts_cli.main(["--output", str(tmp_path / "made")]) == 0
    conv_net, transformer = NETWORKS.values()
    assert asked == [conv_net, transformer, (conv_net, "Conv_1/kernel")]
    shares, lines = (
        tmp_path / "made" / name for name in ("adamp_layouts.png", "adamp_measure.png")
    )
    tables = [layout_trap.table(name, leaves) for name in NETWORKS]
    assert stdout.getvalue() == (
        f"{tables[0]}\n\n{tables[1]}\n\nPictures: {shares}, {lines}\n"
    )
    assert flushed == ["", f"{tables[0]}\n\n"]
    for path in (shares, lines):
        with Image.open(path) as image:
            assert image.format == "PNG"
    assert shares.read_bytes() != lines.read_bytes()


def test_folder_of_the_layouts_that_vanishes(monkeypatch, tmp_path, capsys):
    folder = tmp_path / "folder"

    def curves(*args):
        folder.rmdir()

    monkeypatch.setattr(layout_trap, "compare", lambda network: [])
    monkeypatch.setattr(layout_trap, "table", lambda *args: "")
    monkeypatch.setattr(layout_curves, "curves", curves)
    monkeypatch.setattr(
        layout_pictures, "save_shares", lambda shares, path: path.write_bytes(b"")
    )
    with pytest.raises(SystemExit) as exit_info:
        layouts_cli.main(["--output", str(folder)])
    assert exit_info.value.code == 2
    assert capsys.readouterr().err == (
        f"python -m optax_adamp.layouts: error: cannot write {folder}: No such file "
        "or directory\n"
    )


# As programs


def run_as_program(module, monkeypatch):
    """Ends as the program would; gives its status."""
    # What is run must not have been imported, says runpy.
    monkeypatch.delitem(sys.modules, f"{module}.__main__", raising=False)
    with pytest.raises(SystemExit) as exit_info:
        runpy.run_module(module, run_name="__main__")
    return exit_info.value.code


def test_the_status_is_that_of_the_command(monkeypatch):
    monkeypatch.setattr(cli, "main", lambda: 7)
    assert run_as_program("optax_adamp", monkeypatch) == 7


def test_an_old_terminal_shows_what_it_can(monkeypatch):
    written = io.BytesIO()

    def main():
        print("1 \N{PLUS-MINUS SIGN} 2", flush=True)
        return 0

    monkeypatch.setattr(cli, "main", main)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert run_as_program("optax_adamp", monkeypatch) == 0
    assert written.getvalue() == b"1 ? 2\n"


def test_a_notebook_is_no_terminal(monkeypatch):
    monkeypatch.setattr(cli, "main", lambda: 0)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert run_as_program("optax_adamp", monkeypatch) == 0


def as_a_function(monkeypatch):
    return layouts_cli.main([])


def as_a_program(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["optax_adamp.layouts"])
    return run_as_program("optax_adamp.layouts", monkeypatch)


@pytest.mark.parametrize("run", [as_a_function, as_a_program])
def test_the_layouts_draw_in_the_current_folder(monkeypatch, tmp_path, capsys, run):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(layout_trap, "compare", lambda network: [])
    monkeypatch.setattr(layout_trap, "table", lambda *args: "")
    monkeypatch.setattr(layout_curves, "curves", lambda *args: {})
    for name in ("save_shares", "save_curves"):
        monkeypatch.setattr(layout_pictures, name, print)
    assert run(monkeypatch) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "Pictures: adamp_layouts.png, adamp_measure.png"


def test_importing_a_command_runs_nothing(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["a program", "--nonsense"])
    for module in ("optax_adamp", "optax_adamp.layouts"):
        monkeypatch.delitem(sys.modules, f"{module}.__main__", raising=False)
        runpy.run_module(f"{module}.__main__", run_name="imported")
