// The gallery of a prediction, and what a person says of its decisions. Text stays text.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const cards = data.cards;
  if (!cards.length) return;
  const { PAGE, $, make, makeStage, makeTerms, orders } = common;
  cards.forEach((card, index) => { card.index = index; card.score = Number(card.score); });
  const said = new Map(); // index → "good" or "defective", against the decision
  const made = new Map();
  let limit = PAGE;

  function makeViews(item, card, pictures) {
    const views = common.makeViews(item, pictures, `What to do with ${card.name}`, [["heat", "Heat map", true]]);
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
    item.append(makeStage(card, pictures), makeViews(item, card, pictures), make("div", "name", card.name), facts);
    if (card.unlike) item.append(make("div", "unlike", `unlike all training images: ${card.unlike}`));
    item.append(makeTerms(card));
    made.set(card.index, item);
    return item;
  }

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
    common.sayShown(items, list, data.total, "No image is chosen.");
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
  common.fillOn(["kind", "order"], (count) => { limit = count; fillGallery(); });
  fillGallery();
})();
