"""Axes read from products, convolutions and what is done to a kernel before them."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from programs import (
    floats,
    indices,
    program,
)

X = floats(8, 4)
HEADS = floats(8, 2, 3)
IMAGES = floats(8, 9, 9, 4)
MASK = np.tri(4, 6, dtype=np.float32)
SHIFTS = (np.arange(4)[:, None] + np.arange(4)) % 4


def unit(array, axis=None):
    return array / jnp.sqrt(jnp.sum(array**2, axis, keepdims=True) + 1e-6)


def passed_on(array):
    """The same, by way of what compilers are told about values."""
    mesh = jax.sharding.Mesh(jax.devices()[:1], "x")
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    array = checkpoint_name(jax.device_put(array), "product")
    array = lax.with_sharding_constraint(lax.optimization_barrier(array), everywhere)
    return lax.rev(lax.reduce_precision(array, 8, 23), (1,))


def convolve(images, kernel, **kwargs):
    return lax.conv_general_dilated(
        images,
        kernel,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        **kwargs,
    )


def transpose_convolve(images, kernel, transpose_kernel):
    return lax.conv_transpose(
        images,
        kernel,
        (2, 2),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        transpose_kernel=transpose_kernel,
    )


def smooth(constant):
    return lax.conv_general_dilated(
        constant[:, None], jnp.full((1, 1, 3), 1 / 3), (1,), "SAME"
    )[:, 0]


PRODUCTS = {
    "matmul": program(lambda x, w: x @ w, X, w="r4 o6"),
    "transposed weight": program(lambda x, w: x @ w.T, X, w="o6 r4"),
    "weight on the left": program(lambda x, w: w @ x.T, X, w="o6 r4"),
    "attention query": program(
        lambda x, w: jnp.einsum("bi,ihs->bhs", x, w), X, w="r4 o2 o3"
    ),
    "attention output": program(
        lambda x, w: jnp.einsum("bhs,hso->bo", x, w), HEADS, w="r2 r3 o6"
    ),
    "key and value in one": program(  # Gemma's kv_einsum
        lambda x, w: jnp.einsum("bi,chis->cbhs", x, w), X, w="o2 o5 r4 o3"
    ),
    "batch dimension": program(
        lambda x, w: jnp.einsum("ebi,eio->ebo", x, w), floats(3, 8, 4), w="b3 r4 o6"
    ),
    "batch dimension in the middle": program(
        lambda x, w: jnp.einsum("bei,ieo->beo", x, w), floats(8, 3, 4), w="r4 b3 o6"
    ),
    "stacked matmul": program(lambda x, w: x @ w, floats(3, 8, 4), w="b3 r4 o6"),
    "inputs joined": program(lambda x, w: jnp.concatenate([x, x], 1) @ w, X, w="r8 o6"),
    "low rank": program(lambda x, a, b: x @ (a @ b), X, a="r4 o2", b="r2 o6"),
    "groups of tokens": program(
        lambda x, sizes, w: lax.ragged_dot(x, w, sizes), X, indices(3), w="b3 r4 o6"
    ),
    "learned query": program(
        lambda x, query, w: jnp.einsum("qo,bo->bq", query @ w, x),
        X,
        query="-5 -3",
        w="r3 o4",
    ),
    "groups of tokens, their kernels chosen": program(
        lambda x, sizes, which, w: lax.ragged_dot(x, w[which], sizes),
        *(X, indices(3), indices(3)),
        w="b9 r4 o6",
    ),
}

MOVED = {
    "transposed by hand": program(
        lambda x, w: jnp.einsum("bi,his->bhs", x, jnp.transpose(w, (2, 0, 1))),
        X,
        w="r4 o3 o2",
    ),
    "transposed by a reshape": program(
        lambda x, w: jnp.einsum("bi,ihs->bhs", x, lax.reshape(w, (4, 2, 3), (1, 0))),
        X,
        w="o6 r4",
    ),
    "heads and size merged": program(lambda x, w: x @ w.reshape(4, 6), X, w="r4 o2 o3"),
    "heads split from size": program(
        lambda x, w: jnp.einsum("bi,ihs->bhs", x, w.reshape(4, 2, 3)), X, w="r4 o6"
    ),
    "heads and size merged in the input": program(
        lambda x, w: x.reshape(8, 6) @ w.reshape(6, 5), HEADS, w="r2 r3 o5"
    ),
    "heads split from size in the input": program(
        lambda x, w: jnp.einsum("bhs,hso->bo", x, w.reshape(2, 3, 5)), HEADS, w="r6 o5"
    ),
    "cast": program(
        lambda x, w: x.astype("bfloat16") @ w.astype("bfloat16"), X, w="r4 o6"
    ),
    "broadcast to the batch": program(
        lambda x, w: jnp.einsum("bi,bio->bo", x, jnp.broadcast_to(w, (8, 4, 6))),
        X,
        w="r4 o6",
    ),
    "interpolated to more inputs": program(
        lambda x, w: jnp.einsum(
            "bi,ihs->bhs",
            x,
            (jnp.linspace(0, 1, 32).reshape(8, 4) @ w).reshape(8, 2, 3),
        ),
        floats(5, 8),
        w="r4 o6",
    ),
    "axis of size one added and dropped by reshapes": program(
        lambda x, w: x @ w.reshape(4, 1, 6).reshape(4, 6), X, w="r4 o6"
    ),
    "axis of size one kept by a reshape": program(
        lambda x, w: jnp.einsum("bi,izhs->bzhs", x, w.reshape(4, 1, 2, 3)),
        X,
        w="r4 o1 o6",
    ),
    "axis of size one dropped by a reshape": program(
        lambda x, w: x @ w.reshape(4, 6), X, w="r4 b1 o6"
    ),
    "repeated": program(lambda x, w: x @ jnp.tile(w, (2, 1)), floats(5, 8), w="r4 o6"),
    "repeated and cut apart": program(
        lambda x, w: x @ jnp.tile(w, (2, 1)).reshape(2, 4, 6)[1], X, w="r4 o6"
    ),
    "repeated along a new axis": program(
        lambda x, w: jnp.einsum("ebi,eio->ebo", x, jnp.tile(w, (3, 1, 1))),
        floats(3, 8, 4),
        w="r4 o6",
    ),
    "interpolated from the left": program(
        lambda x, w: x @ (w.T @ jnp.linspace(0, 1, 32).reshape(4, 8)).T,
        floats(5, 8),
        w="r4 o6",
    ),
    "interpolated in each of a batch": program(
        lambda x, w: x @ (jnp.linspace(0, 1, 96).reshape(3, 8, 4) @ w),
        floats(3, 5, 8),
        w="b3 r4 o6",
    ),
    "outputs mixed by joined constants": program(
        lambda x, w: x @ (w @ jnp.concatenate([jnp.eye(6), jnp.eye(6)], 1)),
        X,
        w="r4 o6",
    ),
    "outputs mixed by a constant with entries set": program(
        lambda x, w: (
            x @ (w @ jnp.zeros((6, 8)).at[jnp.arange(6), jnp.arange(6)].set(1))
        ),
        X,
        w="r4 o6",
    ),
    "outputs mixed by a smooth constant": program(
        lambda x, w: x @ (w @ smooth(jnp.eye(6))), X, w="r4 o6"
    ),
    "product with one number for each": program(
        lambda x, w: jnp.einsum(
            "be,eo->bo", x, jnp.einsum("ei,oei->eo", jnp.ones((3, 1)), w)
        ),
        floats(8, 3),
        w="o6 r3 b1",
    ),
    "sum over an axis of size one": program(
        lambda x, w: x @ w.sum(axis=1), X, w="r4 b1 o6"
    ),
    "axis of size one": program(
        lambda x, w: jnp.einsum("bi,izo->bzo", x, w[:, None]), X, w="r4 o6"
    ),
}

FUSED = {
    "split after the product": program(
        lambda x, w: jnp.split(x @ w, 3, axis=-1), X, w="r4 o6"
    ),
    "sliced after the product": program(
        lambda x, w: jnp.tanh((x @ w)[:, :2]) * (x @ w)[:, 2:4], X, w="r4 o6"
    ),
    "split before the product": program(
        lambda x, w: [x @ part for part in jnp.split(w, 3, axis=1)], X, w="r4 o6"
    ),
    "sliced before the product": program(
        lambda x, w: (x @ w[:, :2], x @ w[:, 2:]), X, w="r4 o6"
    ),
    "sliced along the inputs": program(
        lambda x, w: x[:, :1] @ w[:1] + x[:, 1:] @ w[1:], X, w="r4 o6"
    ),
    "concatenated before the product": program(
        lambda x, q, k: x @ jnp.concatenate([q, k.T], 1), X, q="r4 o6", k="o5 r4"
    ),
    "concatenated and normalized": program(
        lambda x, q, k: x @ unit(jnp.concatenate([q, k], 1), 0), X, q="r4 o6", k="r4 o2"
    ),
    "entries of a stack concatenated": program(
        lambda x, w: x @ jnp.concatenate([w[:, 0], w[:, 1]], 1), X, w="r4 o2 o6"
    ),
    "entries taken by arrays concatenated": program(
        lambda x, w: x @ jnp.concatenate([w[jnp.array([i])][0] for i in (0, 1)], 1),
        X,
        w="o2 r4 o6",
    ),
    "concatenated along the inputs": program(
        lambda x, a, b: x @ jnp.concatenate([a, b]), X, a="r3 o6", b="r1 o6"
    ),
    "first output scaled": program(
        lambda x, w: x @ jnp.concatenate([2 * w[:, :1], w[:, 1:]], 1), X, w="r4 o6"
    ),
    "first head added to all": program(
        lambda x, w: jnp.einsum("bi,ihs->bhs", x, w + w[:, :1]), X, w="r4 o2 o3"
    ),
    "first output added to all": program(lambda x, w: x @ (w + w[:, :1]), X, w="r4 o6"),
    "all added to the first output": program(
        lambda x, w: x @ (w[:, :1] + w), X, w="r4 o6"
    ),
    "beside a part without entries": program(
        lambda x, w: x @ jnp.concatenate([w, w[:, 6:].T.reshape(4, 0)], 1),
        X,
        w="r4 o6",
    ),
    "outputs in groups": program(
        lambda x, w: lax.map(lambda part: x @ part, w.reshape(4, 3, 2).swapaxes(0, 1)),
        X,
        w="r4 o6",
    ),
    "padded": program(
        lambda x, w: x @ jnp.pad(w, ((1, 3), (0, 0))), floats(5, 8), w="r4 o6"
    ),
    "put into a larger array": program(
        lambda x, w: x @ lax.dynamic_update_slice(jnp.zeros((4, 8)), w, (0, 1)),
        X,
        w="r4 o6",
    ),
    "set in a larger array": program(
        lambda x, w: x @ jnp.zeros((8, 6)).at[jnp.array([0, 2, 4, 6])].set(w),
        floats(5, 8),
        w="r4 o6",
    ),
    "added to columns of another": program(
        lambda x, w, v: x @ w.at[:, 1:3].add(v), X, w="r4 o6", v="r4 o2"
    ),
    "with a triangle set to zero": program(
        lambda x, w: x @ w.at[jnp.triu_indices(4, 1)].set(0), X, w="r4 o4"
    ),
    "with one row set": program(
        lambda x, w, row: x @ w.at[0].set(row), X, w="r4 o6", row="-6"
    ),
    "with one row of each of a batch set": program(
        lambda x, w, rows: (
            x
            @ jax.vmap(lambda w, row, at: w.at[at].set(row))(w, rows, jnp.array([1, 2]))
        ),
        floats(2, 8, 4),
        w="b2 r4 o6",
        rows="-2 -6",
    ),
    "held back together": program(
        lambda x, w, v: x @ jnp.add(*lax.optimization_barrier((w, v))),
        X,
        w="r4 o6",
        v="r4 o6",
    ),
    "stacked before the product": program(
        lambda x, q, k: jnp.einsum("bi,pio->pbo", x, jnp.stack([q, k])),
        X,
        q="r4 o6",
        k="r4 o6",
    ),
    "queries, keys and values": program(
        lambda x, w: tuple(jnp.einsum("bi,iphs->pbhs", x, w)), X, w="r4 o3 o2 o5"
    ),
    "layers by number": program(
        lambda x, w: jnp.tanh(jnp.tanh(x @ w[0]) @ w[1]), X, w="b2 r4 o4"
    ),
}


def standardized(x, w, gain):
    mean = jnp.mean(w, (0, 1, 2), keepdims=True)
    variance = jnp.var(w, (0, 1, 2), keepdims=True)
    return convolve(x, (w - mean) * lax.rsqrt(variance + 1e-6) * gain)


def spectrally_normalized(x, state, w):
    """As in Flax: the state is data, and its new value is returned."""
    right = unit(state @ w.T)
    state = unit(right @ w)
    right, state = map(lax.stop_gradient, (right, state))
    return x @ (w / (right @ w @ state.T)[0, 0]), state


def spectrally_normalized_at_once(x, u, v, w):
    """As in Equinox: the iteration is not differentiated, the estimate is."""
    fixed = lax.stop_gradient(w)
    u, v = unit(fixed @ v), unit(fixed.T @ u)
    return x @ (w / jnp.einsum("i,ij,j->", u, w, v))


def fake_quantized(x, w):
    step = jnp.max(jnp.abs(w), 0) / 127
    return x @ (w + lax.stop_gradient(jnp.round(w / step) * step - w))


def quantized_and_back_without_gradient(x, y, w):
    """The last use is no gradient's, and so says less than the first."""
    quantized = lax.stop_gradient(jnp.round(w)) + w
    return x @ quantized, lax.stop_gradient(y @ w.T)


def centered(w):
    means = jnp.einsum("ei,oei->eo", jnp.full((3, 4), 1 / 4), w)
    return w - means.T[..., None]


def divided_by_scalar_of_data(x, w):
    return x @ (w / jnp.max(jnp.abs(x)))


ARITHMETIC = {
    "weight normalization": program(
        lambda x, v, g: x @ (unit(v, 0) * g), X, v="r4 o6", g="-6"
    ),
    "weight normalization with axes kept": program(
        lambda x, v, g: x @ (unit(v, 0) * g), X, v="r4 o6", g="-1 -6"
    ),
    "weight standardization": program(
        standardized, IMAGES, w="r3 r3 r4 o6", gain="-1 -1 -1 -6"
    ),
    "spectral normalization": program(
        spectrally_normalized, X, floats(1, 6), w="r4 o6"
    ),
    "spectral normalization by one einsum": program(
        spectrally_normalized_at_once, X, floats(4), floats(6), w="r4 o6"
    ),
    # As Gemma's kv_einsum does.
    "keys and values in one kernel": program(
        lambda x, w: jnp.einsum("BD,CKDH->CBKH", x, w), X, w="o2 o3 r4 o5"
    ),
    "bilinear": program(
        lambda x, y, w: jnp.einsum("uvw,bu,bv->bw", w, x, y),
        X,
        floats(8, 3),
        w="r4 r3 o6",
    ),
    "bilinear in the other order": program(
        lambda x, y, w: jnp.einsum("bv,bu,uvw->bw", x, y, w),
        X,
        floats(8, 3),
        w="r3 r4 o6",
    ),
    "convolution by spectra": program(
        lambda x, w: jnp.fft.irfft(jnp.fft.rfft(x) * lax.fft(w, "RFFT", (4,)), n=4),
        floats(8, 3, 4),
        w="o3 r4",
    ),
    "inputs of a learned query with a bias": program(
        lambda x, q, w, b: jnp.einsum("qd,bkd->bqk", q @ w + b, x),
        floats(8, 5, 6),
        q="-3 -4",
        w="r4 o6",
        b="-6",
    ),
    "inputs of a learned query minus a bias": program(
        lambda x, q, w, b: jnp.einsum("qd,bkd->bqk", q @ w - b, x),
        floats(8, 5, 6),
        q="-3 -4",
        w="r4 o6",
        b="-6",
    ),
    "gate made of a learned input": program(
        lambda x, q, w, b: jnp.tanh(q @ w + b) * x,
        floats(3, 6),
        q="-3 -4",
        w="r4 o6",
        b="-6",
    ),
    "LoRA with an axis of size one": program(
        lambda x, w, a, b: x @ (w[None] + a @ b)[0],
        X,
        w="r4 o6",
        a="b1 r4 o2",
        b="b1 r2 o6",
    ),
    "product by hand": program(
        lambda x, w: (x[:, :, None] * w).sum(axis=1), X, w="r4 o6"
    ),
    "sum by hand with each example, which is no product": program(
        lambda x, w: (w + x[:, :, None]).sum(axis=1), X, w="-4 -6"
    ),
    "product by hand of one example": program(
        lambda x, w: (x[:, None] * w).sum(axis=0), floats(4), w="r4 o6"
    ),
    "product by hand, passed on": program(
        lambda x, w: passed_on(x[:, :, None] * w).sum(axis=1), X, w="r4 o6"
    ),
    "kernel scaled by each example, passed on": program(
        lambda x, y, w: jnp.einsum("bi,bio->bo", x, passed_on(w * y[:, :, None])),
        X,
        X,
        w="r4 o6",
    ),
    "kernel scaled by each example": program(
        lambda x, y, w: jnp.einsum("bi,bio->bo", x, w * -y[:, :, None]),
        X,
        X,
        w="r4 o6",
    ),
    "kernel divided by each example": program(
        lambda x, y, w: jnp.einsum("bi,bio->bo", x, 2 * (w / y[:, :, None])),
        X,
        X,
        w="r4 o6",
    ),
    "LoRA after the input": program(
        lambda x, w, a, b: x @ w + x @ a @ b, X, w="r4 o6", a="r4 o2", b="r2 o6"
    ),
    "LoRA in the kernel": program(
        lambda x, w, a, b: x @ (w + a @ b), X, w="r4 o6", a="r4 o2", b="r2 o6"
    ),
    "LoRA on the left": program(
        lambda x, w, a, b: (w + b @ a) @ x.T, X, w="o6 r4", a="o2 r4", b="o6 r2"
    ),
    "centered by a product": program(
        lambda x, w: jnp.einsum("bei,oei->beo", x, centered(w)),
        floats(8, 3, 4),
        w="o6 b3 r4",
    ),
    "mask": program(lambda x, w: x @ (w * MASK), X, w="r4 o6"),
    "mask of outputs from data, and centered": program(
        lambda x, keep, w: x @ (w * keep - (w * keep).mean(axis=0)),
        X,
        floats(6),
        w="r4 o6",
    ),
    "sorted": program(lambda x, w: x @ jnp.sort(w, axis=0), X, w="r4 o6"),
    "inputs in another order": program(
        lambda x, w: x @ w[np.array([2, 0, 3, 1])], X, w="r4 o6"
    ),
    "some inputs": program(lambda x, w: x[:, :2] @ w[np.array([2, 0])], X, w="r4 o6"),
    "shared by symmetry": program(  # As the layers of NetKet and of group convolutions.
        lambda x, w: jnp.einsum("bi,ogi->bog", x, w[:, SHIFTS]), X, w="o6 r4"
    ),
    "cumulated": program(lambda x, w: x @ jnp.cumsum(w, axis=0), X, w="r4 o6"),
    "mask by selection": program(
        lambda x, w: x @ jnp.where(MASK > 0, w, 0), X, w="r4 o6"
    ),
    "quantized and back": program(fake_quantized, X, w="r4 o6"),
    "quantized, and used without a gradient": program(
        quantized_and_back_without_gradient, X, X, w="r4 o4"
    ),
    "divided by a scalar of the data": program(divided_by_scalar_of_data, X, w="r4 o6"),
}


def center_over_space(kernel):
    return kernel - kernel.mean(axis=(0, 1))


def in_four_directions(images, kernel):
    """As in group convolutions."""
    turns = [np.rot90(np.arange(9).reshape(3, 3), k).ravel() for k in range(4)]
    kernels = kernel.reshape(9, 4, 6)[np.stack(turns)]
    return convolve(images, jnp.moveaxis(kernels, 0, -1).reshape(3, 3, 4, 24))


def demodulated(kernel, axes):
    return kernel * lax.rsqrt(jnp.sum(kernel**2, axes, keepdims=True) + 1e-8)


def modulated(images, styles, w):
    """As in StyleGAN2: each example scales the kernel's inputs."""
    kernels = demodulated(w * styles[:, None, None, :, None], (1, 2, 3))
    kernels = jnp.moveaxis(kernels, 0, 3).reshape(3, 3, 4, 8 * 6)
    images = jnp.moveaxis(images, 0, 2).reshape(1, 9, 9, 8 * 4)
    return convolve(images, kernels, feature_group_count=8)


CONVOLUTIONS = {
    "plain": program(convolve, IMAGES, kernel="r3 r3 r4 o6"),
    "in four directions": program(in_four_directions, IMAGES, kernel="r3 r3 r4 o6"),
    "with the channels first": program(  # as in Equinox
        lambda x, w: lax.conv_general_dilated(x, w, (1,), "SAME"),
        floats(8, 4, 9),
        w="o6 r4 r3",
    ),
    "grouped": program(
        lambda x, w: convolve(x, w, feature_group_count=2), IMAGES, w="r3 r3 r2 o6"
    ),
    "depthwise": program(
        lambda x, w: convolve(x, w, feature_group_count=4), IMAGES, w="r3 r3 r1 o8"
    ),
    "depthwise as in Keras": program(
        lambda x, w: convolve(x, w.reshape(3, 3, 1, 8), feature_group_count=4),
        IMAGES,
        w="r3 r3 o4 o2",
    ),
    "dilated": program(
        lambda x, w: convolve(x, w, rhs_dilation=(2, 2)), IMAGES, w="r3 r3 r4 o6"
    ),
    "transposed": program(
        lambda x, w: transpose_convolve(x, w, False), IMAGES, w="r3 r3 r4 o6"
    ),
    "kernel chosen by data": program(
        lambda x, which, w: convolve(x, w[which]), IMAGES, indices(), w="b5 r3 r3 r4 o6"
    ),
    "kernel made by data": program(
        lambda x, y, w: convolve(x, jnp.einsum("i,ihwco->hwco", y, w)),
        *(IMAGES, floats(5)),
        w="r5 o3 o3 o4 o6",
    ),
    "low rank": program(
        lambda x, a, b: convolve(x, (a @ b).reshape(3, 3, 4, 6)),
        IMAGES,
        a="r36 o2",
        b="r2 o6",
    ),
    "kernel made by two data": program(
        lambda x, y, z, w: convolve(x, jnp.einsum("i,j,ijhwco->hwco", y, z, w)),
        *(IMAGES, floats(2), floats(5)),
        w="r2 r5 o3 o3 o4 o6",
    ),
    "masked and centered over space": program(
        lambda x, w: convolve(x, center_over_space(w * MASK[:3, :3, None, None])),
        IMAGES,
        w="r3 r3 r4 o6",
    ),
    "modulated": program(modulated, IMAGES, floats(8, 4), w="r3 r3 r4 o6"),
    "modulated by vmap": program(
        lambda x, y, w: jax.vmap(
            lambda x, y: convolve(x[None], demodulated(w * y[:, None], (0, 1, 2)))
        )(x, y),
        *(IMAGES, floats(8, 4)),
        w="r3 r3 r4 o6",
    ),
    "transposed with its kernel": program(
        lambda x, w: transpose_convolve(x, w, True), IMAGES, w="r3 r3 o6 r4"
    ),
}

PARTS = {
    "joined by complex": program(
        lambda x, w: x @ lax.complex(w[..., 0], w[..., 1]).T, X, w="o6 r4 r2"
    ),
    "joined by a product with i": program(
        lambda x, w: x @ (w[..., 0] + 1j * w[..., 1]).T, X, w="o6 r4 r2"
    ),
    "joined by blocks": program(
        lambda x, w: x @ jnp.block([[w[0], w[1]], [-w[1], w[0]]]), X, w="r2 r2 o6"
    ),
    "joined from two arrays": program(
        lambda x, re, im: x @ lax.complex(re, im).T, X, re="o6 r4", im="o6 r4"
    ),
}

COMPLEX = {
    "complex": program(lambda x, w: (x @ w).real, X, w="r4 o6", dtype=jnp.complex64),
    "conjugated": program(
        lambda x, w: x @ w.conj().T, X, w="o6 r4", dtype=jnp.complex64
    ),
}

TABLES = {
    "products": PRODUCTS,
    "moved": MOVED,
    "fused": FUSED,
    "arithmetic": ARITHMETIC,
    "convolutions": CONVOLUTIONS,
    "parts": PARTS,
    "complex": COMPLEX,
}
