const sorts = [["", "sortBatch"], ["stars", "sortStars"], ["cost", "sortCost"], ["seconds", "sortSeconds"], ["bytes", "sortBytes"], ["at", "sortAt"]];
let searchTimer;

function searchFor(query) {
  view.query = query;
  changeView();
}

function clearFilters() {
  find("search").value = "";
  view.chosen.clear();
  searchFor("");
  if (!isPanelOpen()) focusTake(order[0]);  // the button that had the focus is gone
}

function framesChanged() {
  forgetPosters();
  writeView();
  drawControls();
  for (const cell of cellsOnPage()) paintWell(cell);
  for (const cell of cellsOnPage()) paintCell(cell);
}

function drawControls() {  // the search keeps its element, so that typing is not disturbed
  const focused = document.activeElement?.closest("#arranging .segment, #arranging select")?.ariaLabel;
  const arrange = segment(say("arrange"), [[false, say("shots")], [true, say("flat")]], view.flat || Boolean(view.sort),
    (flat) => { view.flat = flat; if (!flat) view.sort = ""; changeView(); });
  const frames = segment(say("posters"), [[false, say("poster")], [true, say("four")]], view.four,
    (four) => { view.four = four; framesChanged(); });
  const sort = choice(say("sort"), sorts.map(([name, key]) => [name, say(key)]), view.sort, (name) => { view.sort = name; changeView(); });
  arranging.replaceChildren(arrange, frames, sort);
  filter.textContent = [say("filter"), view.chosen.size].filter((each) => each).join(" · ");
  const again = focused && [...arranging.children].find((each) => each.ariaLabel === focused);
  (again?.querySelector("[aria-pressed=true]") ?? again)?.focus();
}

function makeControls() {
  const search = make("input", { id: "search", type: "search", "aria-label": say("search"), autocomplete: "off", value: view.query });
  search.oninput = () => { clearTimeout(searchTimer); searchTimer = setTimeout(() => searchFor(search.value), 120); };
  find("controls").append(search);
  find("notices").before(make("div", { className: "shown" }, make("p", { id: "shown", role: "status" }),
    button(say("clear"), clearFilters, { id: "clear", hidden: true })));
  find("tray").setAttribute("aria-label", say("tray"));
}

const meter = make("div", { className: "meter", role: "img" }, make("i"), make("i"));
const tally = make("span", { className: "tally", role: "status" });
const compareMarks = button("", () => openRoom(marks));
const handOver = button(say("handOver"), openHandover);
function makeTray() {
  const legend = [["↵", "openIt"], ["P", "pickIt"], ["X", "rejectIt"], ["0–5", "starsOf"], ["N", "note"], ["M", "mark"], ["C", "compare"]];
  const keys = legend.map(([key, text]) => make("span", {}, make("kbd", {}, key), " " + say(text).toLowerCase()));
  const allKeys = button("", openKeys, { className: "quiet keys-button" });
  allKeys.append(make("kbd", {}, "?"), " " + say("allKeys"));
  find("tray").append(meter, tally, compareMarks, handOver,
    make("span", { className: "legend" }, keys), allKeys);
}

function drawTray() {
  const { pick, reject, open: left } = progress();
  const [green, red] = meter.children;
  green.style.flexGrow = pick;
  red.style.flexGrow = reject;
  meter.style.setProperty("--open", left);
  const text = say("progress", { picked: pick, rejected: reject, open: left });
  meter.setAttribute("aria-label", text);
  if (tally.textContent !== text) tally.textContent = text;
  handOver.classList.toggle("primary", pick > 0);
  compareMarks.textContent = marks.length ? say("compareMarked", { n: marks.length }) : say("compare");
  compareMarks.disabled = marks.length < 2;
}

grid.addEventListener("click", function tell({ target, detail, pointerType, ctrlKey, shiftKey, metaKey }) {
  if (pointerType !== "mouse" || !target.closest(".cell")) return;
  grid.removeEventListener("click", tell);
  if (detail === 1 && !ctrlKey && !shiftKey && !metaKey) toast(say("clicked"));
});

function followHash() {
  readView();
  find("search").value = view.query;
  drawControls();
  const wantedRoom = view.room;
  drawGrid();
  if (wantedRoom) openRoom(wantedRoom.takes, WAYS.includes(wantedRoom.way) ? wantedRoom.way : "side");
  else if (room.open) closeNow(room);
}

for (const time of document.querySelectorAll("time")) time.textContent = timeText(Date.parse(time.dateTime) / 1000);
loadVerdicts();
listeners.push(verdictsChanged);
makeControls();
makeTray();
makePanel();
drawTray();
drawNotices();
followHash();
restorePlace();
keepReloading();
addEventListener("scroll", drawSoon, { passive: true });
addEventListener("hashchange", followHash);
new ResizeObserver(layOutSoon).observe(grid.parentElement);
