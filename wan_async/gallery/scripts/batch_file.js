// A batch file that renders picks again, for `wan-async plan` and `run`.
function batchFile(picks, { choices, seeds }) {
  const changes = Object.entries(choices).filter(([, value]) => value);
  const seed = seeds > 0 && VARIED.find(({ kind }) => kind === "integer");
  const isChanged = changes.length > 0 || Boolean(seed);
  const jobs = [], ids = new Set(), made = new Set(), prices = knownPrices();
  let exist = 0, lost = 0, price = 0;
  for (const take of picks) {
    if (pathOf(take.shot) === null) {
      lost += 1;
      continue;
    }
    const values = { ...take.values, ...Object.fromEntries(changes) };
    const wantedValues = seed ? otherSeeds(take, values, seed, seeds) : [values];
    for (const each of wantedValues) {
      const name = identityOf(take.shot, each);
      if (made.has(name)) continue;
      made.add(name);
      if (isChanged && take.shot.takes.some((other) => other.src && identityOf(other.shot, other.values) === name)) {
        exist += 1;
        continue;
      }
      jobs.push(jobOf(take, each, ids));
      price += prices.get(priceGroup(each)) ?? NaN;
    }
  }
  const parts = [...changes.map(([, value]) => value.replace(/\W+/g, "-")), seed && "seeds"].filter((part) => part);
  const folder = [PICKS_FOLDER, ...(parts.length ? parts : ["again"])].join("-");  // not the folder of the copies
  const text = JSON.stringify({ output: folder, jobs }, null, 1) + "\n";
  return { text, jobs: jobs.length, exist, lost, price: Number.isFinite(price) ? price : 0, folder };
}

function pathOf({ lost, path, src }) {  // as a batch file in this page's folder names it; null if that is not known
  if (lost) return null;
  return path ?? (src ? decodeURIComponent(src).replace(/^\.\//, "") : "");
}

function identityOf(shot, values) {
  return JSON.stringify([shot.shot, ...VARIED.map(({ name }) => values[name] ?? "")]);
}

function jobOf(take, values, ids) {
  const changed = VARIED.filter(({ name }) => values[name] !== take.values[name]);
  let stem = take.id;
  for (const { name } of changed) stem = stem.replace(new RegExp(`[-_]?${escapePattern(take.values[name] ?? "")}(?=[-_]|$)`), "");
  const wantedId = [stem, ...changed.map(({ name }) => values[name])].filter((part) => part).join("-").replace(/[/\\]/g, "-");
  let id = wantedId;
  for (let number = 2; ids.has(id.toLowerCase()); number += 1) id = `${wantedId}-${number}`;
  ids.add(id.toLowerCase());
  const job = { id }, image = pathOf(take.shot);
  const imageField = PAGE.parameters.find(({ kind }) => kind === "image");
  if (image) job[imageField.name] = image;
  Object.assign(job, take.shot.texts);
  for (const { name, kind } of VARIED) {
    const value = values[name];
    if (value === undefined) continue;
    job[name] = kind === "integer" && Number.isSafeInteger(+value) ? +value : value;
  }
  return job;
}

const escapePattern = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

function otherSeeds(take, values, { name }, wantedCount) {  // the next ones that no take of the shot has
  const used = new Set(take.shot.takes.map((other) => other.values[name]));
  let next = BigInt(take.values[name] ?? 0);
  const found = [];
  while (found.length < wantedCount) {
    next = next >= 2n ** 63n ? 0n : next + 1n;
    if (!used.has(String(next))) found.push({ ...values, [name]: String(next) });
  }
  return found;
}

function priceGroup(values) {
  return VARIED.filter((each) => each.price).map(({ name }) => values[name] ?? "").join(" ");
}

function knownPrices() {  // the most that a clip of these parameters has cost
  const prices = new Map();
  for (const { values, cost } of takes) {
    if (cost) prices.set(priceGroup(values), Math.max(prices.get(priceGroup(values)) ?? 0, cost));
  }
  return prices;
}
