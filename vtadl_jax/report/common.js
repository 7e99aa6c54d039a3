"use strict";
// What the galleries of the pages share: pictures, switches and scores of a card, orders, the pages
// of a long list. Text reaches a page as text, never as markup.
const common = (() => {
  const PAGE = 24; // cards added at a time
  const $ = (id) => document.getElementById(id);
  const short = (value) => (value === null ? "–" : String(Number(value.toPrecision(4))).replace("-", "−"));

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
    const texts = { image: `Image ${card.name}`, heat: "", recon: "", outline: "" }; // bottom to top
    for (const [name, alt] of Object.entries(texts)) {
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

  // Buttons that show and hide layers: [name, text, whether it is shown at first].
  function makeViews(item, pictures, label, layers) {
    const views = make("div", "views");
    views.setAttribute("role", "group");
    views.setAttribute("aria-label", label);
    for (const [name, text, on] of layers) {
      if (!pictures[name]) continue;
      const button = make("button", "", text);
      button.type = "button";
      const show = (shown) => {
        item.classList.toggle(`has-${name}`, shown);
        button.setAttribute("aria-pressed", shown);
      };
      button.addEventListener("click", () => show(button.getAttribute("aria-pressed") !== "true"));
      show(on);
      views.append(button);
    }
    return views;
  }

  function makeTerms(card) {
    const terms = make("dl", "terms");
    terms.append(make("dt", "whole", "score"), make("dd", "whole", short(card.score)));
    if (card.p_value !== null) {
      const rarity = make("dt", "", "p-value");
      rarity.title = "How often a good image scores as high";
      terms.append(rarity, make("dd", "", short(card.p_value)));
    }
    return terms;
  }

  const collator = new Intl.Collator(undefined, { numeric: true });
  const byName = (a, b) => collator.compare(a.name, b.name) || a.index - b.index;
  const compare = (a, b) => (a > b) - (a < b); // a difference of infinities is no number
  const orders = {
    sequence: (a, b) => a.index - b.index,
    descending: (a, b) => compare(b.score, a.score) || byName(a, b),
    ascending: (a, b) => compare(a.score, b.score) || byName(a, b),
    name: byName,
  };

  // A list of which `items` are shown. none: what is said of an empty one; total: to choose from.
  function sayShown(items, list, total, none) {
    $("shown").textContent = list.length ? `${items.length} of ${list.length} images${list.length < total ? ` chosen from ${total}` : ""}` : none;
    $("more").hidden = items.length === list.length;
    $("more").textContent = `Show ${Math.min(PAGE, list.length - items.length)} more`;
  }

  // Fills the gallery by fill(limit) when the choice changes, or more of it is asked for.
  function fillOn(choices, fill) {
    for (const id of choices) $(id).addEventListener("change", () => fill(PAGE));
    $("more").addEventListener("click", () => {
      const before = $("cards").children.length;
      fill(before + PAGE);
      if ($("more").hidden) $("cards").children[before].focus();
    });
    const setOpacity = () => $("cards").style.setProperty("--opacity", $("opacity").value / 100);
    $("opacity").addEventListener("input", setOpacity);
    setOpacity();
  }

  return { PAGE, $, short, make, makeStage, makeViews, makeTerms, collator, orders, sayShown, fillOn };
})();
