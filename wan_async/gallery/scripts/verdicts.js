// Verdicts by the sha256 of clips: { verdict: "pick" | "reject", stars, note, at }, each in an item of localStorage.
const STORED = "wan-async/verdict/";
const verdicts = new Map(), listeners = [], undoable = [];
const NONE = Object.freeze({ at: 0 });
let storage = null;

const verdictOf = (take) => (take.sha && verdicts.get(take.sha)) || NONE;
const judgementOf = (take) => verdictOf(take).verdict ?? "open";

function checked(entry) {  // what a file or the storage holds, as far as it is valid
  const { verdict, stars, note, at } = entry ?? {};
  if (typeof at !== "number" || !(at >= 0)) return null;
  const clean = { at };
  if (verdict === "pick" || verdict === "reject") clean.verdict = verdict;
  if (Number.isInteger(stars) && stars >= 1 && stars <= 5) clean.stars = stars;
  if (typeof note === "string" && note) clean.note = note;
  return clean;
}

function readStored(sha) {
  try {
    return checked(JSON.parse(storage?.getItem(STORED + sha) ?? "null"));
  } catch {
    return null;
  }
}

function keep(sha, entry) {
  verdicts.set(sha, entry);
  try {
    storage?.setItem(STORED + sha, JSON.stringify(entry));
  } catch {
    storage = null;
    toast(say("notKept"));
  }
}

function merge(entries) {  // of two entries about a clip the newer one counts
  let read = 0;
  for (const [sha, given] of Object.entries(entries)) {
    const entry = checked(given);
    if (!entry || !/^[0-9a-f]{64}$/.test(sha) || (verdicts.get(sha)?.at ?? -1) >= entry.at) continue;
    keep(sha, entry);
    read += 1;
  }
  return read;
}

function loadVerdicts() {
  try {
    storage = window.localStorage;
    storage.getItem(STORED);
  } catch {
    storage = null;
  }
  for (const { sha } of clips) {
    const entry = sha && readStored(sha);
    if (entry) verdicts.set(sha, entry);
  }
  merge(JSON.parse(find("verdicts").textContent).clips ?? {});
  addEventListener("storage", (event) => {  // another window of this page
    const sha = event.key?.startsWith(STORED) ? event.key.slice(STORED.length) : "";
    const entry = sha && readStored(sha);
    if (!entry) return;
    verdicts.set(sha, entry);
    announce();
  });
}

function announce() {
  for (const listener of listeners) listener();
}

function judge(list, change) {  // `change` is merged into the entry of each take; undefined takes a field off
  const at = Date.now() / 1000, before = [];
  for (const take of list) {
    if (!take.sha) continue;
    before.push([take.sha, verdictOf(take)]);
    keep(take.sha, checked({ ...verdictOf(take), ...change, at }));
  }
  return before;
}

function judgeAll(...steps) {  // each a list of takes and a change; they are undone together
  const before = steps.flatMap(([list, change]) => judge(list, change));
  if (!before.length) return;
  undoable.push(before);
  if (undoable.length > 100) undoable.shift();
  announce();
}

function undo() {
  const before = undoable.pop();
  for (const [sha, entry] of before ?? []) keep(sha, { ...entry, at: Date.now() / 1000 });
  toast(say(before ? "undone" : "nothingToUndo"));
  if (before) announce();
}

function judgeBest(take) {
  const rest = take.shot.takes.filter((other) => other.src && other.sha !== take.sha);
  judgeAll([rest, { verdict: "reject" }], [[take], { verdict: "pick" }]);
}

function exportVerdicts() {
  const found = {};
  for (const take of clips) {
    const entry = take.sha && verdicts.get(take.sha);
    if (entry) found[take.sha] = { ...entry, file: take.file };
  }
  const all = { verdicts: 1, folder: PAGE.folder, exported_at: Date.now() / 1000, clips: found };
  return JSON.stringify(all, null, 1) + "\n";
}

function importVerdicts(text) {  // how many were new; null if the text is no verdicts file
  let content;
  try {
    content = JSON.parse(text);
  } catch {
    return null;
  }
  if (content?.verdicts !== 1 || typeof content.clips !== "object" || content.clips === null) return null;
  const read = merge(content.clips);
  announce();
  return read;
}

function progress() {
  const found = { pick: 0, reject: 0, open: 0 };
  for (const take of clips) found[judgementOf(take)] += 1;
  return found;
}
