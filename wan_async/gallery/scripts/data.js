// What the journal holds: shots (an image and texts) and their takes (a clip, or a job that has none).
const PAGE = JSON.parse(find("page").textContent);
const [PROMPT, ...OTHERS] = PAGE.parameters;
const VARIED = OTHERS.filter(({ kind }) => kind === "choice" || kind === "integer");
const shots = [], takes = [];
const wordOf = (state) => TEXTS.states[state]?.word ?? state;

function readRow(row) {
  if (row.texts) {
    row.image ??= "";
    shots[row.shot] = { ...row, takes: [] };
    return;
  }
  const shot = shots[row.shot], state = row.state ?? "stored";
  const about = {
    shot, state, id: row.id, key: row.key ?? row.id, group: PAGE.states[state]?.group ?? "stored",
    values: row.values ?? {}, task: row.task, cost: row.cost, seconds: row.seconds, at: row.at, prepare: row.prepare ?? false,
    reason: row.reason ?? TEXTS.states[state]?.meaning ?? "", earlier: state === "earlier",
  };
  (row.clips ?? [{}]).forEach(({ file = "", src, type = "video/mp4", bytes, sha256 }, output) => {
    const source = file && (src ?? "./" + file);
    const take = { ...about, index: takes.length, output, file, src: source, type, bytes, sha: sha256, mark: 0 };
    if (output) take.cost = undefined;  // the task was paid for once
    shot.takes.push(take);
    takes.push(take);
  });
}

for (const line of find("rows").textContent.split("\n")) if (line) readRow(JSON.parse(line));
find("rows").remove();
const clips = takes.filter((take) => take.src);
nameShots();

function nameShots() {  // by what the ids of their takes have in common; ids that were made up for texts say nothing
  const named = new Map();
  for (const shot of shots) {
    const ids = shot.takes.map(({ id }) => id), isMadeUp = !shot.image && ids.every((id) => /^text-[0-9a-f]{8}/.test(id));
    shot.name = isMadeUp && firstWords(shot.texts[PROMPT.name] ?? "") || commonName(ids);
    if (shot.takes.length > 1) named.set(shot.name, [...named.get(shot.name) ?? [], shot]);
  }
  for (const [name, same] of named) {
    if (same.length > 1) same.forEach((shot, at) => { shot.name = say("oneOfShots", { name, n: at + 1 }); });
  }
}

function firstWords(text) {
  const words = text.trim().split(/\s+/), first = words.slice(0, 5).join(" ").slice(0, 60);
  return words.length > 5 ? `${first} …` : first;
}

function commonName(ids) {
  let length = ids[0].length;
  for (const id of ids) while (!id.startsWith(ids[0].slice(0, length))) length -= 1;
  return ids[0].slice(0, length).replace(/[-_.\s]+$/, "") || ids[0];
}

const isVideo = (take) => take.type.startsWith("video/");
const isImage = (take) => take.type.startsWith("image/");

function valueText({ kind, label }, value) {
  return kind === "integer" ? `${label} ${value}` : value;
}

function compareValues({ kind, choices }, one, other) {
  if (one === other) return 0;
  if (kind === "choice") return choices.indexOf(one) - choices.indexOf(other) || (one < other ? -1 : 1);
  const numbers = /^-?\d{1,40}$/.test(one) && /^-?\d{1,40}$/.test(other);  // up to 64 bits: more than a number holds
  return (numbers ? BigInt(one) < BigInt(other) : one < other) ? -1 : 1;
}

function distinct(list, parameter) {
  const values = new Set(list.map((take) => take.values[parameter.name] ?? ""));
  return [...values].sort((one, other) => compareValues(parameter, one, other));
}

function facts(take, except = []) {  // its choices and integers, in short
  return VARIED.filter((each) => !except.includes(each)).flatMap((each) => {
    const value = take.values[each.name];
    return value && value !== "Default" ? [valueText(each, value)] : [];
  });
}

function ratioOf(take) {  // of a take's width to its height, from its parameters or from what was seen of its clips
  for (const { kind, name } of VARIED) {
    const parts = kind === "choice" && /^(\d+):(\d+)$/.exec(take.values[name] ?? "");
    if (parts) return parts[1] / parts[2];
  }
  return take.shot.ratio;
}

const linkOf = (take) => (take.sha ? take.sha.slice(0, 16) : take.key);
const byLink = new Map();
for (const take of takes) {
  for (const name of [take.id, take.key, take.file, linkOf(take)]) if (name && !byLink.has(name)) byLink.set(name, take);
}
