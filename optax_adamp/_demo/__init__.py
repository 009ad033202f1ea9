"""The demo behind `python -m optax_adamp`; it needs the extra `demo`."""
