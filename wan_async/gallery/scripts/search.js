// The search: words, "phrases", fields (seed:3, res:720P, is:picked), and a minus before what is not wanted.
const STATUSES = {
  picked: (take) => judgementOf(take) === "pick",
  rejected: (take) => judgementOf(take) === "reject",
  open: (take) => Boolean(take.src) && judgementOf(take) === "open",
  reviewed: (take) => judgementOf(take) !== "open",
  starred: (take) => verdictOf(take).stars > 0,
  noted: (take) => Boolean(verdictOf(take).note),
  marked: (take) => take.mark > 0,
  clip: (take) => Boolean(take.src),
  video: (take) => Boolean(take.src) && isVideo(take),
  image: (take) => Boolean(take.src) && isImage(take),
};
const TEXT_FIELDS = {
  id: (take) => take.id,
  file: (take) => take.file,
  task: (take) => take.task ?? "",
  image: (take) => take.shot.image,
  note: (take) => verdictOf(take).note ?? "",
  reason: (take) => (take.src ? "" : take.reason),
};

function fieldOf(name) {  // the test of a field by its name, or by the beginning of a parameter's name
  if (name === "is") {
    return (value) => STATUSES[value] ?? ((take) => take.state === value || take.group === value);
  }
  if (name === "stars") {
    const least = (value) => /^>?=?(\d)\+?$/.exec(value)?.[1];
    return (value) => (take) => (/^\d$/.test(value) ? (verdictOf(take).stars ?? 0) === +value
      : (verdictOf(take).stars ?? 0) >= +(least(value) ?? 9));
  }
  if (Object.hasOwn(TEXT_FIELDS, name)) return (value) => (take) => TEXT_FIELDS[name](take).toLowerCase().includes(value);
  const parameter = PAGE.parameters.find((each) => each.kind !== "image" && [each.name, each.label].some(
    (called) => called.toLowerCase().replaceAll(" ", "_").startsWith(name)));
  if (!parameter) return null;
  if (parameter.kind === "text") {
    return (value) => (take) => (take.shot.texts[parameter.name] ?? "").toLowerCase().includes(value);
  }
  return (value) => (take) => (take.values[parameter.name] ?? "").toLowerCase() === value;
}

function wordsOf(take) {
  return [take.id, take.file, take.shot.image, verdictOf(take).note, take.src ? "" : take.reason,
    ...Object.values(take.shot.texts)].join("\n").toLowerCase();
}

function wordTest(word) {  // a choice stands for itself
  const parameter = VARIED.find(({ choices }) => choices.some((each) => each.toLowerCase() === word));
  if (parameter) return (take) => (take.values[parameter.name] ?? "").toLowerCase() === word;
  return (take) => wordsOf(take).includes(word);
}

function parseQuery(query) {  // the test of a take, and the names of fields that do not exist
  const terms = query.toLowerCase().match(/-?(?:[^\s":]+:)?(?:"[^"]*"?|[^\s"]+)/g) ?? [];
  const unknown = [], tests = [];
  for (let at = 0; at < terms.length; at += 1) {
    const [, minus, term] = /^(-?)(.*)$/s.exec(terms[at]);
    const [, name, given] = /^([^\s":]+):(.+)$/s.exec(term) ?? [];
    const field = name && fieldOf(name);
    const integer = VARIED.find(({ kind, label }) => kind === "integer" && label.toLowerCase() === term);
    let test;
    if (field) test = field(given.replaceAll('"', ""));
    else if (integer && /^-?\d+$/.test(terms[at + 1] ?? "")) {  // `seed 1`
      const value = terms[at + 1];
      test = (take) => take.values[integer.name] === value;
      at += 1;
    } else {
      const word = term.replaceAll('"', "");
      const isValue = VARIED.some(({ choices }) => choices.some((each) => each.toLowerCase() === word));
      if (name && !isValue) unknown.push(name);
      if (word) test = wordTest(word);
    }
    if (test) tests.push(minus ? (take) => !test(take) : test);
  }
  return { test: (take) => tests.every((test) => test(take)), unknown };
}
