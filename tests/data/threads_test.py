import threading
import time

import pytest

from ncap_jax.data.threads import ordered_map


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 16, 101])
def test_results_come_in_order_and_once(threads, count):
    def slow_where_even(index):
        time.sleep(0.0005 * (index % 2 == 0))
        return index

    assert list(ordered_map(slow_where_even, count, threads)) == list(range(count))


def test_several_threads_work_at_once():
    """Two calls that wait for each other end only if they run together."""
    together = threading.Barrier(2, timeout=10)

    def meet(index):
        if index in (0, 16):  # of two chunks, which two threads take
            together.wait()
        return index

    assert list(ordered_map(meet, 32, 2)) == list(range(32))


def test_one_thread_is_the_callers():
    def where(index):
        return threading.current_thread()

    assert set(ordered_map(where, 3, 1)) == {threading.current_thread()}
    assert threading.current_thread() not in set(ordered_map(where, 3, 2))


@pytest.mark.parametrize("threads", [1, 3])
def test_an_exception_reaches_the_caller_in_its_place(threads):
    def fails_at_20(index):
        if index == 20:
            raise KeyError(index)
        return index

    results = ordered_map(fails_at_20, 40, threads)
    assert [next(results) for _ in range(16)] == list(range(16)), "the chunk before is delivered"
    with pytest.raises(KeyError) as caught:
        list(results)
    assert caught.value.args == (20,)


def test_work_stays_a_few_chunks_ahead():
    """A consumer that stops early does not pay for the rest."""
    called = []
    results = ordered_map(lambda index: called.append(index) or index, 10_000, 2)
    assert next(results) == 0
    results.close()
    assert len(called) < 200
