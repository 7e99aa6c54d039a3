// The threshold, its counts, and the gallery. Text reaches the page as text, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const cards = data.cards;
  if (!cards.length) return;
  const { PAGE, $, short, make, makeStage, makeTerms, collator, orders } = common;
  const SLIDER = 1000; // steps of the range input
  cards.forEach((card, index) => {
    card.index = index;
    card.score = Number(card.score); // "Infinity" is not JSON
    card.kind = card.label ? card.defect || "defective" : "good";
  });
  const good = cards.filter((card) => !card.label);
  const defective = cards.filter((card) => card.label);

  // ---- numbers ----

  const percent = (part, whole) => (whole ? `${(100 * part / whole).toFixed(1)} %` : "–");

  // The shortest number that decides every image as the exact one does.
  function shortest(value) {
    for (let digits = 4; digits < 17; digits++) {
      const rounded = Number(value.toPrecision(digits));
      if (cards.every(({ score }) => (score >= value) === (score >= rounded))) return rounded;
    }
    return value;
  }

  // Shown scores: all, unless a few are so distant that the others would share one bar.
  function range() {
    const sorted = cards.map(({ score }) => score).filter(Number.isFinite).sort((a, b) => a - b);
    if (!sorted.length) sorted.push(data.threshold);
    const at = (share) => sorted[Math.round(share * (sorted.length - 1))];
    const far = 20 * (at(0.95) - at(0.05));
    let low = far ? Math.max(at(0), at(0.05) - far) : at(0);
    let high = far ? Math.min(at(1), at(0.95) + far) : at(1);
    low = Math.min(low, data.threshold);
    high = Math.max(high, data.threshold);
    const pad = 0.02 * (high - low) || 0.1 * Math.abs(high) || 1;
    return [low - pad, high + pad];
  }

  function ticks(low, high, count) {
    const raw = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = power * [1, 2, 5, 10].find((m) => raw <= power * m);
    const result = [];
    for (let i = Math.ceil(low / step); i * step <= high; i++) result.push(i * step + 0);
    return result;
  }

  const [LOW, HIGH] = range();
  const decimals = Math.min(100, Math.max(0, Math.ceil(-Math.log10((HIGH - LOW) / SLIDER))));
  const start = shortest(data.threshold);
  let threshold = start;

  function verdict({ label, score }) {
    if (score >= threshold) return label ? "found" : "false alarm";
    return label ? "missed" : "passed";
  }

  // ---- histogram: good above the axis, defective below ----

  function draw(tag, attributes, text) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    return element;
  }

  const MARGIN = 13, TOP = 22, BOTTOM = 38, HALF = 92;
  let plot = null;

  function shares(group, bins) {
    const counts = new Array(bins).fill(0);
    for (const { score } of group) {
      const bin = Math.floor(bins * (score - LOW) / (HIGH - LOW));
      counts[Math.min(bins - 1, Math.max(0, bin))] += 1 / group.length;
    }
    return counts;
  }

  function drawHistogram() {
    const width = Math.max(240, $("histogram").clientWidth);
    const halves = [[good, "good"], [defective, "defective"]].filter(([group]) => group.length);
    const height = TOP + BOTTOM + HALF * halves.length;
    const inner = width - 2 * MARGIN;
    const x = (score) => MARGIN + inner * Math.min(1, Math.max(0, (score - LOW) / (HIGH - LOW)));
    const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img",
      "aria-label": `Histogram of the scores of ${good.length} good and ${defective.length} defective images` });
    const zone = draw("rect", { class: "called", y: TOP, height: HALF * halves.length });
    svg.append(zone);
    for (const value of ticks(LOW, HIGH, width < 500 ? 5 : 9)) {
      svg.append(draw("line", { class: "grid", x1: x(value), x2: x(value), y1: TOP, y2: height - BOTTOM }));
      svg.append(draw("text", { x: x(value), y: height - BOTTOM + 15, "text-anchor": "middle" }, short(value)));
    }
    const bins = Math.max(12, Math.min(60, Math.round(inner / 16)));
    const bars = halves.map(([group]) => shares(group, bins));
    const top = Math.max(...bars.flat());
    const zero = TOP + (good.length ? HALF : 0);
    halves.forEach(([group, name], i) => {
      const up = name === "good";
      bars[i].forEach((share, bin) => {
        if (!share) return;
        const size = Math.max(1.5, (HALF - 18) * share / top);
        svg.append(draw("rect", { class: name, x: MARGIN + inner * bin / bins + 0.75,
          width: inner / bins - 1.5, y: up ? zero - size : zero, height: size }));
      });
      const y = up ? TOP + 13 : height - BOTTOM - 6;
      // On the side with fewer bars, where it hides none.
      const half = bins >> 1, sum = (part) => part.reduce((a, b) => a + b, 0);
      const right = sum(bars[i].slice(0, half)) > sum(bars[i].slice(half));
      svg.append(draw("text", { class: `halo ${name}`, y, x: right ? width - MARGIN - 4 : MARGIN + 4,
        "text-anchor": right ? "end" : "start" }, `${name} (${group.length})`));
    });
    svg.append(draw("line", { class: "axis", x1: MARGIN, x2: width - MARGIN, y1: zero, y2: zero }));
    svg.append(draw("text", { class: "label", x: width / 2, y: height - 4, "text-anchor": "middle" },
      width < 500 || halves.length < 2 ? "anomaly score" : "anomaly score; bars are shares of the good and of the defective images"));
    const line = draw("line", { class: "cut", y1: TOP - 4, y2: height - BOTTOM });
    const label = draw("text", { class: "label", y: TOP - 8 }, "called defective →");
    svg.append(line, label);
    $("histogram").replaceChildren(svg);
    plot = { x, width, zone, line, label };
    moveLine();
  }

  function moveLine() {
    const at = plot.x(threshold);
    plot.line.setAttribute("x1", at);
    plot.line.setAttribute("x2", at);
    plot.zone.setAttribute("x", at);
    plot.zone.setAttribute("width", plot.width - MARGIN - at);
    const right = at > plot.width / 2;
        plot.label.setAttribute("text-anchor", right ? "end" : "start");
    plot.label.setAttribute("x", at);
  }

  // ---- threshold ----

  function count() {
    const n = { found: 0, "false alarm": 0, missed: 0, passed: 0 };
    for (const card of cards) n[verdict(card)]++;
    const [tp, fp, fn, tn] = [n.found, n["false alarm"], n.missed, n.passed];
    const shown = { tp, fp, fn, tn, tpr: percent(tp, tp + fn), fpr: percent(fp, fp + tn),
      precision: percent(tp, tp + fp), f1: tp + fn ? (2 * tp / (2 * tp + fp + fn)).toFixed(3) : "–" };
    for (const [id, value] of Object.entries(shown)) $(id).textContent = value;
    const parts = [];
    if (defective.length) parts.push(`${tp} of ${tp + fn} defective images are found`);
    if (good.length) parts.push(`${fp} of ${fp + tn} good ones are false alarms`);
    return `At ${short(threshold)}, ${parts.join(" and ")}.`;
  }

  let saying = 0;
  function setThreshold(value, source) {
    threshold = value;
    if (source !== "slider") $("threshold").value = Math.round(SLIDER * (value - LOW) / (HIGH - LOW));
    if (source !== "number") $("threshold-number").value = value;
    $("threshold").setAttribute("aria-valuetext", short(value));
    $("reset").disabled = value === start;
    const sentence = count();
    clearTimeout(saying); // a screen reader hears where the slider came to rest
    saying = setTimeout(() => { $("said").textContent = sentence; }, source ? 150 : 0);
    if (plot) moveLine();
    scheduleGallery();
  }

  const fromShare = (share) => Number((LOW + (HIGH - LOW) * share).toFixed(decimals));
  $("threshold").addEventListener("input", () => setThreshold(fromShare($("threshold").value / SLIDER), "slider"));
  $("threshold-number").addEventListener("input", () => {
    const value = $("threshold-number").valueAsNumber;
    if (Number.isFinite(value)) setThreshold(value, "number");
  });
  $("threshold-number").addEventListener("change", () => { $("threshold-number").value = threshold; });
  $("reset").addEventListener("click", () => { setThreshold(start, "reset"); $("threshold").focus(); });
  const drag = (event) => {
    if (!(event.buttons & 1)) return;
    const share = (event.clientX - $("histogram").getBoundingClientRect().left - MARGIN) / (plot.width - 2 * MARGIN);
    setThreshold(fromShare(Math.min(1, Math.max(0, share))), "drag");
  };
  $("histogram").addEventListener("pointerdown", drag);
  $("histogram").addEventListener("pointermove", drag);

  // ---- gallery ----

  const made = new Map(); // cards stay once made, with the views chosen on them
  let limit = PAGE;

  const LAYERS = [["heat", "Heat map", true], ["outline", "Truth", true], ["recon", "Reconstruction", false]];

  // A row for each expert of a detector that combines several.
  function makeOpinions(card) {
    const table = make("table", "opinions");
    const head = table.createTHead().insertRow();
    for (const [text, title] of [["expert", ""], ["score", "In deviations of good images"], ["p-value", "How often a good image scores as high by this expert"]]) {
      const cell = make("th", text === "expert" ? "" : "number", text);
      cell.scope = "col";
      if (title) cell.title = title;
      head.append(cell);
    }
    const body = table.createTBody();
    for (const one of card.opinions) {
      const row = body.insertRow();
      row.className = one.flags ? "flags" : "";
      const name = make("th", "", one.name);
      name.scope = "row";
      if (one.flags) name.append(make("span", "flag", "flags"));
      if (!one.counts) name.append(make("span", "faint", " left out"));
      name.title = `weight ${one.weight.toFixed(2)}`;
      row.append(name, make("td", "number", short(one.score === null ? null : Number(one.score))), make("td", "number", short(one.p_value)));
    }
    return table;
  }

  // The experts' maps side by side; one that is pressed replaces the map of all.
  function makeExperts(item, card, pictures) {
    const strip = make("div", "experts");
    strip.setAttribute("role", "group");
    strip.setAttribute("aria-label", `Maps of the experts for ${card.name}`);
    const main = item.querySelector(".stage .heat");
    const buttons = card.opinions.filter((one) => pictures.experts[one.name]).map((one) => {
      const button = make("button", one.flags ? "flags" : "");
      button.type = "button";
      button.title = `Show the map of ${one.name} above`;
      const layers = make("span", "layers");
      layers.style.aspectRatio = `${card.width} / ${card.height}`;
      for (const [name, source] of [["photo", pictures.image], ["heat", pictures.experts[one.name]]]) {
        const image = make("img", name);
        image.alt = "";
        image.decoding = "async";
        image.src = source;
        layers.append(image);
      }
      button.append(layers, make("span", "", one.name.replaceAll("_", "_\u200b"))); // may break there
      button.setAttribute("aria-pressed", false);
      button.addEventListener("click", () => {
        const shown = button.getAttribute("aria-pressed") !== "true";
        for (const other of buttons) other.setAttribute("aria-pressed", shown && other === button);
        if (main) main.src = shown ? pictures.experts[one.name] : pictures.heat;
      });
      return button;
    });
    strip.append(...buttons);
    return strip;
  }

  function makeCard(card) {
    const pictures = JSON.parse($(`card-${card.index}`).textContent);
    const item = make("li");
    item.tabIndex = -1;
    const truth = make("span", "");
    truth.append(make("i", `mark ${card.label ? "defective" : "good"}`), card.kind);
    if (card.label && !card.has_truth) truth.append(make("span", "faint", " (place not marked)"));
    const facts = make("div", "facts");
    facts.append(truth, make("span", "verdict"));
    const terms = makeTerms(card);
    const opinions = card.opinions || [];
    for (const [name, value] of Object.entries(card.terms)) {
      if (opinions.some((one) => one.name === name)) continue;
      terms.append(make("dt", "", name), make("dd", "", short(value === null ? null : Number(value))));
    }
    item.append(makeStage(card, pictures), common.makeViews(item, pictures, `Shown of ${card.name}`, LAYERS), make("div", "name", card.name), facts);
    if (card.unlike) item.append(make("div", "unlike", `unlike all training images: ${card.unlike}`));
    if (card.disagreement) {
      item.classList.add("disagrees");
      item.append(make("div", "disagreement", card.disagreement));
      if (pictures.experts) item.append(makeExperts(item, card, pictures));
    }
    item.append(terms);
    if (opinions.length) item.append(makeOpinions(card));
    made.set(card.index, item);
    return item;
  }

  function chosen() {
    const kind = $("kind").value, wanted = $("verdict").value, apart = $("opinion").value === "disagree";
    return cards.filter((card) => {
      if (kind === "good" ? card.label : kind === "defective" ? !card.label : kind !== "all" && (!card.label || `kind ${card.kind}` !== kind)) return false;
      if (apart && !card.disagreement) return false;
      const said = verdict(card);
      return wanted === "any" || said === wanted || (wanted === "mistakes" && (said === "missed" || said === "false alarm"));
    }).sort(orders[$("order").value]);
  }

  function fillGallery() {
    const list = chosen();
    const items = list.slice(0, limit).map((card) => {
      const item = made.get(card.index) || makeCard(card);
      const badge = item.querySelector(".verdict");
      const said = verdict(card);
      if (badge.textContent !== said) {
        badge.textContent = said;
        badge.classList.toggle("mistake", said === "missed" || said === "false alarm");
      }
      return item;
    });
    const present = $("cards").children;
    if (present.length !== items.length || items.some((item, i) => present[i] !== item)) $("cards").replaceChildren(...items);
    common.sayShown(items, list, cards.length, "No image is chosen by these filters.");
  }

  let scheduled = false;
  function scheduleGallery() {
    if (scheduled) return;
    scheduled = true;
    requestAnimationFrame(() => { scheduled = false; fillGallery(); });
  }

  function addOptions() {
    const add = (value, text) => { const option = make("option", "", text); option.value = value; $("kind").append(option); };
    add("all", `all images (${cards.length})`);
    if (good.length) add("good", `good (${good.length})`);
    if (defective.length) add("defective", `defective (${defective.length})`);
    const kinds = new Map();
    for (const { kind } of defective) kinds.set(kind, (kinds.get(kind) || 0) + 1);
    for (const kind of [...kinds.keys()].sort(collator.compare)) add(`kind ${kind}`, `– ${kind} (${kinds.get(kind)})`);
  }

  common.fillOn(["kind", "verdict", "opinion", "order"], (count) => { limit = count; fillGallery(); });

  if (!defective.length) document.querySelectorAll(".of-defective").forEach((element) => { element.hidden = true; });
  addOptions();
  drawHistogram();
  setThreshold(start);
  new ResizeObserver(() => { if (Math.abs($("histogram").clientWidth - plot.width) > 1) drawHistogram(); }).observe($("histogram"));
})();
