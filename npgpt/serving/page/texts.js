// The texts of a tab: those that Back and Forward reach. They outlive loading the page anew, in the tab's storage.

/**
 * A text, as it stands in the tab's history. ``prompt``: what the field holds when Back brings the text. ``source``: the prompt
 * that its first tokens are; null if they are no prompt as it was written. ``place``: how many texts are before it.
 */
const loaded = String(performance.timeOrigin), entries = new Map();
const KEPT = 50; // texts: browsers go back no further
let entriesMade = 0;
function newEntry(tokens, place, source = null) {
  return { id: `${loaded}-${entriesMade++}`, place, prompt: find("prompt").value, source, tokens, status: "", problem: "" };
}

/** Keep a text that enters the history, and forget those that neither Back nor Forward reaches any more. */
function keep(entry) {
  for (const [id, { place }] of entries) if (place >= entry.place || place <= entry.place - KEPT) entries.delete(id);
  entries.set(entry.id, entry);
}

const STORED = "npgpt texts", SERVER = `${DATA.model}, ${DATA.started}`; // another one may have other weights

/** Store the texts. The tab's storage takes some megabytes; if all are too much, the one on the page alone. */
function storeTexts() {
  shown.prompt = find("prompt").value;
  const left = (entry) => (entry === running?.entry ? { ...entry, status: "The page was closed while this text was made." } : entry);
  for (const texts of [[...entries.values()], [shown]]) {
    try {
      return sessionStorage.setItem(STORED, JSON.stringify({ server: SERVER, prompt: shown.prompt, texts: texts.map(left) }));
    } catch { /* full, or closed to us */ }
  }
}

function restoreTexts() {
  try {
    const stored = JSON.parse(sessionStorage.getItem(STORED));
    if (stored?.server === SERVER) for (const entry of stored.texts) entries.set(entry.id, entry);
    else if (stored) shown.prompt = find("prompt").value = stored.prompt ?? ""; // it is the reader's, whatever the server is
  } catch { /* closed to us */ }
}

addEventListener("beforeunload", () => { if (running) stop(); });
addEventListener("pagehide", storeTexts);
// A browser that needs memory closes a hidden page without a word.
document.addEventListener("visibilitychange", () => { if (document.hidden) storeTexts(); });
