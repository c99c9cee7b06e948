// Lines of the grid with their places, computed without the page: only those near the window become elements.
// Sizes are in rem; `layOut` turns them into pixels.
const GAP = 0.75, GUTTER = 1.7, CAPTION = 2, CARD = 5.6, HEAD = 4.4, NARROW_HEAD = 4.7, AXIS = 1.7, AFTER = 1.9;
const ACTS = 1.9, FINGER = 2.9, TEXT = 1.3;  // heights of a row of buttons, also for fingers, and of a line of text
const COLUMN = 15.5, NARROW = 9, NARROWEST = 7.5, LEAST_OF_MIXED = 4, WIDEST = 27, WIDEST_IN_MATRIX = 20, TALLEST = 25, UNKNOWN_RATIO = 1.5;

const coarse = matchMedia("(pointer: coarse)");

function layOut(list, width) {
  const unit = rootPixels(), isNarrow = width < 34 * unit;
  const lines = [];
  let top = 0;
  const add = (line, height) => {
    lines.push({ ...line, top, height: height * unit, at: lines.length });
    top += height * unit;
  };
  const plan = { add, width: width / unit, isNarrow };
  if (view.flat || view.sort) {
    const sorted = view.sort ? [...list].sort(SORTS[view.sort]) : list;
    addFlow(plan, sorted, { isCard: true });
  } else {
    addShots(plan, list);
  }
  return { lines, height: top };
}

function addShots(plan, list) {
  const byShot = new Map();
  for (const take of list) {
    if (!byShot.has(take.shot)) byShot.set(take.shot, []);
    byShot.get(take.shot).push(take);
  }
  let single = [];
  const flush = () => {
    if (!single.length) return;
    addFlow(plan, single, { isCard: true });
    plan.add({ kind: "space" }, AFTER);
    single = [];
  };
  for (const [shot, found] of byShot) {
    if (shot.takes.length === 1) {
      single.push(...found);
      continue;
    }
    flush();
    const height = plan.isNarrow ? NARROW_HEAD + (playable(found) ? coarse.matches ? FINGER : ACTS : TEXT) : HEAD;
    plan.add({ kind: "head", shot, takes: found, isNarrow: plan.isNarrow }, height);
    const earlier = found.filter((take) => take.earlier), current = found.filter((take) => !take.earlier);
    if (current.length) addMatrix(plan, current);
    if (earlier.length) {
      plan.add({ kind: "title", text: say("earlierTakes") }, AXIS);
      addFlow(plan, earlier, {});
    }
    plan.add({ kind: "space" }, AFTER);
  }
  flush();
}

// The most varied parameter is across (an integer, if as varied as a choice), the others down. Columns for which a line has
// no room go on in a band below, with their own labels; on a phone a parameter that fits is across instead.
function addMatrix(plan, list) {
  const isInteger = ({ parameter }) => parameter.kind === "integer";
  const axes = VARIED.map((parameter) => ({ parameter, values: distinct(list, parameter) }))
    .filter(({ values }) => values.length > 1)
    .sort((one, other) => other.values.length - one.values.length || isInteger(other) - isInteger(one));
  const fits = Math.max(1, Math.floor((plan.width - GUTTER + GAP) / ((plan.isNarrow ? NARROWEST : NARROW) + GAP)));
  const across = plan.isNarrow && axes.find(({ values }) => values.length <= fits) || axes[0];
  if (!across) return addFlow(plan, list, {});
  const down = axes.filter((axis) => axis !== across).map(({ parameter }) => parameter);
  const rows = rowsOf(list, across, down);
  const columns = across.values.length, bandsNeeded = Math.ceil(columns / fits), each = Math.ceil(columns / bandsNeeded);
  const bands = Array.from({ length: bandsNeeded }, (_, band) => {
    const from = band * each, labels = across.values.slice(from, from + each).map((value) => valueText(across.parameter, value));
    const found = rows.map(({ label, places }) => ({ label, cells: labels.map((_, at) => places[from + at] ?? null) }));
    return { labels, rows: found.filter(({ cells }) => cells.some((take) => take)) };
  });
  const placeCount = bands.reduce((sum, band) => sum + band.labels.length * band.rows.length, 0);
  if (bandsNeeded > 1 && list.length * 2 < placeCount) return addFlow(plan, list, {});  // as where each take has a seed of its own
  const gutter = rows.length > 1 ? GUTTER : 0;
  for (const band of bands) {
    const widths = columnWidths(plan, band, gutter, each);
    plan.add({ kind: "axis", labels: band.labels, widths, gutter }, AXIS);
    for (const { label, cells } of band.rows) {
      addCells(plan, cells, { widths, gutter, label, axes: axes.map(({ parameter }) => parameter) });
    }
  }
  return undefined;
}

function rowsOf(list, across, down) {  // takes by what they have in common; a second take at one place begins another row
  const rows = new Map();
  for (const take of list) {
    const column = across.values.indexOf(take.values[across.parameter.name] ?? "");
    const labels = down.map((each) => valueText(each, take.values[each.name] ?? ""));
    for (let copy = 0; ; copy += 1) {
      const name = JSON.stringify([labels, copy]);
      if (!rows.has(name)) rows.set(name, { label: rowLabel(labels, copy), order: take, copy, places: [] });
      const row = rows.get(name);
      if (row.places[column]) continue;
      row.places[column] = take;
      break;
    }
  }
  return [...rows.values()].sort((one, other) => {
    for (const each of down) {
      const difference = compareValues(each, one.order.values[each.name] ?? "", other.order.values[each.name] ?? "");
      if (difference) return difference;
    }
    return one.copy - other.copy;
  });
}

function columnWidths(plan, { labels, rows }, gutter, columns) {  // clips of different shapes side by side are equally high
  const room = plan.width - gutter - GAP * (columns - 1);
  const ratios = labels.map((_, at) => Math.min(...rows.flatMap(({ cells }) => (cells[at] ? [ratioIn(cells[at])] : []))));
  const narrowest = Math.min(...ratios), widest = Math.max(...ratios);
  const height = Math.min(room / ratios.reduce((sum, ratio) => sum + ratio, 0), WIDEST / widest, TALLEST);
  if (widest > 1.1 * narrowest && height * narrowest >= LEAST_OF_MIXED) return ratios.map((ratio) => height * ratio);
  const inRow = Math.max(...rows.map(({ cells }) => Math.min(...cells.filter((take) => take).map(ratioIn))));
  const width = Math.min(room / columns, WIDEST_IN_MATRIX, Math.max(NARROW, TALLEST * inRow));
  return labels.map(() => width);
}

function rowLabel(labels, copy) {
  return [...labels, copy && say("takeNumber", { n: copy + 1 })].filter((label) => label).join(" · ");
}

function addFlow(plan, list, { isCard = false }) {
  const tall = Math.min(...list.slice(0, 200).map(ratioIn)) < 0.8;
  const least = plan.isNarrow ? NARROW : tall ? COLUMN * 0.8 : COLUMN;
  const columns = Math.max(1, Math.floor((plan.width + GAP) / (least + GAP)));
  const widths = Array(columns).fill(Math.min((plan.width - GAP * (columns - 1)) / columns, WIDEST));
  for (let at = 0; at < list.length; at += columns) {
    addCells(plan, list.slice(at, at + columns), { widths, gutter: 0, axes: [], isCard });
  }
}

function addCells(plan, cells, line) {
  const heights = cells.flatMap((take, at) => (take ? [line.widths[at] / ratioIn(take)] : []));
  const well = Math.min(Math.max(...heights), TALLEST);
  const caption = line.isCard ? CARD : CAPTION;
  plan.add({ kind: "cells", cells, well, caption, ...line }, well + caption + GAP);
}

const ratioIn = (take) => ratioOf(take) ?? UNKNOWN_RATIO;
