"""The look: everything the notebooks draw, under one name. Drawing holds no algorithm: it reads records and tensors.

player, save_html, gif, png     a decoding, step by step          (show_player, show_strip)
compare, scores, quality_speed  results                           (show_results)
noise_schedules, block_schedule, mask_picture, save_figure        (show_figures)
Live, progress, training_curve  training while it runs            (show_live)
source, table, masked_row       text: code, numbers, noised rows  (show_html)
"""

from dllm_core.show_figures import Picture, block_schedule, mask_picture, noise_schedules, save_figure
from dllm_core.show_html import Html, masked_row, source, table, visible
from dllm_core.show_live import Live, interactive, progress, training_curve
from dllm_core.show_player import Player, player, save_html
from dllm_core.show_results import compare, quality_speed, scores
from dllm_core.show_strip import gif, png

__all__ = [
    "Html", "Live", "Picture", "Player", "block_schedule", "compare", "gif", "interactive", "mask_picture",
    "masked_row", "noise_schedules", "player", "png", "progress", "quality_speed", "save_figure", "save_html",
    "scores", "source", "table", "training_curve", "visible",
]  # fmt: skip
