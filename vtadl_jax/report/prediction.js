"use strict";
// The gallery of a prediction, and what a person says of its decisions. Text stays text.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const cards = data.cards;
  if (!cards.length) return;
  const $ = (id) => document.getElementById(id);
  const PAGE = 24; // cards added at a time
  cards.forEach((card, index) => { card.index = index; card.score = Number(card.score); });
  const short = (value) => (value === null ? "–" : String(Number(value.toPrecision(4))).replace("-", "−"));
  const said = new Map(); // index → "good" or "defective", against the decision
  const made = new Map();
  let limit = PAGE;

  function make(tag, className, text) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  function makeStage(card, pictures) {
    const stage = make("div", "stage");
    const layers = make("div", `layers ${card.width >= card.height ? "flat" : "tall"}`);
    layers.style.aspectRatio = `${card.width} / ${card.height}`;
    for (const [name, alt] of Object.entries({ image: `Image ${card.name}`, heat: "" })) {
      if (!pictures[name]) continue;
      const image = make("img", name === "image" ? "photo" : name);
      image.alt = alt;
      image.decoding = "async";
      image.src = pictures[name];
      layers.append(image);
    }
    stage.append(layers);
    return stage;
  }

  function makeViews(item, card, pictures) {
    const views = make("div", "views");
    views.setAttribute("role", "group");
    views.setAttribute("aria-label", `What to do with ${card.name}`);
    if (pictures.heat) {
      const button = make("button", "", "Heat map");
      button.type = "button";
      const show = (shown) => {
        item.classList.toggle("has-heat", shown);
        button.setAttribute("aria-pressed", shown);
      };
      button.addEventListener("click", () => show(button.getAttribute("aria-pressed") !== "true"));
      show(true);
      views.append(button);
    }
    const verdict = card.defective ? "good" : "defective";
    const button = make("button", "sort", card.defective ? "Good after all" : "Missed defect");
    button.type = "button";
    button.setAttribute("aria-pressed", false);
    button.addEventListener("click", () => {
      if (!said.delete(card.index)) said.set(card.index, verdict);
      button.setAttribute("aria-pressed", said.has(card.index));
      showMarked();
    });
    views.append(button);
    return views;
  }

  function makeCard(card) {
    const pictures = JSON.parse($(`card-${card.index}`).textContent);
    const item = make("li");
    item.tabIndex = -1;
    const facts = make("div", "facts");
    facts.append(make("span", "", card.group), make("span", `verdict${card.defective ? " mistake" : ""}`, card.defective ? "defective" : "good"));
    const terms = make("dl", "terms");
    terms.append(make("dt", "whole", "score"), make("dd", "whole", short(card.score)));
    if (card.p_value !== null) {
      const rarity = make("dt", "", "p-value");
      rarity.title = "How often a good image scores as high";
      terms.append(rarity, make("dd", "", short(card.p_value)));
    }
    item.append(makeStage(card, pictures), makeViews(item, card, pictures), make("div", "name", card.name), facts);
    if (card.unlike) item.append(make("div", "unlike", `unlike all training images: ${card.unlike}`));
    item.append(terms);
    made.set(card.index, item);
    return item;
  }

  const collator = new Intl.Collator(undefined, { numeric: true });
  const compare = (a, b) => (a > b) - (a < b); // a difference of infinities is no number
  const orders = {
    sequence: (a, b) => a.index - b.index,
    descending: (a, b) => compare(b.score, a.score) || a.index - b.index,
    ascending: (a, b) => compare(a.score, b.score) || a.index - b.index,
    name: (a, b) => collator.compare(a.name, b.name) || a.index - b.index,
  };
  const kinds = {
    defective: ["called defective", (card) => card.defective],
    good: ["called good", (card) => !card.defective],
    all: ["all on this page", () => true],
    sorted: ["sorted by you", (card) => said.has(card.index)],
  };

  function fillGallery() {
    const list = cards.filter(kinds[$("kind").value][1]).sort(orders[$("order").value]);
    const items = list.slice(0, limit).map((card) => made.get(card.index) || makeCard(card));
    $("cards").replaceChildren(...items);
    $("shown").textContent = list.length ? `${items.length} of ${list.length} images${list.length < data.total ? ` chosen from ${data.total}` : ""}` : "No image is chosen.";
    $("more").hidden = items.length === list.length;
    $("more").textContent = `Show ${Math.min(PAGE, list.length - items.length)} more`;
  }

  function showMarked() {
    const good = [...said.values()].filter((verdict) => verdict === "good").length;
    const parts = [];
    if (good) parts.push(`${good} good after all`);
    if (said.size > good) parts.push(`${said.size - good} missed`);
    $("marked").textContent = parts.join(", ") || "no image is sorted";
    $("save").disabled = !said.size;
  }

  // A file of the browser's downloads: the page itself cannot write beside the images.
  $("save").addEventListener("click", () => {
    const images = [...said].sort((a, b) => a[0] - b[0]).map(([index, verdict]) => {
      const { file, sha256, score } = cards[index];
      return { name: file, sha256, score: Number.isFinite(score) ? score : String(score), sorted: verdict };
    });
    const text = JSON.stringify({ kind: data.kind, format: 1, root: data.root, run: data.run, images }, null, 2);
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = "sorted.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });

  for (const [value, [text, keep]] of Object.entries(kinds)) {
    const option = make("option", "", value === "sorted" ? text : `${text} (${cards.filter(keep).length})`);
    option.value = value;
    $("kind").append(option);
  }
  if (!cards.some((card) => card.defective)) $("kind").value = "all";
  for (const id of ["kind", "order"]) $(id).addEventListener("change", () => { limit = PAGE; fillGallery(); });
  $("more").addEventListener("click", () => {
    const before = $("cards").children.length;
    limit = before + PAGE;
    fillGallery();
    if ($("more").hidden) $("cards").children[before].focus();
  });
  const setOpacity = () => $("cards").style.setProperty("--opacity", $("opacity").value / 100);
  $("opacity").addEventListener("input", setOpacity);
  setOpacity();
  fillGallery();
})();
