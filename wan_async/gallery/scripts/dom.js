const find = (id) => document.getElementById(id);
const plural = new Intl.PluralRules("en");
const count = new Intl.NumberFormat("en").format;
const rootPixels = () => parseFloat(getComputedStyle(document.documentElement).fontSize);

function say(key, values = {}) {
  const text = TEXTS[key];
  const form = typeof text === "string" ? text : text[plural.select(values.n)] ?? text.other;
  return form.replace(/\{(\w+)\}/g, (_, name) => (typeof values[name] === "number" ? count(values[name]) : values[name]));
}

function make(tag, properties, ...children) {  // text children are appended as text, never parsed as markup
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null) continue;
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child || child === 0));
  return element;
}

function button(text, onclick, properties) {
  return make("button", { type: "button", onclick, ...properties }, text);
}

function choice(label, options, value, onchange) {
  const made = options.map(([name, text]) => make("option", { value: name, selected: name === value }, text));
  return make("select", { "aria-label": label, onchange: (event) => onchange(event.target.value) }, made);
}

function segment(label, options, value, onchange) {
  const made = options.map(([name, text]) => button(text, () => onchange(name), { "aria-pressed": name === value }));
  return make("div", { className: "segment", role: "group", "aria-label": label }, made);
}

function dollars(micros) {
  const digits = micros % 10000 ? 6 : 2;
  return "$" + (micros / 1e6).toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: digits });
}

function bytesText(bytes) {
  const power = bytes < 1000 ? 0 : Math.min(3, Math.floor(Math.log10(bytes) / 3));
  return (bytes / 1000 ** power).toFixed(power ? 1 : 0) + " " + ["B", "kB", "MB", "GB"][power];
}

function secondsText(seconds) {
  if (seconds < 60) return seconds.toFixed(1) + " s";
  return Math.floor(seconds / 60) + " min " + Math.round(seconds % 60) + " s";
}

const timeText = (seconds) => new Date(seconds * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
const starsText = (stars) => "★".repeat(stars ?? 0);
const SIGNS = { pick: "✓", reject: "✕" };
const verdictText = (verdict) => verdict && `${SIGNS[verdict]} ${say(verdict)}`;

// A dialog reports late that it was closed. What belongs to that is done at once: the next key may come before.
function whenClosed(dialog, act) {
  dialog.closed = () => { if (!dialog.open) act(); };
  dialog.addEventListener("close", dialog.closed);
}

function closeNow(dialog) {
  dialog.close();
  dialog.closed();
}

const toastLine = find("toast");
let toastTimer;
function toast(text, { stays = false } = {}) {
  placeToast();
  toastLine.textContent = text;
  clearTimeout(toastTimer);
  if (!stays) toastTimer = setTimeout(() => { toastLine.textContent = ""; }, 2500);
}

function placeToast() {  // nothing outside of a modal dialog is seen or read aloud
  const place = [...document.querySelectorAll("dialog[open]")].at(-1) ?? document.body;
  if (toastLine.parentElement !== place) place.append(toastLine);
  const bar = place.querySelector(".top, .bar")?.getBoundingClientRect().bottom ?? 0;
  toastLine.style.setProperty("--bar", `${Math.max(0, bar)}px`);
}

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const had = document.activeElement, area = make("textarea", { value: text, readOnly: true });
    toastLine.parentElement.append(area);
    area.select();
    const isCopied = document.execCommand("copy");
    area.remove();
    had?.focus();
    if (!isCopied) return toast(say("notCopied"));
  }
  return toast(say("copied"));
}

function commandParts(command) {
  return make("div", { className: "command" }, make("code", {}, command), button(say("copyIt"), () => copyText(command)));
}

function saveFile(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "application/octet-stream" }));
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
