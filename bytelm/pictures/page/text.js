// Bytes, texts and numbers as a person reads them. Nothing here knows the page or the server.

const SHOWN = new Map([
  [0x09, "⇥"],
  [0x0a, "↵"],
  [0x0d, "␍"],
  [0x20, "·"],
]);
const NAMES = new Map([
  [0x09, "tab"],
  [0x0a, "line end"],
  [0x0d, "carriage return"],
  [0x20, "space"],
]);

/** The UTF-8 bytes of a text. */
export const bytesOf = (text) => new TextEncoder().encode(text);

/** One byte as a cell shows it: a letter, a sign for white space, or two hexadecimal digits. */
export function shownByte(byte) {
  const printable = byte > 0x20 && byte < 0x7f;
  return SHOWN.get(byte) ?? (printable ? String.fromCharCode(byte) : hex(byte));
}

/** One byte in words; null is the end of text. */
export function namedByte(byte) {
  if (byte === null) return "end of text";
  const printable = byte > 0x20 && byte < 0x7f;
  return NAMES.get(byte) ?? (printable ? `‘${String.fromCharCode(byte)}’` : `byte ${hex(byte)}`);
}

/** A text on one line: white space has signs, and other control characters are escapes. */
export function shownText(text) {
  return text.replace(/[\x00-\x20\x7f]/g, (c) => SHOWN.get(c.charCodeAt(0)) ?? `\\x${hex(c.charCodeAt(0))}`);
}

/** The longest beginning of some bytes that is UTF-8, and how many bytes come after it. */
export function wholeText(bytes) {
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  for (let end = bytes.length; end > 0; end--) {
    try {
      return { text: decoder.decode(bytes.subarray(0, end)), left: bytes.length - end };
    } catch {
      // a character is cut at this end, or earlier
    }
  }
  return { text: "", left: bytes.length };
}

/** The bytes of a base64 string. */
export const fromBase64 = (encoded) => Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0));

/** The lines of a field, with \n, \t, \r and \\ read as escapes; empty lines are none. */
export function readLines(value) {
  const escapes = { n: "\n", t: "\t", r: "\r", "\\": "\\" };
  const lines = value.split("\n").filter((line) => line !== "");
  return lines.map((line) => line.replace(/\\([ntr\\])/g, (_, letter) => escapes[letter]));
}

/** A log-probability as a probability; the server writes null for -inf. */
export const probOf = (logprob) => (logprob === null ? 0 : Math.exp(logprob));

/** A log-probability as a surprisal in bits; Infinity where the probability is 0. */
export const bitsOf = (logprob) => (logprob === null ? Infinity : Math.max(0, -logprob / Math.LN2));

/** A probability with four decimals; a smaller one in powers of ten. */
export const shownProb = (prob) => (prob === 0 || prob >= 0.00005 ? prob.toFixed(4) : prob.toExponential(1));

/** A surprisal in words. */
export const shownBits = (bits) => (bits === Infinity ? "∞ bits" : `${bits.toFixed(2)} bits`);

/** A number of things: "1 byte", "2 bytes". */
export const count = (number, thing) => `${number} ${thing}${number === 1 ? "" : "s"}`;

const hex = (byte) => byte.toString(16).padStart(2, "0");
