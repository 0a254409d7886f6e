"""What all explorers share: controls described as data, and a figure that is redrawn when a control changes."""

import html
import secrets
from collections.abc import Callable, Sequence

from dllm_core import show
from dllm_core.show.html import Html, asset, joined

NO_KERNEL = "Controls need a kernel: open the notebook in JupyterLab and run this cell."


class Control:
    """The description of an ipywidget. widget_class: the name of its class; label: with the unit; help: the tooltip;
    options: further arguments of the class."""

    def __init__(self, widget_class: str, label: str, help: str = "", **options):
        self.widget_class, self.label, self.help, self.options = widget_class, label, help, options

    def widget(self, value, width: str, **options):
        """The ipywidget with a starting value. width: CSS; options: further arguments of its class."""
        import ipywidgets

        widget = getattr(ipywidgets, self.widget_class)
        words = {"description": self.label, "tooltip": self.help or self.label, "style": {"description_width": "12em"}}
        return widget(value=value, layout={"width": width}, **words, **self.options, **options)


def explorer(title: str, draw: Callable, controls: dict[str, tuple[object, Control]], interactive: bool | None = None):
    """Widgets for `controls` (name → starting value and control) and the figure that `draw(**values)` returns for their
    values; outside an interactive notebook only the figure of the starting values.

    title: what is explored. draw: returns a `show.Picture`, a `show.Html`, or a list of them; its ValueError is shown
    beside the controls.
    """
    drawn = draw(**{name: value for name, (value, _) in controls.items()})
    if not (show.interactive() if interactive is None else interactive):
        return joined(drawn) if isinstance(drawn, list) else drawn
    import ipywidgets

    widgets = {name: control.widget(value, "34em") for name, (value, control) in controls.items()}
    complaint, stage = ipywidgets.HTML(), ipywidgets.VBox()

    def place(drawn) -> None:
        items = drawn if isinstance(drawn, list) else [drawn]
        stage.children = [ipywidgets.HTML(item.html) for item in items]

    def refresh(_) -> None:
        try:
            drawn = draw(**{name: widget.value for name, widget in widgets.items()})
        except ValueError as error:
            complaint.value = f"<span role='alert'><b>Not possible:</b> {html.escape(str(error))}</span>"
            return
        complaint.value = ""
        place(drawn)

    for widget in widgets.values():
        widget.observe(refresh, "value")
    place(drawn)
    heading = ipywidgets.HTML(f"<b>{html.escape(title)}</b>").add_class("dllm-title")
    children = [heading, ipywidgets.VBox(list(widgets.values())), complaint, stage]
    return live(children, joined(drawn if isinstance(drawn, list) else [drawn]))


def live(children: Sequence, still: Html):
    """Widgets in a box which, displayed, stands behind `still`. While there is a kernel, `still` is hidden; a saved
    notebook, which has no widgets, shows it with the words `NO_KERNEL`, wherever it is opened."""
    import ipywidgets
    from IPython.display import display

    identity = f"dllm-still-{secrets.token_hex(5)}"
    hidden = ipywidgets.HTML(f"<style>#{identity} {{ display: none; }}</style>")
    # JupyterLab writes "Error displaying widget: model not found" where the widget was
    dead = f".jp-OutputArea-child:has(#{identity}) + .jp-OutputArea-child:not(:has(.dllm-live))"
    style = f"{asset('paper.css')}{asset('widgets/controls.css')}{dead} {{ display: none; }}"
    page = (
        f"<style>{style}</style><script>{asset('widgets/keys.js')}</script>"
        f'<div id="{identity}">{still.html}<p><i>{NO_KERNEL}</i></p></div>'
    )

    class Live(ipywidgets.VBox):
        def _repr_mimebundle_(self, **options) -> dict:
            return super()._repr_mimebundle_(**options) | {"text/plain": NO_KERNEL}

        def _ipython_display_(self) -> None:
            display(Html(page, still.text))
            display(self._repr_mimebundle_(), raw=True)

    return Live([hidden, *children]).add_class("dllm-live")
