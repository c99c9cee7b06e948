// Jobs without a clip, grouped by reason, with the command that helps.
const HELP = {
  failed: "helpFailed", cancelled: "helpFailed", missing: "helpMissing", unknown: "helpUnknown",
  quarantined: "helpQuarantined", given_up: "helpGivenUp",
};
const FEW_JOBS = 5, MOST_JOBS = 500;
const TROUBLE = "wan-async/trouble/" + PAGE.folder;  // whether the box is open, for a reload

const helpOf = ({ state, prepare }) => say(prepare ? "helpPrepare" : HELP[state] ?? "helpOther", { run: runCommand(), out: OUT });

function drawNotices() {
  const without = takes.filter((take) => !take.src);
  const trouble = without.filter(({ state }) => PAGE.states[state]?.problem ?? true);
  const waiting = without.length - trouble.length;
  const notices = [];
  if (PAGE.running) notices.push(make("p", { className: "notice" }, say("running")));
  if (waiting) {
    const rest = PAGE.running ? "" : " · " + say("notRunning", { run: runCommand() });
    notices.push(make("p", { className: "notice waiting" }, say("waiting", { n: waiting }) + rest));
  }
  if (trouble.length) notices.push(troubleOf(trouble));
  find("notices").replaceChildren(...notices);
}

function troubleOf(list) {
  const show = button(say("showThem"), () => {
    view.chosen = new Map([["state", new Set(list.map(({ group }) => group))]]);
    view.query = "";
    changeView();
  });
  const words = grouped(list, ({ state }) => wordOf(state)).map((found) => `${count(found.length)} ${wordOf(found[0].state)}`);
  const summary = make("summary", {}, say("troubleTitle", { n: list.length }), ": ", words.join(", "));
  const box = make("details", { className: "notice trouble", open: wasOpen() }, summary, grouped(list, helpOf).map(groupOf),
    list.some(({ prepare }) => prepare) && make("p", { className: "soft" }, say("aboutPrepare")),
    make("p", { className: "soft" }, aboutCommands(...list.map(helpOf))), show);
  summary.onclick = () => !isNarrowed() && keepOpen(!box.open);
  return box;
}

function grouped(list, nameOfGroup) {  // the largest group first
  const groups = new Map();
  for (const take of list) {
    const name = nameOfGroup(take);
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(take);
  }
  return [...groups.values()].sort((one, other) => other.length - one.length);
}

function groupOf(list) {
  const reasons = grouped(list, ({ state, reason }) => JSON.stringify([state, reason]));
  return make("div", { className: "group" }, reasons.map(reasonOf), make("code", {}, helpOf(list[0])));
}

function reasonOf(list) {
  const [{ state, reason }] = list;
  const names = (shown) => shown.flatMap((take, at) => [at ? ", " : "", make("bdi", {}, take.id),
    state === "missing" && take.task ? ` (${say("task")} ${take.task})` : ""]);
  const jobs = make("span", { className: "soft" }, names(list.slice(0, FEW_JOBS)));
  if (list.length > FEW_JOBS) {
    const more = button(say("more", { n: list.length - FEW_JOBS }), () => jobs.replaceChildren(...names(list.slice(0, MOST_JOBS))));
    jobs.append(" ", more);
  }
  return make("p", {}, make("b", {}, count(list.length)), ` ${wordOf(state)}: `, make("bdi", {}, reason), " ", jobs);
}

function wasOpen() {
  try {
    return sessionStorage.getItem(TROUBLE) === "open";
  } catch {
    return false;
  }
}

function keepOpen(isOpen) {
  try {
    sessionStorage.setItem(TROUBLE, isOpen ? "open" : "closed");
  } catch {
    return;  // it is closed then when the page is loaded again
  }
}

function foldNotices() {  // what was searched for is to be seen, not what helps all jobs
  find("notices").classList.toggle("folded", isNarrowed());
  const box = find("notices").querySelector(".trouble"), wasFolded = box?.dataset.folded === "1";
  if (!box || wasFolded === isNarrowed()) return;
  box.dataset.folded = isNarrowed() ? "1" : "";
  box.open = !isNarrowed() && wasOpen();
}
