"""Everything that the notebooks draw, under one name: `from dllm_core import show`, then `show.player(trace)`.

Drawing holds no algorithm: it reads records and tensors. A name is imported from its file when it is first used.

player, save_html, gif, png, terminal            a decoding, step by step
answers, scores, quality_speed                   results
batch_speed                                      speed in batches, and what each token costs
attention, attention_picture, mask_picture       which token may see which, and why
lookup_heads                                     which attention heads look a value up
cache_picture                                    which keys and values a decoding computes, stores and reads
prediction_arrows                                which position predicts which token
noise_schedules, loss_shares, block_schedule     schedules
packing, token_losses, SampleFilm                rows of tokens as pictures
noise_explorer, packing_explorer                 the noise of a sequence and the layout of a batch, with controls
block_explorer                                   block sizes over a run, with controls
watch_training                                   a training with its curve and samples
LiveLossCurve, progress, training_curve          the parts of it
training_price, expected                         what a training took; how the recorded seeds ended
training_curves                                  short trainings beside each other
sweep                                            the result of a sweep
source, table, masked_row, visible, safe         text: code, numbers, noised rows, a token, what others wrote
Html, Markdown, Table, Picture, Player           what these functions return
save_figure, interactive                         a figure as a file; whether the notebook is interactive
"""

from dllm_core.common.lazy import offer

NAMES = {  # file: the names that are imported from it
    "common.progress_bar": ("interactive",),
    "common.text": ("safe",),
    "show.arrows": ("prediction_arrows",),
    "show.attention.explorer": ("attention",),
    "show.attention.lookup": ("lookup_heads",),
    "show.attention.picture": ("attention_picture",),
    "show.cache": ("cache_picture",),
    "show.expected": ("expected",),
    "show.figures": ("Picture", "mask_picture", "save_figure"),
    "show.film": ("SampleFilm",),
    "show.html": ("Html", "Markdown", "Table", "source", "table", "visible"),
    "show.player.page": ("Player", "player", "save_html"),
    "show.results": ("answers", "batch_speed", "quality_speed", "scores"),
    "show.rows": ("masked_row", "packing", "token_losses"),
    "show.schedules": ("block_schedule", "loss_shares", "noise_schedules"),
    "show.strip": ("gif", "png"),
    "show.sweep_section": ("sweep",),
    "show.terminal": ("terminal",),
    "show.training": (
        "LiveLossCurve", "progress", "training_curve", "training_curves", "training_price", "watch_training",
    ),
    "show.widgets.explorers": ("block_explorer", "noise_explorer", "packing_explorer"),
}

offer(__name__, NAMES)
