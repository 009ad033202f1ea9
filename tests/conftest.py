"""Settings that must hold before jax starts."""

import os

# The sharding tests need several devices; a CPU can pose as eight.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
