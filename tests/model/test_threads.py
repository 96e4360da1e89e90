import pytest
import torch

from deepidea.model.threads import fastest_thread_count, torch_threads


@pytest.fixture
def takes(monkeypatch):
    """A step that takes so many seconds, by a clock of its own, for a number of threads."""
    now = [0.0]
    monkeypatch.setattr("deepidea.model.threads.time.perf_counter", lambda: now[0])

    def step_of(seconds):
        def step():
            now[0] += seconds(torch.get_num_threads())

        return step

    return step_of


def test_threads_that_do_not_help_are_not_taken(takes):
    assert fastest_thread_count(takes(lambda n: 0.001 * n), most=4) == 1


def test_threads_that_help_are_taken_as_far_as_they_do(takes):
    assert fastest_thread_count(takes(lambda n: 0.02 / min(n, 2)), most=8) == 2


def test_threads_that_help_hardly_are_not_taken(takes):
    assert fastest_thread_count(takes(lambda n: 1 - 0.05 * n), most=2) == 1


def test_torch_is_left_as_it_was():
    before = torch.get_num_threads()
    fastest_thread_count(lambda: None, most=2)
    with torch_threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
