"use strict";
const CHUNK = 48;
const find = (id) => document.getElementById(id);
const grid = find("grid"), search = find("search"), more = find("more");
const chips = document.querySelectorAll(".chips button");
const rows = find("data").textContent.split("\n").filter((line) => line).map((line) => JSON.parse(line));
find("data").remove();
const [promptField, ...otherFields] = JSON.parse(grid.dataset.parameters);  // of the model: name, label, kind
for (const row of rows) {
  row.clips ??= [];
  const facts = ["id", "key", "task", "state", "reason"].map((name) => row[name]);
  const files = row.clips.map((clip) => clip.file);
  row.text = [...facts, ...Object.values(row.parameters), ...takeOf(row), ...files].join("\n").toLowerCase();
}
const tall = rows.filter((row) => takeOf(row).includes("9:16")).length;
document.body.classList.toggle("tall", tall * 2 > rows.length);
const plays = matchMedia("(hover: hover) and (prefers-reduced-motion: no-preference)");
const count = new Intl.NumberFormat("en").format;
let group = "", chosen = rows, made = 0, timer;

function takeOf({ parameters }) {  // its choices and integers, in short
  return otherFields.flatMap(({ name, label, kind }) => {
    const value = parameters[name];
    if (!value || value === "Default") return [];
    return kind === "choice" ? [value] : kind === "integer" ? [label + " " + value] : [];
  });
}

function make(tag, properties, ...children) {  // text children are appended as text, never parsed as markup
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child));
  return element;
}

function size(bytes) {
  const power = bytes < 1000 ? 0 : Math.min(3, Math.floor(Math.log10(bytes) / 3));
  return (bytes / 1000 ** power).toFixed(power ? 1 : 0) + " " + ["B", "kB", "MB", "GB"][power];
}

function note(...children) {
  return make("p", { className: "note" }, ...children);
}

function well(clip) {
  const box = make("div", { className: "well" });
  const gone = " can't be shown: is the file still in this page's folder?";
  const onerror = () => box.replaceChildren(note(make("bdi", {}, clip.file), gone));
  const kind = clip.type || "video/";
  if (kind.startsWith("image/")) {
    box.append(make("img", { loading: "lazy", alt: clip.file, src: clip.src, onerror }));
  } else if (!kind.startsWith("video/")) {
    box.append(note(make("a", { href: clip.src }, clip.file)));
  } else {
    const how = { preload: "none", muted: true, loop: true, playsInline: true, controls: true };
    const video = make("video", { ...how, onerror });
    video.dataset.src = clip.src;
    video.setAttribute("aria-label", clip.file);
    const hovers = (event) => event.pointerType === "mouse" && plays.matches;
    box.onpointerenter = (event) => hovers(event) && video.play().catch(() => {});
    box.onpointerleave = (event) => hovers(event) && video.muted && video.pause();
    box.append(video);
  }
  return box;
}

function card(row) {
  const { clips, parameters } = row;
  const list = make("dl");
  const entry = (name, value) => value && list.append(make("dt", {}, name), make("dd", { dir: "auto" }, value));
  const bytes = clips.reduce((sum, clip) => sum + (clip.bytes || 0), 0);
  entry("reason", row.reason);
  for (const { name, label } of otherFields) entry(label, parameters[name]);
  entry("cost", row.cost);
  entry("size", bytes && size(bytes));
  entry("task", row.task);
  if (row.key !== row.id) entry("key", row.key);
  for (const clip of clips) entry("file", make("a", { href: clip.src }, clip.file));
  const wells = clips.map(well);
  if (!wells.length) wells.push(make("div", { className: "well" }, note(row.reason)));
  const facts = [...takeOf(row), row.cost, bytes && size(bytes)];
  return make("li", { className: "card " + row.group }, ...wells, make("div", { className: "about" },
    make("h2", {}, make("span", { dir: "auto" }, row.id), make("span", { className: "state" }, row.state)),
    parameters[promptField.name] && make("p", { className: "prompt", dir: "auto" }, parameters[promptField.name]),
    make("p", { className: "facts" }, facts.filter((fact) => fact).join(" · ")),
    make("details", {}, make("summary", {}, "Details"), list)));
}

function unload(element) {
  for (const video of element.querySelectorAll("video[src]")) {
    video.pause();
    video.removeAttribute("src");
    video.load();
  }
}

const near = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) unload(target);
    else for (const video of target.querySelectorAll("video:not([src])")) {
      video.preload = "metadata";
      video.src = video.dataset.src + "#t=0.001";  // without a time Safari shows no first frame
    }
  }
}, { rootMargin: "500px 0px" });

const end = new IntersectionObserver((entries) => entries.at(-1).isIntersecting && grow(), { rootMargin: "1200px 0px" });

function grow() {
  const cards = chosen.slice(made, made + CHUNK).map(card);
  made += cards.length;
  grid.append(...cards);
  cards.forEach((one) => near.observe(one));
  end.unobserve(more);
  if (made < chosen.length) end.observe(more);  // observing anew reports at once whether the end is still in view
}

function choose() {
  const words = search.value.toLowerCase().split(/\s+/).filter((word) => word);
  chosen = rows.filter((row) => (!group || row.group === group) && words.every((word) => row.text.includes(word)));
  near.disconnect();
  unload(grid);
  grid.replaceChildren();
  made = 0;
  grow();
  const all = chosen.length === rows.length;
  find("shown").textContent = all ? "" : `${count(chosen.length)} of ${count(rows.length)}`;
  if (!chosen.length) grid.append(make("li", { className: "empty" }, all ? "No jobs yet." : "Nothing matches."));
}

search.oninput = () => { clearTimeout(timer); timer = setTimeout(() => { scrollTo(0, 0); choose(); }, 120); };
for (const chip of chips) {
  chip.onclick = () => {
    group = chip.dataset.group;
    chips.forEach((one) => one.setAttribute("aria-pressed", one === chip));
    scrollTo(0, 0);
    choose();
  };
}
document.onkeydown = (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || event.target === search) return;
  event.preventDefault();
  search.focus();
};
for (const time of document.querySelectorAll("time")) {
  time.textContent = new Date(time.dateTime).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}
choose();
