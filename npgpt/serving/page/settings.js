// The fields of the form: what they can be, what is said if they are not so, and what they mean for the server.

const MOST = 2 ** 31 - 1;
const FIELDS = {
  temperature: { allows: (x) => x > 0 && x <= 2, wanted: "a number above 0 and at most 2" },
  top_k: { allows: (x) => Number.isInteger(x) && x >= 0 && x <= MOST, wanted: `a whole number from 0 to ${whole(MOST)}` },
  top_p: { allows: (x) => x > 0 && x <= 1, wanted: "a number above 0 and at most 1" },
  seed: { allows: (x) => Number.isInteger(x) && x >= 0 && x <= MOST, wanted: `a whole number from 0 to ${whole(MOST)}` },
  max_tokens: { allows: (x) => Number.isInteger(x) && x >= 0 && x <= MOST, wanted: `a whole number from 0 to ${whole(MOST)}` },
};
const DRAWN = ["temperature", "top_k", "top_p", "seed"];
const STRATEGIES = {
  sampling: "Tokens are drawn, each by its probability.",
  greedy: "Always the likeliest token. A prompt gives the same text each time.",
};

const chosen = (name) => document.querySelector(`input[name=${name}]:checked`).value;

/** Say at a field what is wrong with it; "" when nothing is. */
function fieldProblem(name, text) {
  say(find(`${name}-problem`), text);
  find(name).setAttribute("aria-invalid", String(Boolean(text)));
}

/** Whether a field is right; it says so if it isn't. */
function check(name) {
  const text = find(name).value.trim(), { allows, wanted } = FIELDS[name];
  const isRight = text !== "" && allows(Number(text));
  fieldProblem(name, isRight ? "" : `It must be ${wanted}.`);
  return isRight;
}

/** What the fields say, as the server takes it; a new seed is shown. null: a field is wrong, says so, and has the focus. */
function readSettings() {
  const isGreedy = chosen("strategy") === "greedy";
  if (!isGreedy && find("new_seed").checked) find("seed").value = Math.floor(Math.random() * (MOST + 1));
  const names = isGreedy ? ["max_tokens"] : [...DRAWN, "max_tokens"];
  const wrong = names.filter((name) => !check(name));
  if (wrong.length) {
    find("settings").open = true;
    find(wrong[0]).focus();
    return null;
  }
  const values = Object.fromEntries(names.map((name) => [name, Number(find(name).value)]));
  return isGreedy ? { ...values, temperature: 0 } : values;
}

/** Show the server's complaint at the field that it is about -> whether there is such a field. */
function showAtField(problem) {
  const name = problem.param?.match(/^\w+/)?.[0];
  if (name !== "prompt" && !(name in FIELDS)) return false;
  if (name !== "prompt") find("settings").open = true;
  fieldProblem(name, problem.message);
  find(name).focus();
  return true;
}

function showStrategy() {
  const strategy = chosen("strategy");
  find("strategy-says").textContent = STRATEGIES[strategy];
  for (const field of document.querySelectorAll(".drawn")) field.hidden = strategy === "greedy";
}

function showSeed() {
  find("seed").readOnly = find("new_seed").checked;
}

/** How many tokens the prompt has, a moment after it was changed. */
const promptSize = { timer: 0, asked: null, locked: false };
async function countPrompt() {
  promptSize.asked?.abort();
  const asked = (promptSize.asked = new AbortController()), prompt = find("prompt").value, said = find("prompt-size");
  if (!prompt || (promptSize.locked && !key.get())) return void (said.textContent = "");
  try {
    const answer = await post("playground/tokens", { prompt }, asked.signal, true);
    said.textContent = `${counted((await answer.json()).tokens.length, "token")} of ${whole(DATA.context)}`;
    promptSize.locked = false;
  } catch (problem) {
    if (asked.signal.aborted) return;
    said.textContent = "";
    if (problem.param === "prompt") fieldProblem("prompt", problem.message);
    promptSize.locked = problem instanceof NeedsToken;
  }
}

const LEFT = "npgpt settings";

/** Store the fields as they are left. */
function storeSettings() {
  const values = Object.fromEntries(Object.keys(FIELDS).map((name) => [name, find(name).value]));
  const settings = { values, strategy: chosen("strategy"), isSeedNew: find("new_seed").checked };
  try { sessionStorage.setItem(LEFT, JSON.stringify(settings)); } catch { /* full, or closed to us */ }
}

/** When the page is loaded anew, its fields are as they were left; a new visit has the defaults. */
function restoreSettings() {
  if (performance.getEntriesByType("navigation")[0]?.type === "navigate") return;
  try {
    const { values, strategy, isSeedNew } = JSON.parse(sessionStorage.getItem(LEFT));
    for (const name of Object.keys(FIELDS)) find(name).value = values[name] ?? find(name).value;
    find("strategy").querySelector(`input[value=${strategy}]`).checked = true;
    find("new_seed").checked = isSeedNew;
  } catch { /* nothing is stored, or it is closed to us */ }
}

for (const [name, value] of Object.entries(DATA.defaults)) find(name).value = value;
restoreSettings();
addEventListener("pagehide", storeSettings);
for (const name of Object.keys(FIELDS)) find(name).addEventListener("change", () => check(name));
find("prompt").addEventListener("input", () => {
  fieldProblem("prompt", "");
  clearTimeout(promptSize.timer);
  promptSize.timer = setTimeout(countPrompt, 300);
});
find("strategy").addEventListener("change", showStrategy);
find("new_seed").addEventListener("change", showSeed);
find("settings").open = matchMedia("(min-width: 48rem)").matches;
showStrategy();
showSeed();
