// Heat maps: a matrix as colours, and its numbers under the pointer and under the arrow keys.

const screenDark = matchMedia("(prefers-color-scheme: dark)");
let printing = false;
const COLOURS = { light: { none: [255, 255, 255], plus: [200, 80, 10], minus: [37, 99, 201] },
  dark: { none: [27, 31, 38], plus: [243, 147, 90], minus: [110, 163, 247] } };
const painted = new Map(); // canvas: what paints it again
const colours = () => COLOURS[screenDark.matches && !printing ? "dark" : "light"];

/** The colour of x from −1 to 1: blue below zero, orange above, the paper's own at zero. */
function colour(x) {
  const { none, plus, minus } = colours(), end = x < 0 ? minus : plus, part = Math.min(1, Math.abs(x)) ** 0.6;
  return none.map((from, i) => Math.round(from + (end[i] - from) * part));
}

/** Paint numbers, row by row, on a canvas with a pixel for each; and again when the colours change. */
function paint(canvas, numbers, largest) {
  const draw = () => {
    const context = canvas.getContext("2d"), image = context.createImageData(canvas.width, canvas.height);
    for (let i = 0; i < numbers.length; i++) image.data.set([...colour(numbers[i] / largest), 255], 4 * i);
    context.putImageData(image, 0, 0);
  };
  painted.set(canvas, draw);
  draw();
}

/**
 * A matrix as a heat map. ``labels`` names its rows; ``other`` is a matrix of the same size whose numbers are said too;
 * ``marked`` is an element, as [row, column], with a frame; ``choose`` is called with a row that is clicked.
 */
function heat(matrix, name, { labels = null, columnNames = null, other = null, marked = null, choose = null, most = 0 } = {}) {
  const { numbers, rows, columns } = matrix;
  if (!numbers.length) return el("p", { class: "quiet" }, "It has no elements.");
  const largest = most || numbers.reduce((a, x) => Math.max(a, Math.abs(x)), 0) || 1;
  const canvas = el("canvas", { width: columns, height: rows, "aria-hidden": "true" });
  const frame = el("span", { class: "cursor", hidden: true }), said = el("output", {});
  const picture = el("div", { class: "picture", tabindex: "0", role: "application",
    "aria-label": `${name}, ${shape(matrix.shape)}: a heat map. The arrow keys say its numbers.` }, canvas, frame);
  picture.style.aspectRatio = `${columns} / ${rows * Math.max(1, Math.min(4, columns / rows / 5))}`;
  picture.style.maxWidth = columns <= 4 ? `${columns * 48}px` : `${Math.max(rows < 3 ? 600 : 120, Math.min(1100, columns * 14))}px`;
  let at = marked ?? [0, 0];

  function place(box, [row, column]) {
    Object.assign(box.style, { left: `${(100 * column) / columns}%`, top: `${(100 * row) / rows}%`,
      width: `${100 / columns}%`, height: `${100 / rows}%` });
  }
  function say(row, column) {
    at = [row, column];
    frame.hidden = false;
    place(frame, at);
    const i = row * columns + column, label = labels ? `${labels(matrix.row(row))}, ` : rows > 1 ? `row ${matrix.row(row)}, ` : "";
    said.textContent = `${label}${columnNames ? columnNames(matrix.column(column)) : `column ${matrix.column(column)}`}: ${number(numbers[i], 6)}${other ? `; gradient ${number(other.numbers[i], 6)}` : ""}`;
  }
  function under(event) {
    const box = canvas.getBoundingClientRect();
    const find = (part, count) => Math.max(0, Math.min(count - 1, Math.floor(part * count)));
    return [find((event.clientY - box.top) / box.height, rows), find((event.clientX - box.left) / box.width, columns)];
  }
  picture.addEventListener("pointermove", (event) => say(...under(event)));
  picture.addEventListener("pointerdown", (event) => say(...under(event)));
  picture.addEventListener("focus", () => say(...at));
  picture.addEventListener("keydown", (event) => {
    const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1],
      Home: [0, -columns], End: [0, columns], PageUp: [-10, 0], PageDown: [10, 0] }[event.key];
    if (event.key === "Enter" && choose) choose(at[0]);
    if (!move) return;
    event.preventDefault();
    const within = (x, count) => Math.max(0, Math.min(count - 1, x));
    say(within(at[0] + move[0], rows), within(at[1] + move[1], columns));
  });
  if (choose) picture.addEventListener("click", (event) => choose(under(event)[0]));
  if (marked && marked[0] >= 0 && marked[1] >= 0) {
    const box = el("span", { class: "marked", title: "the element with the largest gradient" });
    place(box, marked);
    picture.append(box);
  }
  paint(canvas, numbers, largest);
  const names = labels && rows <= 64 ? el("div", { class: "rows", "aria-hidden": "true" }, [...Array(rows).keys()].map((i) => el("span", {}, labels(matrix.row(i))))) : null;
  const left = matrix.thinned ? el("p", { class: "quiet" }, `Thinned: ${rows} of ${(matrix.shape.slice(0, -1).reduce((a, b) => a * b, 1)).toLocaleString("en")} rows, ${columns} of ${(matrix.shape.at(-1) ?? 1).toLocaleString("en")} columns.`) : null;
  return el("div", { class: "heat" }, el("div", { class: "framed" }, names, picture), said, left);
}

function redraw() {
  for (const [canvas, draw] of painted) {
    if (canvas.isConnected) draw();
    else painted.delete(canvas);
  }
}
screenDark.addEventListener("change", redraw);
addEventListener("beforeprint", () => { printing = true; redraw(); });
addEventListener("afterprint", () => { printing = false; redraw(); });
const legend = () => el("p", { class: "ramp" }, el("span", {}, "far below zero"), el("i", { "aria-hidden": "true" }), el("span", {}, "far above zero"));
