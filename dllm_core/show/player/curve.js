// A curve per trace of one quantity over the common clock; a line and dots mark the cursor.

const DASHES = ["", "7 4", "2 3"]; // of the first, second and third trace

function dash({ color, index }) { // a sample of the trace's line in the curves
  const line = drawing("path", { d: "M0 6H36", stroke: color, "stroke-width": 3, fill: "none", "stroke-dasharray": DASHES[index] });
  return drawing("svg", { class: "dllm-dash", viewBox: "0 0 36 12", "aria-hidden": "true" }, [line]);
}

// The least of 1, 2, 5, 10, 20, … that is not below a value: the end of an axis, which moves seldom while a curve grows.
function roundUp(value) {
  const unit = 10 ** Math.floor(Math.log10(value));
  return unit * [1, 2, 5, 10].find((step) => step * unit >= value * (1 - 1e-9));
}

class Curve {
  constructor(player, name, value, first, digits = 2, least = 1e-9) {
    Object.assign(this, { player, value, first, digits, least }); // first: the smallest k that has a value
    this.cursor = drawing("line", { y1: 0, y2: 100 });
    this.svg = drawing("svg", { viewBox: "0 0 300 100", preserveAspectRatio: "none", "aria-hidden": "true" });
    this.svg.addEventListener("pointerdown", (event) => this.scrub(event));
    this.svg.addEventListener("pointermove", (event) => event.buttons && this.scrub(event));
    this.high = make("span");
    this.last = make("span");
    this.heads = make("div", { class: "dllm-values" });
    this.node = make("figure", {}, [
      make("figcaption", {}, [name, this.heads]),
      make("div", { class: "dllm-plot" }, [
        make("div", { class: "dllm-axis", "aria-hidden": "true" }, [this.high, make("span", { text: "0" })]),
        this.svg,
        make("div"),
        make("div", { class: "dllm-axis across", "aria-hidden": "true" }, [make("span", { text: "0" }), this.last]),
      ]),
    ]);
  }

  draw() {
    const { sides, unit, end } = this.player;
    this.values = sides.map(() => make("span"));
    this.heads.replaceChildren(...sides.map((side, index) =>
      make("span", { class: "dllm-value" }, [...(sides.length > 1 ? [dash(side)] : []), this.values[index]])));
    this.dots = sides.map(({ color }) => drawing("path", { class: "dllm-dot", stroke: color }));
    const values = sides.map(({ record }) => record.steps.map((_, i) => this.value(record, i + 1)));
    if (!this.first) sides.forEach(({ record }, i) => values[i].unshift(this.value(record, 0)));
    const most = values.flat().reduce((top, value) => Math.max(top, value), this.least);
    this.top = this.first && most > this.least ? roundUp(most) : most; // the masked ones begin with their most
    const paths = sides.map(({ record }, index) => {
      const points = values[index].map((value, i) => [this.x(record[unit][i + this.first]), this.y(value)]);
      const d = points.map(([x, y], i) => (i ? `H${plain(x)}V${plain(y)}` : `M${plain(x)} ${plain(y)}`)).join("");
      return drawing("path", { d, stroke: sides[index].color, "stroke-dasharray": DASHES[index] });
    });
    this.svg.replaceChildren(this.cursor, ...paths, ...this.dots);
    this.high.textContent = plain(this.top, this.top < 10 ? this.digits : 0);
    this.last.textContent = unit === "forwards" ? `${end} forward passes` : duration(end);
  }

  x(time) {
    return (300 * time) / (this.player.end || 1);
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
    this.player.seek(((event.clientX - left) / width) * this.player.end);
  }
}
