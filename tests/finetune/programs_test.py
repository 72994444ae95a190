"""What is compiled for shapes is what the epochs run."""

from __future__ import annotations

import pytest

from ncap_jax.finetune import loop, steps
from ncap_jax.finetune.programs import compile_programs
from ncap_jax.measure import training
from tests.support.compilations import compilations
from tests.support.small import small_config, small_feed, small_spec


@pytest.mark.parametrize(
    ("scan", "budget"), [(False, None), (True, None), (True, 1e6)], ids=["loop", "scan", "pieces"]
)
def test_an_epoch_runs_what_was_compiled(monkeypatch, scan, budget):
    monkeypatch.setattr(steps, "_scans", lambda wanted: scan)
    monkeypatch.setattr(steps, "SCANNED_STEPS", 3 if scan else 32)
    # Widths and sizes of its own for each case: no other test has compiled these programs.
    widths = (20 + scan, 12 + (budget is not None), 7)
    changes = {"model_time_budget": budget, "batch_size": 8, "input_size": 9}
    config = small_config(head="probe", probe_widths=widths, epochs=1, **changes)
    tuning = training.start(
        small_spec(), small_feed(), config, deadline=None if budget is None else lambda: None
    )
    with compilations() as programs:
        compile_programs(tuning, 5)
    step = "jit(_scanned_steps)" if scan else "jit(train_step)"
    assert {step, "jit(features)", "jit(head_sums)", "jit(_probes)"} <= set(programs)
    with compilations() as programs:
        assert loop.finetune(tuning).status == "ok"
    # The last piece of an epoch may be shorter, which is a program of its own.
    assert programs.count(step) <= (budget is not None)
    assert not {"jit(features)", "jit(head_sums)", "jit(_probes)"} & set(programs)
