"""Rows of tokens: nothing lost, nothing twice, nothing invented; going on after a stop as if there had been none."""

import json

import numpy as np
import pytest
import torch
from examples import IDS, equal, examples
from small import EOS, PAD

from dllm_core.common.errors import DataError
from dllm_core.data import batches as batches_module
from dllm_core.data.batches import Batch, PackedBatches, validation_batches
from dllm_core.data.token_cache import TokenDataset

LAYOUTS = [
    {"pack": "cut"},
    {"pack": "whole"},
    {"pack": "whole", "fill": "batch"},
    {"pack": "whole", "fill": "random", "max_fill": 9},
    {"pack": "whole", "fill": "block", "block_size": 4},
]
WHOLE = LAYOUTS[1:]


def pieces(batch: Batch) -> list[tuple[list[int], list[bool]]]:
    """(tokens, scored) of every document of a batch; checks that each lies in one piece with positions 0, 1, 2 …"""
    result = []
    for tokens, document, position, scored in zip(batch.tokens, batch.document, batch.position, batch.scored):
        for number in range(int(document.max()) + 1):
            where = torch.nonzero(document == number).flatten()
            assert where.diff().eq(1).all(), "a document is torn apart"
            assert position[where].tolist() == list(range(len(where)))
            result.append((tokens[where].tolist(), scored[where].tolist()))
    return result


def take(batches: PackedBatches, count: int) -> list[Batch]:
    return [next(batches) for _ in range(count)]


# --- the three layouts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_shapes_and_padding(layout):
    for batch in take(PackedBatches(examples(), batch_size=3, seq_len=24, **layout), 10):
        assert batch.tokens.shape == batch.document.shape == batch.position.shape == batch.scored.shape
        assert batch.tokens.shape[0] == 3 and batch.tokens.shape[1] <= 24
        assert batch.tokens.dtype == batch.document.dtype == batch.position.dtype == torch.int64
        assert batch.scored.dtype == torch.bool
        padding = batch.document == -1
        assert (batch.tokens[padding] == PAD).all() and not batch.scored[padding].any()
        assert (batch.tokens[~padding] != PAD).all() and (batch.position[padding] == 0).all()
        assert int((batch.document.amax(dim=1) + 1).sum()) == len(pieces(batch))  # counted from 0 in each row


def test_cut_is_the_stream_itself():
    documents = TokenDataset.of([[10 * d + i for i in range(n)] for d, n in enumerate([3, 9, 1, 6, 2], 1)], **IDS)
    batch = next(PackedBatches(documents, batch_size=4, seq_len=5, shuffle=False))
    assert batch.tokens.flatten().tolist() == documents.tokens[:20].tolist()
    assert batch.document.tolist() == [[0, 0, 0, 1, 1], [0, 0, 0, 0, 0], [0, 0, 1, 2, 2], [0, 0, 0, 0, 1]]
    assert batch.position.tolist() == [[0, 1, 2, 0, 1], [0, 1, 2, 3, 4], [0, 1, 0, 0, 1], [0, 1, 2, 3, 0]]
    assert batch.scored.all()


def test_cut_gives_every_token_once_an_epoch():
    documents = TokenDataset.of([[1000 * d + i for i in range(d % 7 + 1)] for d in range(1, 60)], **IDS)
    rows = len(documents.tokens) // 8
    batches = PackedBatches(documents, batch_size=1, seq_len=8)
    assert batches.batches_per_epoch == rows
    seen = torch.cat([batch.tokens.flatten() for batch in take(batches, rows)]).tolist()
    assert len(set(seen)) == len(seen) == rows * 8 and set(seen) <= set(documents.tokens.tolist())
    assert batches.epoch == 1
    again = torch.cat([batch.tokens.flatten() for batch in take(batches, rows)]).tolist()
    assert again != seen and len(set(again)) == len(again)  # another order


@pytest.mark.parametrize("layout", WHOLE)
def test_examples_are_not_split_and_come_once_an_epoch(layout):
    documents = examples(200)
    batches = PackedBatches(documents, batch_size=4, seq_len=24, **layout)
    counts = np.zeros(len(documents), int)
    for batch in take(batches, 200):
        for tokens, scored in pieces(batch):
            i = tokens[2] - 100
            ids, marks = documents[i]
            assert tokens[: len(ids)] == ids.tolist() and scored[: len(ids)] == marks.tolist()
            assert set(tokens[len(ids) :]) <= {EOS}
            counts[i] += 1
    state = batches.state()
    assert counts.sum() == state["next"] - len(state["aside"])
    assert counts.min() > 3 and counts.max() - counts.min() <= 2  # this epoch's, and those set aside


def test_packing_leaves_little_empty():
    batches = PackedBatches(examples(400), batch_size=4, seq_len=64, pack="whole")
    filled = torch.cat([batch.document for batch in take(batches, 20)]) >= 0
    assert filled.float().mean() > 0.93


def test_fill_batch_is_one_example_a_row_up_to_the_longest():
    documents = examples(48)
    for batch in take(PackedBatches(documents, batch_size=6, seq_len=24, pack="whole", fill="batch"), 10):
        examples_of_batch = pieces(batch)
        assert len(examples_of_batch) == 6 == len({tokens[2] for tokens, _ in examples_of_batch})
        assert batch.tokens.shape[1] == max(len(documents[tokens[2] - 100][0]) for tokens, _ in examples_of_batch)
        assert (batch.document == 0).all() and batch.scored[:, 2:].all()


def test_fill_random_varies_within_its_bounds():
    documents = examples()
    batches = PackedBatches(documents, batch_size=4, seq_len=24, pack="whole", fill="random", max_fill=5)
    tails = [
        (len(tokens) - len(documents[tokens[2] - 100][0]), len(tokens))
        for batch in take(batches, 60)
        for tokens, _ in pieces(batch)
    ]
    assert {tail for tail, _ in tails} == set(range(6)) and max(length for _, length in tails) <= 24


@pytest.mark.parametrize("fill_scored", [True, False])
def test_fill_block_rounds_up(fill_scored):
    documents = examples()
    settings = {"pack": "whole", "fill": "block", "block_size": 8, "fill_scored": fill_scored}
    for batch in take(PackedBatches(documents, batch_size=4, seq_len=24, **settings), 20):
        for tokens, scored in pieces(batch):
            length = len(documents[tokens[2] - 100][0])
            assert len(tokens) == -(-length // 8) * 8
            assert scored[length:] == [fill_scored] * (len(tokens) - length)


@pytest.mark.parametrize("layout", WHOLE)
def test_an_answer_without_its_end_is_not_filled(layout):
    """The first two were cut (by max_length, and here by seq_len); an eos after them would teach to stop midway."""
    documents = TokenDataset.of([[10, 7, 7], [10, *[8] * 30, EOS], [10, 9, EOS]], **IDS)
    for batch in take(PackedBatches(documents, batch_size=2, seq_len=12, **layout), 12):
        for tokens, _ in pieces(batch):
            if tokens[1] == 7:
                assert tokens == [10, 7, 7]
            if tokens[1] == 8:
                assert tokens == [10] + [8] * 11


def test_text_shorter_than_a_row_is_padded():
    batch = next(PackedBatches(TokenDataset.of([[1, 5, EOS]], **IDS), batch_size=2, seq_len=6))
    assert batch.tokens.tolist() == [[1, 5, EOS, PAD, PAD, PAD]] * 2
    assert batch.document.tolist() == [[0, 0, 0, -1, -1, -1]] * 2


def test_empty_documents_are_passed_over():
    documents = TokenDataset.of([[], [1, 5, EOS], [], [1, 6, EOS], []], **IDS)
    for layout in LAYOUTS:
        assert {5, 6} <= set(
            next(PackedBatches(documents, batch_size=3, seq_len=8, **layout)).tokens.flatten().tolist()
        )


def test_selected_documents_only():
    documents = examples().select([3, 8])
    for layout in WHOLE:
        batch = next(PackedBatches(documents, batch_size=2, seq_len=24, **layout))
        assert {tokens[2] - 100 for tokens, _ in pieces(batch)} == {3, 8}


# --- order, resuming, processes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_seed_decides(layout):
    def first(seed, shuffle=True):
        return next(PackedBatches(examples(), batch_size=4, seq_len=24, seed=seed, shuffle=shuffle, **layout))

    assert equal(first(1), first(1)) and not equal(first(1), first(2))
    assert torch.equal(first(1, False).tokens[0, :4], torch.tensor(examples().tokens[:4]).long())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_going_on_after_a_stop(layout):
    def make():
        return PackedBatches(examples(), batch_size=3, seq_len=24, seed=4, **layout)

    for stop in (0, 1, 7, 31):
        unbroken, first, second = make(), make(), make()
        take(unbroken, stop), take(first, stop)
        second.load_state(json.loads(json.dumps(first.state())))
        assert second.epoch == unbroken.epoch
        assert all(equal(a, b) for a, b in zip(take(unbroken, 12), take(second, 12)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_planning_rows_ahead_changes_nothing(layout, monkeypatch):
    """Several batches at once or one by one; also when a state is loaded between two that were laid out together."""
    make = lambda: PackedBatches(examples(), batch_size=3, seq_len=24, **layout)
    ahead, going_back = take(make(), 40), make()
    take(going_back, 2)
    state = going_back.state()
    take(going_back, 3)
    going_back.load_state(state)
    assert all(equal(a, b) for a, b in zip(ahead[2:], take(going_back, 30)))
    monkeypatch.setattr(batches_module, "AHEAD", 1)
    assert all(equal(a, b) for a, b in zip(ahead, take(make(), 40), strict=True))


def test_computing_the_estimate_changes_nothing():
    estimated, plain = (PackedBatches(examples(), batch_size=3, seq_len=24, pack="whole") for _ in range(2))
    next(estimated), next(plain)
    assert estimated.batches_per_epoch > 0
    assert all(equal(a, b) for a, b in zip(take(estimated, 9), take(plain, 9)))


def test_a_state_of_other_data_is_refused():
    state = PackedBatches(examples(50), batch_size=3, seq_len=24, pack="whole").state()
    with pytest.raises(DataError, match="counts 50 examples an epoch, these data make 49"):
        PackedBatches(examples(49), batch_size=3, seq_len=24, pack="whole").load_state(state)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_estimate_of_an_epoch(layout):
    batches = PackedBatches(examples(600), batch_size=4, seq_len=32, **layout)
    count = 0
    while batches.epoch == 0:
        next(batches)
        count += 1
    assert batches.batches_per_epoch == pytest.approx(count, rel=0.12)


def test_steps_for_a_number_of_epochs():
    batches = PackedBatches(examples(600), batch_size=4, seq_len=32)
    per_epoch = batches.batches_per_epoch
    assert [batches.steps(e) for e in (2, 0.5, 1e-9)] == [2 * per_epoch, round(per_epoch / 2), 1]
    for epochs in (0, -1.0):
        with pytest.raises(DataError, match=f"epochs={epochs}: must be more than 0"):
            batches.steps(epochs)


# --- validation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_validation_takes_each_document_once(layout):
    documents = examples()
    batches = validation_batches(documents, batch_size=4, seq_len=24, **layout)
    assert all(equal(a, b) for a, b in zip(batches, validation_batches(documents, batch_size=4, seq_len=24, **layout)))
    if layout["pack"] == "cut":
        kept = torch.cat([batch.tokens[batch.document >= 0] for batch in batches])
        assert kept.tolist() == documents.tokens.tolist()
    else:
        numbers = sorted(tokens[2] - 100 for batch in batches for tokens, _ in pieces(batch))
        assert numbers == list(range(50))
    assert all((batch.document >= 0).any(dim=1).all() for batch in batches), "an empty row"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_validation_stops_at_its_number_of_rows(layout):
    batches = validation_batches(examples(), batch_size=4, seq_len=24, rows=6, **layout)
    assert [len(batch.tokens) for batch in batches] == [4, 2]


@pytest.mark.parametrize("rows", [0, -1])
def test_validation_without_rows_is_refused(rows):
    with pytest.raises(DataError, match=f"rows={rows}: must be at least 1"):
        validation_batches(examples(), batch_size=4, seq_len=24, rows=rows)


# --- settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"block_size": 5}, "block_size=5 does not divide seq_len=24"),
        ({"pack": "whole", "fill": "block", "block_size": 7}, "block_size=7 does not divide seq_len=24"),
        ({"pack": "whole", "fill": "block"}, "needs a block_size"),
        ({"pack": "cut", "fill": "random"}, 'needs pack="whole"'),
        ({"pack": "tight"}, "pack='tight'"),
        ({"pack": "whole", "fill": "eos"}, "fill='eos'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"pack": "whole", "fill": "random", "max_fill": -1}, "max_fill=-1"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(DataError, match=message):
        PackedBatches(examples(), **{"batch_size": 2, "seq_len": 24, **settings})


def test_no_documents_give_an_error():
    for layout in LAYOUTS:
        with pytest.raises(DataError, match="no documents"):
            PackedBatches(examples().select([]), batch_size=2, seq_len=24, **layout)


def test_rows_too_short_for_every_answer():
    documents = TokenDataset.of([[10] * 9 + [5, EOS]] * 3, [[False] * 9 + [True] * 2] * 3, **IDS)
    with pytest.raises(DataError, match="seq_len=8 is too short: none of 3 examples"):
        PackedBatches(documents, batch_size=2, seq_len=8, pack="whole")


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2]])
def test_long_examples_count_if_their_answer_begins_in_the_row(order):
    """Prompts of 4, 9, 7 and 8 tokens, rows of 8: the second and the last have no answer left."""
    prompts = (4, 9, 7, 8)
    documents = TokenDataset.of(
        [[10] * n + [100 + i] * 9 + [EOS] for i, n in enumerate(prompts)],
        [[False] * n + [True] * 10 for n in prompts],
        **IDS,
    )
    batches = PackedBatches(documents.select(order), batch_size=1, seq_len=8, pack="whole", shuffle=False)
    assert batches.batches_per_epoch == 2
    rows = [batch.tokens[0].tolist() for batch in take(batches, 2)]
    laid = {0: [10] * 4 + [100] * 4, 2: [10] * 7 + [102]}
    assert rows == [laid[i] for i in order if i in laid]
