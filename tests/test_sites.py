"""Sites: how they are written, and which block's output a place in a model is."""

import pytest

from dragoman.core import Refusal, Site


def test_what_enters_a_block_is_what_left_the_block_before() -> None:
    assert Site.before_block("org/model", 7) == Site("org/model", 6)
    assert Site.before_block("org/model", 1, "main") == Site("org/model", 0, "main")
    assert Site.block_before(20, "a dictionary") == 19


@pytest.mark.parametrize("block", [0, -1])
def test_what_enters_block_0_is_no_blocks_output(block: int) -> None:
    sentence = (
        "it reads the embedding, which enters block 0 and is not the output of a block; "
        r"use one at the output of a block \(blocks.K.hook_resid_post\)\."
    )
    with pytest.raises(Refusal, match=f"^what enters block {block} of m: {sentence}$"):
        Site.before_block("m", block)
    with pytest.raises(Refusal, match=f"^source x: {sentence}$"):
        Site.before_block("m", block, what="source x")
    with pytest.raises(Refusal, match=f"^a dictionary: {sentence}$"):
        Site.block_before(block, "a dictionary")
