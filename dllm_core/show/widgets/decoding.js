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
}

function show(feed) {
  const written = feed.querySelector("template");
  if (!written) return;
  const within = stage.contains(document.activeElement);
  stage.replaceChildren(written.content.cloneNode(true));
  const player = stage.querySelector(".dllm-player");
  player.dataset.at = "end"; // said before it starts: a long record is unpacked first
  for (const script of stage.querySelectorAll("script")) { // parsed as text; only a new element runs
    const fresh = document.createElement("script");
    fresh.textContent = script.textContent;
    script.replaceWith(fresh);
  }
  if (within) player.focus({ preventScroll: true });
}

follow();
