// The view of attention: a layer, its heads, and what one token looks at, in the text and in numbers.

const NUMBERS = 6; // of a token's row that are written out
const attention = {
  tokens: [], name: "", // those whose weights these are, or will be; and the layer and ids as a text
  weights: null, // (H, T, T)
  head: 0,
  row: null, // the token that looks
  asked: null, cells: null, place: null,
};
const map = find("map"), mapCanvas = map.querySelector("canvas");
const isAttention = () => chosen("view") === "attention";

/** Show the attention over a text, unless it is still being made. */
async function showAttention(tokens, isMaking) {
  if (!isAttention()) return;
  const T = Math.min(tokens.length, DATA.attention), layer = Number(find("layer").value), said = find("attention-state");
  const ids = tokens.slice(0, T).map((token) => token.id), name = `${layer}: ${ids}`;
  if (isMaking || !T) {
    forgetAttention();
    said.textContent = isMaking ? "The maps come when the text is complete." : "There is no text yet.";
    return;
  }
  if (attention.name === name) return;
  if (String(ids) !== String(attention.tokens.map((token) => token.id))) forgetAttention(); // of another text
  attention.asked?.abort();
  const asked = (attention.asked = new AbortController());
  attention.name = name;
  said.textContent = "Computing.";
  try {
    const answer = await post("playground/attention", { prompt: ids, layer }, asked.signal);
    const view = new DataView(await answer.arrayBuffer()), weights = new Float32Array(view.byteLength / 4);
    for (let i = 0; i < weights.length; i++) weights[i] = view.getFloat32(4 * i, true);
    if (asked.signal.aborted) return;
    const row = attention.row !== null && attention.row < T ? attention.row : T - 1;
    Object.assign(attention, { tokens: tokens.slice(0, T), weights, row });
  } catch (problem) {
    if (asked.signal.aborted) return;
    forgetAttention();
    said.textContent = problem instanceof Problem ? problem.message : "The connection to the server is cut.";
    return;
  }
  said.textContent = tokens.length > T
    ? `Of the first ${whole(T)} of ${whole(tokens.length)} tokens. What follows them changes nothing in them.`
    : "Point at a token, or go to it with the arrow keys, and the text shows what it looks at.";
  showHeads();
  showHead(attention.head);
}

function forgetAttention() {
  attention.asked?.abort();
  Object.assign(attention, { tokens: [], name: "", weights: null, cells: null, row: null });
  find("heads").replaceChildren();
  say(find("looks"), "");
  map.hidden = true;
  markLooks();
}

function showHeads() {
  const T = attention.tokens.length, had = find("heads").contains(document.activeElement);
  find("heads").replaceChildren(...Array.from({ length: DATA.heads }, (_, head) => {
    const canvas = painted(attention.weights, head, T);
    canvas.className = T > 72 ? "fine" : "coarse";
    return el("button", { type: "button", "aria-pressed": String(head === attention.head), "aria-label": `Head ${head}`, click: () => showHead(head) },
      canvas, el("span", { "aria-hidden": "true" }, `Head ${head}`));
  }));
  if (had) find("heads").children[attention.head].focus();
}

function showHead(head) {
  attention.head = head;
  [...find("heads").children].forEach((button, i) => button.setAttribute("aria-pressed", String(i === head)));
  attention.cells = painted(attention.weights, head, attention.tokens.length);
  map.hidden = false;
  mapCanvas.setAttribute("aria-label", `Layer ${find("layer").value}, head ${head}: a map of ${attention.tokens.length} tokens. What is said under the text are its rows.`);
  look(attention.row);
}

/** Show what a token looks at. ``column``: say also how much it looks at that one. */
function look(row, column = null) {
  if (!attention.weights || row === null) return;
  const T = attention.tokens.length, said = find("looks"), { tokens, head } = attention;
  said.hidden = false;
  if (row >= T) {
    said.textContent = `The maps end with token ${whole(T)}.`;
    return;
  }
  attention.row = row;
  const weights = [...attention.weights.subarray((head * T + row) * T, (head * T + row) * T + row + 1)];
  const order = [...weights.keys()].sort((a, b) => weights[b] - weights[a]).slice(0, NUMBERS);
  if (column !== null && column <= row && !order.includes(column)) order.unshift(column);
  said.replaceChildren(el("b", {}, tokens[row].shown), ` (${row + 1}) looks at `, ...order.map((j) =>
    el("span", { class: j === column ? "pointed" : null }, `${tokens[j].shown} (${j + 1}) ${percent(weights[j])}`)));
  markLooks(weights, row);
  drawLargeMap();
}

/** Colour the text by how much each token is looked at. */
function markLooks(weights = [], row = null) {
  tokenView.elements.forEach((element, i) => {
    for (let k = 0; k < BANDS.length; k++) element.classList.toggle(`look-${k}`, i < weights.length && band(weights[i]) === k);
    element.classList.toggle("looking", i === row);
  });
}

function drawLargeMap() {
  if (!attention.cells || map.hidden) return;
  const names = attention.tokens.map((token) => token.shown.slice(1, -1));
  attention.place = drawMap(mapCanvas, attention.cells, names, map.clientWidth, attention.row);
}

function atPointer(event) {
  if (!attention.place) return;
  const box = mapCanvas.getBoundingClientRect(), { margin, cell } = attention.place, T = attention.tokens.length;
  const at = (part) => Math.max(0, Math.min(T - 1, Math.floor((part - margin) / cell)));
  look(at(event.clientY - box.top), at(event.clientX - box.left));
}
mapCanvas.addEventListener("pointermove", atPointer);
mapCanvas.addEventListener("pointerdown", atPointer);

find("layer").append(...Array.from({ length: DATA.layers }, (_, layer) => el("option", { value: layer }, String(layer))));
new ResizeObserver(drawLargeMap).observe(map);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  if (!attention.weights) return;
  showHeads();
  showHead(attention.head);
});
