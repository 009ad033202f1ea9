"""`python -m optax_adamp`: AdamP and SGDP beside AdamW and SGD on real images."""

import io
import sys

from optax_adamp._demo.cli import main

if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        # The tables hold a sign or two that an old terminal cannot show.
        sys.stdout.reconfigure(errors="replace")
    sys.exit(main())
