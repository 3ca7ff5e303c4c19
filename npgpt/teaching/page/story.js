// The story, from the text to the loss. A word is chosen at the top of the page, and all parts show that word.

let chosen = Math.min(TOKENS.length - 2, 2);
const listeners = [];
/** An element that is made again for each word that is chosen. */
function forWord(make) {
  const holder = el("div", {});
  const fill = () => holder.replaceChildren(...[make(chosen)].flat(Infinity).filter(Boolean));
  listeners.push(fill);
  fill();
  return holder;
}
function choose(t) {
  chosen = t;
  for (const [i, button] of [...document.querySelectorAll("#words button")].entries()) button.setAttribute("aria-pressed", String(i === t));
  for (const listener of listeners) listener();
}
const wordBar = () => el("nav", { id: "words", "aria-label": "The word that the page shows" }, el("span", {}, "The word"),
  el("div", {}, TOKENS.map((_, t) => el("button", { type: "button", "aria-pressed": String(t === chosen), click: () => choose(t) }, word(t)))));

function opening() {
  const counted = DATA.predictions.filter((guess) => guess.target).length;
  return el("header", {},
    el("p", { class: "over" }, "A sentence through a GPT, and back"),
    el("h1", {}, DATA.prompt),
    el("p", { class: "lead" }, "A GPT reads a text and says, at each place, what it thinks comes next. Then it is told what really came next. From that it computes, for each of its ",
      MODEL.parameters.toLocaleString("en"), " numbers (its parameters), which change would make the right words likelier. This page shows both for one sentence: all that was computed on the way forward, and all on the way back."),
    el("p", {}, "Nothing here is a drawing of how it might work. The numbers are those that npgpt computed for this sentence, by the same code that trains it, and each step shows its formula, its derivation and the lines that computed it. The model is ", el("b", {}, MODEL.name), "."),
    DATA.thinned ? el("p", { class: "note" }, `The ${DATA.numbers.toLocaleString("en")} numbers of this model would be too many for a page. Large arrays are thinned: rows and columns at even distances are shown, and each picture says which part it has. All computations were made with all numbers.`) : null,
    el("dl", { class: "tiles" },
      [["tokens", T, `${counted} of them are predicted`], ["blocks", MODEL.n_layer, `of ${MODEL.n_head} heads each`],
        ["numbers for each word", MODEL.n_embd, "the width, n_embd"], ["loss", number(DATA.loss, 4), `guessing evenly among ${MODEL.vocab_size.toLocaleString("en")} tokens has ${number(Math.log(MODEL.vocab_size), 3)}`]]
        .map(([name, value, more]) => el("div", {}, el("dt", {}, name), el("dd", {}, String(value)), el("dd", {}, more)))));
}

function overview() {
  const step = (href, name, does) => el("li", {}, el("a", { href }, name), el("span", {}, does));
  return section("overview", "The whole way",
    el("p", {}, "Forward: each word has a row of numbers. All rows together are the residual stream, which goes through all blocks. Each block reads it and adds to it."),
    el("ol", { class: "map" },
      step("#tokens", "Tokens", "the text is cut into pieces that the model knows"),
      step("#embedding", "Embedding", `each piece becomes ${MODEL.n_embd} numbers that can be computed with`),
      [...Array(MODEL.n_layer).keys()].map((i) => step(`#block-${i}`, `Block ${i + 1}`, "attention looks at earlier words; the MLP, a small network, works on each word alone")),
      step("#prediction", "Prediction", "the stream becomes a probability for each token"),
      step("#loss", "Loss", "how surprised the model was by what came next")),
    el("p", {}, "Back: the same steps, from the last to the first. They compute a gradient for each number: how much the loss changes with it."),
    el("ol", { class: "map return" },
      step("#back", "The way back", "each step turns the gradient of its result into the gradients of what it took"),
      step("#parameters", "Every parameter", "where the gradients end, each compared with a slope that was measured"),
      step("#adamw", "AdamW", "what the optimizer makes of one of them")),
    el("p", {}, "In all heat maps orange is above zero, blue below, and the paper's colour is zero. Point at one, or go into it with Tab and the arrow keys, to read its numbers."), legend());
}

function tokens() {
  const bytes = (token) => token.bytes.map((byte) => byte.toString(16).toUpperCase().padStart(2, "0")).join(" ");
  const steps = (token) => (token.steps.length > 1 ? token.steps.map((parts, i) => [i ? " → " : "", parts.map(chip)]) : "one byte");
  const rows = TOKENS.map((token, t) => [String(t), chip(token.text), String(token.id), el("span", { class: "bytes" }, bytes(token)), ...(DATA.merges ? [el("span", { class: "merges" }, steps(token))] : [])]);
  return section("tokens", "1. The text becomes tokens",
    el("p", {}, "The model knows a list of ", MODEL.vocab_size.toLocaleString("en"), " tokens: pieces of text, which are words, parts of words or single characters. A text is first bytes. ",
      DATA.merges ? "Then neighbours are merged, again and again: of all pairs that make a token of the list, always the one that was learned first. The pieces that are left at the end are the tokens." : "Each piece has its place in the list.",
      " A dot stands for a space."),
    el("p", {}, "Below, a token is called a word, though it may be a part of one."),
    table(["place", "token", "number (id)", "bytes", ...(DATA.merges ? ["merges"] : [])], rows, "words"));
}

function embedding() {
  const first = DATA.stages[0][1], ops = OPS.slice(0, first + 1);
  const parts = ops.filter((op) => op.name === "embedding");
  return section("embedding", "2. Each token becomes a vector",
    el("p", {}, `A token's number in the list says nothing about what it means. So each token has a row of ${MODEL.n_embd} numbers in a table, wte. They were learned. `,
      parts.length > 1 ? "A second table, wpe, has a row for each place in the sentence. The two are added: what the word is, and where it stands." : ""),
    parts.map((op) => picture(op.result, op.path === "wte" ? "what the word is: its row of wte" : "where it stands: its row of wpe")),
    parts.length > 1 ? picture(OPS[first].result, "their sum, the beginning of the residual stream") : null,
    el("p", {}, "In these pictures each row is a word, and each column one of its numbers. No column has a meaning that could be named: meanings are directions in which all of them take part."),
    el("h3", {}, "Each operation"), cards((op) => OPS.indexOf(op) <= first));
}

/** A vector as a row of colours. */
function strip(vector, name, most) {
  const canvas = el("canvas", { class: "strip", width: vector.length, height: 1, role: "img", title: [...vector].map((x) => number(x, 3)).join(", "),
    "aria-label": `${name}: ${[...vector].map((x) => number(x, 3)).join(", ")}` });
  paint(canvas, vector, most);
  return canvas;
}

const bar = (part) => el("span", { class: "bar" }, el("i", { style: `width: ${(100 * part).toFixed(1)}%` }), el("span", {}, percent(part)));

function attention(layer) {
  const parts = DATA.attention[layer], [q, k, v, S, P] = ["q", "k", "v", "S", "P"].map((name) => array(parts[name]));
  const H = MODEL.n_head, D = q.shape[2];
  const most = (matrix) => matrix.numbers.reduce((a, x) => Math.max(a, Math.abs(x)), 0) || 1;
  const tops = { q: most(q), k: most(k), v: most(v) };
  let head = 0;
  const holder = el("div", {});
  const weight = (h, i, j) => P.numbers[(h * T + i) * T + j];
  function fill() {
    const rows = [...Array(chosen + 1).keys()].map((j) => [chip(TOKENS[j].text), strip(slice(k, head, j), "key", tops.k),
      number(S.numbers[(head * T + chosen) * T + j], 3), bar(weight(head, chosen, j)), strip(slice(v, head, j), "value", tops.v)]);
    const mixed = [...Array(D).keys()].map((d) => [...Array(chosen + 1).keys()].reduce((sum, j) => sum + weight(head, chosen, j) * slice(v, head, j)[d], 0));
    const strongest = [...Array(chosen + 1).keys()].reduce((best, j) => (weight(head, chosen, j) > weight(head, chosen, best) ? j : best), 0);
    holder.replaceChildren(
      el("p", {}, "Head ", String(head + 1), ", seen from ", chip(TOKENS[chosen].text), ". It looks most at ", chip(TOKENS[strongest].text), ` (${percent(weight(head, chosen, strongest))}).`),
      el("p", { class: "vector" }, el("span", {}, "the word's query"), strip(slice(q, head, chosen), "query", tops.q)),
      table(["word", "its key", "score", "weight", "its value"], rows, "attending"),
      el("p", { class: "vector" }, el("span", {}, "values, weighted and added"), strip(mixed, "result", tops.v)));
  }
  const heads = el("div", { class: "heads" }, [...Array(H).keys()].map((h) => {
    const matrix = { numbers: P.numbers.slice(h * T * T, (h + 1) * T * T), shape: [T, T], rows: T, columns: T, row: (i) => i, column: (j) => j };
    const map = heat(matrix, `Weights of head ${h + 1}`, { labels: word, most: 1, choose: (row) => { pick(h); choose(row); } });
    return el("figure", { class: "head", "data-head": h }, el("figcaption", {}, el("button", { type: "button", "aria-pressed": String(h === 0), click: () => pick(h) }, `Head ${h + 1}`)), map);
  }));
  function pick(h) {
    head = h;
    for (const [i, button] of [...heads.querySelectorAll("button")].entries()) button.setAttribute("aria-pressed", String(i === h));
    fill();
  }
  listeners.push(fill);
  fill();
  const explained = layer > 0 ? [] : [
    el("p", {}, "From its row of the stream, each word makes three vectors: a query, which says what it looks for; a key, which says what it has to offer; and a value, which is what it hands on. ",
      `There are ${H} heads, each with vectors of ${D} numbers of its own, so the word can look for ${H} things at once.`),
    el("p", {}, "A score is the product of the word's query and another word's key, times ", number(parts.scale, 3), ". Softmax makes weights of the scores: none is below zero, and together they are 1. A word sees itself and those before it, never those after it, which it is to predict."),
  ];
  return [el("h3", {}, "Attention: what earlier words does this one look at?"), explained, holder,
    el("p", {}, layer > 0 ? "All heads, all words:" : "All heads, all words: each row is a word, and shows how its weights are spread over the words up to it. Click on a row to see it above."), heads];
}

function changes(layer) {
  const [before, looked, thought] = [DATA.lens[2 * layer], DATA.lens[2 * layer + 1], DATA.lens[2 * layer + 2]];
  const list = (rows, rise) => rows.map(([id, key, p], i) => [i ? " " : "", chip(DATA.vocabulary[id]), " ", el("span", { class: "quiet" }, rise ? `+${percent(key)}` : percent(p))]);
  const row = (name, stage, t) => [name, el("span", { class: "likely" }, list(stage.top[t], false)), stage.rose.length && stage.rose[t][0][1] > 0.0005 ? el("span", { class: "likely" }, list(stage.rose[t].filter((x) => x[1] > 0.0005), true)) : ""];
  const explained = layer > 0 ? [] : [
    el("p", {}, `The MLP works on each word alone. A linear layer makes ${MODEL.n_inner ?? 4 * MODEL.n_embd} numbers from the word's ${MODEL.n_embd}, the activation function brings those below zero close to zero, and a second linear layer makes ${MODEL.n_embd} numbers from them, which are added to the stream.`),
    el("p", {}, "What do attention and the MLP change? Stop the model after this half of the block, and read the stream as if it were the last: what would it predict after the chosen word?"),
  ];
  return [el("h3", {}, "The MLP: what does it add?"), explained, forWord((t) => table(["after", "it would predict", "which became likelier"], [
      ...(layer === 0 ? [row("the embedding", before, t)] : []), row("attention", looked, t), row("the MLP", thought, t)], "words"))];
}

const blocks = () => [...Array(MODEL.n_layer).keys()].map((layer) => section(`block-${layer}`, `${3 + layer}. Block ${layer + 1} of ${MODEL.n_layer}`,
  layer === 0 ? el("p", {}, "A block has two halves, attention and an MLP (a multi-layer perceptron). Both begin with a layer norm, which brings each word's numbers to a common size, and both add their result to the stream, so that what was known before stays known.") : el("p", {}, "The same again, with parameters of its own. It reads what the blocks before it have added."),
  attention(layer), changes(layer), el("h3", {}, "Each operation"), cards((op) => op.path === `h.${layer}` || op.path.startsWith(`h.${layer}.`))));

function prediction() {
  const stage = (name) => name.replace(/^h\.(\d+) (attention|mlp)$/, (_, layer, half) => `block ${Number(layer) + 1}, ${half === "mlp" ? "MLP" : "attention"}`);
  const rows = DATA.lens.map((layer) => [stage(layer.name), ...layer.top.map(([[id, , p]], t) => {
    const right = DATA.predictions[t].target?.[0] === id;
    return el("span", { class: right ? "cell right" : "cell", title: `${named(id)}, ${percent(p)}` }, el("span", { class: "token" }, named(id)), el("small", {}, percent(p)));
  })]);
  const echoes = MODEL.tie_weights && DATA.lens[0].top.filter(([[id]], t) => id === TOKENS[t].id).length > T / 2;
  return section("prediction", `${3 + MODEL.n_layer}. What comes next?`,
    el("p", {}, "After the last block, a last layer norm; then each word's row is multiplied with that of every token in the list. These products are the logits, and softmax makes probabilities of them."),
    forWord((t) => {
      const { top, target } = DATA.predictions[t];
      return [el("p", {}, "After ", chip(TOKENS.slice(0, t + 1).map((token) => token.text).join("")), target
        ? [" came ", chip(TOKENS[t + 1].text), `, to which the model gave ${percent(target[1])}. It thought of:`] : " the sentence ends. The model thinks of:"),
      el("ul", { class: "guesses" }, top.map(([id, , p]) => el("li", { class: target?.[0] === id ? "right" : null }, chip(DATA.vocabulary[id]), bar(p))))];
    }),
    el("h3", {}, "Which token would each layer predict already?"),
    el("p", {}, "The same question, asked after every half of a block (the logit lens): if the stream ended here, what would come next? Read downwards: the columns are the words of the sentence, and a frame means that it is what came.",
      echoes ? " At first it is the word itself, for the same table is used to read words and to predict them; what comes next has to be worked out." : ""),
    table(["if it ended after", ...TOKENS.map((_, t) => word(t))], rows, "lens"),
    el("h3", {}, "The logits"), el("figure", {}, el("figcaption", {}, "logits, a column for each token of the list ", el("span", { class: "quiet" }, shape(array(DATA.logits).shape))), heat(array(DATA.logits), "logits", { labels: word })));
}

function loss() {
  const rows = DATA.predictions.map(({ target }, t) => (target ? [word(t), chip(TOKENS[t + 1].text), percent(target[1]), number(target[2], 4)] : null)).filter(Boolean);
  return section("loss", `${4 + MODEL.n_layer}. How surprised was it?`,
    el("p", {}, "The loss of one prediction is minus the logarithm of the probability that the right token got: 0 if the model was certain of it, and large if it thought it nearly impossible. The loss of the sentence is the mean. The last word has nothing after it, and isn't counted."),
    table(["after", "came", "probability", "loss"], [...rows, ["", el("b", {}, "mean"), "", el("b", {}, number(DATA.loss, 5))]], "words"),
    DATA.loss > Math.log(MODEL.vocab_size) ? el("p", {}, `That is more than the ${number(Math.log(MODEL.vocab_size), 3)} of a guess that gives every token the same probability. The model was sure of other tokens: the sentence is unlike the text that it has learned.`) : null,
    el("p", {}, "The model never holds all logits at once when it trains: logits, softmax and loss are one operation."),
    el("h3", {}, "Each operation"), cards((op) => { const i = OPS.indexOf(op); return i > DATA.stages[0][1] && !op.path.startsWith("h."); }));
}
