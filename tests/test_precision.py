import timeit

import pytest
import torch

from diffusers_ext.precision import in_bfloat16

CPU = torch.device("cpu")


def test_left_the_choice_a_processor_computes_in_what_it_multiplies_fast():
    def seconds(dtype):
        a, b = torch.ones(256, 256, dtype=dtype), torch.ones(256, 256, dtype=dtype)
        return min(timeit.repeat(lambda: a @ b, number=5, repeat=5))

    times = {False: seconds(torch.float32), True: seconds(torch.bfloat16)}
    chosen = in_bfloat16(CPU)
    assert times[chosen] < 3 * times[not chosen]


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_a_named_precision_is_taken_at_its_word(name):
    assert in_bfloat16(CPU, name) == (name == "bfloat16")
