// The panel beside the text: what the model thought of in a token's place.

const panel = find("panel");
const alternatives = {
  index: null, // the token whose alternatives are shown
  take: () => {}, // (index, alternative): the text is to go on from this one
};

function openAlternatives(index, moveFocus = false) {
  const token = tokenView.tokens[index], list = [...token.likeliest];
  alternatives.index = index;
  markSelected(index);
  if (token.logprob !== null && !list.some((other) => other.id === token.id)) list.push(token);
  find("panel-title").textContent = token.shown;
  showPlace(index);
  find("panel-says").textContent = list.length
    ? "What the model thought of here, by its own probability, before temperature, top-k and top-p. Choose one, and the text goes on from it."
    : index ? "The probability of this token is not known." : "Nothing stands before this token, so the model says nothing of it.";
  find("alternatives").replaceChildren(...list.map((other) => alternativeItem(index, token, other)));
  panel.hidden = false;
  document.body.classList.add("with-panel");
  tokenView.elements[index].scrollIntoView({ block: "nearest" });
  if (moveFocus) (panel.querySelector("#alternatives button") ?? find("panel-close")).focus();
}

/** Say where the token stands. The text may grow meanwhile. */
function showPlace(index) {
  const token = tokenView.tokens[index];
  const place = `token ${whole(index + 1)} of ${whole(tokenView.tokens.length)}, id ${token.id}`;
  find("panel-place").textContent = token.logprob === null ? place : `${percent(Math.exp(token.logprob))} · ${place}`;
  find("panel-before").disabled = index === 0;
  find("panel-after").disabled = index === tokenView.tokens.length - 1;
}

function alternativeItem(index, token, other) {
  const p = Math.exp(other.logprob), isHere = other.id === token.id;
  const bar = el("i", { class: "size", "aria-hidden": "true" });
  bar.style.setProperty("--p", p);
  const button = el("button", { type: "button", "aria-current": isHere ? "true" : null, click: () => alternatives.take(index, other) },
    bar, el("span", { class: "shown" }, other.shown), isHere ? el("span", { class: "here quiet" }, "in the text") : "",
    el("span", { class: "numbers" }, percent(p)));
  return el("li", {}, button);
}

/** Close the panel; if the focus was in it, the token gets it. */
function closeAlternatives(giveFocus = panel.contains(document.activeElement)) {
  const index = alternatives.index;
  if (index === null) return;
  alternatives.index = null;
  panel.hidden = true;
  document.body.classList.remove("with-panel");
  markSelected(null);
  if (giveFocus) focusToken(index);
}

/** Go to a neighbour, and leave the focus where it is. */
function stepTo(index, button) {
  setFocused(index);
  openAlternatives(index);
  if (button.disabled) find("panel-close").focus();
}

find("panel-close").addEventListener("click", () => closeAlternatives(true));
find("panel-before").addEventListener("click", (event) => stepTo(alternatives.index - 1, event.currentTarget));
find("panel-after").addEventListener("click", (event) => stepTo(alternatives.index + 1, event.currentTarget));
panel.addEventListener("keydown", (event) => {
  const buttons = [...panel.querySelectorAll("#alternatives button")], at = buttons.indexOf(document.activeElement);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
  if (at < 0 || to === undefined) return;
  event.preventDefault();
  buttons[Math.max(0, Math.min(buttons.length - 1, to))].focus();
});
