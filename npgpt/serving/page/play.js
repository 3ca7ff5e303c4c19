// A text from its prompt to its end, and what the buttons and keys do.

let shown = newEntry([], 0); // the text on the page
let running = null; // what is being made: { abort, entry }
let isDrawn = true;

/** Show the text soon: many tokens may come before the screen is drawn again. */
function redraw() {
  if (!isDrawn) return;
  isDrawn = false;
  requestAnimationFrame(() => { isDrawn = true; draw(); });
}

function draw() {
  const isMaking = running !== null && running.entry === shown;
  showTokens(shown.tokens, isMaking);
  if (alternatives.index !== null) showPlace(alternatives.index);
  const isEmpty = !shown.tokens.length;
  find("empty").hidden = !isEmpty;
  find("tools").hidden = isEmpty;
  find("legend").hidden = isEmpty;
  showAttention(shown.tokens, isMaking);
}

/** Say how a text is doing, if it is the one on the page. It is said again when the text comes back. */
function tell(entry, status, problem = "") {
  Object.assign(entry, { status, problem });
  const anotherComes = running !== null && running.entry !== entry; // then the status is about that one
  if (entry === shown && !anotherComes) showStatus(status, problem);
}

function showStatus(status, problem = "") {
  find("status").textContent = status;
  say(find("problem"), problem);
}

function showRunning() {
  const button = find("go");
  button.textContent = running ? "Stop" : "Generate";
  button.classList.toggle("stops", running !== null);
  find("keys").textContent = running ? "Escape" : "Ctrl + Enter";
  find("count").textContent = "";
  listbox.setAttribute("aria-busy", String(running !== null));
}

/** Make a text of the prompt. If it is that of the text on the page, its tokens are known. */
function makeOfPrompt() {
  shown.prompt = shown.source ?? shown.prompt; // what the field holds is the next text's
  const prompt = find("prompt").value, known = prompt === shown.source ? shown.tokens.filter((token) => token.prompt) : [];
  const isRead = known.length && known.every((token, i) => i === 0 || token.logprob !== null);
  make(isRead ? known.map((token) => token.id) : prompt, isRead ? known : null, prompt);
}

/** Make a text. ``prompt``: a text, or ids; then ``kept`` are their tokens. What is on the page stays until one comes. */
async function make(prompt, kept, source = null) {
  const settings = readSettings();
  if (!settings) return;
  abandon();
  const run = (running = { abort: new AbortController(), entry: null, source });
  const told = { made: 0, room: 0, ended: null, wanted: settings.max_tokens, began: performance.now(), now: null };
  fieldProblem("prompt", "");
  showStatus("Waiting for the server.");
  showRunning();
  try {
    const asked = { prompt, ...settings, score_prompt: kept === null };
    const answer = await post("playground/generate", asked, run.abort.signal);
    for await (const event of events(answer)) {
      if (running !== run) return;
      take(event, run, kept, told);
    }
    tell(run.entry, ending(told));
  } catch (error) {
    finish(error, run, told);
  } finally {
    if (running === run) {
      running = null;
      showRunning();
      draw();
    }
  }
}

/** What the server tells of a text. */
function take({ prompt, max_tokens: room, token, ended }, run, kept, told) {
  if (prompt) {
    const tokens = kept ?? prompt.map((one) => ({ ...one, prompt: true }));
    if (!run.entry) enter(run, [...tokens]);
    else {
      run.entry.tokens.splice(0, tokens.length, ...tokens); // now with probabilities
      if (alternatives.index !== null && alternatives.index < tokens.length) openAlternatives(alternatives.index);
    }
  }
  if (room !== undefined) told.room = room;
  if (token) {
    run.entry.tokens.push(token);
    told.made += 1;
    told.began = told.now === null ? performance.now() : told.began; // the first one's time is the prompt's
    told.now = performance.now();
    find("count").textContent = `${whole(told.made)} of ${whole(told.room)}`;
  }
  if (ended) told.ended = ended;
  redraw();
}

/** Let a new text take the place of the one before, which Back brings again. */
function enter(run, tokens) {
  closeAlternatives();
  run.entry = shown = newEntry(tokens, shown.place + 1, run.source);
  keep(shown);
  history.pushState({ id: shown.id, place: shown.place }, "");
  tell(shown, "Making the text.");
}

/** How a text ended, in words. */
function ending({ made, room, ended, wanted, began, now }) {
  const speed = made > 1 && now > began ? `, ${whole(Math.round((made - 1) / ((now - began) / 1000)))} tokens/s` : "";
  if (ended === "stop") return `The model ended the text after ${counted(made, "token")}${speed}.`;
  if (room < wanted) return `${counted(made, "token")}${speed}. There was room for no more: the model sees ${whole(DATA.context)} at once.`;
  return wanted === 0 ? "The prompt was read." : `${counted(made, "token")}${speed}.`;
}

/** Say why a text is not complete. */
function finish(error, run, told) {
  const isCurrent = running === run;
  if (error.name !== "AbortError" && !(error instanceof Problem)) throw error;
  const problem = error instanceof Problem && !(isCurrent && showAtField(error)) ? error.message : "";
  if (run.entry) tell(run.entry, `${problem ? "" : "Stopped after "}${counted(told.made, "token")}${problem ? " until then" : ""}.`, problem);
  else if (isCurrent) showStatus(shown.status, problem);
}

/** Make the text that is being made no longer; another one comes. */
function abandon() {
  running?.abort.abort();
  running = null;
  showRunning();
}

/** Go on from these tokens, by their ids. */
function goOn(tokens) {
  if (tokens.length > DATA.context) return showStatus(shown.status, `The model sees ${whole(DATA.context)} tokens at once, and the text has as many: go on from one before.`);
  shown.prompt = find("prompt").value;
  const prompt = (list) => list.filter((token) => token.prompt).length;
  make(tokens.map((token) => token.id), tokens, prompt(tokens) === prompt(shown.tokens) ? shown.source : null);
}

alternatives.take = (index, other) => {
  const tokens = shown.tokens.slice(0, index), { likeliest } = shown.tokens[index];
  tokens.push({ id: other.id, bytes: other.bytes, shown: other.shown, logprob: other.logprob, likeliest, chosen: true });
  closeAlternatives(true);
  goOn(tokens);
};
tokenView.choose = (index, byKeyboard) => (isAttention() ? look(index) : openAlternatives(index, byKeyboard));
tokenView.point = (index, isPassing = false) => {
  if (isAttention()) look(index);
  else if (alternatives.index !== null && !isPassing) openAlternatives(index);
};

find("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) stop();
  else makeOfPrompt();
});
find("go").addEventListener("click", (event) => {
  if (event.detail > 1) event.preventDefault(); // a double click asks once
});
find("prompt").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  if (!event.repeat) makeOfPrompt(); // a key that is held asks once
});

/** Make the text that is being made no longer. ``finish`` says how far it came. */
function stop() {
  running.abort.abort();
}

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.defaultPrevented || event.isComposing || find("key").open) return;
  if (running && !panel.contains(document.activeElement)) stop();
  else closeAlternatives();
});
find("more").addEventListener("click", () => goOn(shown.tokens));
find("copy").addEventListener("click", async (event) => {
  const button = event.currentTarget;
  try {
    await navigator.clipboard.writeText(plainText(shown.tokens));
    button.textContent = "Copied";
  } catch { // pages without TLS from other computers may not
    getSelection().selectAllChildren(listbox);
    button.textContent = "Marked";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
});
find("view").addEventListener("change", showView);
find("layer").addEventListener("change", draw);

function showView() {
  closeAlternatives();
  document.body.classList.toggle("attends", isAttention());
  find("attention").hidden = !isAttention();
  if (!isAttention()) forgetAttention();
  showLegend();
  draw();
}

function showLegend() {
  const words = isAttention() ? "Looks at" : "Probability";
  const prefix = isAttention() ? "look" : "band";
  const classes = [...BANDS.keys()].map((i) => el("span", { class: `token ${prefix}-${i}` }, bandName(i)));
  find("legend").replaceChildren(el("span", { class: "quiet" }, words), ...classes);
}

addEventListener("popstate", (event) => {
  abandon();
  closeAlternatives(false);
  shown.prompt = find("prompt").value;
  show(event.state);
});

/** Show the text that an entry of the tab's history stands for. */
function show(state) {
  const entry = entries.get(state?.id);
  shown = entry ?? newEntry([], state?.place ?? 0);
  find("prompt").value = shown.prompt;
  find("prompt").dispatchEvent(new Event("input"));
  showStatus(entry ? shown.status : "This text is gone, since the page was loaded anew.", shown.problem);
  draw();
}

find("model").textContent = `${DATA.model} · ${counted(DATA.layers, "layer")}, ${counted(DATA.heads, "head")}, sees ${whole(DATA.context)} tokens at once`;
restoreTexts();
if (entries.has(history.state?.id)) show(history.state);
else {
  shown.place = history.state?.place ?? Math.max(-1, ...[...entries.values()].map((entry) => entry.place)) + 1;
  keep(shown);
  history.replaceState({ id: shown.id, place: shown.place }, "");
}
showView();
