// From the bytes of tokens to what can be seen. A token may be a part of a character, or no text at all.

const strictly = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const bytesOf = (token) => Uint8Array.from(token.bytes.match(/../g) ?? [], (digits) => parseInt(digits, 16));

/** How many bytes a character has that begins with this one; 0: none begins so. */
function lengthFrom(byte) {
  if (byte < 0x80) return 1;
  return byte >= 0xc2 && byte < 0xe0 ? 2 : byte >= 0xe0 && byte < 0xf0 ? 3 : byte >= 0xf0 && byte < 0xf5 ? 4 : 0;
}

/**
 * What each token of a text shows: lists of { text } and { byte }, a byte that belongs to no character. A character that
 * several tokens share stands in the last of them, and the others show nothing. One that is unfinished at the end shows
 * nothing as long as more can come.
 */
function characters(tokens, moreCanCome) {
  const bytes = [], owners = [], shown = tokens.map(() => []);
  tokens.forEach((token, i) => bytesOf(token).forEach((byte) => { bytes.push(byte); owners.push(i); }));
  const add = (owner, part) => {
    const last = shown[owner].at(-1);
    if (part.text !== undefined && last?.text !== undefined) last.text += part.text;
    else shown[owner].push(part);
  };
  for (let at = 0; at < bytes.length;) {
    const length = lengthFrom(bytes[at]), some = bytes.slice(at, at + length);
    if (length > some.length && moreCanCome && some.slice(1).every((byte) => byte >> 6 === 2)) break;
    const text = length && some.length === length ? decoded(some) : null;
    if (text === null) add(owners[at], { byte: bytes[at++] });
    else {
      add(owners[at + length - 1], { text });
      at += length;
    }
  }
  return shown;
}

function decoded(bytes) {
  if (bytes.length === 1) return String.fromCharCode(bytes[0]);
  try { return strictly.decode(Uint8Array.from(bytes)); } catch { return null; }
}

/** All tokens as a text to copy. */
function plainText(tokens) {
  const bytes = tokens.filter((token) => token.id !== DATA.end).flatMap((token) => [...bytesOf(token)]);
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(bytes));
}

// What would not be seen, or not for what it is: control characters, marks of direction, spaces that are none, and the like.
const UNSEEN = /((?! )[\p{Cc}\p{Cf}\p{Co}\p{Cn}\p{Z}])/u;

/** A character's number, or a byte, as Python and the panel write it. */
function escaped(code, isByte = false) {
  const digits = (count) => code.toString(16).padStart(count, "0");
  if (isByte || code < 128) return code === 13 ? "\\r" : `\\x${digits(2)}`;
  return code < 0x10000 ? `\\u${digits(4)}` : `\\U${digits(8)}`;
}

/** The nodes that show a token's parts. */
function shownParts(parts) {
  return parts.flatMap((part) => {
    if (part.byte !== undefined) return el("span", { class: "escaped" }, escaped(part.byte, true));
    return part.text.split(UNSEEN).filter(Boolean).map((piece) => {
      if (piece === "\n") return el("span", { class: "newline" }, piece);
      if (piece === "\t") return el("span", { class: "tab" }, piece);
      return UNSEEN.test(piece) ? el("span", { class: "escaped" }, escaped(piece.codePointAt(0))) : piece;
    });
  });
}
