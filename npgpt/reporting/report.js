// The page: one run in depth, or several side by side.

const DATA = JSON.parse(document.getElementById("data").textContent);
const RUNS = DATA.runs, ONE = RUNS.length === 1 ? RUNS[0] : null;
const colour = (i) => `var(--c${i % 8})`;
const named = names(RUNS);

/** The runs' names, told apart by number where two are the same. */
function names(runs) {
  return runs.map((run, i) => {
    const same = runs.filter((other) => other.name === run.name);
    return same.length > 1 ? `${run.name} (${same.indexOf(run) + 1})` : run.name;
  });
}

const line = (run, series, name, style) => ({ name, points: run.series[series], ...style });
const measured = (lines) => lines.filter((one) => one.points && one.points.value.some((y) => y != null));
const section = (title, ...children) => el("section", {}, el("h2", {}, title), ...children);
const steps = (n) => Number(n).toLocaleString("en");
const perplexity = (loss) => (loss < 50 ? significant(Math.exp(loss), 3) : "–");
const parameters = (run) => run.processes.map((process) => Number(process.parameters)).find((n) => n > 0);

function done(run) {
  return Math.max(run.last.train.step ?? 0, run.last.eval.step ?? 0);
}

function texts(run) {
  const given = run.settings.find(([name]) => name === "training")[1].texts;
  try {
    return JSON.parse(given).join(", ");
  } catch {
    return given ?? ""; // cut off, or a stranger's
  }
}

function shape(run) {
  const { n_layer, n_head, n_embd, block_size, vocab_size } = run.model;
  const size = parameters(run) ? `${count(parameters(run))} parameters: ` : "";
  const read = texts(run) ? `, trained on ${texts(run)}` : "";
  return `${size}${n_layer} layers, ${n_head} heads, ${n_embd} wide; context ${run.context ?? block_size}, vocabulary ${steps(vocab_size)}${read}`;
}

// The head of the page

function head(run) {
  const finished = done(run) >= run.max_steps;
  const state = finished ? `All ${steps(done(run))} steps are done.` : `Step ${steps(done(run))} of ${steps(run.max_steps ?? 0)}.`;
  const when = new Date(DATA.written).toLocaleString("en", { dateStyle: "medium", timeStyle: "short" });
  return [
    el("h1", {}, run.name),
    el("p", { class: "quiet" }, shape(run)),
    el("p", {}, state, el("span", { class: "quiet" },
      ` Written ${when}.${finished ? "" : " While the run goes on, reload the page for newer values."}`)),
    finished || !run.max_steps ? null : el("progress", { max: run.max_steps, value: done(run), "aria-label": "steps done" }),
    tiles(run), observation(run), skipped(run),
  ];
}

function tiles(run) {
  const { train, eval: last } = run.last, { best } = run, trained = last.train_loss ?? train.loss;
  const tile = (name, value, below) => el("div", {}, el("dt", {}, name), el("dd", {}, value), el("dd", {}, below));
  const rest = train.seconds_left > 0 ? `${duration(train.seconds_left)} left` : "in all";
  return el("dl", { class: "tiles numbers" },
    best && tile("Lowest validation loss", significant(best.val_loss), `after step ${steps(best.step)}; perplexity ${perplexity(best.val_loss)}`),
    last.val_loss != null && tile("Validation loss now", significant(last.val_loss), `after step ${steps(last.step)}`),
    trained != null && tile("Training loss", significant(trained), last.train_loss == null ? "of the last batch" : "over the evaluation's batches"),
    train.tokens_per_second != null && tile("Speed", `${count(train.tokens_per_second)}/s`, `tokens; ${count(train.tokens)} so far`),
    train.seconds != null && tile("Time", duration(train.seconds), rest));
}

/** What the curves say, in words. */
function observation(run) {
  const { best } = run, last = run.last.eval, train = run.series.train_loss;
  if (!best || last.val_loss == null) return null;
  const risen = last.val_loss - best.val_loss, then = train.value[train.step.indexOf(best.step)];
  if (best.step === last.step) return el("p", {}, `The validation loss is at its lowest, after step ${steps(best.step)}.`);
  if (risen < 0.01) return el("p", {}, `The validation loss has been level since step ${steps(best.step)}.`);
  const fell = last.train_loss < then ? ", while the training loss went on falling: the model learns the text by heart" : "";
  return el("p", { class: "note" },
    `The validation loss was lowest after step ${steps(best.step)} and has risen by ${significant(risen, 3)} since${fell}. `,
    "best.safetensors holds the weights of that step.");
}

function skipped(run) {
  return run.skipped ? el("p", { class: "note" }, `${steps(run.skipped)} lines of metrics.jsonl could not be read and are left out.`) : null;
}

function comparison() {
  const row = (name, show) => [name, ...RUNS.map(show)];
  return [
    el("h1", {}, named.slice(0, 4).join(" and ") + (RUNS.length > 4 ? " and more" : "")),
    el("div", { class: "panel scroll" }, table(["", ...named], [
      row("lowest validation loss", (run) => (run.best ? significant(run.best.val_loss) : "–")),
      row("after step", (run) => (run.best ? steps(run.best.step) : "–")),
      row("last validation loss", (run) => significant(run.last.eval.val_loss)),
      row("last training loss", (run) => significant(run.last.eval.train_loss ?? run.last.train.loss)),
      row("steps", (run) => `${steps(done(run))} of ${run.max_steps == null ? "–" : steps(run.max_steps)}`),
      row("tokens", (run) => count(run.last.train.tokens)),
      row("time", (run) => duration(run.last.train.seconds)),
      row("tokens per second", (run) => count(run.last.train.tokens_per_second)),
      row("parameters", (run) => count(parameters(run))),
    ])),
    ...RUNS.map(skipped),
  ];
}

// Charts

function controls() {
  const choice = (axis, text) => {
    const input = el("input", { type: "radio", name: "axis", value: axis, change: () => Chart.switchAxis(axis) });
    input.checked = axis === Chart.axis;
    return el("label", {}, input, el("span", {}, text));
  };
  return el("div", { class: "controls" }, el("fieldset", {}, el("legend", {}, "All charts against"),
    choice("step", "steps"), choice("tokens", "tokens"), choice("seconds", "time")));
}

function lossLines(run, i) {
  const smooth = run.series.smooth_loss, one = ONE === run, prefix = one ? "" : `${named[i]}: `;
  const train = one ? colour(0) : colour(i), validation = one ? colour(1) : colour(i);
  const batches = one ? [line(run, "loss", "each batch", { colour: train, faint: true, width: 1 })] : [];
  if (smooth && one) batches.push(line(run, "smooth_loss", "batches, smoothed", { colour: train }));
  return [...batches,
    line(run, "train_loss", `${prefix}training`, { colour: train, dash: one ? "" : "5 4", width: one ? 2.4 : 1.6, dots: one }),
    line(run, "val_loss", `${prefix}validation`, { colour: validation, width: 2.4, dots: true })];
}

function each(series, only) {
  return measured(RUNS.map((run, i) => line(run, series, ONE ? only : named[i], { colour: colour(i) })));
}

function charts() {
  const loss = new Chart({
    title: "Loss", main: true, height: 360, lines: measured(RUNS.flatMap(lossLines)),
    best: ONE && ONE.best && { line: "validation", step: ONE.best.step, text: `lowest ${significant(ONE.best.val_loss)}` },
    note: `Cross-entropy in nats per token.${ONE ? "" : " Solid: validation; dashed: training."}`,
  });
  const small = [
    new Chart({ title: "Learning rate", lines: each("lr", "learning rate"), zero: true }),
    new Chart({ title: "Gradient norm", lines: each("grad_norm", "norm"), zero: true, note: "Of the whole gradient, before it is clipped." }),
    new Chart({ title: "Speed", lines: each("tokens_per_second", "tokens per second"), zero: true, show: count, note: "Tokens per second, evaluations left out." }),
  ].filter((chart) => chart.lines.length);
  return section("Loss and speed", controls(), loss.figure, el("div", { class: "charts" }, small.map((chart) => chart.figure)));
}

/** A line for each layer, coloured by its depth. */
function layerChart(run, kind, title, note, wanted = () => true) {
  const { values, step, tokens, seconds } = run.layers[kind];
  const found = Object.keys(values).filter(wanted), blocks = found.filter((name) => name.startsWith("h."));
  if (!found.length) return null;
  const shade = (i) => `oklch(var(--depth) 0.14 ${Math.round(260 - (235 * i) / Math.max(blocks.length - 1, 1))})`;
  const others = found.filter((name) => !name.startsWith("h.")), dashes = ["5 4", "1 4", "9 3 2 3", "2 2"];
  const style = (name) => (blocks.includes(name) ? { colour: shade(blocks.indexOf(name)) }
    : { colour: "var(--c7)", dash: dashes[others.indexOf(name) % dashes.length] });
  const lines = found.map((name) => ({ name: label(name), width: 1.5, ...style(name), points: { step, tokens, seconds, value: values[name] } }));
  const ends = blocks.length > 8 ? [blocks[0], blocks.at(-1)].map(label) : null;
  return new Chart({ title, note, lines, log: true, ramp: ends }).figure;
}

function label(name) {
  return { wte: "token embedding", wpe: "position embedding", drop: "embedding", ln_f: "last layer norm", lm_head: "head" }[name]
    ?? name.replace(/^h\.(\d+)/, "block $1").replace(".attn", ", attention").replace(".mlp", ", MLP");
}

function layers(run) {
  const adds = (name) => /^h\.\d+\.(attn|mlp)$/.test(name);
  const found = [
    layerChart(run, "gradient", "Gradients", "Norm of each layer's gradient, before clipping. One layer far above the others often comes before trouble."),
    layerChart(run, "weight", "Weights", "Root mean square of each layer's matrices."),
    layerChart(run, "activation", "Residual stream", "Root mean square after each block, on a passage.", (name) => !adds(name)),
    layerChart(run, "activation", "What attention adds", "Root mean square of what each block's attention adds to the stream.", (name) => name.endsWith(".attn")),
    layerChart(run, "activation", "What the MLP adds", "Root mean square of what each block's MLP adds to the stream.", (name) => name.endsWith(".mlp")),
  ].filter(Boolean);
  return found.length ? section("Layer by layer", el("div", { class: "charts" }, found)) : null;
}

// Texts

function samples() {
  const cards = ONE
    ? ONE.samples.map((sample) => [`After step ${steps(sample.step)}`, sample.text]).reverse()
    : RUNS.flatMap((run, i) => run.samples.slice(-1).map((sample) => [`${named[i]}, step ${steps(sample.step)}`, sample.text]));
  return cards.length ? section(ONE ? "Samples, the newest first" : "The last sample of each", el("ol", { class: "texts" }, cards.map(([title, text]) =>
    el("li", { class: "panel" }, el("h3", {}, title), el("p", { tabindex: "0", dir: "auto" }, text))))) : null;
}

const HOTTEST = 8; // nats

function coloured({ pieces, losses }) {
  return el("p", { class: "passage" }, pieces.map((piece, i) => {
    const loss = i ? losses[i - 1] : null;
    if (loss == null) return el("span", {}, piece);
    const heat = Math.min(loss / HOTTEST, 1).toFixed(3), chance = significant(100 * Math.exp(-loss), 2);
    return el("span", { title: `loss ${loss.toFixed(2)}: ${chance} %`, style: `background:rgba(var(--heat), calc(var(--hottest) * ${heat}))` }, piece);
  }));
}

function mean(losses) {
  const counted = losses.filter((loss) => loss != null);
  return counted.reduce((a, b) => a + b, 0) / Math.max(counted.length, 1);
}

function passage(name, shown) {
  const words = table(["token", "loss"], shown.pieces.slice(1).map((piece, i) => [JSON.stringify(piece), significant(shown.losses[i], 3)]), "words");
  return [
    el("h3", {}, `${name}step ${steps(shown.step)}: ${mean(shown.losses).toFixed(3)} nats per token`), coloured(shown),
    el("details", {}, el("summary", {}, "Numbers"), el("div", { class: "scroll", tabindex: "0" }, words)),
  ];
}

/** Any evaluation beside the last one, by a slider. */
function overTime(passages) {
  const before = el("div", { class: "panel" }), last = passages.at(-1);
  const slider = el("input", {
    type: "range", min: 0, max: passages.length - 1, value: 0, "aria-label": "an earlier evaluation", input: () => show(Number(slider.value)),
  });
  const show = (i) => {
    slider.setAttribute("aria-valuetext", `step ${passages[i].step}`);
    before.replaceChildren(...passage("After ", passages[i]), slider);
  };
  show(0);
  const now = el("div", { class: "panel" }, passage("Now, after ", last));
  return el("div", { class: "passages" }, passages.length > 1 ? before : null, now);
}

function passages() {
  const shown = RUNS.filter((run) => run.passages.length);
  if (!shown.length) return null;
  const scale = el("p", { class: "quiet" }, "Each token is coloured by its loss: 0 ", el("span", { class: "heat", role: "img", "aria-label": "from no colour to full colour" }),
    ` ${HOTTEST} nats or more. The first one is given. ${ONE ? "Move the slider to see an earlier evaluation." : ""}`);
  const panels = ONE ? overTime(ONE.passages) : el("div", { class: "passages" },
    shown.map((run) => el("div", { class: "panel" }, passage(`${named[RUNS.indexOf(run)]}, `, run.passages.at(-1)))));
  return section("What the model finds hard", scale, panels);
}

// How to repeat it

function repeat(run) {
  const typed = run.processes.filter((process, i) => i === 0 || /--resume(?= ).* --/.test(process.command ?? ""));
  const commands = typed.map((process) => process.command).filter(Boolean);
  const history = run.processes.map((process) => [`from step ${steps(process.step)}`, process.date ?? "", process.command ?? ""]);
  return [
    commands.length ? el("pre", { tabindex: "0" }, commands.join("\n")) : null,
    history.length > 1 ? el("details", {}, el("summary", {}, `Trained by ${history.length} processes`), el("div", { class: "scroll" }, table(null, history, "words"))) : null,
  ];
}

function settings(run) {
  const titles = { model: "Model", training: "Settings, as they were given", plan: "Plan, every default filled in" };
  const machine = run.processes.at(-1)?.machine ?? {};
  const groups = [...run.settings.map(([name, values]) => [titles[name], values]), ["The machine", machine]];
  return el("div", { class: "panels" }, groups.filter(([, values]) => Object.keys(values).length).map(([title, values]) =>
    el("div", { class: "panel" }, el("h3", {}, title), table(null, Object.entries(values).filter(([, value]) => value !== "null"), "words"))));
}

/** The settings in which runs differ. */
function differences() {
  const given = (values) => Object.entries(values).filter(([, value]) => value !== "null");
  const all = RUNS.map((run) => new Map(run.settings.flatMap(([group, values]) => given(values).map(([name, value]) => [`${group}: ${name}`, value]))));
  const keys = [...new Set(all.flatMap((values) => [...values.keys()]))];
  const rows = keys.filter((key) => new Set(all.map((values) => values.get(key))).size > 1)
    .map((key) => [key, ...all.map((values) => values.get(key) ?? "–")]);
  return section("Settings in which they differ", rows.length
    ? el("div", { class: "panel scroll" }, table(["", ...named], rows, "words")) : el("p", {}, "There are none."));
}

const parts = ONE
  ? [...head(ONE), charts(), layers(ONE), samples(), passages(), section("To repeat it", ...repeat(ONE)), section("Configuration and machine", settings(ONE))]
  : [...comparison(), charts(), differences(), samples(), passages(), ...RUNS.map((run, i) => section(`To repeat ${named[i]}`, ...repeat(run)))];
document.getElementById("report").replaceChildren(...parts.filter(Boolean));
