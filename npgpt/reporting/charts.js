"use strict";
// Line charts in SVG. A chart is drawn again when its width or an axis changes, so that its text keeps its size.

const SVG = "http://www.w3.org/2000/svg";

/** An element. Attributes are set as text and children are nodes or text: nothing is ever read as markup. */
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child != null));
  return node;
}

function svg(tag, attributes = {}, text = null) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== null) node.textContent = text;
  return node;
}

// Numbers as text

function significant(value, digits = 4) {
  if (value == null || Number.isNaN(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-3) return value.toExponential(digits - 2).replace(/\.?0*e\+?/, "e");
  return String(Number(value.toPrecision(size >= 10 ** digits ? Math.ceil(Math.log10(size)) : digits)));
}

function count(value) {
  if (value == null) return "–";
  for (const [unit, size] of [["G", 1e9], ["M", 1e6], ["k", 1e4]]) {
    if (value >= size) return `${Number((value / (unit === "k" ? 1e3 : size)).toPrecision(3))}${unit}`;
  }
  return String(Math.round(value));
}

function duration(seconds) {
  if (seconds == null) return "–";
  const whole = Math.round(seconds), two = (n) => String(n).padStart(2, "0");
  const minutes = Math.floor(whole / 60), hours = Math.floor(minutes / 60);
  return hours ? `${hours}:${two(minutes % 60)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

const AXES = {
  step: { label: "steps", show: (x) => (x >= 1e5 ? count(x) : String(Math.round(x))), steps: null },
  tokens: { label: "tokens", show: count, steps: null },
  seconds: {
    label: "time (h:mm:ss)", show: duration,
    steps: [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400],
  },
};

/** Round places between low and high, about `wanted` of them. */
function ticks(low, high, wanted, steps = null) {
  const rough = (high - low) / Math.max(wanted, 1) || 1, power = 10 ** Math.floor(Math.log10(rough));
  const nice = [1, 2, 2.5, 5, 10].map((n) => n * power);
  const step = (steps && steps.find((s) => s >= rough)) || nice.find((s) => s >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9), last = Math.floor(high / step + 1e-9);
  return Array.from({ length: Math.max(last - first + 1, 0) }, (_, i) => (first + i) * step);
}

function logTicks(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    for (const n of [1, 2, 5]) found.push(n * 10 ** power);
  }
  const inside = found.filter((y) => y >= low * 0.999 && y <= high * 1.001);
  const powers = inside.filter((y) => /^1(e|0*$)|^0\.0*1$/.test(String(Number(y.toPrecision(3)))));
  if (inside.length < 2) return ticks(low, high, 4); // so narrow that it is nearly linear
  return inside.length > 8 && powers.length > 1 ? powers : inside;
}

/**
 * A figure with a line chart: caption, plot, what is at the cursor, legend, and the numbers as a table.
 *
 * lines: [{name, colour, width, dash, faint, dots, points: {step, tokens, seconds, value}}]; dash as SVG has it, dots:
 * whether each point has one; best: {line, step, text}, a point to name; ramp: the names at both ends of a scale of
 * colours, in place of a legend of more lines than can be told apart.
 */
class Chart {
  static all = [];
  static axis = "step";

  static switchAxis(axis) {
    Chart.axis = axis;
    Chart.all.forEach((chart) => chart.draw());
  }

  constructor({ title, note = "", lines, log = false, height = 220, zero = false, main = false, ramp = null, best = null, show = significant }) {
    Object.assign(this, { title, lines, log, height, zero, main, best, show, hidden: new Set(), cursor: null });
    this.plot = el("div", {
      class: "plot", tabindex: "0", role: "group",
      "aria-label": `${title}: arrow keys read the values, Home and End go to the ends`,
      pointermove: (event) => this.point(event), pointerdown: (event) => this.point(event),
      pointerleave: () => this.moveTo(null), blur: () => this.moveTo(null), keydown: (event) => this.key(event),
    });
    this.output = el("output", { "aria-live": "polite" });
    const box = el("input", { type: "checkbox", change: () => { this.log = box.checked; this.draw(); } });
    box.checked = log;
    this.figure = el("figure", { class: main ? "main" : "" },
      el("figcaption", {}, el("h3", {}, title), el("label", {}, box, " log scale"), note && el("p", {}, note)),
      this.plot, this.output, ramp ? this.rampLegend(ramp) : this.legend(), this.table());
    Chart.all.push(this);
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  legend() {
    if (this.lines.length < 2) return null;
    return el("div", { class: "legend" }, this.lines.map((line) => {
      const button = el("button", {
        type: "button", "aria-pressed": "true",
        click: () => {
          const hide = !this.hidden.has(line);
          this.hidden[hide ? "add" : "delete"](line);
          button.setAttribute("aria-pressed", String(!hide));
          this.draw();
        },
      }, swatch(line), line.name);
      return button;
    }));
  }

  rampLegend([first, last]) {
    const colours = this.lines.filter((line) => !line.dash).map((line) => line.colour);
    const strip = el("i", { style: `background:linear-gradient(to right,${[...colours, colours.at(-1)].join()})` });
    const dashed = this.lines.filter((line) => line.dash).map((line) => line.name).join(", ");
    return el("div", { class: "ramp" }, first, strip, last, dashed && el("span", {}, `dashed: ${dashed}`));
  }

  /** The numbers behind the lines, at most a hundred rows; they are put in when somebody wants to see them. */
  table() {
    const details = el("details", { toggle: () => {
      if (!details.open || details.children.length > 1) return;
      const at = new Map();
      this.lines.forEach((line, i) => line.points.step.forEach((step, k) => {
        if (!at.has(step)) at.set(step, []);
        at.get(step)[i] = line.points.value[k];
      }));
      let rows = [...at].sort((a, b) => a[0] - b[0]);
      const every = Math.ceil(rows.length / 100);
      rows = rows.filter((_, i) => i % every === 0 || i === rows.length - 1);
      details.append(el("div", { class: "scroll", tabindex: "0" }, table(["step", ...this.lines.map((line) => line.name)],
        rows.map(([step, values]) => [String(step), ...this.lines.map((_, i) => this.show(values[i]))]))));
    } }, el("summary", {}, "Numbers"));
    return details;
  }

  visible() {
    return this.lines.filter((line) => !this.hidden.has(line) && line.points.value.length);
  }

  draw(width = this.plot.clientWidth) {
    if (!width) return;
    const axis = AXES[Chart.axis], lines = this.visible(), { height } = this;
    const drawn = lines.map((line) => line.points.value
      .map((y, i) => [line.points[Chart.axis][i], y, line.points.step[i]])
      .filter(([x, y]) => x != null && y != null && (!this.log || y > 0)));
    const xs = drawn.flat().map(([x]) => x), ys = drawn.flat().map(([, y]) => y);
    const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": this.summary(lines) });
    this.plot.replaceChildren(picture);
    this.drawn = null;
    if (!xs.length) {
      picture.append(svg("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "nothing measured yet"));
      return;
    }
    const least = (values) => values.reduce((a, b) => Math.min(a, b)), most = (values) => values.reduce((a, b) => Math.max(a, b));
    const x0 = least(xs), x1 = Math.max(most(xs), x0 + 1e-9);
    let y0 = least(ys), y1 = most(ys);
    if (this.log) {
      if (y1 / y0 < 1.2) [y0, y1] = [y0 / 1.1, y1 * 1.1];
      [y0, y1] = [y0 / (y1 / y0) ** 0.04, y1 * (y1 / y0) ** 0.04];
    } else {
      const room = (y1 - y0) * 0.06 || Math.abs(y1) * 0.1 || 1;
      y0 = this.zero && y0 >= 0 ? 0 : y0 - room;
      y1 += room;
    }
    const yTicks = this.log ? logTicks(y0, y1) : ticks(y0, y1, height / 50);
    const labels = yTicks.map((y) => this.show(y));
    const left = 10 + 7 * most([0, ...labels.map((label) => label.length)]), right = width - 12, top = 8, bottom = height - 34;
    const fx = (x) => left + ((x - x0) / (x1 - x0)) * (right - left);
    const place = this.log ? (y) => Math.log(y / y0) / Math.log(y1 / y0) : (y) => (y - y0) / (y1 - y0);
    const fy = (y) => bottom - place(y) * (bottom - top);
    yTicks.forEach((y, i) => picture.append(
      svg("line", { class: "grid", x1: left, x2: right, y1: fy(y), y2: fy(y) }),
      svg("text", { x: left - 6, y: fy(y) + 4, "text-anchor": "end" }, labels[i])));
    for (const x of ticks(x0, x1, (right - left) / 65, axis.steps)) {
      picture.append(svg("line", { class: "axis", x1: fx(x), x2: fx(x), y1: bottom, y2: bottom + 4 }),
        svg("text", { x: fx(x), y: bottom + 17, "text-anchor": fx(x) > right - 20 ? "end" : "middle" }, axis.show(x)));
    }
    picture.append(svg("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }),
      svg("text", { x: (left + right) / 2, y: height - 2, "text-anchor": "middle" }, axis.label));
    lines.forEach((line, i) => {
      const places = drawn[i].map(([x, y]) => `${fx(x).toFixed(1)} ${fy(y).toFixed(1)}`);
      if (places.length) picture.append(svg("path", { ...stroke(line), "data-line": line.name, d: `M${places.join("L")}` }));
      if (places.length === 1 || (line.dots && places.length <= 40)) {
        for (const [x, y] of drawn[i]) picture.append(svg("circle", { class: "dot", cx: fx(x), cy: fy(y), r: 3.2, style: `fill:${line.colour}` }));
      }
      const named = this.best && this.best.line === line.name && drawn[i].find((point) => point[2] === this.best.step);
      if (named) {
        const [x, y] = [fx(named[0]), fy(named[1])], anchor = x > right - 60 ? "end" : "middle";
        picture.append(svg("circle", { class: "best", cx: x, cy: y, r: 6.5 }),
          svg("text", { class: "word", x, y: y + 22 > bottom ? y - 12 : y + 22, "text-anchor": anchor }, this.best.text));
      }
    });
    this.mark = svg("g");
    picture.append(this.mark);
    this.drawn = { lines, points: drawn, fx, fy, top, bottom, width, xs: [...new Set(xs)].sort((a, b) => a - b) };
    this.moveTo(this.cursor);
  }

  summary(lines) {
    const ends = lines.slice(0, 8).map((line) => {
      const values = line.points.value.filter((y) => y != null);
      return `${line.name} from ${this.show(values[0])} to ${this.show(values.at(-1))}`;
    });
    return `${this.title}, against ${AXES[Chart.axis].label}: ${ends.join("; ")}`;
  }

  point(event) {
    if (!this.drawn) return;
    const box = this.plot.getBoundingClientRect(), at = ((event.clientX - box.left) / box.width) * this.drawn.width;
    this.moveTo(this.drawn.xs.reduce((best, x, i, xs) =>
      (Math.abs(this.drawn.fx(x) - at) < Math.abs(this.drawn.fx(xs[best]) - at) ? i : best), 0));
  }

  key(event) {
    if (!this.drawn) return;
    const last = this.drawn.xs.length - 1, now = this.cursor ?? (event.key === "ArrowLeft" ? last + 1 : -1);
    const to = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.moveTo(Math.min(Math.max(to, 0), last));
  }

  /** Show the values at the i-th place, or none. */
  moveTo(i) {
    this.cursor = i;
    if (!this.drawn) return;
    this.mark.replaceChildren();
    if (i === null || i >= this.drawn.xs.length) {
      this.output.textContent = "";
      return;
    }
    const { lines, points, fx, fy, top, bottom, xs } = this.drawn, x = xs[i], found = [];
    this.mark.append(svg("line", { class: "cursor", x1: fx(x), x2: fx(x), y1: top, y2: bottom }));
    lines.forEach((line, k) => {
      const here = points[k].filter((point) => point[0] === x).at(-1);
      if (!here) return;
      found.push(`${line.name} ${this.show(here[1])}`);
      this.mark.append(svg("circle", { cx: fx(x), cy: fy(here[1]), r: 3.5, style: `fill:${line.colour}` }));
    });
    const every = Math.ceil(found.length / 12), some = found.filter((_, k) => k % every === 0 || k === found.length - 1);
    const axis = AXES[Chart.axis], label = Chart.axis === "step" ? "step " : Chart.axis === "tokens" ? "tokens " : "";
    this.output.textContent = `${label}${axis.show(x)}: ${some.join(", ")}`;
  }
}

function stroke(line) {
  const style = { stroke: line.colour, "stroke-width": line.width || 1.8, opacity: line.faint ? 0.45 : 1 };
  return line.dash ? { ...style, "stroke-dasharray": line.dash } : style;
}

function swatch(line) {
  const picture = svg("svg", { viewBox: "0 0 26 8", "aria-hidden": "true" });
  picture.append(svg("path", { ...stroke(line), d: "M1 4L25 4" }));
  return picture;
}

// Paper is narrower than a screen: charts that are drawn for it keep the size of their text.
addEventListener("beforeprint", () => Chart.all.forEach((chart) => chart.draw(chart.main ? 660 : 310)));
addEventListener("afterprint", () => Chart.all.forEach((chart) => chart.draw()));

/** A table of text. */
function table(head, rows, className = "") {
  return el("table", { class: className },
    head && el("thead", {}, el("tr", {}, head.map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, rows.map(([first, ...others]) =>
      el("tr", {}, el("th", { scope: "row" }, first), others.map((cell) => el("td", {}, cell))))));
}
