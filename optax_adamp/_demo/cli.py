"""The command line: everything that can be said before JAX has anything to do."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from optax_adamp._demo.optimizers import OPTIMIZERS
from optax_adamp._demo.terminal import (
    Parser,
    check_writable,
    import_extra,
    one_line_on_failure,
)

PICTURE = "adamp_demo.png"

DESCRIPTION = """\
See what AdamP and SGDP do, in less than three minutes on two cores.

Trains a small network with BatchNorm on handwritten digits in clutter, with each
optimizer, at five learning rates and from several seeds, always with the same
initial weights and batches. Prints how good they are at each rate, compares them
pair by pair, and draws it.
"""

EXAMPLES = f"""\
examples:
  python -m optax_adamp
      all four optimizers, as in the README
  python -m optax_adamp --optimizers adamw adamp --seeds 20
      one pair, and a sharper comparison of its accuracies
  python -m optax_adamp --epochs 40 --output results
      a longer training, and the picture in results/{PICTURE}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo. Whatever the user can put right ends in one line and status 2."""
    parser = _parser()
    options = parser.parse_args(arguments)
    picture = options.output / PICTURE
    try:
        import_extra(parser)
        # The modules of the demo are made of that extra.
        from optax_adamp._demo.demo import run
        from optax_adamp._demo.picture import save

        with one_line_on_failure(parser, picture):
            check_writable(picture)
        histories = run(
            list(dict.fromkeys(options.optimizers)),
            epochs=options.epochs,
            seeds=range(options.seeds),
        )
        with one_line_on_failure(parser, picture):
            save(histories, picture)
    except KeyboardInterrupt:
        print("Interrupted: no picture was written.", file=sys.stderr)
        return 130
    print(f"\nPicture: {picture}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m optax_adamp",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--optimizers",
        nargs="+",
        choices=OPTIMIZERS,
        default=OPTIMIZERS,
        metavar="NAME",
        help=f"any of {', '.join(OPTIMIZERS)} (default: all of them)",
    )
    parser.add_argument(
        "--epochs",
        type=_whole_number(10_000),
        default=10,
        metavar="N",
        help="passes through the training images (default: %(default)s)",
    )
    parser.add_argument(
        "--seeds",
        type=_whole_number(256),
        default=4,
        metavar="N",
        help="networks per optimizer and learning rate (default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(),
        metavar="FOLDER",
        help=f"where {PICTURE} goes, made if missing (default: the current folder)",
    )
    return parser


def _whole_number(most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isdecimal() and 1 <= float(text) <= most):
            raise argparse.ArgumentTypeError(
                f"must be a whole number from 1 to {most}, but got {text!r}"
            )
        return int(text)

    return parse
