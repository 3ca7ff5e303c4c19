// One card for each operation: what it took and gave, the way back, that the gradients are right, and the code.

const LAST = OPS.length - 1;
const rowsAreWords = (sizes) => sizes.length >= 2 && sizes.at(-2) === T;
const inputName = (op, i) => {
  const value = VALUES[op.inputs[i]];
  return value.parameter || (value.made_by === null ? "a constant" : `result of ${title(OPS[value.made_by])}`);
};

/** A value's heat map under its name; ``gradient`` shows its gradient, a click on which goes to what it came from. */
function picture(place, caption, gradient = false) {
  const value = VALUES[place], matrix = array(gradient ? value.gradient : value.data);
  const other = !gradient && value.gradient !== null ? array(value.gradient) : null;
  const words = rowsAreWords(matrix.shape) ? (row) => word(row % T) : null;
  const marked = gradient && value.slope ? stored(matrix, value.slope.index) : null;
  const third = MODEL.n_embd, isQkv = value.made_by !== null && OPS[value.made_by].path.endsWith("attn.c_attn"), D = third / MODEL.n_head;
  const columns = isQkv ? (j) => `${["query", "key", "value"][Math.floor(j / third)]} of head ${Math.floor((j % third) / D) + 1}, number ${j % D}` : null;
  const drawing = heat(matrix, `${gradient ? "gradient of " : ""}${caption}`, { labels: words, columnNames: columns, other, marked });
  if (gradient && value.used_by.length) {
    const go = () => { location.hash = `gradient-${value.used_by[0][0]}`; };
    const map = drawing.querySelector(".picture");
    map?.classList.add("leads");
    map?.addEventListener("click", (event) => { if (event.pointerType !== "touch") go(); });
    map?.addEventListener("keydown", (event) => { if (event.key === "Enter") go(); });
  }
  return el("figure", { class: gradient ? "gradient" : null },
    el("figcaption", {}, caption, " ", el("span", { class: "quiet" }, shape(matrix.shape), isQkv ? ": queries, keys and values side by side" : "")), drawing);
}

/** Where a value's gradient was computed: in the operations that used the value. */
function comesFrom(value) {
  if (!value.used_by.length) return el("p", { class: "quiet" }, "The way back begins here: ∂loss/∂loss = 1.");
  const links = value.used_by.map(([index, which]) => el("li", {}, to(index, null, true),
    OPS[index].inputs.filter((input) => input !== null).length > 1 ? `, as its input ${which + 1}` : ""));
  return el("div", {}, el("p", {}, value.used_by.length > 1
    ? "It was used in more than one place, so its gradient is a sum. Each of these contributed to it:" : "It was computed from the gradient of:"),
  el("ul", {}, links));
}

/** How far a slope and a gradient are apart, as a part of the larger; and how many digits that leaves. */
const apart = ({ slope, gradient }) => Math.abs(slope - gradient) / Math.max(Math.abs(slope), Math.abs(gradient), 1e-12);
const agreeing = (off) => (off ? Math.max(0, Math.floor(-Math.log10(off))) : 16);

/** The loss a little to both sides of one element, and what the backward pass says about it. */
function slopeOf(value) {
  if (!value.slope) return null;
  const { index, x, h, plus, minus, gradient, slope } = value.slope;
  const rows = [[index.length ? `the element [${index.join(", ")}]` : "the one number", number(x, 7)], [`the loss with it ${number(h, 2)} larger`, plus.toFixed(12)],
    [`the loss with it ${number(h, 2)} smaller`, minus.toFixed(12)], [`slope: their difference, divided by 2 · ${number(h, 2)}`, number(slope, 7)],
    ["gradient, from the way back", number(gradient, 7)], ["they agree to", `${agreeing(apart(value.slope))} digits`]];
  return el("table", { class: "slope" }, el("tbody", {}, rows.map(([name, x]) => el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, x)))));
}

function formulaLines(lines) {
  return lines ? el("div", { class: "formulas" }, lines.map((columns) => el("p", {}, columns.map((part) =>
    typeof part === "string" ? el("span", { class: "remark" }, part) : el("span", {}, formula(part)))))) : null;
}

function source(found, marked = null) {
  if (!found?.text) return null;
  const lines = found.text.split("\n"), first = marked ? marked.line - found.line : -1, count = marked ? marked.text.split("\n").length : 0;
  const inside = marked && marked.file === found.file && first >= 0 && first < lines.length;
  return el("div", {}, el("p", { class: "file" }, `${found.file}, line ${found.line}`),
    el("pre", { tabindex: "0" }, lines.map((line, i) => el("span", { class: inside && i >= first && i < first + count ? "back" : null }, `${line}\n`))));
}

function code(op) {
  const { forward, backward, kernels, docstring } = FUNCTIONS[op.function];
  const derivations = [...new Map(kernels.map((kernel) => [kernel.file, kernel.docstring]))].filter(([, text]) => text);
  const within = backward && backward.file === forward.file && backward.line >= forward.line && backward.line < forward.line + forward.text.split("\n").length;
  return [
    docstring ? el("details", {}, el("summary", {}, "The derivation"), el("pre", { tabindex: "0" }, docstring),
      derivations.map(([file, text]) => [el("p", { class: "file" }, file), el("pre", { tabindex: "0" }, text)])) : null,
    el("details", {}, el("summary", {}, "The code of both directions"),
      within ? el("p", {}, "The coloured lines are the way back.") : null, source(forward, within ? backward : null),
      within ? null : source(backward)),
    kernels.length ? el("details", {}, el("summary", {}, `The arithmetic: ${kernels.length > 1 ? "its kernels" : "its kernel"} in NumPy`),
      el("p", { class: "quiet" }, "These define the results. Unless NPGPT_KERNELS=numpy is set, their compiled twins ran, which tests prove equal but for rounding."),
      kernels.map((kernel) => source(kernel))) : null,
  ];
}

function insideOfCard(index) {
  const op = OPS[index], result = VALUES[op.result], words = FUNCTIONS[op.function].formulas;
  const inputs = op.inputs.map((place, i) => [place, i]).filter(([place]) => place !== null);
  const back = op.order !== null;
  return [
    el("h4", {}, "Forward"), formulaLines(words.Forward),
    inputs.map(([place, i]) => picture(place, inputName(op, i))), picture(op.result, "result"),
    within(op.inside?.forward),
    result.used_by.length ? el("p", {}, "The result goes to ", result.used_by.map(([next], i) => [i ? " and to " : "", to(next)]), ".") : null,
    back ? [
      el("h4", { id: `gradient-${index}`, tabindex: "-1" }, `Back: step ${op.order + 1} of the way`), formulaLines(words.Backward),
      el("div", { class: "arrives" }, picture(op.result, "dy, the gradient of the result", true), comesFrom(result), slopeOf(result)),
      within(op.inside?.backward),
      inputs.filter(([place]) => VALUES[place].gradient !== null).map(([place, i]) => gradientOfInput(op, place, i)),
    ] : el("p", {}, "Nothing came back through it."),
    el("h4", {}, "Why, and the code"), code(op),
  ];
}

/** What a fused operation makes inside and doesn't keep: [[name, place of its array, labels of its rows], ...]. */
function within(parts) {
  return parts ? el("div", {}, el("p", {}, "Inside of it, made again for this page from what it took, and compared with what it gave:"), el("div", { class: parts.length > 1 ? "heads" : null },
    parts.map(([name, place]) => el("figure", {}, el("figcaption", {}, name, " ", el("span", { class: "quiet" }, shape(array(place).shape))), heat(array(place), name, { labels: word }))))) : null;
}

function gradientOfInput(op, place, i) {
  const value = VALUES[place], share = op.shares[i];
  const on = value.made_by !== null ? el("p", {}, "It goes on to ", to(value.made_by, null, true), ".") : el("p", {}, el("a", { href: `#parameter-${place}` }, "The parameter"), " is where it ends.");
  return el("div", { class: "leaves" },
    share === null ? null : el("figure", { class: "gradient" }, el("figcaption", {}, `what this operation contributes to the gradient of ${inputName(op, i)}`),
      heat(array(share), "contribution", { labels: rowsAreWords(array(share).shape) ? (row) => word(row % T) : null })),
    picture(place, `gradient of ${inputName(op, i)}${share === null ? "" : ", all contributions together"}`, true),
    on, slopeOf(value));
}

/** A card that is filled when it is first opened. */
function card(index) {
  const op = OPS[index], result = VALUES[op.result];
  const took = op.inputs.filter((place) => place !== null).map((place) => shape(array(VALUES[place].data).shape)).join(", ");
  const holder = el("div", { class: "inside" });
  const made = el("details", { class: "card", id: `operation-${index}` },
    el("summary", {}, el("b", {}, kind(op)), " ", el("code", {}, op.path), " ", el("span", { class: "quiet" }, `${took} → ${shape(array(result.data).shape)}`)), holder);
  made.fill = () => { if (!holder.childNodes.length) holder.append(...insideOfCard(index).flat(Infinity).filter(Boolean)); };
  made.addEventListener("toggle", () => { if (made.open) made.fill(); });
  return made;
}
const cards = (chosen) => el("div", { class: "cards" }, OPS.map((op, i) => [op, i]).filter(([op]) => chosen(op)).map(([, i]) => card(i)));

/** Open what an address such as #gradient-7 names, and go there. */
function goTo(hash) {
  const match = /^#(operation|gradient)-(\d+)$/.exec(hash);
  if (match) {
    const opened = document.getElementById(`operation-${match[2]}`);
    if (!opened) return;
    opened.fill();
    opened.open = true;
  }
  const target = document.getElementById(hash.slice(1));
  for (let up = target?.closest("details"); up; up = up.parentElement.closest("details")) up.open = true;
  target?.scrollIntoView({ block: "start" });
  const focused = target?.querySelector(":scope > summary") ?? target;
  focused?.focus({ preventScroll: true });
}
addEventListener("hashchange", () => goTo(location.hash));
document.addEventListener("click", (event) => { // the same address again
  const link = event.target.closest("a[href^='#']");
  if (link && link.getAttribute("href") === location.hash) goTo(location.hash);
});
