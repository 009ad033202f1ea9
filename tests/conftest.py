"""Settings that must hold before jax starts."""

import os

# The sharding tests need several devices; a CPU can pose as eight.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

# The tests run each program a few times: what LLVM would take to optimize them is more
# than it would save. This changes some rounding, and nothing that XLA does before.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

# They need torch, which test_parity.py says in one skip for all.
collect_ignore = ["make_golden.py", "torch_reference.py"]
