"""The player of the decoding explorer: one in the page, fed by the kernel, so that it keeps what its viewer chose."""

from collections.abc import Sequence

from dllm_core.show.html import Html, asset, embedded
from dllm_core.show.player.page import SCRIPTS, STYLES, Player
from dllm_core.trace import Trace


class Stage:
    """A player without decodings yet. view: the widget that shows it; feed: the hidden one through which `show` reaches
    it. Both belong into one box of the class dllm-explorer, with one of the class dllm-status."""

    def __init__(self):
        import ipywidgets

        self.feed = ipywidgets.HTML().add_class("dllm-feed")
        self.view = ipywidgets.Output()
        style = "".join(map(asset, (*STYLES, "widgets/decoding.css")))
        script = "".join(map(asset, (*SCRIPTS, "widgets/decoding.js")))
        markup = (
            f'<style>{style}</style><div class="dllm-stage"></div><script>{asset("widgets/keys.js")}'
            f"(() => {{ const stage = document.currentScript.previousElementSibling;\n{script}}})();</script>"
        )
        self.view.append_display_data(Html(markup, "decoding explorer: needs a browser"))

    def show(self, labels: Sequence[str], traces: Sequence[Trace], run: int, running: bool = False) -> None:
        """Show traces. run: the number of the run, whose start the player follows; running: the last one grows."""
        self.feed.value = embedded(Player(*traces, labels=labels).data(running) | {"run": run})
