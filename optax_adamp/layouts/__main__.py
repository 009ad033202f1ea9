"""`python -m optax_adamp.layouts`: what becomes of a port that takes the wrong axis."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from optax_adamp._demo.terminal import (
    Parser,
    check_writable,
    import_extra,
    one_line_on_failure,
)

SHARES, CURVES = "adamp_layouts.png", "adamp_measure.png"

DESCRIPTION = """\
See what the layout of the weights does to the projection.

Trains a convolutional network with BatchNorm and a transformer with scanned
layers on scikit-learn's handwritten digits. At every step, asks which
parameters the test would project if the axes come from the modules, as
optax_adamp.layouts tells them, and if axis 0 is taken for the channel, as a
port from PyTorch would. Then trains with either, and draws what
optax_adamp.measure says of a convolution.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs it. Whatever the user can put right ends in one line and status 2."""
    parser = Parser(
        prog="python -m optax_adamp.layouts",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(),
        metavar="FOLDER",
        help=f"where {SHARES} and {CURVES} go, made if missing (default: the current "
        "folder)",
    )
    folder = parser.parse_args(arguments).output
    import_extra(parser)
    # The modules of the demonstration are made of that extra.
    from optax_adamp._demo import layout_curves, layout_pictures, layout_trap
    from optax_adamp._demo.layout_networks import NETWORKS

    for name in (SHARES, CURVES):
        with one_line_on_failure(parser, folder / name):
            check_writable(folder / name)
    shares: dict[str, list[layout_trap.Leaf]] = {}
    for name, network in NETWORKS.items():
        shares[name] = layout_trap.compare(network)
        print(f"{layout_trap.table(name, shares[name])}\n", flush=True)
    curves = layout_curves.curves(NETWORKS["BatchNorm ConvNet"], "Conv_1/kernel")
    with one_line_on_failure(parser, folder):
        layout_pictures.save_shares(shares, folder / SHARES)
        layout_pictures.save_curves(curves, folder / CURVES)
    print(f"Pictures: {folder / SHARES}, {folder / CURVES}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
