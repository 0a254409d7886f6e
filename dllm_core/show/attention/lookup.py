"""Which attention heads look a value up in the prompt, and what a masked key does to them: a heat map."""

from collections.abc import Mapping

from dllm_core.notebook.lookup import Reading
from dllm_core.show.figures import Picture, new_figure, our_look


@our_look()
def lookup_heads(readings: Mapping[str, Reading]) -> Picture:
    """A row for each reading (name → `notebook.lookup.read`), a column for each head: the weight that the element that
    predicts the value gives to the value in the prompt. At the right, the probability of the right token."""
    names = list(readings)
    layers, heads = readings[names[0]].attention.shape
    grid = [readings[name].attention.flatten().tolist() for name in names]
    figure, (axes,) = new_figure(1.5 + 0.5 * layers * heads, 1.4 + 0.38 * len(names))
    image = axes.imshow(grid, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for y, row in enumerate(grid):
        for x, weight in enumerate(row):
            if weight >= 0.05:
                axes.text(x, y, f"{weight:.2f}".lstrip("0"), ha="center", va="center", fontsize=8,
                          color="black" if weight > 0.5 else "white")  # fmt: skip
        axes.text(layers * heads - 0.3, y, f"{readings[names[y]].right:.2f}", va="center", fontsize=10)
    axes.text(layers * heads - 0.3, -0.85, "p(right)", fontsize=10)
    for layer in range(1, layers):
        axes.axvline(layer * heads - 0.5, color="white", linewidth=2)
    axes.set_xticks(range(layers * heads), [f"{i // heads + 1}.{i % heads + 1}" for i in range(layers * heads)])
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("layer.head")
    axes.grid(False)
    figure.colorbar(image, ax=axes, label="attention to the value", pad=0.08, shrink=0.9)
    best = {name: readings[name].attention.flatten().argmax().item() for name in names}
    words = (
        f"{name}: head {i // heads + 1}.{i % heads + 1} {readings[name].attention.flatten()[i]:.2f}, right {readings[name].right:.2f}"
        for name, i in best.items()
    )
    return Picture(figure, f"attention to the value in the prompt; the strongest head of each: {'; '.join(words)}")
