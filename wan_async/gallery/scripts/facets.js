// The filters beside the grid: values with how many takes have them, given what else is chosen.
const FEW = 10, FEW_CHIPS = 24, MANY = 300;
const VERDICTS = ["open", "pick", "reject"];
const GROUPS = [...new Set(["stored", "earlier", ...Object.values(PAGE.states).map(({ group }) => group)])];
const [choices, integers] = ["choice", "integer"].map((kind) => VARIED.filter((parameter) => parameter.kind === kind).map(facetFor));
const FACETS = [
  { name: "verdict", title: say("verdict"), of: (take) => (take.src ? judgementOf(take) : ""), text: (value) => say(value),
    order: (one, other) => VERDICTS.indexOf(one) - VERDICTS.indexOf(other) },
  { name: "image", title: say("image"), of: (take) => take.shot.image, text: (value) => value || say("noImage") },
  ...choices.slice(0, 1), ...integers, ...choices.slice(1),
  { name: "state", title: say("state"), of: (take) => take.group, text: (value) => TEXTS.groups[value] ?? value,
    order: (one, other) => GROUPS.indexOf(one) - GROUPS.indexOf(other) },
];
const unfolded = new Set(), thumbs = new Map();
for (const { image, src } of shots) if (src && !thumbs.has(image)) thumbs.set(image, src);

function facetFor(parameter) {
  return {
    name: parameter.name,
    title: parameter.label,
    of: (take) => take.values[parameter.name] ?? "",
    order: (one, other) => compareValues(parameter, one, other),
    areChips: parameter.kind === "integer",
  };
}

function matches(take, except) {
  for (const { name, of } of FACETS) {
    if (name !== except && view.chosen.has(name) && !view.chosen.get(name).has(of(take))) return false;
  }
  return true;
}

function drawFacets(candidates) {  // of the takes that match the search
  const focused = document.activeElement?.dataset?.facet;
  const made = FACETS.map((facet) => facetOf(facet, candidates));
  choiceList.replaceChildren(...made.filter((each) => each));
  if (focused) choiceList.querySelector(`[data-facet="${CSS.escape(focused)}"]`)?.focus();
}

function facetOf(facet, candidates) {
  const { name, title, of, order, areChips, text = (value) => value } = facet;
  const counts = new Map();
  for (const take of takes) counts.set(of(take), 0);
  counts.delete(name === "image" ? undefined : "");
  if (counts.size < 2 && name !== "verdict" && !view.chosen.has(name)) return null;
  for (const take of candidates) {
    const value = of(take);
    if (counts.has(value) && matches(take, name)) counts.set(value, counts.get(value) + 1);
  }
  const values = [...counts.keys()];
  if (order) values.sort(order);
  const limit = unfolded.has(name) ? MANY : areChips ? FEW_CHIPS : FEW;
  const chosen = view.chosen.get(name);
  const seen = values.filter((value, at) => at < limit || chosen?.has(value));
  const labels = seen.map((value) => {
    const thumb = name === "image" && thumbs.get(value);
    const box = make("input", { type: "checkbox", checked: chosen?.has(value) ?? false, onchange: () => toggle(name, value) });
    box.dataset.facet = `${name}=${value}`;
    const className = [chosen?.has(value) && "chosen", !counts.get(value) && "none-left"].filter((each) => each).join(" ");
    return make("label", { className }, box, thumb && sourceImage(thumb, "thumb"), make("bdi", {}, text(value)),
      make("small", {}, count(counts.get(value))));
  });
  const rest = values.length > seen.length && values.length <= MANY;
  const unfold = rest && button(say("showAll", { n: values.length }), () => { unfolded.add(name); drawFacets(candidates); });
  return make("fieldset", areChips ? { className: "chips" } : {}, make("legend", {}, title), labels, unfold);
}

function toggle(name, value) {
  const values = view.chosen.get(name) ?? new Set();
  if (!values.delete(value)) values.add(value);
  if (values.size) view.chosen.set(name, values);
  else view.chosen.delete(name);
  changeView();
}

function sourceImage(src, className, properties) {
  const image = make("img", { className, alt: "", loading: "lazy", decoding: "async", ...properties });
  image.onerror = () => image.remove();  // its format may be one that browsers don't show
  image.src = src;
  return image;
}
