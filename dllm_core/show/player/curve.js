// A curve per trace of one quantity over the common clock; a line and dots mark the cursor.

class Curve {
  constructor(player, name, value, first, digits = 2, least = 1e-9) {
    Object.assign(this, { player, value, first, digits, least }); // first: the smallest k that has a value
    this.words = make("div", { class: "dllm-values" });
    this.cursor = drawing("line", { y1: 0, y2: 100 });
    this.svg = drawing("svg", { viewBox: "0 0 300 100", preserveAspectRatio: "none", "aria-hidden": "true" });
    this.svg.addEventListener("pointerdown", (event) => this.scrub(event));
    this.svg.addEventListener("pointermove", (event) => event.buttons && this.scrub(event));
    this.high = make("span");
    this.last = make("span");
    this.node = make("figure", {}, [
      make("figcaption", {}, [name, this.words]),
      make("div", { class: "dllm-plot" }, [
        make("div", { class: "dllm-axis", "aria-hidden": "true" }, [this.high, make("span", { text: "0" })]),
        this.svg,
        make("div"),
        make("div", { class: "dllm-axis across", "aria-hidden": "true" }, [make("span", { text: "0" }), this.last]),
      ]),
    ]);
  }

  draw() {
    const { sides, unit, span, running } = this.player;
    this.values = sides.map(() => make("span"));
    this.dots = sides.map(({ line }) => drawing("path", { class: "dllm-dot", stroke: line.stroke }));
    this.words.replaceChildren(...this.values.map((text, index) =>
      make("span", { class: "dllm-value" }, sides.length > 1 ? [dash(sides[index]), text] : [text])));
    const values = sides.map(({ record }) => record.steps.map((_, i) => this.value(record, i + 1)));
    if (!this.first) sides.forEach(({ record }, i) => values[i].unshift(this.value(record, 0)));
    const top = values.flat().reduce((most, value) => Math.max(most, value), this.least);
    this.top = this.digits ? rounded(top) : top;
    const paths = sides.map(({ record, line }, index) => {
      const points = values[index].map((value, i) => [this.x(record[unit][i + this.first]), this.y(value)]);
      const d = points.map(([x, y], i) => (i ? `H${plain(x)}V${plain(y)}` : `M${plain(x)} ${plain(y)}`)).join("");
      return drawing("path", { d, ...line });
    });
    this.svg.replaceChildren(this.cursor, ...paths, ...this.dots);
    this.high.textContent = plain(this.top, this.top < 10 ? this.digits : 0);
    this.last.textContent = unit === "forwards" ? `${running ? "at most " : ""}${span} forward passes` : duration(span);
  }

  x(time) {
    return (300 * time) / (this.player.span || 1);
  }

  y(value) {
    return 96 - (92 * value) / this.top;
  }

  show(time) {
    const x = plain(this.x(time));
    this.cursor.setAttribute("x1", x);
    this.cursor.setAttribute("x2", x);
    this.player.sides.forEach(({ record, k }, index) => {
      const value = k < this.first ? null : this.value(record, k);
      this.values[index].textContent = value === null ? "–" : plain(value, this.digits);
      const at = this.x(Math.min(time, record[this.player.unit][k]));
      // a line of no length with round ends: a dot that the stretched drawing does not flatten
      this.dots[index].setAttribute("d", value === null ? "" : `M${plain(at)} ${plain(this.y(value))}h0.01`);
    });
  }

  scrub(event) {
    const { left, width } = this.svg.getBoundingClientRect();
    this.player.seek(((event.clientX - left) / width) * this.player.span);
  }
}
