// The contact sheet: what is shown now, on paper.
const sheet = find("sheet");
const SHEET_CLIPS = 1000;

function fillSheet() {
  if (sheet.childElementCount) return [];
  const list = order.slice(0, SHEET_CLIPS);
  const undrawn = [];
  const figures = list.map((take) => {
    const { verdict, stars, note } = verdictOf(take);
    const canvas = make("canvas", { width: 0, height: 0 });
    const image = take.src && isImage(take) ? make("img", { src: take.src, alt: "" }) : canvas;
    if (image === canvas && take.src && isVideo(take) && !take.gone) {
      if (posters.get(take)?.width) copyPoster(take, canvas);
      else undrawn.push([take, canvas]);
    }
    const bits = [verdict === "pick" ? "✓" : verdict === "reject" ? "✕" : "", starsText(stars), ...facts(take)];
    return make("figure", {}, image, make("figcaption", {}, make("b", { dir: "auto" }, take.id), " ",
      bits.filter((each) => each).join(" · "), !take.src && make("span", { dir: "auto" }, " " + take.reason),
      make("span", { className: "words", dir: "auto" }, take.shot.texts[PROMPT.name] ?? ""), note && make("i", { dir: "auto" }, note)));
  });
  const title = say("sheetTitle", { folder: PAGE.folder, n: list.length });
  const cut = order.length > list.length && make("p", {}, say("sheetCut", { n: list.length, all: order.length }));
  sheet.replaceChildren(...[make("h1", { dir: "auto" }, title), cut, make("div", { className: "figures" }, figures)].filter((each) => each));
  return undrawn;
}

async function printSheet() {  // unlike the browser's own command, it waits for the frames
  const undrawn = fillSheet();
  let done = 0;
  await Promise.all(undrawn.map(([take, canvas]) => new Promise((resolve) => {
    ask(take, canvas, () => {
      done += 1;
      toast(say("preparing", { done, all: undrawn.length }));
      resolve();
    });
  })));
  print();
}

addEventListener("beforeprint", () => { fillSheet(); });
addEventListener("afterprint", () => sheet.replaceChildren());
