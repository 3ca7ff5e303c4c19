// Attention's weights as colours: small maps of all heads, and the large one with its tokens beside it.

const FONT = 12, LABEL_SPACE = 15, LONGEST_LABEL = 92, LARGEST_CELL = 30; // pixels

/** The page's colours as they are now, light or dark. */
function colours(...names) {
  const style = getComputedStyle(document.documentElement);
  return names.map((name) => style.getPropertyValue(name).trim());
}
const channels = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

/** A canvas with a pixel for each weight of a head (T, T). The colour is the weight's square root: small ones are seen. */
function painted(weights, head, T, canvas = el("canvas")) {
  canvas.width = canvas.height = T;
  const context = canvas.getContext("2d"), image = context.createImageData(T, T);
  const [none, most] = colours("--card", "--look").map(channels);
  for (let i = 0; i < T; i++) {
    for (let j = 0; j <= i; j++) { // what is later isn't seen
      const part = Math.sqrt(weights[(head * T + i) * T + j]);
      image.data.set([...none.map((from, c) => from + (most[c] - from) * part), 255], 4 * (i * T + j));
    }
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

/** Draw the large map in so many pixels of the page -> where a cell is: { margin, cell }. */
function drawMap(canvas, cells, names, width, row) {
  const T = cells.width, scale = devicePixelRatio || 1, context = canvas.getContext("2d");
  const [ink, quiet, rule] = colours("--ink", "--quiet", "--rule"), font = `${FONT}px ui-monospace, Menlo, Consolas, monospace`;
  context.font = font;
  const short = (name) => {
    let text = name;
    while (text.length > 1 && context.measureText(text).width > LONGEST_LABEL - 8) text = text.slice(0, -1);
    return text === name ? text : `${text.slice(0, -1)}…`;
  };
  const labels = names.map(short), margin = Math.ceil(Math.max(...labels.map((label) => context.measureText(label).width))) + 8;
  const cell = Math.min(LARGEST_CELL, (width - margin - 1) / T), size = margin + cell * T + 1;
  canvas.width = canvas.height = Math.ceil(size * scale);
  canvas.style.width = canvas.style.height = `${canvas.width / scale}px`;
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(cells, margin, margin, cell * T, cell * T);
  context.strokeStyle = rule;
  context.strokeRect(margin, margin, cell * T, cell * T);
  if (row !== null) {
    context.strokeStyle = ink;
    context.strokeRect(margin, margin + cell * row, cell * (row + 1), cell);
  }
  context.font = font;
  context.textBaseline = "middle";
  const every = Math.ceil(LABEL_SPACE / cell);
  labels.forEach((label, i) => {
    if (i % every && i !== row) return;
    const isCovered = row !== null && i !== row && Math.abs(i - row) * cell < LABEL_SPACE;
    context.fillStyle = i === row ? ink : quiet;
    context.textAlign = "right";
    if (!isCovered) context.fillText(label, margin - 5, margin + cell * (i + 0.5));
    if (i % every) return;
    context.save();
    context.translate(margin + cell * (i + 0.5), margin - 5);
    context.rotate(-Math.PI / 2);
    context.textAlign = "left";
    context.fillStyle = quiet;
    context.fillText(label, 0, 0);
    context.restore();
  });
  return { margin, cell };
}
