// The grid: its lines near the window, the cell that has the focus, and marks for comparisons.
const grid = find("grid");
const MARGIN_PIXELS = 600;
const placed = new Map();  // elements by their lines
let lines = [], order = [], places = new Map(), here = null, marks = [];
let candidates = takes, drawing = 0, layingOut = 0;

const cellsOnPage = () => grid.querySelectorAll(".cell");
const cellOn = (take) => {
  const line = places.get(take)?.line;
  return line && [...placed.get(line)?.querySelectorAll(".cell") ?? []].find((cell) => cell.take === take);
};

function changeView() {  // after a change of what is shown: from the top
  writeView();
  drawControls();
  drawGrid();
  scrollTo(0, 0);
  draw();
}

function drawGrid() {
  const { test, unknown } = parseQuery(view.query);
  candidates = takes.filter(test);
  const shown = candidates.filter((take) => matches(take));
  drawFacets(candidates);
  drawShown(shown.length, unknown);
  drawPanelEnd(shown);
  foldNotices();
  layOutLines(shown);
}

function drawShown(shown, unknown) {
  const filters = view.chosen.size;
  let status = "";
  if (!takes.length) status = say("noJobs");
  else if (!shown && !view.query) status = say("nothingMatches");
  else if (!shown) status = say(filters ? "noneFoundWith" : "noneFound", { query: view.query, n: filters });
  else if (shown < takes.length) status = say("shownOf", { shown, all: takes.length });
  find("shown").textContent = [status, ...unknown.map((name) => say("unknownField", { name }))].filter((each) => each).join(" · ");
  find("shown").parentElement.classList.toggle("empty", !shown);
  find("clear").hidden = !takes.length || !isNarrowed();
}

function layOutLines(shown, { keepsElements = false } = {}) {
  const focused = document.activeElement?.take;
  const former = new Map(placed), kept = new Set();
  placed.clear();
  const { lines: made, height } = layOut(shown, grid.clientWidth);
  lines = made;
  order = [];
  places = new Map();
  for (const line of lines) {
    (line.cells ?? []).forEach((take, column) => {
      if (!take) return;
      places.set(take, { line, column, at: order.length });
      order.push(take);
    });
  }
  for (const [old, element] of former) {
    const line = keepsElements && lineLike(old);
    if (line) {
      fitLine(element, line);
      placed.set(line, element);
      kept.add(element);
    } else {
      takeOff(element);
    }
  }
  grid.style.height = `${height}px`;
  grid.dataset.shown = shown.length;
  const widest = lines.reduce((most, { widths = [0] }) => Math.max(most, ...widths), 0);
  posterPixels = Math.min(480, Math.max(200, Math.round(widest * rootPixels() * devicePixelRatio)));
  draw();
  if (focused && places.has(focused)) focusTake(focused, { scrolls: false });
  return kept;
}

function lineLike(old) {  // the line that shows the same as a former one: its element can stay, with what is clicked or plays in it
  const isAlike = (line) => ["kind", "shot", "isNarrow", "label", "isCard"].every((name) => line[name] === old[name])
    && ["cells", "axes"].every((name) => areSame(line[name] ?? [], old[name] ?? []));
  const line = old.kind === "head" ? lines.find((each) => each.shot === old.shot) : places.get(old.cells?.find((take) => take))?.line;
  return line && isAlike(line) ? line : null;
}

const areSame = (list, other) => list.length === other.length && list.every((each, at) => each === other[at]);

function takeOff(element) {
  for (const cell of element.querySelectorAll(".cell")) stopIn(cell);
  element.remove();
}

function layOutSoon() {  // when the shape of a clip was learned, or the window's width has changed
  cancelAnimationFrame(layingOut);
  layingOut = requestAnimationFrame(() => {
    const top = grid.getBoundingClientRect().top;
    const anchor = top < 0 && lines.find((line) => line.kind === "cells" && line.top + line.height > -top + headerPixels());
    const take = anchor && anchor.cells.find((each) => each);
    const before = anchor && anchor.top + top;
    const playedShot = [...playing].find((cell) => cell.keepsPlaying)?.take.shot;
    const shown = order.length ? [...order].sort((one, other) => one.index - other.index) : [];
    const kept = layOutLines(shown, { keepsElements: true });
    const line = take && places.get(take)?.line;
    if (line) scrollBy(0, line.top + grid.getBoundingClientRect().top - before);
    draw();
    if (!playedShot) return;
    playShot(playedShot);  // some of its cells may be new
    for (const [made, element] of placed) {
      if (made.kind === "head" && !kept.has(element)) element.replaceChildren(...headOf(made));
    }
  });
}

const headerPixels = () => {
  const header = document.querySelector("header.top");
  return getComputedStyle(header).position === "sticky" ? header.offsetHeight : 0;
};

function firstBelow(pixels) {
  let low = 0, high = lines.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (lines[middle].top + lines[middle].height > pixels) high = middle;
    else low = middle + 1;
  }
  return low;
}

function draw(needed) {  // put the lines near the window (and one that is needed) on the page, and take the others off
  const top = -grid.getBoundingClientRect().top;
  const focused = document.activeElement?.line;
  const wantedLines = new Set([needed, focused].filter((line) => line && lines[line.at] === line));
  for (let at = firstBelow(top - MARGIN_PIXELS); at < lines.length; at += 1) {
    if (lines[at].top > top + innerHeight + MARGIN_PIXELS) break;
    wantedLines.add(lines[at]);
  }
  for (const [line, element] of placed) {
    if (wantedLines.has(line)) continue;
    takeOff(element);
    placed.delete(line);
  }
  let next = grid.firstElementChild;
  for (const line of [...wantedLines].sort((one, other) => one.at - other.at)) {
    if (line.kind === "space") continue;
    const element = placed.get(line);
    if (element) {
      next = element.nextElementSibling;
      continue;
    }
    const made = lineElement(line);
    placed.set(line, made);
    grid.insertBefore(made, next);
  }
  setTabStop();
}

function drawSoon() {
  scrollRests();
  drawing ||= requestAnimationFrame(() => {
    drawing = 0;
    draw();
  });
}

function setTabStop() {  // one cell can be reached by Tab: the last one that had the focus, else the first
  const top = -grid.getBoundingClientRect().top, cells = [...cellsOnPage()];
  const stop = (here && cellOn(here)) ?? cells.find(({ line }) => line.top >= top) ?? cells[0];
  for (const cell of cells) {
    const index = cell === stop ? 0 : -1;
    if (cell.tabIndex !== index) cell.tabIndex = index;
  }
}

function focusTake(take, { scrolls = true } = {}) {
  const place = places.get(take);
  if (!place) return;
  here = take;
  if (scrolls) showLine(place.line);
  if (!placed.has(place.line)) draw(place.line);
  cellOn(take)?.focus({ preventScroll: true });
}

function showLine(line) {
  const top = grid.getBoundingClientRect().top + line.top;
  const least = headerPixels() + 34, most = innerHeight - find("tray").offsetHeight - 8;
  if (top < least) scrollBy(0, top - least);
  else if (top + line.height > most) scrollBy(0, Math.min(top - least, top + line.height - most));
  draw();
}

function move(across, down) {
  const place = places.get(here);
  if (!place) return focusTake(order[0]);
  if (across) return focusTake(order[Math.min(order.length - 1, Math.max(0, place.at + across))]);
  let at = place.line.at + down;
  while (lines[at] && lines[at].kind !== "cells") at += down;
  const cells = lines[at]?.cells;
  if (!cells) return undefined;
  const near = cells.map((take, column) => [take, Math.abs(column - place.column)]).filter(([take]) => take);
  near.sort(([, one], [, other]) => one - other);
  return focusTake(near[0][0]);
}

const letterOf = (take) => "ABCD"[take.mark - 1] ?? "";

function toggleMark(take) {
  if (!take.src || !isVideo(take)) return;
  if (take.mark) marks = marks.filter((other) => other !== take);
  else if (marks.length === 4) toast(say("fourAtMost"));
  else marks.push(take);
  renumberMarks(take);
}

function clearMarks() {
  marks = [];
  renumberMarks();
}

function renumberMarks() {
  for (const take of takes) take.mark = 0;
  marks.forEach((take, at) => { take.mark = at + 1; });
  for (const cell of cellsOnPage()) paintCell(cell);
  paintHeads();
  drawTray();
}

function paintTake(take) {
  const cell = cellOn(take);
  if (!cell) return;
  paintWell(cell);
  paintCell(cell);
}

function paintHeads() {  // how many takes a shot's button would compare changes with the focus, marks and verdicts
  for (const [line, element] of placed) {
    const control = line.kind === "head" && element.querySelector(".compare");
    const text = control && compareText(line);
    if (control && control.textContent !== text) control.textContent = text;
  }
}

function comparedIn({ shot, takes: found }) {  // its marked or picked takes, else the row of the one that had the focus
  const all = found.filter((take) => take.src && isVideo(take) && !take.gone);
  const marked = marks.filter((take) => take.shot === shot), picked = all.filter((take) => judgementOf(take) === "pick");
  for (const list of [marked, picked]) if (list.length > 1) return list.slice(0, 4);
  const first = all.includes(here) ? here : all[0], row = first ? rowOf(first) : [];
  return row.length > 1 ? row : all.slice(0, 4);
}

function compareText(line) {
  const n = comparedIn(line).length, all = line.takes.filter((take) => take.src && isVideo(take)).length;
  return n < all ? say("compareOf", { n, all }) : say("compareAll", { n });
}

function rowOf(take) {  // what C compares if nothing is marked: the take's line, its shot for a card
  const line = places.get(take)?.line;
  const mates = line && !line.isCard ? line.cells : take.shot.takes;
  const found = (mates ?? []).filter((each) => each?.src && isVideo(each) && each.shot === take.shot);
  const start = Math.max(0, Math.min(found.indexOf(take), found.length - 4));
  return found.slice(start, start + 4);
}

function verdictsChanged() {
  const filtersVerdicts = view.chosen.has("verdict") || /\b(is|stars|note):/.test(view.query) || view.sort === "stars";
  if (filtersVerdicts && !find("room").open) {
    const at = places.get(here)?.at ?? 0, had = document.activeElement?.take;
    drawGrid();
    if (had && !places.has(here) && order.length) focusTake(order[Math.min(at, order.length - 1)]);
  } else {
    drawFacets(candidates);
    for (const cell of cellsOnPage()) paintCell(cell);
    for (const [line, element] of placed) if (line.kind === "head") element.replaceChildren(...headOf(line));
  }
  drawTray();
  paintRoom();
}
