// Elements of the grid's lines.
function lineElement(line) {
  const element = make("div", { className: "line " + line.kind });
  if (line.kind === "head") {
    element.classList.toggle("narrow", line.isNarrow);
    element.append(...headOf(line));
  }
  if (line.kind === "title") element.append(make("h3", {}, line.text));
  if (line.kind === "axis") element.append(...line.labels.map((label) => make("span", {}, label)));
  if (line.kind === "cells") {
    if (line.label) element.append(make("span", { className: "rowlabel" }, line.label));
    element.append(...line.cells.map((take) => (take ? cellOf(take, line) : make("span"))));
  }
  fitLine(element, line);
  return element;
}

function fitLine(element, line) {
  element.style.top = `${line.top}px`;
  element.style.height = `${line.height}px`;
  if (!line.widths) return;
  element.style.gridTemplateColumns = line.widths.map((width) => `${width}rem`).join(" ");
  element.style.paddingInlineStart = `${line.gutter}rem`;
  for (const cell of element.querySelectorAll(".cell")) {
    cell.line = line;
    cell.firstChild.style.height = `${line.well}rem`;
  }
}

function headOf(line) {
  const { shot, takes: found, isNarrow } = line, without = found.filter((take) => !take.src).length;
  const left = found.filter((take) => take.src && judgementOf(take) === "open").length;
  const cost = found.reduce((sum, take) => sum + (take.cost ?? 0), 0);
  const facts = [without < found.length && say("totalClips", { n: found.length - without }),
    without && say(without < found.length ? "without" : "totalOthers", { n: without }), left && say("toReview", { n: left }), cost && dollars(cost)];
  const about = make("small", {}, facts.filter((each) => each).join(" · "));
  const text = shot.texts[PROMPT.name] ?? "";
  const isPlayed = [...playing].some((cell) => cell.keepsPlaying && cell.take.shot === shot);
  const videos = playable(found);
  const acts = make("div", { className: "acts" }, isNarrow && about,
    videos > 0 && button(say(isPlayed ? "stopAll" : "playAll"), (event) => playAll(shot, event.currentTarget)),
    videos > 1 && button(compareText(line), () => openRoom(comparedIn(line)), { className: "compare" }));
  return [
    picture(shot),
    make("div", { className: "about" },
      make("h2", {}, make("bdi", { title: shot.name }, shot.name), !isNarrow && about),
      make("p", { className: "prompt", title: text }, make("bdi", {}, text))),
    acts,
  ];
}

const playable = (found) => found.filter((take) => take.src && isVideo(take)).length;

function picture(shot) {
  if (shot.src) return sourceImage(shot.src, "picture", { title: shot.image });
  return make("span", { className: "picture none", title: shot.image }, shot.image || say("noImage"));
}

function cellOf(take, line) {
  const cell = button("", null, { className: "cell", tabIndex: -1 });
  cell.take = take;
  cell.line = line;
  const well = make("span", { className: "well" });
  cell.append(well, make("span", { className: "caption" }));
  cell.style.setProperty("--caption", `${line.caption}rem`);
  cell.classList.toggle("card", Boolean(line.isCard));
  paintWell(cell);
  paintCell(cell);
  const hovers = (event) => event.pointerType === "mouse" && mayMove.matches;
  cell.onpointerenter = (event) => hovers(event) && playIn(cell);
  cell.onpointerleave = () => !cell.keepsPlaying && stopIn(cell);
  cell.onfocus = () => { here = take; setTabStop(); paintHeads(); };
  cell.onclick = (event) => {
    if (event.shiftKey || event.ctrlKey || event.metaKey) toggleMark(take);
    else if (event.detail > 1 || event.pointerType === "touch") openRoom([take]);
    else cell.focus();
  };
  return cell;
}

function paintWell(cell) {
  const { take } = cell, well = cell.firstChild;
  const gone = () => make("span", { className: "why" }, say("gone", { file: take.file }));
  if (!take.src) {
    const reason = make("span", { className: "reason", dir: "auto" }, take.reason);
    well.replaceChildren(make("span", { className: `why ${take.group}` }, make("b", {}, wordOf(take.state)), reason));
  } else if (take.gone) {
    well.replaceChildren(gone());
  } else if (isImage(take)) {
    const image = make("img", { alt: "", loading: "lazy", decoding: "async" });
    image.onerror = () => { take.gone = true; paintWell(cell); };
    image.onload = () => learnRatio(take, image.naturalWidth / image.naturalHeight);
    image.src = take.src;
    well.replaceChildren(image);
  } else if (isVideo(take)) {
    well.replaceChildren(posterOf(take));
  } else {
    well.replaceChildren(make("span", { className: "why" }, take.file));
  }
  cell.over = make("span", { className: "over" });
  well.append(cell.over);
}

function paintCell(cell) {
  const { take, line } = cell, { verdict, stars, note } = verdictOf(take), isCard = line.isCard;
  cell.classList.toggle("pick", verdict === "pick");
  cell.classList.toggle("reject", verdict === "reject");
  cell.classList.toggle("without", !take.src);
  cell.classList.toggle("earlier", take.earlier);
  cell.setAttribute("aria-label", describe(take));
  cell.over.replaceChildren(
    ...[verdict && make("span", { className: "flag" }, verdictText(verdict)),
      take.earlier && make("span", { className: "former" }, say("earlier")),
      take.mark && make("span", { className: "mark" }, letterOf(take)),
      note && make("span", { className: "note", dir: "auto" }, note)].filter((each) => each));
  const bits = facts(take, line.axes);
  if (take.output) bits.push(take.file);
  const text = take.shot.texts[PROMPT.name];
  const main = [isCard && make("bdi", { className: "id" }, take.id), make("span", { className: "values" }, bits.join(" · ")),
    stars && make("span", { className: "stars" }, starsText(stars))];
  cell.lastChild.replaceChildren(...[
    make("span", { className: "facts" }, make("span", { className: "main" }, main),
      make("span", { className: "end" }, [sortedBy(take), take.cost && dollars(take.cost)].filter((each) => each).join(" · "))),
    isCard && make("span", { className: "words" }, take.shot.src && sourceImage(take.shot.src, "thumb"),
      make("span", { dir: "auto" }, text)),
  ].filter((each) => each));
}

function sortedBy({ seconds, bytes, at }) {
  if (view.sort === "seconds") return seconds && say("renderTime", { time: secondsText(seconds) });
  if (view.sort === "bytes") return bytes && bytesText(bytes);
  return view.sort === "at" && at && timeText(at);
}

function describe(take) {
  const { verdict, stars, note } = verdictOf(take);
  return [take.id, ...facts(take), take.output && take.file, (take.earlier || !take.src) && wordOf(take.state),
    verdict && say(verdict), stars && say("stars", { n: stars }), take.mark && say("marked", { letter: letterOf(take) }),
    note && `${say("note")}: ${note}`, !take.src && take.reason].filter((each) => each).join(", ");
}

const mayMove = matchMedia("(prefers-reduced-motion: no-preference)");
const MOST_PLAYING = 12;
const playing = new Set();  // cells with a playing video

function playIn(cell) {
  const { take } = cell;
  if (!take.src || take.gone || !isVideo(take) || cell.video || playing.size >= MOST_PLAYING) return;
  const video = make("video", { muted: true, loop: true, playsInline: true, src: take.src });
  cell.video = video;
  cell.firstChild.insertBefore(video, cell.over);
  playing.add(cell);
  video.play().catch(() => cell.video === video && stopIn(cell));  // it may have been stopped, and another begun
}

function stopIn(cell) {
  if (!cell.video) return;
  unload(cell.video);
  cell.video.remove();
  cell.video = null;
  cell.keepsPlaying = false;
  playing.delete(cell);
}

function playAll(shot, control) {
  const stops = control.textContent === say("stopAll");
  for (const cell of [...playing]) stopIn(cell);
  for (const other of document.querySelectorAll(".acts button")) {
    if (other.textContent === say("stopAll")) other.textContent = say("playAll");
  }
  if (stops) return;
  control.textContent = say("stopAll");
  playShot(shot);
}

function playShot(shot) {
  for (const cell of cellsOnPage()) {
    if (cell.take.shot !== shot) continue;
    playIn(cell);
    cell.keepsPlaying = Boolean(cell.video);
  }
}
