"""The tokenizer that most tests of the data room read files with."""

import pytest
from small import CHARACTERS

from dllm_core.data.tokenizer import character_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return character_tokenizer([CHARACTERS])
