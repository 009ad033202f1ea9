"""Which axes form a channel, for the models and libraries that users have."""

from optax_adamp._layout import Layout
from optax_adamp._rules import Rule, output_last

__all__ = ["Layout", "Rule", "output_last"]
