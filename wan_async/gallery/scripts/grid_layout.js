// Lines of the grid with their places, computed without the page: only those near the window become elements.
// Sizes are in rem; `layOut` turns them into pixels.
const GAP = 0.75, GUTTER = 1.7, CAPTION = 2, CARD = 5.6, HEAD = 4.4, AXIS = 1.7, AFTER = 1.9;
const COLUMN = 15.5, NARROW = 9, WIDEST = 27, WIDEST_IN_MATRIX = 20, TALLEST = 25, UNKNOWN_RATIO = 1.5;

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
    plan.add({ kind: "head", shot, takes: found }, HEAD + (plan.isNarrow ? 3.4 : 0));
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

function addMatrix(plan, list) {  // the most varied parameter across (an integer, if as varied as a choice), the others down
  const isInteger = ({ parameter }) => parameter.kind === "integer";
  const axes = VARIED.map((parameter) => ({ parameter, values: distinct(list, parameter) }))
    .filter(({ values }) => values.length > 1)
    .sort((one, other) => other.values.length - one.values.length || isInteger(other) - isInteger(one));
  const across = axes[0];
  const columns = across?.values.length ?? list.length;
  const room = (plan.width - GUTTER - GAP * (columns - 1)) / columns;
  if (!across || room < NARROW) {
    addFlow(plan, list, {});
    return;
  }
  const down = axes.slice(1).map(({ parameter }) => parameter);
  const rows = new Map();  // takes by what they have in common; a second take at one place begins another row
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
  const sorted = [...rows.values()].sort((one, other) => {
    for (const each of down) {
      const difference = compareValues(each, one.order.values[each.name] ?? "", other.order.values[each.name] ?? "");
      if (difference) return difference;
    }
    return one.copy - other.copy;
  });
  const gutter = sorted.length > 1 ? GUTTER : 0;
  const ratio = Math.min(...list.map(ratioIn));
  const column = Math.min((plan.width - gutter - GAP * (columns - 1)) / columns, WIDEST_IN_MATRIX, Math.max(NARROW, TALLEST * ratio));
  const labels = across.values.map((value) => valueText(across.parameter, value));
  plan.add({ kind: "axis", labels, column, gutter }, AXIS);
  for (const { label, places } of sorted) {
    const cells = Array.from({ length: columns }, (_, at) => places[at] ?? null);
    addCells(plan, cells, { column, gutter, label, axes: axes.map(({ parameter }) => parameter) });
  }
}

function rowLabel(labels, copy) {
  return [...labels, copy && say("takeNumber", { n: copy + 1 })].filter((label) => label).join(" · ");
}

function addFlow(plan, list, { isCard = false }) {
  const tall = Math.min(...list.slice(0, 200).map(ratioIn)) < 0.8;
  const least = plan.isNarrow ? NARROW : tall ? COLUMN * 0.8 : COLUMN;
  const columns = Math.max(1, Math.floor((plan.width + GAP) / (least + GAP)));
  const column = Math.min((plan.width - GAP * (columns - 1)) / columns, WIDEST);
  for (let at = 0; at < list.length; at += columns) {
    addCells(plan, list.slice(at, at + columns), { column, gutter: 0, axes: [], isCard });
  }
}

function addCells(plan, cells, line) {
  const ratio = Math.min(...cells.filter((take) => take).map(ratioIn));
  const well = Math.min(line.column / ratio, TALLEST);
  const caption = line.isCard ? CARD : CAPTION;
  plan.add({ kind: "cells", cells, well, caption, ...line }, well + caption + GAP);
}

const ratioIn = (take) => ratioOf(take) ?? UNKNOWN_RATIO;
