"""What the names along a path tell of a parameter, of whatever library."""

import re

from optax_adamp._axes import Shape
from optax_adamp._trees import Names

# Leaves with these names have one number per channel, never a vector. When layers are
# stacked they have two axes or more, so that their shape does not show it. Flax has the
# first two, Haiku also the third, Keras those of the paper on batch normalization;
# the last two are of Equinox's `GRUCell` and of `PReLU`.
_UNPROJECTED_NAMES = (
    "bias",
    "scale",
    "offset",
    "gamma",
    "beta",
    "bias_n",
    "negative_slope",
)

# Names of an array inside what stands for a parameter: Haliax's and Penzai's
# `NamedArray`, a box of Flax or Penzai, and the two halves of a complex number in
# `optax.contrib.split_real_and_imaginary`. Containers without names give positions.
_WRAPPED_NAMES = ("array", "data_array", "value", "real", "imaginary")

# What a linear layer or convolution calls its weights in Flax and Haiku.
_KERNEL_NAMES = ("kernel", "w")
# Those of other libraries, whose norms call theirs the same.
_WEIGHT_NAMES = ("weight", "weights")

# What joins the names of a path in one key, as `flatten_dict(sep="/")`, `keystr` and
# Keras's `path` do, or tuples as keys: anything but letters, digits, _ and -.
_SEPARATORS = re.compile(r"[^\w\s-]+")

# The modules `norm1`, `LayerNorm_0` or `ln_f`, but not `lnot`.
_NORM = re.compile(r"norm|^[bgl]n(?![a-z])", re.IGNORECASE)

# Vocabularies of text start near 29,000 entries (BERT's has 28,996). Inputs of a linear
# layer are fewer, VGG's flattened 25,088 among the most; or they are raw images, which
# lead to a handful of classes.
_LEAST_VOCABULARY = 28_000
_LEAST_FEATURES = 16

# What ends a warning: it is right for whatever library the params are of.
ASK = "let layouts.from_function read the axes from your program."


def plain_names(names: Names) -> Names:
    """The names along a path, with joined keys taken apart, down to the parameter's.

    What follows the parameter's own name is left out: positions, and the names that an
    array has inside a wrapper. Names are compared as a whole and by case: those of
    other things, such as `scale_factor`, `Scale` and `bias-proj`, contain them.

    Example:
      >>> plain_names(("encoder.norm", "scale", "data_array"))
      ('encoder', 'norm', 'scale')
      >>> plain_names(("['layers'][0]['bias']", "real"))
      ('layers', '0', 'bias')
    """
    parts = _split(names)
    while len(parts) > 1 and (parts[-1] in _WRAPPED_NAMES or parts[-1].isdecimal()):
        parts.pop()
    return tuple(parts)


def _split(names: Names) -> list[str]:
    parts = (part.strip() for name in names for part in _SEPARATORS.split(name))
    return [part for part in parts if part]


def plain_name(names: Names) -> str:
    """The parameter's own name; empty for a lone array."""
    return (plain_names(names) or ("",))[-1]


def without_channels(names: Names, shape: Shape) -> str | None:
    """Why a parameter of any library can hold no channels; None if it may."""
    if len(shape) < 2:
        return "fewer than two axes"
    if (name := plain_name(names)) in _UNPROJECTED_NAMES:
        return f"named {name}"
    return None


def doubt_without_name(names: Names) -> str:
    """Why a rule for many may take a vector for a kernel; empty if it has a name.

    Haliax has a position below a weight's name, too. A lone array is all there is, and
    hardly a bias.
    """
    name, parts = plain_name(names), _split(names)
    is_item = any(part.isdecimal() for part in parts[-1:])
    if name.isdecimal() or (is_item and name not in (*_KERNEL_NAMES, *_WEIGHT_NAMES)):
        return (
            "Has a place in a list but no name, and may be a bias or the scale of a "
            f"norm, which are not projected: give it None if so, or {ASK}"
        )
    return ""


def doubt_in_channels(names: Names, length: int, weights: Names = ()) -> str:
    """Why a parameter may have no channels; empty if there is no reason to think so.

    Args:
      names: The names along its path.
      length: How many numbers a channel would have.
      weights: Its name if it has channels, beside those of Flax and Haiku.
    """
    if doubt := doubt_without_name(names):
        return doubt
    if looks_like_kernel(names):
        return ""
    name = plain_name(names)
    # Haiku's biases are called b, and so is a matrix of many a LoRA.
    if name == "b" or (length == 1 and name not in weights):
        return (
            "May be a bias or a scale, with one number a channel: give it None if so, "
            f"or {ASK}"
        )
    if looks_like_norm(names):
        return (
            "May be the weight of a norm, stacked or over several axes, with one "
            f"number a channel: give it None if so, or {ASK}"
        )
    return ""


def looks_like_kernel(names: Names) -> bool:
    """Whether Flax or Haiku call the weights of a linear layer so."""
    return plain_name(names) in _KERNEL_NAMES


def looks_like_norm(names: Names) -> bool:
    """Whether the module that holds a parameter is named after a norm."""
    modules = [name for name in plain_names(names)[:-1] if not name.isdecimal()]
    return bool(modules and _NORM.search(modules[-1]))


def looks_like_embedding(names: Names, shape: Shape) -> bool:
    """Whether a parameter with two axes may be a table of vectors."""
    # A layer above a kernel may have a name such as patch_embedding.
    nearest = plain_names(names)[-2:]
    if not looks_like_kernel(names) and any("embed" in n.lower() for n in nearest):
        return True
    entries, features = shape
    return (
        entries >= _LEAST_VOCABULARY
        and features >= _LEAST_FEATURES
        and entries >= 4 * features
    )


def doubt_in_convolution(
    names: Names, inputs: int, window: Shape, *, channels: str
) -> str:
    """Why more than two axes may not be those of a convolution; empty if they may.

    Args:
      names: The names along the path of the parameter.
      inputs: The input channels that it would have.
      window: Its window; empty for a parameter with two axes.
      channels: The axis that is read as the output.
    """
    if not window or _looks_like_convolution(names, inputs, window):
        return ""
    return (
        "May be stacked layers, experts or attention heads, not the convolution that "
        f"all axes but {channels} are taken for: give it a spec, use layouts.stacked, "
        f"or {ASK}"
    )


def _looks_like_convolution(names: Names, inputs: int, window: Shape) -> bool:
    if any("conv" in name.lower() for name in names):
        return True
    # A window of one axis, as in (width, in, out), cannot be told from (layers, in,
    # out) or (in, heads, size). Layers, heads and experts are rarely of one number,
    # windows nearly always are. The limit is AlexNet's; only patches of an image, with
    # its few colors, are larger.
    size, *others = window
    return {size} == {*others} and (size <= 11 or inputs <= 4)
