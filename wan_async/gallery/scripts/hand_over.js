// The dialog that hands verdicts on: as files, commands, a batch file, a sheet of paper.
const box = find("box");
const FORMS = ["formFiles", "formCopy", "formBatch", "formVerdicts"];
const PICKS_FOLDER = "picks";
const handing = { form: "formFiles", shell: navigator.userAgent.includes("Windows") ? "powershell" : "posix", choices: {}, seeds: 0 };

const quotePosix = (text) => (/^[\w@%+=:,./-]+$/.test(text) && !text.startsWith("-") ? text : `'${text.replaceAll("'", "'\\''")}'`);
const quotePowerShell = (text) => `'${text.replace(/['\u2018-\u201b]/g, "$&$&")}'`;  // typographic quotes end a string, too
const picked = () => uniqueFiles(clips.filter((take) => judgementOf(take) === "pick"));
const localName = (file) => (file.startsWith("-") ? "./" + file : file);

function uniqueFiles(list) {
  const seen = new Set();
  return list.filter(({ file }) => !seen.has(file) && seen.add(file));
}

function copyCommand(files, shell) {
  if (shell === "powershell") {
    return `New-Item -ItemType Directory -Force ${PICKS_FOLDER} | Out-Null\nCopy-Item -LiteralPath `
      + files.map(quotePowerShell).join(",\n  ") + ` -Destination ${PICKS_FOLDER}\n`;
  }
  return `mkdir -p ${PICKS_FOLDER} && cp -p -- ${files.map(quotePosix).join(" \\\n  ")} ${PICKS_FOLDER}/\n`;
}

function showBox(label, ...children) {
  document.body.append(toastLine);
  box.replaceChildren(...children.flat(Infinity).filter((each) => each));
  box.setAttribute("aria-label", label);
  if (!box.open) box.showModal();
  placeToast();
}

whenClosed(box, () => {
  box.replaceChildren();
  placeToast();
  const isLost = document.activeElement === document.body;  // the cell it had is another since the lines were laid out again
  if (isLost && here) focusTake(here, { scrolls: false });
});

function closeButton(name = "close") {
  return button(say(name), () => closeNow(box));
}

function openHandover() {
  const n = picked().length;
  showBox(say("handOver"), make("h2", {}, say("handOverTitle", { n })),
    segment(say("forms"), FORMS.map((name) => [name, say(name)]), handing.form, (form) => { handing.form = form; openHandover(); focusPressed(); }),
    formParts(handing.form));
}

function focusPressed() {
  box.querySelector("[aria-pressed=true]")?.focus();
}

function formParts(form) {
  const files = picked().map(({ file }) => localName(file));
  if (form === "formVerdicts") return textParts("verdicts.json", exportVerdicts(), say("aboutVerdicts"));
  if (!files.length) return [make("p", { className: "soft" }, say("noPicks")), lastRows()];
  if (form === "formFiles") return textParts("picks.txt", files.join("\n") + "\n", say("aboutFiles"));
  if (form === "formBatch") return batchParts();
  const { shell } = handing;
  const shells = segment(say("shell"), [["posix", say("posix")], ["powershell", say("powershell")]], shell,
    (name) => { handing.shell = name; openHandover(); });
  const name = shell === "posix" ? "copy-picks.sh" : "copy-picks.ps1";
  return [make("div", { className: "row" }, shells), textParts(name, copyCommand(files, shell), say("aboutCopy", { folder: PICKS_FOLDER }))];
}

function textParts(name, text, about) {
  const area = make("textarea", { readOnly: true, spellcheck: false, value: text, "aria-label": name, dir: "ltr" });
  const copy = () => { area.select(); copyText(text); };
  return [make("p", { className: "soft" }, about), area,
    lastRows(button(say("copyText"), copy, { className: "primary" }), button(say("saveFile"), () => saveFile(name, text)),
      make("small", { className: "soft wide" }, name))];
}

function batchParts() {
  const { text, jobs, exist, lost, price, folder } = batchFile(picked(), handing);
  const selects = VARIED.filter((each) => each.price).map((parameter) => make("label", {}, parameter.label + " ",
    choice(parameter.label, [["", say("asTheyAre")], ...parameter.choices.map((each) => [each, each])],
      handing.choices[parameter.name] ?? "", (value) => { handing.choices[parameter.name] = value; redraw(parameter.label); })));
  const seeds = VARIED.some(({ kind }) => kind === "integer") && make("label", {}, say("otherSeeds") + " ",
    choice(say("otherSeeds"), [0, 1, 2, 4, 8].map((n) => [n, n ? say("moreSeeds", { n }) : say("sameSeeds")]), handing.seeds,
      (value) => { handing.seeds = +value; redraw(say("otherSeeds")); }));
  const redraw = (label) => { openHandover(); box.querySelector(`[aria-label="${CSS.escape(label)}"]`)?.focus(); };
  const name = `${folder}.json`;
  const remarks = [say("jobs", { n: jobs }), price && say("price", { usd: dollars(price) }), exist && say("exist", { n: exist }),
    lost && say("lost", { n: lost })].filter((each) => each).join(" · ");
  const options = make("div", { className: "row" }, [...selects, seeds]);
  if (!jobs) return [options, make("p", {}, lost ? remarks : say("nothingToRender")), lastRows()];
  const about = make("p", {}, make("b", {}, remarks), " ", make("span", { className: "soft" }, say("aboutBatch")));
  return [options, about, commandParts(planCommand(name)), textParts(name, text, aboutCommands())];
}

function lastRows(...first) {
  const input = make("input", { type: "file", accept: ".json,application/json", hidden: true });
  input.onchange = async () => {
    const [file] = input.files;
    if (!file) return;
    const read = importVerdicts(await file.text());
    input.value = "";  // so that the same file can be chosen again
    toast(read === null ? say("readNot", { file: file.name }) : say("read", { n: read }));
    if (read !== null) openHandover();
  };
  const printShown = () => { closeNow(box); printSheet(); };
  const more = make("p", { className: "row more" }, input,
    button(say("readVerdicts"), () => input.click(), { className: "quiet", title: say("aboutRead") }),
    button(say("printSheet"), printShown, { className: "quiet", title: say("aboutSheet", { n: clipsShown().length }) }));
  return [more, make("p", { className: "row last" }, first, closeButton())];
}

function askNote(take) {
  const input = make("input", { value: verdictOf(take).note ?? "", "aria-label": say("note"), dir: "auto", maxLength: 2000 });
  const done = () => {
    judgeAll([[take], { note: input.value.trim() || undefined }]);
    closeNow(box);
  };
  input.onkeydown = (event) => { if (event.key === "Enter" && !event.isComposing) done(); };
  showBox(say("note"), make("h2", {}, say("noteFor", { id: take.id })), input,
    make("p", { className: "row" }, button(say("save"), done, { className: "primary" }), closeButton("cancel")));
  input.focus();
}
