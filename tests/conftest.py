"""Settings that must hold before jax starts."""

import os

# The sharding tests need several devices; a CPU can pose as eight.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

# They need torch, which test_parity.py says in one skip for all.
collect_ignore = ["make_golden.py", "torch_reference.py"]
