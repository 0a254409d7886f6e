"""Which position predicts which token: the label shift as arrows."""

from collections.abc import Mapping, Sequence

from dllm_core.patterns import AttentionPattern
from dllm_core.show.figures import COLORS, Picture, new_figure, our_look
from dllm_core.show.html import MASK

OUTSIDE = {"linestyle": "--", "color": COLORS["vermilion"]}  # read in the clean half
INSIDE = {"linestyle": "-", "color": COLORS["blue"]}


@our_look()
def prediction_arrows(named: Mapping[str, AttentionPattern], tokens: Sequence[str], masked: Sequence[bool]) -> Picture:
    """A panel for each name → pattern of one document: the network's input below, the tokens that it predicts above, an
    arrow from the position whose logits predict a token to that token (`AttentionPattern.predicted_at`).

    tokens: [L]; masked: [L] bool, the tokens that a noisy view hides. With a noisy view only these are predicted, without
    one every token. An arrow from the clean half is dashed. Raises ValueError when a pattern has another length, or
    several noisy views.
    """
    figure, panels = new_figure(9, 1.5 * len(named), rows=len(named))
    lines = []
    for ax, (name, pattern) in zip(panels, named.items(), strict=True):
        if pattern.scorable.shape != (1, len(tokens)) or pattern.views != 1:
            raise ValueError(f"{name}: the pattern must be of one row of {len(tokens)} tokens with one noisy view")
        views = pattern.view[0].tolist()
        noisy = [MASK if is_masked else token for token, is_masked in zip(tokens, masked, strict=True)]
        inputs = [*noisy, *tokens] if any(views) else tokens
        predicted = [
            token
            for token, scorable in enumerate(pattern.scorable[0].tolist())
            if scorable and (masked[token] or not any(views))
        ]
        arrows = [(int(pattern.predicted_at[0, 0, token]), token) for token in predicted]
        _draw(ax, name, views, inputs, tokens, arrows)
        lines.append(f"{name}: " + ", ".join(f"{tokens[token]} at {_place(views, at)}" for at, token in arrows))
    return Picture(figure, "; ".join(lines))


def _place(views: Sequence[int], at: int) -> str:
    """The name of an element of the input, as x_t[2]."""
    length = len(views) // 2 if any(views) else len(views)
    return f"{'x_t' if views[at] else 'x_0'}[{at % length}]"


def _draw(ax, name: str, views, inputs, tokens, arrows) -> None:
    """One panel: inputs at height 0, predicted tokens at height 1."""
    box = {"ha": "center", "va": "center", "bbox": {"boxstyle": "round,pad=0.25", "facecolor": "white"}}
    for x, text in enumerate(inputs):
        ax.text(x, 0, text, **box)
    for at, token in arrows:
        ax.text(token, 1, tokens[token], **box)
        look = INSIDE if at < len(tokens) else OUTSIDE
        ax.annotate("", (token, 0.72), (at, 0.26), arrowprops={"arrowstyle": "->", "linewidth": 1.5, **look})
    halves = {"x_t": 0, "x_0": len(tokens)} if any(views) else {"x_0": 0}
    for label, start in halves.items():
        ax.text(start + (len(tokens) - 1) / 2, -0.62, label, ha="center", va="center", fontsize=9, color="#555555")
    if any(views):
        ax.axvline(len(tokens) - 0.5, color="#1a1a1a", linewidth=1)
    ax.set(
        xlim=(-0.7, 2 * len(tokens) - 0.3),
        ylim=(-0.8, 1.4),
        yticks=(0, 1),
        yticklabels=("input", "predicts"),
        title=name,
    )
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)
