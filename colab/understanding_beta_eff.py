# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Understanding β_eff
#
# Training moves every weight of a network. Take the weights as the *nodes* of a second network,
# its **line graph**, and training as the dynamics on it: how strongly does one weight drive the
# change of another? *Neural capacitance*, β_eff, condenses the adjacency matrix P of that second
# network into one number (Jiang et al., [arXiv 2201.04194](https://arxiv.org/abs/2201.04194)).
#
# This notebook draws both networks, computes P the obvious way and β_eff the fast way, and watches
# β_eff vanish as training converges. The equations are numbered as in `docs/method.md`.

# %%
import importlib.util
import subprocess
import sys

REPOSITORY = ""  # @param {type:"string"}
if importlib.util.find_spec("ncap_jax") is None:  # as on Colab; takes about a minute
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    if subprocess.run([*pip, "ncap_jax"]).returncode != 0:
        if not REPOSITORY:
            raise SystemExit(
                "pip cannot install ncap_jax by its name. Write the Git address of the project "
                "into REPOSITORY and run this cell again."
            )
        subprocess.run([*pip, f"git+{REPOSITORY}"], check=True)

# %% tags=["parameters"]
STEPS = 400  # of training, in the last part
SIZES = (4, 8, 16)  # widths at which the dense and the fast way are compared

# %%
import itertools
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
import optax

import ncap_jax as ncap
from ncap_jax.capacitance import reference

# %% [markdown]
# ## Two networks
#
# A perceptron with three hidden layers, random weights, and eight samples of two classes.

# %%
rng = np.random.default_rng(0)
WIDTHS = [2, 3, 3, 3, 2]


def random_net(widths, seed=0):
    """Kernels (n_in, n_out) with He's scale, and positive biases."""
    rng = np.random.default_rng(seed)
    pairs = list(itertools.pairwise(widths))
    kernels = [rng.normal(size=pair) * np.sqrt(2 / pair[0]) for pair in pairs]
    return kernels, [rng.uniform(0, 1, size=n_out) for _, n_out in pairs]  # few dead units


kernels, biases = random_net(WIDTHS, seed=2)
inputs, labels = rng.normal(size=(8, 2)), np.arange(8) % 2

network = nx.DiGraph()
for layer, (n_in, n_out) in enumerate(itertools.pairwise(WIDTHS)):
    for i in range(n_in):
        for j in range(n_out):
            network.add_edge((layer, i), (layer + 1, j), weight=kernels[layer][i, j])
line_graph = nx.line_graph(network)
print(f"network: {network.number_of_nodes()} units, {network.number_of_edges()} weights")
print(f"line graph: {line_graph.number_of_nodes()} weights, {line_graph.number_of_edges()} links")

# %% [markdown]
# Two weights are linked if the first one leads into the unit that the second one leaves. The
# strength of the link is how the second weight moves the first one's gradient step, all activity
# held fixed: for $e = (j \to i)$ in layer ℓ and $e' = (i \to k)$ in layer ℓ+1,
#
# $$P[e, e'] = -\frac1B\sum_b z^{\ell-1}_{bj}\, s^\ell_{bi}\, g^{\ell+1}_{bk} \tag{1}$$
#
# with activations $z$, slopes $s = \sigma'$ and loss gradients $g$. `reference.py` writes that
# down as loops, in float64. Below: the network and its line graph. A link's width shows
# $|P|$; it is blue where P is negative.

# %%
P = reference.dense_adjacency(kernels, biases, inputs, labels)
order = {edge: number for number, edge in enumerate(sorted(network.edges))}  # as in P
links = [(order[e], order[f]) for e, f in line_graph.edges]
inside = np.zeros_like(P, dtype=bool)
inside[tuple(np.array(links).T)] = True
assert not P[~inside].any()  # P lives on the line graph, and nowhere else

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
for node in network:
    network.nodes[node]["layer"] = node[0]
for edge in line_graph:
    line_graph.nodes[edge]["layer"] = edge[0][0]
place = nx.multipartite_layout(network, subset_key="layer")
nx.draw_networkx_nodes(network, place, ax=left, node_color="#444444", node_size=180)
nx.draw_networkx_edges(network, place, ax=left, edge_color="#999999", node_size=180)
place = nx.multipartite_layout(line_graph, subset_key="layer")
strength = np.array([P[order[e], order[f]] for e, f in line_graph.edges])
nx.draw_networkx_nodes(line_graph, place, ax=right, node_color="#444444", node_size=60)
nx.draw_networkx_edges(line_graph, place, ax=right, arrows=False, edge_color="#dddddd")
nx.draw_networkx_edges(
    line_graph,
    place,
    ax=right,
    arrows=False,
    width=8 * np.abs(strength) / np.abs(strength).max(),
    edge_color=np.where(strength < 0, "#0072b2", "#d55e00"),
)
left.set_title("network: units and weights")
right.set_title("line graph: weights and their influence")
plt.show()

# %% [markdown]
# ## One number
#
# $$\delta_{in} = P\mathbf 1,\quad \delta_{out} = P^\top\mathbf 1,\quad
# \beta_{eff} = \frac{\mathbf 1^\top P\,\delta_{in}}{\mathbf 1^\top P\,\mathbf 1}
# = \frac{\sum_e \delta_{out}(e)\,\delta_{in}(e)}{\sum_e \delta_{in}(e)} \tag{2}$$

# %%
delta_in, delta_out = P.sum(axis=1), P.sum(axis=0)
print("by hand   ", (delta_out @ delta_in) / delta_in.sum())
print("reference ", reference.beta_eff(P))
result = ncap.mlp_beta_eff(kernels, biases, inputs, labels)
print("ncap_jax  ", float(result), result.status)

# %% [markdown]
# `ncap_jax` never builds P. A degree has the shape of the weights, because each sum over
# neighbours factorises:
#
# $$\delta_{in}(i, j; \ell) = -\tfrac1B\sum_b z^{\ell-1}_{bj} s^\ell_{bi} G^{\ell+1}_b,\qquad
# \delta_{out}(k, i; \ell) = -\tfrac1B\sum_b g^\ell_{bk} s^{\ell-1}_{bi} Z^{\ell-2}_b \tag{3}$$
#
# with $G_b = \sum_k g_{bk}$ and $Z_b = \sum_j z_{bj}$: one matrix product a layer. In NumPy:

# %%
z, s, g = reference.mlp_states(kernels, biases, inputs, labels)  # z^0.., s^1.., g^1..
mean = 1 / len(inputs)
degrees_in, degrees_out = [], []
for layer in range(len(kernels)):  # layer ℓ = layer + 1
    zero = np.zeros_like(kernels[layer])
    last, first = layer == len(kernels) - 1, layer == 0
    G = None if last else g[layer + 1].sum(axis=1, keepdims=True)
    Z = None if first else z[layer - 1].sum(axis=1, keepdims=True)
    degrees_in.append(zero if last else -mean * z[layer].T @ (s[layer] * G))
    degrees_out.append(zero if first else -mean * (s[layer - 1] * Z).T @ g[layer])
np.testing.assert_allclose(np.concatenate([d.ravel() for d in degrees_in]), delta_in, atol=1e-15)
np.testing.assert_allclose(np.concatenate([d.ravel() for d in degrees_out]), delta_out, atol=1e-15)
print("the degrees of (3) are those of P")

# %% [markdown]
# This saves memory: P has edges² entries, the degrees have one per edge.

# %%
print(f"{'width':>5} {'edges':>7} {'P in MB':>9} {'dense':>10} {'ncap_jax':>10}")
for width in SIZES:
    widths = [width] * 5
    net = random_net(widths)
    x, y = rng.normal(size=(64, width)), np.arange(64) % width
    start = time.perf_counter()
    dense = reference.beta_eff(reference.dense_adjacency(*net, x, y))
    between = time.perf_counter()
    ncap.mlp_beta_eff(*net, x, y).value.block_until_ready()  # the first call compiles
    warm = time.perf_counter()
    fast = float(ncap.mlp_beta_eff(*net, x, y))
    end = time.perf_counter()
    edges = 4 * width**2
    times = f"{1e3 * (between - start):>7.1f} ms {1e3 * (end - warm):>7.1f} ms"
    print(f"{width:>5} {edges:>7,} {8 * edges**2 / 1e6:>9,.1f} {times}")
    np.testing.assert_allclose(fast, dense, rtol=1e-3)

# %% [markdown]
# ## Why at least three hidden layers
#
# Softmax with cross-entropy makes the output gradients of each sample sum to zero. So the
# in-degrees of the last hidden layer's weights vanish, and with them β_eff of any shallower net.

# %%
print("sum of the output gradients, per sample:", np.abs(g[-1].sum(axis=1)).max())
shallow = random_net([2, 3, 3, 2])
print(
    "β_eff with two hidden layers:",
    reference.beta_eff(reference.dense_adjacency(*shallow, inputs, labels)),
)
try:
    ncap.mlp_beta_eff(*shallow, inputs, labels)
except ncap.NcapError as error:
    print("ncap_jax says:", error)

# %% [markdown]
# ## Strengths
#
# The signed sums of (1) cancel; on short runs little but noise remains. `absolute` and `squared`
# replace every product z s g by its absolute value or square; `total` does not hold the activity
# fixed.

# %%
for name in ("signed", "absolute", "squared", "total"):
    result = ncap.mlp_beta_eff(kernels, biases, inputs, labels, strength=name)
    print(
        f"{name:>9}: {float(result):+.4f}  {result.status}, condition {float(result.condition):.1f}"
    )

# %% [markdown]
# ## The theorem in practice
#
# As training converges, the loss gradients g go to 0, and with them P and β_eff. Here a perceptron
# is trained on the pixels of real digits to a loss of nearly 0:

# %%
digits = ncap.load_dataset("digits", max_train=300)
x = jnp.asarray(digits.images[:, 2::4, 2::4, 0].reshape(len(digits.images), -1), jnp.float32) / 255
y = jnp.asarray(digits.labels)
net = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), random_net([64, 32, 32, 32, 10]))
optimizer = optax.adam(3e-3)


def loss_of(net):
    hidden = x
    for number, (kernel, bias) in enumerate(zip(*net)):
        hidden = hidden @ kernel + bias
        if number < len(net[0]) - 1:
            hidden = jax.nn.relu(hidden)
    return optax.softmax_cross_entropy_with_integer_labels(hidden, y).mean()


@jax.jit
def train_step(net, moments):
    loss, gradients = jax.value_and_grad(loss_of)(net)
    updates, moments = optimizer.update(gradients, moments)
    return optax.apply_updates(net, updates), moments, loss


moments, history = optimizer.init(net), []
for step in range(STEPS + 1):
    if step % (STEPS // 20) == 0:
        values = [
            abs(float(ncap.mlp_beta_eff(*net, x, y, strength=name)))
            for name in ("signed", "absolute")
        ]
        history.append((step, float(loss_of(net)), *values))
    net, moments, _ = train_step(net, moments)

# %%
steps, losses, signed, absolute = np.array(history).T
figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
axis.semilogy(steps, losses, label="training loss", color="#444444", linestyle="--")
axis.semilogy(steps, signed, label="|β_eff|, signed", color="#0072b2", marker="o")
axis.semilogy(steps, absolute, label="β_eff, absolute", color="#d55e00", marker="s")
axis.set(xlabel="step")
axis.legend()
plt.show()
print(f"loss {losses[0]:.2f} -> {losses[-1]:.4f}, β_eff {absolute[0]:.3g} -> {absolute[-1]:.3g}")
assert absolute[-1] < absolute[0]

# %% [markdown]
# `ncap_jax` measures a model's whole network or, with `head="probe"` (as in the paper) and
# `head="trainable_probe"`, a small random *probe* on its features. What β_eff tells about a model's
# final accuracy, and what it does not, is measured in `docs/results/early-signals.md`
# and `docs/results/published-weights.md`.
