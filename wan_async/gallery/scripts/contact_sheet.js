// The contact sheet: the clips that are shown now, on paper.
const sheet = find("sheet");
const SHEET_CLIPS = 1000;
let isPreparing = false;

const clipsShown = () => order.filter(({ src }) => src);

function fillSheet() {  // returns the takes whose frames are still to be drawn, with their canvases
  const shown = clipsShown(), list = shown.slice(0, SHEET_CLIPS), undrawn = [];
  const sections = [];
  for (const take of list) {  // as in the grid, several takes of a shot are under its name and prompt
    const shot = view.flat || view.sort || take.shot.takes.length === 1 ? null : take.shot;
    if (!sections.length || sections.at(-1).shot !== shot) sections.push({ shot, figures: [] });
    sections.at(-1).figures.push(figureOf(take, undrawn, !shot));
  }
  const title = shown.length < clips.length ? say("sheetSome", { folder: PAGE.folder, n: shown.length, all: clips.length })
    : say("sheetTitle", { folder: PAGE.folder, n: shown.length });
  const cut = shown.length > list.length && make("p", {}, say("sheetCut", { n: list.length, all: shown.length }));
  sheet.replaceChildren(...[make("h1", { dir: "auto" }, title), cut, ...sections.map(({ shot, figures }) => make("section", {},
    shot && make("h2", {}, make("bdi", {}, shot.name)), shot && make("p", { dir: "auto" }, shot.texts[PROMPT.name] ?? ""),
    make("div", { className: "figures" }, figures)))].filter((each) => each));
  return undrawn;
}

function figureOf(take, undrawn, isCard) {
  const { verdict, stars, note } = verdictOf(take);
  let image = make("canvas", { width: 0, height: 0 });
  if (isImage(take)) image = make("img", { src: take.src, alt: take.file });
  else if (posters.get(take)?.width) copyPoster(take, image);
  else if (isVideo(take) && !take.gone) undrawn.push([take, image]);
  else image = noFrame(take);
  const bits = [take.earlier && say("earlier"), ...facts(take)];
  return make("figure", {}, image, make("figcaption", {},
    verdict && make("b", { className: verdict }, verdictText(verdict)), verdict && " ", stars && starsText(stars) + " ",
    make("b", { dir: "auto" }, take.id), " ", bits.filter((each) => each).join(" · "),
    isCard && make("span", { className: "words", dir: "auto" }, take.shot.texts[PROMPT.name] ?? ""),
    note && make("i", { dir: "auto" }, note)));
}

function noFrame({ file, gone }) {
  return make("p", { dir: "auto" }, gone ? say("gone", { file }) : file);
}

async function printSheet() {  // unlike the browser's own command, it waits for the frames
  if (isPreparing) return;
  isPreparing = true;
  const undrawn = fillSheet();
  let done = 0;
  const tell = () => toast(say("preparing", { done, all: undrawn.length }), { stays: true });
  if (undrawn.length) tell();
  await Promise.allSettled([...sheet.querySelectorAll("img")].map((image) => image.decode()));
  await Promise.all(undrawn.map(([take, canvas]) => new Promise((resolve) => {
    ask(take, canvas, () => {
      done += 1;
      tell();
      if (take.gone) canvas.replaceWith(noFrame(take));
      resolve();
    });
  })));
  if (undrawn.length) toast("");
  isPreparing = false;
  print();
}

addEventListener("beforeprint", () => { if (!sheet.childElementCount) fillSheet(); });
addEventListener("afterprint", () => { if (!isPreparing) sheet.replaceChildren(); });
