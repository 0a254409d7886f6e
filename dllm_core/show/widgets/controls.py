"""What all explorers share: controls described as data, and a figure that is redrawn when a control changes."""

import html
from collections.abc import Callable

from dllm_core import show
from dllm_core.show.html import asset, joined


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


def explorer(draw: Callable, controls: dict[str, tuple[object, Control]], interactive: bool | None = None):
    """Widgets for `controls` (name → starting value and control) and the figure that `draw(**values)` returns for their
    values; outside an interactive notebook only the figure of the starting values.

    draw: returns a `show.Picture`, a `show.Html`, or a list of them; its ValueError is shown beside the controls.
    """
    if not (show.interactive() if interactive is None else interactive):
        drawn = draw(**{name: value for name, (value, _) in controls.items()})
        return joined(drawn) if isinstance(drawn, list) else drawn
    import ipywidgets
    from IPython.display import HTML, display

    widgets = {name: control.widget(value, "34em") for name, (value, control) in controls.items()}
    complaint, stage = ipywidgets.HTML(), ipywidgets.VBox()

    def refresh(_=None) -> None:
        try:
            drawn = draw(**{name: widget.value for name, widget in widgets.items()})
        except ValueError as error:
            complaint.value = f"<span role='alert'><b>Not possible:</b> {html.escape(str(error))}</span>"
            return
        complaint.value = ""
        items = drawn if isinstance(drawn, list) else [drawn]
        stage.children = [ipywidgets.HTML(item.html) for item in items]

    for widget in widgets.values():
        widget.observe(refresh, "value")
    refresh()
    # arrow keys go to the controls, not to JupyterLab; its theme goes to the pictures
    display(HTML(f"<style>{asset('paper.css')}</style><script>{asset('widgets/keys.js')}</script>"))
    return ipywidgets.VBox([ipywidgets.VBox(list(widgets.values())), complaint, stage])
