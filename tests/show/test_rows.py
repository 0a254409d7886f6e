"""Rows of tokens: every token is drawn with its state."""


import pytest
from small import batch_of
from traces import EOS, HOSTILE, is_png

from dllm_core import show
from dllm_core.show.rows import TokenRow, _states, draw_token_rows


def test_masked_row_and_its_complement_partition_the_tokens():
    row = show.masked_row(["你", "好", HOSTILE], [True, False, True], complement=[False, True, False])
    first, second = row.text.splitlines()
    assert first.count("░") == 2 and second.count("░") == 1
    prompted = show.masked_row(["你", "好", "x"], [False, True, False], prompt=[True, False, False])
    assert "1 of 2 masked" in prompted.html and prompted.html.count("border-color:transparent") == 1
    prompt = show.masked_row(["你", "好", "x"], [False, True, False], complement=[False, False, True], prompt=[True, False, False])
    assert [line.count("░") for line in prompt.text.splitlines()] == [1, 1]
    with pytest.raises(ValueError, match="prompt has 1 entries for 2 tokens"):
        show.masked_row(["a", "b"], [True, False], prompt=[True])
    assert HOSTILE not in row.html
    with pytest.raises(ValueError, match="2 entries for 3 tokens"):
        show.masked_row(["a", "b", "c"], [True, False])


def test_packing_marks_prompt_answer_eos_padding_and_padding():
    batch = batch_of([4, 3], [5], prompt=2, width=8)
    batch.tokens[0, 5:7] = EOS
    assert _states(batch, EOS)[0].tolist() == [0, 0, 1, 1, 0, 0, 2, 3]
    batch.tokens[0, 3:5] = EOS  # an eos that ends a document, and one that begins the next: no padding
    assert _states(batch, EOS)[0, 3:5].tolist() == [1, 0]
    batch.tokens[0, 3:7] = 5
    picture = show.packing({"a": batch, "b": batch}, EOS, {"b": 2})
    share = "38 % prompt, 38 % answer, 0 % EOS padding, 25 % padding"
    assert is_png(picture) and repr(picture) == f"a: {share}; b: {share}"
    without, with_blocks = (len(axes.lines) for axes in picture.figure.axes)
    assert without < with_blocks  # ticks of blocks only in the panel that has blocks
    with pytest.raises(ValueError, match="the mapping is empty"):
        show.packing({}, EOS)


def test_token_rows_wrap_and_keep_every_token():
    boxes = [("你", "prompt", 0), ("░", "masked", 0), (HOSTILE, "filled", 0.5), ("⟨eos⟩", "end", 1.0)] * 8
    picture = draw_token_rows([TokenRow("x_t", "8 of 32 hidden", boxes)], "title")
    drawn = [text.get_text() for text in picture.figure.axes[0].texts]
    assert is_png(picture) and [text for text in drawn if text in {box[0] for box in boxes}] == [box[0] for box in boxes]
    assert len({round(text.get_position()[1], 2) for text in picture.figure.axes[0].texts}) > 4  # several lines
    assert repr(picture).splitlines() == ["title", "x_t: " + "".join(box[0] for box in boxes)]


def test_token_losses_shade_by_the_loss_on_one_scale():
    documents = [(["⟨bos⟩", "甲", "乙"], [None, 0.0, 3.5]), (["x", HOSTILE], [7.0, 9.0])]
    picture = show.token_losses(documents, most=7.0, title="nats")
    boxes = picture.figure.axes[0].patches
    alpha = [box.get_facecolor()[3] for box in boxes]
    assert is_png(picture) and len(boxes) == 4 + 7  # ⟨bos⟩ is not predicted; the scale has seven
    zero, half, most = alpha[4], alpha[7], alpha[10]
    assert alpha[:4] == [zero, half, most, most] and zero < half < most
    assert "mean 1.75 nats" in [text.get_text() for text in picture.figure.axes[0].texts]
    with pytest.raises(ValueError, match="the list is empty"):
        show.token_losses([], most=7.0)
