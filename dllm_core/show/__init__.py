"""Everything that the notebooks draw, under one name: `from dllm_core import show`, then `show.player(trace)`.

Drawing holds no algorithm: it reads records and tensors. A name is imported from its file when it is first used.

player, save_html, gif, png, terminal            a decoding, step by step
compare, scores, quality_speed                   results
attention, attention_picture, mask_picture       which token may see which, and why
noise_schedules, loss_shares, block_schedule     schedules
packing, SampleFilm                              rows of tokens as pictures
LiveLossCurve, progress, training_curve          training while it runs
sweep                                            the result of a sweep
source, table, masked_row, visible, safe         text: code, numbers, noised rows, a token, what others wrote
Html, Markdown, Table, Picture, Player           what these functions return
save_figure, interactive                         a figure as a file; whether the notebook is interactive
"""

import importlib
import sys
import types

_FILES = {  # file: the names that are imported from it
    "common.progress_bar": ("interactive",),
    "common.text": ("safe",),
    "show.attention.explorer": ("attention",),
    "show.attention.picture": ("attention_picture",),
    "show.figures": ("Picture", "mask_picture", "save_figure"),
    "show.film": ("SampleFilm",),
    "show.html": ("Html", "Markdown", "Table", "source", "table", "visible"),
    "show.player.page": ("Player", "player", "save_html"),
    "show.results": ("compare", "quality_speed", "scores"),
    "show.rows": ("masked_row", "packing"),
    "show.schedules": ("block_schedule", "loss_shares", "noise_schedules"),
    "show.strip": ("gif", "png"),
    "show.sweep_section": ("sweep",),
    "show.terminal": ("terminal",),
    "show.training": ("LiveLossCurve", "progress", "training_curve"),
}
_FILE_OF = {name: file for file, names in _FILES.items() for name in names}
__all__ = list(_FILE_OF)


def __getattr__(name: str):
    if name not in _FILE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"dllm_core.{_FILE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(types.ModuleType):
    """The package, in which `attention`, `player` and `terminal` are always the functions: importing a file of the
    same name would set the attribute to the module."""

    def __setattr__(self, name: str, value: object) -> None:
        if name not in _FILE_OF or not isinstance(value, types.ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
