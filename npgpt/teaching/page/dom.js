// What all parts of the page use: the data, elements, numbers as text, formulas, links to operations.

const DATA = JSON.parse(document.getElementById("data").textContent);
const { operations: OPS, values: VALUES, functions: FUNCTIONS, tokens: TOKENS, model: MODEL } = DATA;
const T = TOKENS.length;

/** An element: its attributes (a function is an event's listener), then its contents: elements, texts, lists of them. */
function el(name, attributes = {}, ...contents) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(key, value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...contents.flat(Infinity).filter((content) => content !== null && content !== undefined));
  return made;
}

const section = (id, title, ...contents) => el("section", { id, "aria-labelledby": `${id}-title` }, el("h2", { id: `${id}-title` }, title), contents);
const table = (head, rows, kind) => el("div", { class: "scroll", tabindex: "0" }, el("table", { class: kind },
  el("thead", {}, el("tr", {}, head.map((cell) => el("th", { scope: "col" }, cell)))),
  el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell) => el("td", {}, cell)))))));

/** A number in few characters. */
function number(x, digits = 4) {
  if (x === 0) return "0";
  if (!Number.isFinite(x)) return String(x);
  const size = Math.abs(x);
  const text = size >= 1e-3 && size < 1e5 ? x.toPrecision(digits) : x.toExponential(digits - 1);
  return text.replace("-", "−").replace("e-", "e−").replace("e−−", "e−").replace("e+", "e");
}
const percent = (p) => (p >= 0.0995 ? `${(100 * p).toFixed(0)}%` : p >= 0.001 ? `${(100 * p).toFixed(1)}%` : "<0.1%");
const shape = (sizes) => (sizes.length ? sizes.join(" × ") : "one number");

/** A token as it is shown: a space is a dot, so that it is seen, and a line's end an arrow. */
const visible = (text) => text.replaceAll(" ", "·").replaceAll("\n", "↵");
const word = (t) => visible(TOKENS[t].text);
const named = (id) => visible(DATA.vocabulary[id]);
const chip = (text) => el("span", { class: "token" }, visible(text));

const MATHML = "http://www.w3.org/1998/Math/MathML";
/** Mathematics from nested lists: ["msub", ["mi", "x"], ["mi", "i"]]. */
function mathematics(node) {
  const [name, ...contents] = node, made = document.createElementNS(MATHML, name);
  if (name === "mspace") made.setAttribute("width", ".3em");
  for (const content of contents) made.append(typeof content === "string" ? content : mathematics(content));
  return made;
}
function formula(node) {
  const math = document.createElementNS(MATHML, "math");
  math.append(mathematics(node));
  return math;
}

/** The numbers of a stored array, its sizes, and where its rows and columns are if some were left out. */
const cache = new Map();
function array(place) {
  if (!cache.has(place)) {
    const stored = DATA.arrays[place], bytes = Uint8Array.from(atob(stored.data), (c) => c.charCodeAt(0));
    const view = new DataView(bytes.buffer), numbers = new Float32Array(bytes.length / 4);
    for (let i = 0; i < numbers.length; i++) numbers[i] = view.getFloat32(4 * i, true);
    const width = stored.shape.at(-1) ?? 1, height = width ? stored.shape.reduce((a, b) => a * b, 1) / width : 0;
    const columns = stored.columns?.length ?? width, rows = stored.rows?.length ?? height;
    cache.set(place, { numbers, shape: stored.shape, rows, columns, thinned: Boolean(stored.rows),
      row: (i) => stored.rows?.[i] ?? i, column: (j) => stored.columns?.[j] ?? j });
  }
  return cache.get(place);
}
/** The place of element ``index`` of a whole array as [row, column] of what is stored. */
function stored(matrix, index) {
  const column = index.at(-1) ?? 0;
  const row = index.slice(0, -1).reduce((sum, i, axis) => sum * matrix.shape[axis] + i, 0);
  const find = (count, place, wanted) => [...Array(count).keys()].findIndex((i) => place(i) === wanted);
  return [find(matrix.rows, matrix.row, row), find(matrix.columns, matrix.column, column)];
}
const slice = (matrix, head, t) => { // of (H, T, D): the vector of one position in one head
  const D = matrix.shape[2], begin = (head * matrix.shape[1] + t) * D;
  return matrix.numbers.slice(begin, begin + D);
};

// Operations have names of several words on the page, and one on each line of the code.

const NAMES = { add: "sum", causal_self_attention: "attention", gelu_tanh: "GELU", gelu: "GELU", layernorm: "layer norm",
  linear_cross_entropy: "logits and loss", transpose: "transpose", matmul: "matrix product", relu: "ReLU" };
const kind = (op) => NAMES[op.name] ?? op.name.replaceAll("_", " ");
const title = (op) => (op.path ? `${op.path} · ${kind(op)}` : kind(op));

/** A link to an operation's card, or to the gradients in it. */
function to(index, text, gradients = false) {
  const id = `${gradients ? "gradient" : "operation"}-${index}`;
  return el("a", { href: `#${id}` }, text ?? title(OPS[index]));
}
