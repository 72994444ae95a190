import pickle

import pytest

from ncap_jax import errors

KINDS = [
    errors.ConfigError,
    errors.DataError,
    errors.ModelError,
    errors.WeightsError,
    errors.OutputError,
    errors.CheckpointError,
    errors.PackageError,
    errors.ProcessError,
    errors.KernelError,
]


def test_an_error_is_read_as_cause_and_remedy():
    error = errors.NcapError("epochs=0", "Give a whole number of at least 1")
    assert str(error) == "epochs=0. Give a whole number of at least 1."
    assert (error.cause, error.remedy) == ("epochs=0", "Give a whole number of at least 1")
    assert str(errors.NcapError("epochs=0")) == "epochs=0."


def test_full_stops_are_not_doubled():
    error = errors.NcapError("It broke.", "Repair it.")
    assert str(error) == "It broke. Repair it."
    assert (error.cause, error.remedy) == ("It broke", "Repair it")


@pytest.mark.parametrize("kind", KINDS)
def test_errors_cross_process_boundaries(kind):
    """Workers send them: the type and both parts arrive."""
    error = kind("the file is damaged", "Delete it")
    arrived = pickle.loads(pickle.dumps(error))
    assert type(arrived) is kind
    assert (arrived.cause, arrived.remedy) == (error.cause, error.remedy)
    assert str(arrived) == str(error)


@pytest.mark.parametrize("kind", KINDS)
def test_one_except_catches_what_is_raised_on_purpose(kind):
    assert issubclass(kind, errors.NcapError)


def test_a_damaged_checkpoint_is_an_output_error():
    """Whoever handles the output folder handles its checkpoints too."""
    assert issubclass(errors.CheckpointError, errors.OutputError)


def test_unknown_names_come_with_the_nearest():
    known = ["resnet50", "resnet101", "vgg16"]
    assert errors.unknown_name("model", "ResNet5", known) == (
        "unknown model 'ResNet5'",
        "Did you mean resnet50 or resnet101",
    )
    assert errors.unknown_name("model", "q", iter(known)) == (
        "unknown model 'q'",
        "Known: resnet101, resnet50, vgg16",
    )


def test_a_lack_of_memory_is_told_from_other_errors():
    assert errors.is_out_of_memory(RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating"))
    assert errors.is_out_of_memory(RuntimeError("INTERNAL: Error dispatching: Out of memory"))
    assert errors.is_out_of_memory(MemoryError())
    assert not errors.is_out_of_memory(RuntimeError("shapes differ"))
    assert not errors.is_out_of_memory(errors.WeightsError("out of memory.pth is damaged"))
