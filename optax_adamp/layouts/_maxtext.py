"""`layouts.maxtext`: the decoders of MaxText, scanned (`param_scan_axis=1`) or not.

MaxText puts all layers of a scan into one array, along its second axis: a query kernel
(features, heads, size) becomes (features, layers, heads, size), a norm's scale
(features, layers). The path tells how many axes a parameter has without that one, and
so whether it is there; no size is looked at. Known are

- attention: `query`, `key`, `value`, `qkv_proj` and `out`, also Qwen3-Next's, and MLA's
  `wq_a`, `wq_b`, `wkv_a`, `wkv_b`;
- `mlp` and shared experts: `wi`, `wi_0`, `wi_1`, `wo`;
- routed experts: `gate`, and `wi`, `wi_0`, `wi_1`, `wo` (experts, in, out), where each
  expert is one by itself;
- `logits_dense`, and embeddings, whose rows are vectors of their own.

What has one number per channel is not projected: norms' `scale`, biases, attention
sinks. Any other parameter with two axes or more is refused with an error that names it,
and so is a pipeline, which stacks layers twice. So is `wi` with three axes, which a
fused MLP without scan and one with a single activation under scan have in common. To
say it for such a parameter, put the rule at all others:

>>> import jax
>>> import jax.numpy as jnp
>>> import optax_adamp
>>> from optax_adamp import layouts
>>> params = {
...     "self_attention": {"query": {"kernel": jnp.ones((32, 2, 4, 8))}},
...     "engram": {"kernel": jnp.ones((32, 2, 16))},
... }
>>> tree = jax.tree.map(lambda _: layouts.maxtext, params)
>>> tree["engram"]["kernel"] = optax_adamp.ProjectionDimensionNumbers(0, 2)
>>> tx = optax_adamp.adamp(1e-3, dimension_numbers=tree)
>>> layouts.maxtext.read(("self_attention", "query", "kernel"), (32, 2, 4, 8)).spec
ProjectionDimensionNumbers(reduction_axis=(0,), output_axis=(2, 3), view='auto')

Read off the layers of MaxText (https://github.com/AI-Hypercomputer/maxtext).
"""

from optax_adamp._rules import Reading, Rule, Shape, without_channels
from optax_adamp._trees import Names, format_path, own_name
from optax_adamp.layouts._kernels import dense_general, embedding
from optax_adamp.layouts._stacked import read_stacked

_SCAN_AXIS = 1

# Batch, input and output axes of a kernel in one layer, by the module it is in.
_KERNELS = {
    "query": (0, 1, 2),
    "key": (0, 1, 2),
    "value": (0, 1, 2),
    "qkv_proj": (0, 1, 3),
    "wq_a": (0, 1, 1),
    "wq_b": (0, 1, 2),
    "wkv_a": (0, 1, 1),
    "wkv_b": (0, 1, 2),
    "wi_0": (0, 1, 1),
    "wi_1": (0, 1, 1),
    "wo": (0, 1, 1),
    "gate": (0, 1, 1),
    "logits_dense": (0, 1, 1),
}
# Arrays of all experts, which stand in no module of their own.
_EXPERTS = ("wi", "wi_0", "wi_1", "wo")
_UNPROJECTED_NAMES = (
    *(f"{name}_bias" for name in _EXPERTS),
    "per_expert_scale",
    "sinks",
)


def _axes_of_layer(names: Names, shape: Shape) -> tuple[int, int, int] | None:
    """Batch, input and output axes without a scan; None if they are not known."""
    above, module, name = ("", "", "", *names)[-3:]
    if name in _EXPERTS:
        return 1, 1, 1
    if name != "kernel":
        return None
    if module == "wi":
        # Two or more activations in one kernel are an axis; see the module's docstring.
        return {2: (0, 1, 1), 4: (0, 1, 2)}.get(len(shape))
    if module == "out" and above == "attention":
        return 0, 1, 1  # Qwen3-Next joins heads and their size in one axis.
    if module == "out" and above.startswith(("self_attention", "GptOssAttention")):
        return 0, 2, 1
    return _KERNELS.get(module)


def _read_maxtext(names: Names, shape: Shape) -> Reading:
    if reason := without_channels(names, shape):
        return Reading(None, reason)
    name = own_name(names)
    if name in _UNPROJECTED_NAMES:
        return Reading(None, f"named {name}")
    if name == "embedding" and len(shape) == 2:
        return Reading(embedding(), "rows of an embedding")
    axes = _axes_of_layer(names, shape)
    if axes is None or len(shape) - sum(axes) not in (0, 1):
        raise ValueError(
            f"layouts.maxtext does not know {format_path(names)}, an array of shape "
            f"{shape}. Give it a spec of its own, or None for what is not projected: "
            "`tree = jax.tree.map(lambda _: layouts.maxtext, params)` makes a tree of "
            "dimension numbers in which you can replace its entry."
        )

    kind = "experts" if name in _EXPERTS else names[-2]
    reading = Reading(dense_general(*axes), f"kernel of {kind}")
    if len(shape) > sum(axes):
        return read_stacked(lambda _, __: reading, _SCAN_AXIS, names, shape)
    return reading


maxtext = Rule("layouts.maxtext", _read_maxtext)
