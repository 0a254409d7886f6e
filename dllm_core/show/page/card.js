// The card of the clicked token: all candidates of its forward pass, and the ways to change the model's mind.

class Card {
  constructor(studio) {
    this.studio = studio;
    byId("card-mask").addEventListener("click", () => this.change("mask", null));
    byId("card-write").addEventListener("submit", (event) => {
      event.preventDefault();
      const text = byId("card-text").value;
      const token = DATA.tokens.indexOf(text);
      if (token < 0 || token in DATA.control) byId("note").textContent = say("not_token", { text });
      else this.change("write", token);
    });
    byId("card-text").addEventListener("input", ({ target: { value } }) => {
      const fitting = value ? DATA.tokens.filter((text) => text.startsWith(value) && !CONTROL.test(text)).slice(0, 30) : [];
      byId("tokens").replaceChildren(...fitting.map((text) => make("option", { value: text })));
    });
  }

  // Another token or another step: ask for the candidates of the forward pass that read it.
  refresh() {
    const { picked } = this.studio;
    const place = picked && placeOf(picked);
    byId("card").hidden = !place?.changeable;
    byId("card-hint").textContent = place ? place.hint : say("hint");
    const key = place && `${picked.side.id} ${place.step} ${picked.position}`;
    if (place?.changeable) byId("card-from").textContent = say("from_step", { step: place.from });
    if (key === this.key) return;
    this.key = key;
    byId("card-top").replaceChildren();
    byId("card-title").textContent = "";
    if (place?.changeable && place.step >= 0) this.studio.worker.postMessage({ do: "top", id: picked.side.id, step: place.step, position: picked.position });
  }

  showTop(side, { step, position, tokens }) {
    const { picked } = this.studio;
    if (this.key !== `${side.id} ${step} ${position}`) return; // of a token that is no longer kept
    byId("card-title").textContent = say("candidates", { step: step + 1 });
    byId("card-top").replaceChildren(...tokens.map(([token, p]) => {
      const text = visible(DATA.tokens[token]);
      const press = (action, sign, name) => make("button", {
        type: "button", text: sign, "aria-label": say(name, { token: text }), title: say(name, { token: text }), on: { click: () => this.change(action, token) },
      });
      const here = picked.view.record.at(picked.position, picked.k).token === token;
      return make("li", here ? { "aria-current": "true" } : {}, [
        press("take", text, "take"), make("span", { class: "bar", style: { "--p": p } }), make("span", { text: share(p) }), press("forbid", "✕", "forbid"),
      ]);
    }));
  }

  change(action, token) {
    const { picked } = this.studio;
    if (!picked) return;
    const { from } = placeOf(picked);
    this.studio.branch(picked.side, { step: from, position: picked.position, action, token, why: byId("card-reason").value });
    byId("card-reason").value = byId("card-text").value = "";
  }
}

// Of a kept token: whether it can be changed, the step whose forward pass read it (−1: none did), and the step from which a
// change goes on: the shown one, and at the end, behind which nothing is decoded, the one that put the token there.
function placeOf({ view: { record }, side, position, k }) {
  if (!side.request) return { changeable: false, step: -1, hint: say("loaded_only") };
  if (record.initial[position] !== record.mask) return { changeable: false, step: -1, hint: say("given") };
  const { state, commit, edit } = record.at(position, k);
  const [first, last] = record.block(k);
  const events = [record.commitsAt, record.draftsAt].map((at) => lastBefore(at[position], k)?.step ?? -1);
  const isRead = state === "masked" && record.steps.length && position >= first && position <= last;
  const step = isRead ? Math.max(k - 1, 0) : Math.max(...events);
  const put = commit ?? edit;
  const from = k === record.steps.length && put ? put.step + 1 : k;
  return { changeable: true, step, from, hint: step < 0 ? say("unseen") : "" };
}
