// The text as a list of tokens: each can be pointed at, has the focus in turn, and is chosen by a click or Enter.

const listbox = find("tokens");
const tokenView = {
  tokens: [],
  elements: [],
  focused: 0, // the one that Tab comes to
  choose: () => {}, // (index, by the keyboard): a token was chosen
  point: () => {}, // (index): a token has the pointer or the focus; null: none has
};

/** Show a text's tokens. Elements stay as long as what they show does, so that the focus does. */
function showTokens(tokens, moreCanCome) {
  const view = tokenView, parts = characters(tokens, moreCanCome), hadFocus = listbox.contains(document.activeElement);
  view.tokens = tokens;
  for (const extra of view.elements.splice(tokens.length)) extra.remove();
  tokens.forEach((token, i) => {
    const label = labelOf(token), classes = classesOf(token, parts[i]);
    const state = `${classes} ${label} ${JSON.stringify(parts[i])}`;
    let element = view.elements[i];
    if (!element) {
      element = view.elements[i] = el("span", { role: "option", tabindex: "-1", "aria-selected": "false" });
      listbox.append(element);
    }
    if (element.shows === state) return;
    element.shows = state;
    element.className = classes;
    element.title = label;
    element.setAttribute("aria-label", label);
    element.replaceChildren(...(token.id === DATA.end ? ["end of text"] : shownParts(parts[i])));
  });
  listbox.hidden = !tokens.length;
  setFocused(Math.min(view.focused, Math.max(0, tokens.length - 1)));
  if (hadFocus && !listbox.contains(document.activeElement)) focusToken(view.focused); // its token is gone
}

function labelOf(token) {
  const p = token.logprob === null ? "" : `, ${percent(Math.exp(token.logprob))}`;
  return `${token.shown}${p}${token.prompt ? ", of the prompt" : token.chosen ? ", chosen by you" : ""}`;
}

function classesOf(token, parts) {
  const classes = ["token"];
  if (token.prompt) classes.push("prompt");
  else if (token.logprob !== null) classes.push(`band-${band(Math.exp(token.logprob))}`);
  if (token.chosen) classes.push("chosen");
  if (token.id === DATA.end) classes.push("end");
  else if (!parts.length) classes.push("part");
  return classes.join(" ");
}

function setFocused(index) {
  tokenView.elements[tokenView.focused]?.setAttribute("tabindex", "-1");
  tokenView.focused = index;
  tokenView.elements[index]?.setAttribute("tabindex", "0");
}

function focusToken(index) {
  const element = tokenView.elements[index];
  if (!element) return;
  setFocused(index);
  element.focus({ preventScroll: true });
  element.scrollIntoView({ block: "nearest" });
}

/** Mark the one whose alternatives are shown; null: none. */
function markSelected(index) {
  listbox.querySelector("[aria-selected=true]")?.setAttribute("aria-selected", "false");
  tokenView.elements[index]?.setAttribute("aria-selected", "true");
}

const indexOf = (node) => tokenView.elements.indexOf(node.closest?.("[role=option]"));

/** The token in the line above or below that is nearest. */
function inLine(index, direction) {
  const boxes = tokenView.elements.map((element) => [...element.getClientRects()].at(-1));
  const here = boxes[index], middle = (box) => (box.left + box.right) / 2;
  const isBeyond = (box) => (direction > 0 ? box.top > here.top + 5 : box.top < here.top - 5);
  const beyond = [...boxes.keys()].filter((i) => boxes[i] && isBeyond(boxes[i]));
  if (!beyond.length) return index;
  const line = direction > 0 ? Math.min(...beyond.map((i) => boxes[i].top)) : Math.max(...beyond.map((i) => boxes[i].top));
  const far = (i) => Math.abs(middle(boxes[i]) - middle(here));
  return beyond.filter((i) => Math.abs(boxes[i].top - line) < 5).reduce((best, i) => (far(i) < far(best) ? i : best));
}

listbox.addEventListener("keydown", (event) => {
  const index = indexOf(event.target), last = tokenView.elements.length - 1;
  if (index < 0 || event.ctrlKey || event.altKey || event.metaKey) return;
  const to = { ArrowLeft: () => index - 1, ArrowRight: () => index + 1, ArrowUp: () => inLine(index, -1),
    ArrowDown: () => inLine(index, 1), Home: () => 0, End: () => last }[event.key];
  if (to) focusToken(Math.max(0, Math.min(last, to())));
  else if (event.key === "Enter" || event.key === " ") tokenView.choose(index, true);
  else return;
  event.preventDefault();
});
listbox.addEventListener("click", (event) => {
  const index = indexOf(event.target);
  if (index < 0 || !getSelection().isCollapsed) return; // text is being marked
  focusToken(index);
  tokenView.choose(index, false);
});
listbox.addEventListener("focusin", (event) => {
  const index = indexOf(event.target);
  if (index < 0) return;
  setFocused(index);
  tokenView.point(index);
});
listbox.addEventListener("pointerover", (event) => {
  const index = indexOf(event.target);
  if (index >= 0 && event.pointerType === "mouse") tokenView.point(index, true);
});
listbox.addEventListener("pointerleave", () => {
  tokenView.point(listbox.contains(document.activeElement) ? tokenView.focused : null, true);
});
