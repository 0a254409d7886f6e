// The stage of the decoding explorer: one player, which the kernel feeds through a hidden text. It keeps what its viewer
// chose; when a run starts, it comes into view and follows that run.

let player, run, fed = Promise.resolve();

function follow() {
  const panel = stage.closest(".dllm-explorer");
  const [feed, status] = panel ? [".dllm-feed", ".dllm-status"].map((name) => panel.querySelector(name)) : [];
  if (!feed || !status) return void requestAnimationFrame(follow); // its neighbors are not on the page yet
  panel.setAttribute("role", "group");
  panel.setAttribute("aria-label", "decoding explorer");
  status.setAttribute("role", "status");
  panel.querySelectorAll(".dllm-note").forEach((note) => note.setAttribute("aria-live", "polite"));
  const read = () => {
    const { textContent } = feed;
    if (textContent.trim()) fed = fed.then(() => show(textContent, panel)); // one after the other: some are unpacked
  };
  new MutationObserver(read).observe(feed, { childList: true, subtree: true });
  read();
  for (const event of ["blur", "keydown"]) panel.addEventListener(event, sayLimits, true);
  offerChanges(panel);
}

async function show(text, panel) {
  const data = await unpacked(JSON.parse(text));
  const starts = data.run !== run && data.traces.at(-1).running;
  if (player) player.update(data);
  else {
    const root = make("div", { class: "dllm-player", "data-editable": "1" });
    stage.replaceChildren(root);
    player = new Player(root, data);
  }
  if (run === undefined || starts) player.go(Infinity);
  run = data.run;
  const { bottom } = player.sides[0].box.getBoundingClientRect();
  const buttons = panel.querySelector(".dllm-buttons") ?? stage;
  if (starts && (bottom > 0.9 * innerHeight || buttons.getBoundingClientRect().top < 0)) buttons.scrollIntoView({ block: "start" });
}

// ipywidgets moves a number that is typed beside a slider to the slider's end, and does not say so.
function sayLimits({ type, key, target, currentTarget }) {
  if (!target.matches?.(".widget-readout") || (type === "keydown" && key !== "Enter")) return;
  const slider = target.closest(".widget-slider");
  const [least, most] = ["min", "max"].map((end) => Number(slider.querySelector("[role=slider]").getAttribute(`aria-value${end}`)));
  const typed = Number(target.textContent);
  if (!(typed < least || typed > most)) return;
  const name = slider.querySelector(".widget-label").textContent;
  currentTarget.querySelector(".dllm-status .widget-html-content").textContent = `${name}: ${typed} is not within ${least} and ${most}; the nearest is set`;
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

follow();
