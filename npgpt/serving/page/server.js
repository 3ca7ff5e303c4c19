// Ask the server: posts of JSON, streams of events, errors in words, and the token that a server may want.

/** What went wrong, in words. ``param`` is the field of the request that can't be so. */
class Problem extends Error {
  constructor(message, param = null) {
    super(message);
    this.param = param;
  }
}

const key = { // in the tab's storage, which may be closed to us
  value: null,
  get() {
    try { return this.value ?? sessionStorage.getItem("npgpt token"); } catch { return this.value; }
  },
  set(value) {
    this.value = value;
    try { sessionStorage.setItem("npgpt token", value); } catch { /* then it lasts until the page is left */ }
  },
};

/** The server wants a token, and the reader gave none. */
class NeedsToken extends Problem {
  constructor() {
    super("This server needs a token.");
  }
}

/**
 * Post an object -> the response, if it is a success. Raises Problem, or AbortError. ``quietly``: ask for no token. The server
 * refuses pages of another one: the ids of their tokens may mean something else.
 */
async function post(path, body, signal, quietly = false) {
  for (;;) {
    const shown = key.get(), headers = { "Content-Type": "application/json", "Npgpt-Started": DATA.started };
    if (shown) headers.Authorization = `Bearer ${shown}`;
    let answer;
    try {
      answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal, credentials: "omit", redirect: "error" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem("The server does not answer. Is npgpt.serve still running?");
    }
    if (answer.ok) return answer;
    if (answer.status !== 401) throw await problemOf(answer);
    if (quietly || !(await askForKey(Boolean(shown)))) throw new NeedsToken();
  }
}

async function problemOf(answer) {
  let error;
  try {
    error = (await answer.json()).error;
    if (!error.message) throw new Error();
  } catch { // not npgpt.serve but a proxy answers
    return new Problem(`The server answers with the status ${answer.status}.`);
  }
  if (error.code === "context_length_exceeded") {
    return new Problem(`This is more than the ${whole(DATA.context)} tokens that the model sees at once: shorten it.`, error.param);
  }
  const wait = answer.headers.get("Retry-After");
  const later = answer.status === 503 && wait ? ` Try again in ${wait} s.` : "";
  return new Problem(`${sentence(error.message)}${later}`, error.param);
}

/** The server's words, as a sentence; without the field's name, beside which they stand. */
function sentence(message) {
  const text = message.replace(/^prompt: /, "");
  return `${text[0].toUpperCase()}${text.slice(1)}${text.endsWith(".") ? "" : "."}`;
}

/** The objects of a stream of events, as they come. Raises Problem if it is cut, or says that something went wrong. */
async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      part = { done: true };
    }
    if (part.done) throw new Problem("The connection to the server is cut. What was made until then is here.");
    const found = (rest + part.value).split("\n\n");
    rest = found.pop();
    for (const event of found) {
      const data = event.slice("data: ".length);
      if (data === "[DONE]") return;
      let value;
      try {
        value = JSON.parse(data);
      } catch {
        throw new Problem("The answer can't be read: is it from npgpt.serve?");
      }
      if (value.error) throw new Problem(`The text could not be finished. ${sentence(value.error.message)}`);
      yield value;
    }
  }
}

/** Ask the reader for the server's token -> whether there is one now. ``wasWrong``: the last one wasn't it. */
function askForKey(wasWrong) {
  const dialog = find("key"), field = find("key-value");
  field.value = dialog.returnValue = ""; // it holds the answer before
  keyProblem(wasWrong ? "The server does not take this token." : "");
  if (!dialog.open) dialog.showModal();
  field.focus();
  return new Promise((done) => dialog.addEventListener("close", () => done(dialog.returnValue === "taken"), { once: true }));
}

function keyProblem(text) {
  say(find("key-problem"), text);
  find("key-value").setAttribute("aria-invalid", String(Boolean(text)));
}

find("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const value = find("key-value").value.trim();
  if (!/^[\x21-\x7e]{16,4096}$/.test(value)) return keyProblem("A token has at least 16 letters, digits or signs, and no spaces.");
  key.set(value);
  find("key").close("taken");
});
find("key-cancel").addEventListener("click", () => find("key").close());
