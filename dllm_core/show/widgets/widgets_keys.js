// Controls in a cell's output get their keys. JupyterLab in command mode would take them first: arrows choose a cell, Enter
// edits it, letters copy or delete it. Its own way out is an attribute, and it looks for it on the focused element only.
// Sliders also get the name that stands before them, which ipywidgets does not tell to a screen reader.
if (!window.dllmKeys) {
  window.dllmKeys = true;
  document.addEventListener("focusin", ({ target }) => {
    if (!target.closest(".jp-OutputArea-output")) return;
    target.setAttribute("data-lm-suppress-shortcuts", "true");
    const name = target.closest(".widget-slider")?.querySelector(".widget-label")?.textContent;
    if (name && !target.hasAttribute("aria-label")) target.setAttribute("aria-label", name);
  });
}
