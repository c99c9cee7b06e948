// Jobs without a clip, grouped by reason, with the command that helps.
const HELP = {
  failed: "helpFailed", cancelled: "helpFailed", missing: "helpMissing", unknown: "helpUnknown",
  quarantined: "helpQuarantined", given_up: "helpGivenUp",
};
const FEW_JOBS = 5, MOST_JOBS = 500;

const helpFor = (state) => say(HELP[state] ?? "helpOther", { run: runCommand(), out: OUT });

function drawNotices() {
  const without = takes.filter((take) => !take.src);
  const trouble = without.filter(({ state }) => PAGE.states[state]?.problem ?? true);
  const waiting = without.length - trouble.length;
  const notices = [];
  if (PAGE.running) notices.push(make("p", { className: "notice" }, say("running")));
  if (waiting) {
    const rest = PAGE.running ? "" : " · " + say("notRunning", { run: runCommand() });
    notices.push(make("p", { className: "notice" }, say("waiting", { n: waiting }) + rest));
  }
  if (trouble.length) notices.push(troubleOf(trouble));
  find("notices").replaceChildren(...notices);
}

function troubleOf(list) {
  const groups = new Map();
  for (const take of list) {
    const name = JSON.stringify([take.state, take.reason]);
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(take);
  }
  const sorted = [...groups.values()].sort((one, other) => other.length - one.length);
  const show = button(say("showThem"), () => {
    view.chosen = new Map([["state", new Set(list.map(({ group }) => group))]]);
    view.query = "";
    changeView();
  });
  const summary = make("summary", {}, say("troubleTitle", { n: list.length }));
  return make("details", { className: "notice trouble", open: true }, summary, sorted.map(groupOf),
    make("p", { className: "soft" }, aboutCommands(...list.map(({ state }) => helpFor(state)))), show);
}

function groupOf(list) {
  const [{ state, reason }] = list;
  const names = (shown) => shown.flatMap((take, at) => [at ? ", " : "", make("bdi", {}, take.id),
    state === "missing" && take.task ? ` (${say("task")} ${take.task})` : ""]);
  const jobs = make("span", { className: "soft" }, names(list.slice(0, FEW_JOBS)));
  if (list.length > FEW_JOBS) {
    const more = button(say("more", { n: list.length - FEW_JOBS }), () => jobs.replaceChildren(...names(list.slice(0, MOST_JOBS))));
    jobs.append(" ", more);
  }
  return make("div", { className: "group" },
    make("p", {}, make("b", {}, count(list.length)), ` ${wordOf(state)}: `, make("bdi", {}, reason), " ", jobs),
    make("code", {}, helpFor(state)));
}
