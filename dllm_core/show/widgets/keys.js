// Controls in a cell's output get their keys. JupyterLab in command mode would take them first: arrows choose a cell, Enter
// edits it, letters copy or delete it. It leaves the keys to an element with the attribute below, which it looks for on the
// focused element only. Sliders also get the name of their label, which ipywidgets does not give to a screen reader.
if (!window.dllmKeys) {
  window.dllmKeys = true;
  document.addEventListener("focusin", ({ target }) => {
    if (!target.closest(".jp-OutputArea-output")) return;
    target.setAttribute("data-lm-suppress-shortcuts", "true");
    const name = target.closest(".widget-slider")?.querySelector(".widget-label")?.textContent;
    if (name && !target.hasAttribute("aria-label")) target.setAttribute("aria-label", name);
  });
}
