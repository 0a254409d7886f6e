"""The look: everything the notebooks draw, under one name. Drawing holds no algorithm: it reads records and tensors.

player, save_html, gif, png, terminal  a decoding, step by step  (show_player, show_strip, show_terminal)
compare, scores, quality_speed  results                           (show_results)
mask_picture, save_figure       one mask; any figure as a file    (show_figures)
attention, attention_picture    who may see whom, and why         (show_attention)
noise_schedules, loss_shares, block_schedule                      (show_schedules)
noised_rows, packing, Film      rows of tokens as pictures        (show_rows)
Live, progress, training_curve  training while it runs            (show_live)
sweep                           what a sweep found                (show_sweeps)
source, table, masked_row       text: code, numbers, noised rows  (show_html)
"""

from dllm_core.show.attention.explorer import attention, attention_picture
from dllm_core.show.figures import Picture, mask_picture, save_figure
from dllm_core.show.html import Html, masked_row, source, table, visible
from dllm_core.show.player.page import Player, player, save_html
from dllm_core.show.results import compare, quality_speed, scores
from dllm_core.show.rows import SampleFilm, noised_rows, packing
from dllm_core.show.schedules import block_schedule, loss_shares, noise_schedules
from dllm_core.show.strip import gif, png
from dllm_core.show.sweep_section import sweep
from dllm_core.show.terminal import terminal
from dllm_core.show.training import LiveLossCurve, interactive, progress, training_curve

__all__ = [
    "Html",
    "LiveLossCurve",
    "Picture",
    "Player",
    "SampleFilm",
    "attention",
    "attention_picture",
    "block_schedule",
    "compare",
    "gif",
    "interactive",
    "loss_shares",
    "mask_picture",
    "masked_row",
    "noise_schedules",
    "noised_rows",
    "packing",
    "player",
    "png",
    "progress",
    "quality_speed",
    "save_figure",
    "save_html",
    "scores",
    "source",
    "sweep",
    "table",
    "terminal",
    "training_curve",
    "visible",
]  # fmt: skip
