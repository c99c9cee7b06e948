// What is shown and how. It is in the URL, so that a link or a reload shows the same.
const view = { flat: false, four: false, sort: "", query: "", chosen: new Map(), room: null };

const isNarrowed = () => Boolean(view.query || view.chosen.size);

function readView() {
  const parts = new URLSearchParams(location.hash.slice(1));
  view.flat = parts.get("by") === "flat";
  view.four = parts.get("frames") === "4";
  view.sort = Object.hasOwn(SORTS, parts.get("sort") ?? "") ? parts.get("sort") : "";
  view.query = parts.get("q") ?? "";
  view.chosen = new Map();
  for (const { name } of FACETS) {
    const values = parts.getAll("f." + name);
    if (values.length) view.chosen.set(name, new Set(values));
  }
  const links = parts.getAll("clip").map((link) => byLink.get(link)).filter((take) => take);
  view.room = links.length ? { takes: links.slice(0, 4), way: parts.get("view") ?? "side" } : null;
}

function writeView() {
  const parts = new URLSearchParams();
  if (view.flat) parts.set("by", "flat");
  if (view.four) parts.set("frames", "4");
  if (view.sort) parts.set("sort", view.sort);
  if (view.query) parts.set("q", view.query);
  for (const [name, values] of view.chosen) for (const value of values) parts.append("f." + name, value);
  for (const take of view.room?.takes ?? []) parts.append("clip", linkOf(take));
  if (view.room && view.room.takes.length > 1 && view.room.way !== "side") parts.set("view", view.room.way);
  const hash = String(parts).replaceAll("%3A", ":");
  if (hash !== location.hash.slice(1)) history.replaceState(null, "", hash ? "#" + hash : location.pathname + location.search);
}

const SORTS = {
  stars: (one, other) => rank(other) - rank(one),
  cost: (one, other) => (other.cost ?? -1) - (one.cost ?? -1),
  seconds: (one, other) => (other.seconds ?? -1) - (one.seconds ?? -1),
  bytes: (one, other) => (other.bytes ?? -1) - (one.bytes ?? -1),
  at: (one, other) => (other.at ?? -1) - (one.at ?? -1),
};

function rank(take) {
  const { verdict, stars = 0 } = verdictOf(take);
  return (verdict === "pick" ? 100 : verdict === "reject" ? -100 : 0) + stars;
}
