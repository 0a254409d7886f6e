// Controls in a cell's output get their keys and their names.
// Keys: JupyterLab in command mode would take them first: arrows choose a cell, Enter edits it, letters copy or delete it.
// It leaves the keys to an element with the attribute below, which it looks for on the focused element only.
// Names: ipywidgets gives a screen reader neither the label of a slider's handles nor the title of a box.
if (!window.dllmKeys) {
  window.dllmKeys = true;
  document.addEventListener("focusin", ({ target }) => {
    if (target.closest(".jp-OutputArea-output")) target.setAttribute("data-lm-suppress-shortcuts", "true");
  });

  const nameControls = () => {
    for (const slider of document.querySelectorAll(".dllm-live .widget-slider:not([data-dllm-named])")) {
      const label = slider.querySelector(".widget-label")?.textContent;
      const handles = slider.querySelectorAll("[role=slider]");
      const ends = handles.length > 1 ? [", lower end", ", upper end"] : [""];
      handles.forEach((handle, i) => handle.setAttribute("aria-label", label + ends[i]));
      if (label && handles.length) slider.dataset.dllmNamed = "";
    }
    for (const box of document.querySelectorAll(".dllm-live:not([role])")) {
      const title = box.querySelector(":scope > .dllm-title")?.textContent.trim();
      if (!title) continue;
      box.setAttribute("role", "group");
      box.setAttribute("aria-label", title);
    }
  };

  let due = 0; // the widgets come after this script, and again when their cell runs again
  const soon = () => (due ||= requestAnimationFrame(() => ((due = 0), nameControls())));
  new MutationObserver(soon).observe(document.body, { childList: true, subtree: true });
  soon();
}
