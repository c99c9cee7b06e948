// While a run writes the page anew, it reloads itself when nobody is using it, and is then where it was.
const RELOAD_SECONDS = 5, IDLE_SECONDS = 5;
const PLACE = "wan-async/place/" + PAGE.folder;
const nameOf = (take) => take.file || take.key;  // two clips may have one hash
let usedAt = Date.now();

const isIdle = () => Date.now() - usedAt > IDLE_SECONDS * 1000 && !document.hidden && !playing.size && !isPanelOpen()
  && !document.querySelector("dialog[open]") && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement?.tagName ?? "");

function keepReloading() {
  if (!PAGE.running) return;
  for (const name of ["pointermove", "pointerdown", "keydown", "wheel", "scroll", "touchmove"]) {
    addEventListener(name, () => { usedAt = Date.now(); }, { passive: true });
  }
  const timer = setInterval(() => {
    if (!isIdle()) return;
    clearInterval(timer);
    keepPlace();
    location.reload();
  }, 1000 * Math.max(RELOAD_SECONDS, takes.length / 500));
}

function keepPlace() {
  const line = lines.find((each) => each.kind === "cells" && each.top + grid.getBoundingClientRect().top >= 0);
  const first = line?.cells.find((take) => take);
  const place = { here: here && nameOf(here), focused: Boolean(document.activeElement?.take),
    first: first && nameOf(first), top: line && line.top + grid.getBoundingClientRect().top, marks: marks.map(nameOf) };
  history.scrollRestoration = "manual";
  try {
    sessionStorage.setItem(PLACE, JSON.stringify(place));
  } catch {
    return;  // a page without storage begins at its top
  }
}

function restorePlace() {
  let place = null;
  try {
    place = JSON.parse(sessionStorage.getItem(PLACE) ?? "null");
    sessionStorage.removeItem(PLACE);
  } catch {
    return;
  }
  if (!place) return;
  history.scrollRestoration = "auto";
  here = byLink.get(place.here) ?? null;
  for (const take of place.marks.map((link) => byLink.get(link))) if (take) toggleMark(take);
  const line = places.get(byLink.get(place.first))?.line;
  if (line) scrollBy(0, line.top + grid.getBoundingClientRect().top - place.top);
  draw();
  if (place.focused && here) focusTake(here, { scrolls: false });
}
