"""What a run was asked for is what a finish asks for again."""

from __future__ import annotations

import pytest

from ncap_jax.options import DataConfig, RankConfig
from ncap_jax.run.request import Request, Source


def test_a_request_is_of_one_time_and_keeps_what_it_was_given():
    models = ["tiny_plain"]
    request = Request(models, "digits", RankConfig(), DataConfig())
    assert request.models is models
    assert (request.output_dir, request.tensorboard, request.show_progress) == (None, None, True)
    with pytest.raises(AttributeError):
        request.dataset = "other"
    assert Source(request, None, None).request is request
