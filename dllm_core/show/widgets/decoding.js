// The stage of the decoding explorer: whenever the kernel writes a new player into the hidden feed, that player replaces
// the old one and goes to its end. Swapped within one frame, so that the page neither flickers nor jumps.

function follow() {
  const panel = stage.closest(".dllm-explorer");
  const [feed, status] = panel ? [".dllm-feed", ".dllm-status"].map((name) => panel.querySelector(name)) : [];
  if (!feed || !status) return void requestAnimationFrame(follow); // its neighbors are not on the page yet
  panel.setAttribute("role", "group");
  panel.setAttribute("aria-label", "decoding explorer");
  status.setAttribute("role", "status");
  panel.querySelectorAll(".dllm-note").forEach((note) => note.setAttribute("aria-live", "polite"));
  new MutationObserver(() => show(feed)).observe(feed, { childList: true, subtree: true });
  show(feed);
  offerChanges(panel);
}

// A player says which token a person wants to change: the kernel reads it in a hidden text field, and shows its form.
function offerChanges(panel) {
  const form = panel.querySelector(".dllm-form");
  let asked = 0;
  stage.addEventListener("dllm-change", ({ detail }) => {
    const field = panel.querySelector(".dllm-pick input");
    field.value = JSON.stringify([...detail, ++asked]);
    field.dispatchEvent(new Event("change", { bubbles: true }));
    form.dataset.wanted = "1";
  });
  new MutationObserver(() => {
    if (!form.dataset.wanted || !form.offsetHeight) return;
    delete form.dataset.wanted;
    form.querySelector("select").focus();
    form.scrollIntoView({ block: "nearest" });
  }).observe(form, { childList: true, subtree: true, attributes: true, attributeFilter: ["style"] });
}

function show(feed) {
  const written = feed.querySelector("template");
  if (!written) return;
  const within = stage.contains(document.activeElement);
  stage.replaceChildren(written.content.cloneNode(true));
  const player = stage.querySelector(".dllm-player");
  player.dataset.editable = "1";
  player.dataset.at = "end"; // said before it starts: a long record is unpacked first
  for (const script of stage.querySelectorAll("script")) { // parsed as text; only a new element runs
    const fresh = document.createElement("script");
    fresh.textContent = script.textContent;
    script.replaceWith(fresh);
  }
  if (within) player.focus({ preventScroll: true });
}

follow();
