// Every key, and the list of them.
const KEYS = {
  keysMove: [["← → ↑ ↓", "keyMove"], ["Enter", "keyOpen"], ["Space", "keyPlay"], [", .", "keyFrames"], ["[ ]", "keySpeed"],
    ["/", "keySearch"], ["G", "keyFlat"], ["Esc", "keyEscape"]],
  keysJudge: [["P", "keyPick"], ["X", "keyReject"], ["U", "keyOpenAgain"], ["Shift P", "keyBest"], ["0 – 5", "keyStars"],
    ["N", "keyNote"], ["Ctrl Z", "keyUndo"], ["E", "keyHandOver"], ["Ctrl P", "keyPrint"]],
  keysLook: [["M", "keyMark"], ["C", "keyCompare"], ["V W F D", "keyWays"], ["Z", "keyZoom"], ["S", "keySource"],
    ["I", "keyInfo"], ["T", "keyFour"], ["?", "keyThis"]],
};

function openKeys() {
  const groups = Object.entries(KEYS).map(([title, keys]) => make("section", {}, make("h3", {}, say(title)),
    make("dl", {}, keys.flatMap(([key, text]) => [
      make("dt", {}, key.split(" ").map((part) => (part === "–" ? " – " : make("kbd", {}, part)))), make("dd", {}, say(text)),
    ]))));
  showBox(say("keys"), make("div", { className: "row first" }, make("h2", {}, say("keys")), closeButton()), make("div", { className: "keys" }, groups));
}

function decide(take, verdict) {  // the same verdict again takes it back
  const next = verdictOf(take).verdict === verdict ? undefined : verdict;
  judgeAll([[take], { verdict: next }]);
  toast(say({ pick: "saysPick", reject: "saysReject" }[next] ?? "saysOpen", { id: take.id }));
}

function rate(take, stars) {
  judgeAll([[take], { stars: stars || undefined }]);
  toast(say("saysStars", { id: take.id, stars: stars ? say("stars", { n: stars }) : say("noStars") }));
}

const ROOM_KEYS = {
  " ": () => viewing.player.toggle(),
  ",": () => viewing.player.step(-1),
  ".": () => viewing.player.step(1),
  "[": () => setSpeed(SPEEDS[Math.max(0, SPEEDS.indexOf(viewing.rate) - 1)]),
  "]": () => setSpeed(SPEEDS[Math.min(SPEEDS.length - 1, SPEEDS.indexOf(viewing.rate) + 1)]),
  z: toggleZoom,
  i: toggleFacts,
  v: () => setWay("side"),
  w: () => setWay("wipe"),
  f: () => setWay("flicker"),
  d: () => setWay("difference"),
  p: () => judgeHere("pick"),
  x: () => judgeHere("reject"),
  c: () => openRoom(marks.length > 1 ? marks : rowOf(viewing.takes[viewing.at])),
  Enter: () => viewing.takes.length > 1 && openRoom([viewing.takes[viewing.at]]),
  ArrowLeft: (event) => aside(-1, event),
  ArrowRight: (event) => aside(1, event),
};

function aside(by, event) {
  if (viewing.takes.length === 1) step(by);
  else if (viewing.way === "wipe" && event.shiftKey) moveWipe(5 * by);
  else choosePane(by);
}

const GRID_KEYS = {
  ArrowLeft: () => move(-1, 0),
  ArrowRight: () => move(1, 0),
  ArrowUp: () => move(0, -1),
  ArrowDown: () => move(0, 1),
  Home: () => focusTake(order[0]),
  End: () => focusTake(order.at(-1)),
  "/": () => find("search").focus(),
  t: () => { view.four = !view.four; framesChanged(); },
  g: () => { view.flat = !view.flat; changeView(); },
  c: () => openRoom(marks.length > 1 ? marks : here ? rowOf(here) : []),
  Escape: clearMarks,
};
const CELL_KEYS = {  // only while a cell has the focus: elsewhere these keys press buttons
  Enter: (event) => openRoom([event.target.take]),
  " ": ({ target }) => {
    if (target.video) stopIn(target);
    else playIn(target);
    target.keepsPlaying = Boolean(target.video);
  },
  p: () => decide(here, "pick"),
  x: () => decide(here, "reject"),
};
const TAKE_KEYS = {
  u: (take) => { judgeAll([[take], { verdict: undefined }]); toast(say("saysOpen", { id: take.id })); },
  n: askNote,
  m: (take) => { toggleMark(take); paintRoom(); },
};

function onKey(event) {
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const isTyping = event.target.matches?.("input:not([type=checkbox], [type=range]), textarea, select");
  const dialog = [box, room].find(({ open }) => open);
  if (dialog && key === "Escape" && !event.isComposing) {
    event.preventDefault();
    closeNow(dialog);
    return;
  }
  if (key === "Escape" && openPanel(false)) {
    event.preventDefault();
    return;
  }
  if (event.altKey || box.open) return;
  if (event.ctrlKey || event.metaKey) {
    const command = { p: printSheet, z: undo }[key];
    if (!command || isTyping && key === "z") return;
    event.preventDefault();
    command();
    return;
  }
  if (isTyping) {
    leaveSearch(event);
    return;
  }
  const isButton = event.target.matches?.("button, summary, a") && !event.target.take;
  if (isButton && (key === "Enter" || key === " ")) return;
  const isRange = event.target.matches?.("[type=range]");
  if (isRange && key.startsWith("Arrow")) return;
  const action = actionOf(key, event);
  if (!action) return;
  event.preventDefault();
  action();
}

function actionOf(key, event) {
  const take = viewing ? viewing.takes[viewing.at] : event.target.take;
  if (take?.sha) {
    if (key === "p" && event.shiftKey) return () => { judgeBest(take); toast(say("saysBest", { id: take.id })); };
    if (/^[0-5]$/.test(key)) return () => rate(take, +key);
    if (TAKE_KEYS[key]) return () => TAKE_KEYS[key](take);
  }
  if (key === "?") return openKeys;
  if (key === "e") return openHandover;
  if (viewing) {
    if (key === "s") return () => !event.repeat && showSource(true);
    if ((key === "p" || key === "x") && !take?.sha) return null;
    return ROOM_KEYS[key] && (() => ROOM_KEYS[key](event));
  }
  if (event.target.take && CELL_KEYS[key] && (take.sha || key === "Enter")) return () => CELL_KEYS[key](event);
  return GRID_KEYS[key] && (() => GRID_KEYS[key](event));
}

function leaveSearch(event) {
  if (event.target.id !== "search" || !["Escape", "ArrowDown", "Enter"].includes(event.key) || event.isComposing) return;
  event.preventDefault();
  if (event.key === "Escape" && event.target.value) {
    event.target.value = "";
    searchFor("");
  } else if (order.length) {
    focusTake(order[0]);
  }
}

addEventListener("keydown", onKey);
addEventListener("keyup", (event) => { if (event.key.toLowerCase() === "s" && viewing) showSource(false); });
