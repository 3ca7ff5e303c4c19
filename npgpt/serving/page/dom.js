"use strict";
// What all parts of the page use: the data, elements, numbers as text.

const DATA = JSON.parse(document.getElementById("data").textContent);
const find = (id) => document.getElementById(id);

/** An element: its attributes (a function is an event's listener), then its contents: elements and texts. */
function el(name, attributes = {}, ...contents) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(key, value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...contents.flat());
  return made;
}

/** A probability for people. */
function percent(p) {
  if (p >= 0.0995) return `${(100 * p).toFixed(0)}%`;
  return p < 1e-6 ? "<0.0001%" : `${Number((100 * p).toPrecision(2))}%`;
}
const whole = (n) => n.toLocaleString("en");
const counted = (n, one) => `${whole(n)} ${one}${n === 1 ? "" : "s"}`;

// Classes of probability, and of how much a token looks at another: what each has at least. The notebook's are the same.
const BANDS = [0.5, 0.2, 0.05, 0.01, 0];
const band = (p) => BANDS.findIndex((low) => p >= low);
const bandName = (i) => (i < BANDS.length - 1 ? `from ${100 * BANDS[i]}%` : `below ${100 * BANDS[i - 1]}%`);

/** Show an element with a text, or hide it without one. */
function say(element, text) {
  element.textContent = text;
  element.hidden = !text;
}
