"""Functions that options name as module:function."""

import pytest

from rlhf import InputError
from stages.common.parsing import load_function


@pytest.mark.parametrize(
    "name, message",
    [
        ("./my_module.py:f", "is not the name of a module"),
        ("no.such:f", "no module no"),
        ("math", "no function"),
        ("math:nothing", "no function"),
    ],
)
def test_a_function_that_does_not_exist_is_refused(name, message):
    with pytest.raises(InputError, match=message):
        load_function(name)


def test_a_function_is_loaded_by_module_and_name():
    assert load_function("math:sqrt")(4) == 2
