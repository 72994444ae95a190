"""Data-parallel measurement on eight devices gives the single device's number."""

from __future__ import annotations

import json
import os
import subprocess
import sys

PROGRAM = """
import json
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ncap_jax.capacitance import beta_eff, line_graph, network
from ncap_jax.types import STRENGTHS
from tests.support.nets import random_net

net = random_net(0, (8, 16, 8, 12, 5), 64)
layers = [line_graph.Layer(jnp.asarray(k), jnp.asarray(b)) for k, b in zip(net.kernels, net.biases)]
mesh = Mesh(np.array(jax.devices()), ("batch",))
rows, everywhere = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("batch",), ()))

def mlp(params, constants, x):
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer.kernel + layer.bias)
    return x @ params[-1].kernel + params[-1].bias

def probe(params, x, y):
    return line_graph.update(line_graph.init(params, STRENGTHS), params, x, y)

def whole(params, x, y):
    return network.measure(mlp, params, None, x, y)

def value(function, replicated, split):
    state = jax.jit(function)(
        jax.device_put(layers, replicated),
        jax.device_put(jnp.asarray(net.inputs), split),
        jax.device_put(jnp.asarray(net.labels), split),
    )
    return {name: float(result) for name, result in beta_eff.from_state(state).items()}

inputs = jax.device_put(jnp.asarray(net.inputs), rows)
print(json.dumps({
    "devices": len(jax.devices()),
    "shards": len({str(shard.index) for shard in inputs.addressable_shards}),
    "one": [value(f, jax.devices()[0], jax.devices()[0]) for f in (probe, whole)],
    "many": [value(f, everywhere, rows) for f in (probe, whole)],
}))
"""


def test_eight_devices_are_one():
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_ENABLE_X64": "1",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["devices"] == result["shards"] == 8
    for one, many in zip(result["one"], result["many"], strict=True):
        assert set(one) == set(many)
        for strength, value in one.items():
            # float64, the sums in another order: docs/numerics.md.
            assert abs(many[strength] / value - 1) < 1e-10
