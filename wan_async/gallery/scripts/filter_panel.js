// Facets: beside the grid, or on a narrow screen in a panel that a button opens, with the controls that have no room there.
const panel = find("facets"), panelEnd = make("div", { className: "end-of-panel" });
const choiceList = make("div", { className: "choices" }), arranging = make("div", { id: "arranging" });
const hasNoSidebar = matchMedia("(max-width: 64rem)"), isPhone = matchMedia("(max-width: 36rem)");
const filter = button("", () => openPanel(true), { className: "filter", "aria-expanded": "false", "aria-controls": "facets" });
const isPanelOpen = () => panel.classList.contains("open");

function makePanel() {
  panel.setAttribute("aria-label", say("filters"));
  panel.append(choiceList, panelEnd);
  for (const query of [hasNoSidebar, isPhone]) query.onchange = () => { openPanel(false); placeControls(); };
  addEventListener("click", (event) => {
    const path = event.composedPath();  // what was clicked may have been replaced
    if (!path.includes(panel) && !path.includes(filter)) openPanel(false);
  });
  placeControls();
}

function placeControls() {
  const search = find("search");
  search.placeholder = say(hasNoSidebar.matches ? "search" : "searchHint");
  if (isPhone.matches) {
    panel.prepend(arranging);
    find("tray").append(filter);
  } else {
    search.after(filter, arranging);
  }
}

function openPanel(isOpen) {
  if (isOpen === isPanelOpen()) return false;
  panel.classList.toggle("open", isOpen);
  filter.setAttribute("aria-expanded", isOpen);
  for (const other of [document.querySelector("header.top"), find("main"), find("tray")]) other.inert = isOpen;
  (isOpen ? panel.querySelector("input") : filter).focus({ preventScroll: true });
  if (isOpen) panel.scrollTop = 0;
  return true;
}

function drawPanelEnd(shown) {
  const hadFocus = panelEnd.contains(document.activeElement);
  const show = button(say(shown.every((take) => take.src) ? "showClips" : "showJobs", { n: shown.length }),
    () => openPanel(false), { className: "primary" });
  panelEnd.replaceChildren(show, ...(isNarrowed() ? [button(say("clear"), clearFilters)] : []));
  if (hadFocus) show.focus();
}
