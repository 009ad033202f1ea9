"""Settings that must hold before jax starts, and how much hypothesis draws."""

import gc
import itertools
import os
from importlib import metadata

import pytest
from hypothesis import HealthCheck, Phase, settings

# The sharding tests need several devices; a CPU can pose as eight.
flags = "--xla_force_host_platform_device_count=8"
# XLA would cut each program into parts for as many threads, which costs more than it
# gives where every core has a process of its own.
flags += " --xla_cpu_parallel_codegen_split_count=1"
# An older code generator takes two thirds of the time to compile for. Later versions of
# jaxlib have it no more, and an unknown flag ends jax; with those the tests run with
# the one that users have.
if tuple(map(int, metadata.version("jaxlib").split(".")[:2])) < (0, 11):
    flags += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", flags)

# The tests run each program a few times: what LLVM would take to optimize them is more
# than it would save. This changes some rounding, and nothing that XLA does before.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

# No tests are there, and some of it needs what users have not: torch, coverage.
collect_ignore = ["helpers", "mutation"]

# A shape that is new compiles, which must not decide a test; and to vary what failed
# until it is explained would compile for minutes.
settings.register_profile(
    "nightly",
    max_examples=250,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=set(Phase) - {Phase.explain},
    print_blob=True,
)
# The same cases on every run: a change is judged by what it changes.
settings.register_profile(
    "ordinary", settings.get_profile("nightly"), max_examples=8, derandomize=True
)
# A mutant that died needs no smaller example.
settings.register_profile(
    "mutation",
    settings.get_profile("ordinary"),
    phases=[Phase.explicit, Phase.generate],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ordinary"))


# What jax holds of traced programs is much, and hardly any of it ever garbage: to look
# through it as often as Python does by default takes a sixth of the time.
gc.set_threshold(200_000, 50, 100)

FILES_REMEMBERED = 6
files_run = itertools.count(1)


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Drops what was compiled now and then, or a process would grow by gigabytes.

    Not after each file: the small programs of `jnp`'s functions are those of them all.
    """
    import jax  # Not before the settings above.

    yield
    if next(files_run) % FILES_REMEMBERED == 0:
        jax.clear_caches()
