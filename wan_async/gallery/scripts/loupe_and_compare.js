// The dialog with one large clip and its facts, or with two to four clips to compare.
const WAYS = ["side", "wipe", "flicker", "difference"];
const SPEEDS = [0.25, 0.5, 1, 2];
const TAG_PIXELS = 50;
const room = find("room");
const stage = make("div", { className: "stage" });
let viewing = null;  // { takes, at, way, order, zoom, source, player, panes, parts }

function openRoom(list, way = "side") {
  if (!list.length) return;
  const wasOpen = room.open;
  for (const cell of [...playing]) stopIn(cell);
  viewing?.player?.end();
  viewing = { takes: list, at: 0, way: list.length === 2 ? way : "side", order: viewing?.order ?? [...order], zoom: false,
    source: false, rate: viewing?.rate ?? 1, parts: {} };
  if (!viewing.order.includes(list[0])) viewing.order = [...takes];
  document.body.append(toastLine);
  room.replaceChildren(...(list.length > 1 ? comparisonParts() : loupeParts()));
  room.setAttribute("aria-label", say(list.length > 1 ? "comparison" : "viewer"));
  drawStage();
  if (!wasOpen) room.showModal();
  placeToast();
  stage.focus();
}

function loupeParts() {
  const aside = make("aside", { className: "info", "aria-label": say("facts") });
  const strip = make("div", { className: "strip", role: "group", "aria-label": say("siblings") });
  Object.assign(viewing.parts, { aside, strip });
  return [topBar([]), stage, aside, bottomBar([strip])];
}

function comparisonParts() {
  viewing.parts.ways = make("span");
  return [topBar([make("span", { className: "soft hint" }, say("choosePane")), viewing.parts.ways]), stage, bottomBar([])];
}

function topBar(more) {
  const title = make("h2"), placeText = make("span", { className: "soft" });
  const zoom = button(say("zoom"), toggleZoom), source = button(say("source"), () => showSource(!viewing.source));
  const about = button(say("about"), toggleFacts, { className: "about" });
  const close = button(say("close"), () => closeNow(room), { className: "close" });
  Object.assign(viewing.parts, { title, placeText, zoom, source, about });
  const isLoupe = viewing.takes.length === 1;
  return make("div", { className: "bar" }, title, placeText, more, make("span", { className: "wide" }),
    isLoupe && [button("‹", () => step(-1), { "aria-label": say("previous") }), button("›", () => step(1), { "aria-label": say("next") })],
    zoom, source, isLoupe && about, close);
}

function bottomBar(more) {
  const range = make("input", { type: "range", min: 0, max: 1000, value: 0, "aria-label": say("time") });
  const frame = (by, name) => button(by < 0 ? "◂" : "▸", () => viewing.player.step(by), { "aria-label": say(name) });
  const back = frame(-1, "frameBack"), on = frame(1, "frameOn");
  range.oninput = () => { viewing.player.pause(); viewing.player.seek(range.value / 1000 * viewing.player.duration); };
  const toggle = button(say("pause"), () => viewing.player.toggle(), { className: "play" });
  const clock = make("span", { className: "clock" });
  const speed = choice(say("speed"), SPEEDS.map((rate) => [rate, rate + "×"]), viewing.rate, (rate) => setSpeed(+rate));
  const judging = make("span", { className: "judging" });
  Object.assign(viewing.parts, { range, toggle, clock, speed, judging, transport: [toggle, back, on, range, speed] });
  return make("div", { className: "bar bottom" }, toggle, back, on, range, clock, speed, judging, more);
}

function drawStage() {  // the clips anew, after others were chosen
  viewing.player?.end();
  viewing.panes = viewing.takes.map(paneOf);
  viewing.player = new Player(viewing.panes.map((pane) => pane.video).filter((video) => video), showTime);
  viewing.player.setRate(viewing.rate);
  stage.replaceChildren(...viewing.panes);
  stage.tabIndex = -1;
  showSource(viewing.source);
  paintTransport();
  paintRoom();
  if (viewing.parts.aside) viewing.parts.aside.replaceChildren(...factsOf(viewing.takes[0]));
  if (viewing.parts.strip) drawStrip();
  view.room = { takes: viewing.takes, way: viewing.way };
  writeView();
  viewing.player.play();
}

function paneOf(take, at) {  // what is blended or clipped to compare is the film; the tag is read
  const pane = make("div", { className: "pane" }), film = make("div", { className: "film" });
  pane.take = take;
  pane.film = film;
  pane.tag = make("span", { className: "tag" });
  if (!take.src || take.gone) {
    film.append(make("p", { className: "why", dir: "auto" }, take.src ? say("gone", { file: take.file }) : take.reason));
  } else if (isImage(take)) {
    film.append(make("img", { src: take.src, alt: take.file, className: "clip" }));
  } else {
    pane.video = make("video", { src: take.src, className: "clip", "aria-label": take.id });
    pane.video.onloadedmetadata = arrangePanes;
    pane.video.onerror = () => {
      if (!pane.video.error) return;
      film.append(make("p", { className: "why" }, say("gone", { file: take.file })));
      paintTransport();
    };
    film.append(pane.video);
  }
  pane.append(film, pane.tag);
  pane.onclick = () => { viewing.at = at; paintRoom(); };
  return pane;
}

function paintTransport() {  // nothing plays in a job without a clip
  const { player, parts: { transport, range, clock, toggle } } = viewing;
  const isStill = player.videos.every(({ error }) => error);
  if (isStill && transport.includes(document.activeElement)) stage.focus();
  for (const control of transport) control.disabled = isStill;
  if (!isStill) return;
  range.value = 0;
  clock.textContent = "";
  toggle.textContent = say("play");
}

function arrangePanes() {  // in as many columns as make the clips largest; tags are beside a clip if there is room, else on it
  if (!viewing?.panes) return;
  const { clientWidth: width, clientHeight: height } = stage, { panes } = viewing;
  const ratios = panes.map(({ video, take }) => video?.videoWidth / video?.videoHeight || ratioOf(take) || UNKNOWN_RATIO);
  const area = (columns) => {
    const across = width / columns, down = height / Math.ceil(ratios.length / columns);
    return ratios.reduce((sum, ratio) => sum + Math.min(across, down * ratio) ** 2 / ratio, 0);
  };
  const columns = ratios.map((_, at) => at + 1).reduce((best, each) => (area(each) > area(best) ? each : best));
  stage.style.setProperty("--columns", columns);
  panes.forEach((pane, at) => {
    const margin = pane.video && !viewing.zoom ? (pane.clientHeight - pane.clientWidth / ratios[at]) / 2 : 0;
    pane.classList.toggle("roomy", margin > TAG_PIXELS);
    pane.style.setProperty("--margin", `${margin}px`);
  });
}
new ResizeObserver(arrangePanes).observe(stage);

function paintRoom() {  // what verdicts and choices change; the videos stay
  if (!viewing) return;
  const { takes: list, at, way, parts, panes, order: all } = viewing, take = list[at], isLoupe = list.length === 1;
  parts.title.replaceChildren(isLoupe ? make("bdi", {}, take.id) : say("comparison"));
  parts.placeText.textContent = isLoupe ? say("place", { at: all.indexOf(take) + 1, all: all.length }) : "";
  parts.ways?.replaceChildren(segment(say("way"), WAYS.map((each) => [each, say(each)]), way, setWay));
  if (list.length > 2) {
    for (const each of parts.ways.querySelectorAll("[aria-pressed=false]")) Object.assign(each, { disabled: true, title: say("needsTwo") });
  }
  parts.zoom.setAttribute("aria-pressed", viewing.zoom);
  parts.source.setAttribute("aria-pressed", viewing.source);
  parts.about.setAttribute("aria-pressed", room.classList.contains("with-info"));
  parts.source.hidden = !list.some(({ shot }) => shot.src);
  stage.className = `stage ${way}${viewing.zoom ? " zoomed" : ""}`;
  panes.forEach((pane, place) => {
    pane.className = `pane ${verdictOf(pane.take).verdict ?? ""}${place === at && !isLoupe ? " active" : ""}`;
    pane.tag.replaceChildren(...tagOf(pane.take, isLoupe ? "" : "ABCD"[place]));
  });
  arrangePanes();
  paintJudging(take);
  if (parts.strip) for (const thumb of parts.strip.children) paintThumb(thumb);
}

function tagOf(take, letter) {  // the loupe has no letter, and the rest in its title and facts
  const { verdict, stars, note } = verdictOf(take);
  const bits = [letter, verdictText(verdict), starsText(stars), ...(letter ? facts(take) : [])].filter((each) => each);
  return [bits.length && make("span", {}, bits.join(" · ")), letter && make("bdi", { className: "id" }, take.id),
    note && make("span", { className: "note", dir: "auto" }, note)].filter((each) => each);
}

function paintJudging(take) {
  const { verdict, stars = 0, note } = verdictOf(take);
  const focused = document.activeElement?.dataset?.act;
  const act = (name, text, label, pressed, onclick) => {
    const made = button(text, onclick, { "aria-label": label, "aria-pressed": pressed, disabled: !take.sha });
    made.dataset.act = name;
    return made;
  };
  const letter = viewing.takes.length > 1 && make("b", {}, "ABCD"[viewing.at]);
  const few = choice(say("starsOf"), [0, 1, 2, 3, 4, 5].map((each) => [each, each ? `★ ${each}` : say("unrated")]), stars, (value) => rate(take, +value));
  few.className = "few";
  few.disabled = !take.sha;
  few.dataset.act = "stars";
  viewing.parts.judging.replaceChildren(
    letter || "",
    make("span", { className: "segment", role: "group", "aria-label": say("verdict") },
      act("pick", "✓ " + say("pickIt"), say("pickIt"), verdict === "pick", () => judgeHere("pick")),
      act("reject", "✕ " + say("rejectIt"), say("rejectIt"), verdict === "reject", () => judgeHere("reject"))),
    make("span", { className: "segment rating", role: "group", "aria-label": say("starsOf") },
      [1, 2, 3, 4, 5].map((each) => act("star" + each, each <= stars ? "★" : "☆", say("stars", { n: each }), each === stars,
        () => rate(take, each === stars ? 0 : each)))),
    few,
    act("note", say("note"), say("note"), Boolean(note), () => askNote(take)),
    act("mark", say("mark"), say("markIt"), take.mark > 0, () => { toggleMark(take); paintRoom(); }));
  if (!focused) return;
  const again = viewing.parts.judging.querySelector(`[data-act="${focused}"]`);
  (again.disabled ? stage : again).focus();
}

function showTime(player) {
  const { range, clock, toggle } = viewing.parts, { duration, time } = player;
  if (document.activeElement !== range || player.wantsPlay) range.value = duration ? 1000 * time / duration : 0;
  const text = duration ? `${time.toFixed(2)} / ${duration.toFixed(2)} s` : "";
  if (clock.textContent !== text) clock.textContent = text;
  const word = say(player.wantsPlay ? "pause" : "play");
  if (toggle.textContent !== word) toggle.textContent = word;
}

function drawStrip() {
  const mates = viewing.takes[0].shot.takes, at = mates.indexOf(viewing.takes[0]);
  const start = Math.max(0, Math.min(at - 10, mates.length - 24));
  viewing.parts.strip.hidden = mates.length < 2;
  viewing.parts.strip.replaceChildren(...mates.slice(start, start + 24).map((take) => {
    const thumb = button("", () => openRoom([take]), { "aria-label": describe(take) });
    thumb.take = take;
    const image = take.src && isImage(take) && make("img", { src: take.src, alt: "" });
    const canvas = take.src && isVideo(take) && !take.gone && make("canvas", { width: 0, height: 0 });
    const sign = take.gone || PAGE.states[take.state]?.problem ? "!" : "–";
    thumb.append(image || canvas || make("span", { className: "blank" }, sign), make("em"));
    if (canvas) copyPoster(take, canvas);
    return thumb;
  }));
  for (const thumb of viewing.parts.strip.children) paintThumb(thumb);
  viewing.parts.strip.querySelector("[aria-current=true]")?.scrollIntoView({ block: "nearest", inline: "center" });
}

function copyPoster(take, canvas) {  // the grid's own canvas stays where it is
  const known = posters.get(take);
  if (!known?.width) return ask(take, canvas);
  canvas.width = known.width;
  canvas.height = known.height;
  return canvas.getContext("2d", { willReadFrequently: true }).drawImage(known, 0, 0);
}

function paintThumb(thumb) {
  const { verdict } = verdictOf(thumb.take);
  thumb.setAttribute("aria-current", viewing.takes.includes(thumb.take));
  thumb.setAttribute("aria-label", describe(thumb.take));
  thumb.className = verdict ?? "";
  thumb.lastChild.textContent = SIGNS[verdict] ?? "";
}

function factsOf(take) {
  const list = make("dl"), { shot } = take, [width, height] = take.size ?? [];
  const entry = (name, value) => value && list.append(make("dt", {}, name), make("dd", { dir: "auto" }, value));
  entry(say("state").toLowerCase(), (take.earlier || !take.src) && wordOf(take.state));
  entry(say("reason"), !take.src && take.reason);
  for (const { name, label, kind } of OTHERS) {
    if (kind === "text") entry(label, shot.texts[name]);
    else if (kind !== "image") entry(label, take.values[name]);
  }
  entry(say("size"), [width && `${width} × ${height}`, take.bytes && bytesText(take.bytes)].filter((each) => each).join(" · "));
  entry(say("cost"), take.cost && dollars(take.cost));
  entry(say("rendered"), take.seconds && secondsText(take.seconds));
  entry(say("made"), take.at && timeText(take.at));
  entry(say("task"), take.task);
  entry(say("file"), take.src && make("a", { href: take.src }, take.file));
  entry(say("link"), button(say("copyLink"), () => copyText(location.href.split("#")[0] + "#clip=" + linkOf(take))));
  const isWeb = /^https?:/.test(shot.path ?? "");
  const image = isWeb ? make("a", { href: shot.path, rel: "noreferrer" }, shot.image || shot.path) : shot.image;
  const command = take.src ? againCommand(take) : helpOf(take);
  return [
    shot.src && sourceImage(shot.src, "source", { alt: say("source") }),
    shot.image && make("p", { className: "soft" }, make("bdi", {}, image), shot.src && make("span", { className: "for-keys" }, " · " + say("sourceHint"))),
    make("p", { className: "words", dir: "auto" }, shot.texts[PROMPT.name] ?? ""),
    list,
    make("p", { className: "soft" }, say(take.src ? "anotherSeed" : "again")),
    commandParts(command),
    make("p", { className: "soft" }, aboutCommands(command)),
  ].filter((each) => each);
}

function step(by, fits = () => true) {
  const { order: all, takes: list } = viewing, at = all.indexOf(list[0]);
  const next = by < 0 ? all.slice(0, Math.max(0, at)).findLast(fits) : all.slice(at + 1).find(fits);
  if (!next) return;
  viewing.takes = [next];
  here = next;
  drawStage();
}

function choosePane(by) {
  viewing.at = (viewing.at + by + viewing.takes.length) % viewing.takes.length;
  paintRoom();
}

function setWay(way) {
  if (viewing.takes.length !== 2) return;
  viewing.way = way;
  view.room.way = way;
  writeView();
  paintRoom();
}

function flicker() {
  if (viewing?.way === "flicker" && mayMove.matches && viewing.player.wantsPlay) choosePane(1);
}
setInterval(flicker, 700);

function toggleZoom() {
  viewing.zoom = !viewing.zoom;
  paintRoom();
}

function toggleFacts() {
  room.classList.toggle("with-info");
  paintRoom();
}

function showSource(shown) {
  viewing.source = shown;
  for (const pane of viewing.panes) {
    const image = pane.querySelector(".source");
    if (!shown) image?.remove();
    else if (!image && pane.take.shot.src) pane.film.append(sourceImage(pane.take.shot.src, "source", { loading: "eager" }));
  }
  viewing.parts.source.setAttribute("aria-pressed", shown);
}

function setSpeed(rate) {
  viewing.rate = rate;
  viewing.player.setRate(rate);
  viewing.parts.speed.value = rate;
}

function followPointer(event) {
  const pane = event.target.closest(".pane"), box = stage.getBoundingClientRect();
  const inner = pane?.getBoundingClientRect() ?? box;
  const percent = (value, start, length) => `${Math.max(0, Math.min(100, 100 * (value - start) / length))}%`;
  stage.style.setProperty("--wipe", percent(event.clientX, box.left, box.width));
  stage.style.setProperty("--x", percent(event.clientX, inner.left, inner.width));
  stage.style.setProperty("--y", percent(event.clientY, inner.top, inner.height));
}
stage.onpointermove = followPointer;

function moveWipe(by) {
  const now = parseFloat(stage.style.getPropertyValue("--wipe")) || 50;
  stage.style.setProperty("--wipe", `${Math.max(0, Math.min(100, now + by))}%`);
}

whenClosed(room, () => {
  if (!viewing) return;
  const { takes: list, at } = viewing;
  viewing.player.end();
  room.replaceChildren();
  stage.replaceChildren();
  viewing = null;
  view.room = null;
  writeView();
  placeToast();
  if (view.chosen.has("verdict") || view.query || view.sort === "stars") drawGrid();
  draw();
  focusTake(list[at]);
});

function judgeHere(verdict) {  // in the loupe the next clip follows, past jobs that have none
  const take = viewing.takes[viewing.at];
  decide(take, verdict);
  if (viewing.takes.length === 1 && judgementOf(take) === verdict) step(1, ({ src, gone }) => src && !gone);
}
