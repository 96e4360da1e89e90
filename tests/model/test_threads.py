import time

import torch

from deepidea.model.threads import fastest_thread_count, torch_threads


def test_threads_that_do_not_help_are_not_taken():
    assert fastest_thread_count(lambda: time.sleep(0.001 * torch.get_num_threads()), most=4) == 1


def test_threads_that_help_are_taken():
    assert fastest_thread_count(lambda: time.sleep(0.02 / torch.get_num_threads()), most=2) == 2


def test_torch_is_left_as_it_was():
    before = torch.get_num_threads()
    fastest_thread_count(lambda: None, most=2)
    with torch_threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
