"use strict";
const at = id => document.getElementById(id);
const MOST = 24; // images kept in the page
const history = [];
const waiting = [];
let shown = null, busy = false;

const digits = (value, most = 4) => value === null || value === undefined ? "–"
  : Math.abs(value) >= 1e5 || (value !== 0 && Math.abs(value) < 1e-3) ? value.toExponential(2)
  : String(Number(value.toPrecision(most)));
const element = (name, text = "", kind = "") => {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = kind;
  return made;
};

function headers() {
  const key = at("key").value;
  return key ? {"X-API-Key": key} : {};
}

function tell(text) {
  at("error").textContent = text;
  at("error").hidden = !text;
}

async function connect() {
  let answer;
  try {
    answer = await fetch("models", {headers: headers()});
  } catch {
    at("state").textContent = "the service does not answer";
    setTimeout(connect, 3000);
    return;
  }
  if (answer.status === 401) {
    at("key-row").hidden = false;
    at("state").textContent = "this service asks for a key";
    return;
  }
  if (!answer.ok) {
    at("state").textContent = (await answer.json()).error;
    setTimeout(connect, 1500);
    return;
  }
  const {models} = await answer.json();
  at("model").replaceChildren(...models.map(model => element("option", model.name)));
  at("model-row").hidden = models.length < 2;
  at("state").textContent = models.length < 2 ? `model ${models[0].name}` : "";
}

function add(files) {
  tell("");
  for (const file of files) waiting.push(file);
  work();
}

async function work() {
  if (busy) return;
  busy = true;
  while (waiting.length) {
    const file = waiting.shift();
    at("busy").hidden = false;
    at("busy").textContent = `scoring ${file.name || "image"} …`;
    try {
      await score(file);
    } catch (error) {
      tell(error.message);
    }
  }
  at("busy").hidden = true;
  busy = false;
}

async function score(file) {
  const name = (file.name || "pasted image").slice(0, 200);
  const model = at("model").value;
  const address = `${model ? `models/${encodeURIComponent(model)}/score` : "score"}?map=png&name=` +
    encodeURIComponent(name);
  let answer;
  for (let tries = 0; tries < 10; tries++) {
    try {
      answer = await fetch(address, {method: "POST", body: file, headers: headers()});
    } catch {
      throw new Error(`${name}: the service does not answer`);
    }
    if (answer.status !== 429) break;
    const seconds = Number(answer.headers.get("retry-after")) || 1;
    await new Promise(done => setTimeout(done, 1000 * seconds));
  }
  const body = await answer.json();
  if (answer.status === 401) {
    at("key-row").hidden = false;
    at("key").focus();
  }
  if (!answer.ok) throw new Error(`${name}: ${body.error}`);
  const item = {found: body.images[0], model: body.model, photo: URL.createObjectURL(file), heat: ""};
  if (item.found.map) item.heat = `data:image/png;base64,${item.found.map.base64}`;
  history.unshift(item);
  for (const old of history.splice(MOST)) URL.revokeObjectURL(old.photo);
  show(item);
}

function show(item) {
  shown = item;
  const {found} = item;
  document.body.classList.add("small");
  at("result").hidden = false;
  at("result").classList.toggle("defective", found.decision === "defective");
  at("name").textContent = found.name;
  at("decision").textContent = found.decision === "defective" ? "Defective" : "Good";
  showPicture(item);
  showScore(found);
  showRegions(found);
  const terms = Object.entries(found.terms).map(([name, value]) => [name, digits(value)]);
  const times = Object.entries(found.seconds).map(([step, s]) => [step, `${digits(1000 * s)} ms`]);
  at("terms").replaceChildren(...[...terms, ...times].flatMap(([name, value]) =>
    [element("dt", name), element("dd", value)]));
  showHistory();
}

function showPicture({found, photo, heat}) {
  const layers = at("layers");
  layers.className = `layers${heat ? " mapped" : ""}`;
  at("unseen").hidden = true;
  at("photo").onerror = () => {
    layers.classList.add("alone");
    at("unseen").hidden = false;
    at("unseen").textContent = "The browser can't show files of this kind" +
      (heat ? ": this is the map alone." : ".");
  };
  at("photo").onload = at("heat").onload = event => {  // at most three quarters of the window
    const {naturalWidth: width, naturalHeight: height} = event.target;
    if (width > 1) layers.style.width = `min(100%, calc(75vh * ${width / height}))`;
  };
  at("photo").src = photo;
  at("photo").alt = found.name;
  at("heat").hidden = !heat;
  at("heat").src = heat || "data:,";
  at("tools").hidden = !heat;
  if (heat) {
    at("low").textContent = digits(found.map.low);
    at("high").textContent = digits(found.map.high);
  }
  const regions = found.regions || [];
  at("boxes").setAttribute("viewBox", found.size ? `0 0 ${found.size.width} ${found.size.height}` : "0 0 1 1");
  at("boxes").replaceChildren(...regions.map(({box}) => {
    const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    const place = {x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top};
    for (const [name, value] of Object.entries(place)) rect.setAttribute(name, value);
    return rect;
  }));
  blend();
}

function blend() {
  at("heat").style.opacity = at("opacity").value / 100;
  at("photo").style.filter = Number(at("opacity").value) ? "" : "none";
  at("boxes").style.display = at("show-boxes").checked ? "" : "none";
}

function showScore(found) {
  const reach = Math.max(1.25 * Math.abs(found.score - found.threshold), 1);
  at("needle").style.left = `${50 + 50 * (found.score - found.threshold) / reach}%`;
  at("least").textContent = digits(found.threshold - reach);
  at("middle").textContent = `threshold ${digits(found.threshold)}`;
  at("most").textContent = digits(found.threshold + reach);
  at("gauge").setAttribute("aria-label",
    `score ${digits(found.score)}, threshold ${digits(found.threshold)}`);
  at("score").textContent = digits(found.score);
  at("threshold").textContent = digits(found.threshold);
  at("p-value").textContent = digits(found.p_value, 2);
  at("rarity").textContent = found.p_value === null ? "" :
    `At most about ${digits(100 * found.p_value, 2)} % of good images score as high or higher.`;
  at("unlike").hidden = !found.unlike_training;
  at("unlike").replaceChildren(element("b", "Unlike all training images"),
    ...found.unlike_training.split("; ").map(reason => element("div", reason)));
}

function showRegions(found) {
  const regions = found.regions || [];
  at("regions-title").textContent = found.regions === null ? "This method makes no map"
    : regions.length ? "Regions above the pixel threshold" : "No region above the pixel threshold";
  at("regions").hidden = !regions.length;
  at("regions").tBodies[0].replaceChildren(...regions.slice(0, 12).map((region, number) => {
    const row = element("tr");
    const cells = [String(number + 1), `${region.peak_at.column}, ${region.peak_at.row}`,
      String(region.area), `${digits(100 * region.share, 2)} %`, digits(region.peak)];
    row.append(...cells.map((text, i) => element("td", text, i > 1 ? "number" : "")));
    row.tabIndex = 0;
    const mark = on => at("boxes").children[number].classList.toggle("marked", on);
    row.onmouseenter = row.onfocus = () => mark(true);
    row.onmouseleave = row.onblur = () => mark(false);
    return row;
  }));
  const rest = (found.regions_found || 0) - Math.min(regions.length, 12);
  at("more").hidden = rest <= 0;
  at("more").textContent = `and ${rest} more with lower peaks`;
}

function showHistory() {
  at("before").hidden = history.length < 2;
  at("history").replaceChildren(...history.map(item => {
    const entry = element("li"), button = element("button", "", item.found.decision);
    const picture = element("img");
    picture.src = item.photo;
    picture.alt = "";
    picture.onerror = () => { picture.onerror = null; picture.src = item.heat || "data:,"; };
    button.append(picture, element("span", digits(item.found.score), "text"), element("span", "", "mark"));
    button.title = button.ariaLabel = `${item.found.name}: ${item.found.decision}`;
    button.setAttribute("aria-current", item === shown);
    button.onclick = () => show(item);
    entry.append(button);
    return entry;
  }));
}

function save() {
  const {map, ...rest} = shown.found;
  const text = JSON.stringify({model: shown.model, ...rest}, null, 2);
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "application/json"}));
  link.download = `${shown.found.name.replace(/[^\w.-]+/g, "_")}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

at("files").onchange = () => { add(at("files").files); at("files").value = ""; };
at("opacity").oninput = blend;
at("show-boxes").onchange = blend;
at("save").onclick = save;
at("key").onchange = () => { tell(""); connect(); };
at("key-row").onsubmit = event => event.preventDefault();
document.addEventListener("dragover", event => {
  event.preventDefault();
  document.body.classList.add("over");
});
document.addEventListener("dragleave", event => {
  if (!event.relatedTarget) document.body.classList.remove("over");
});
document.addEventListener("drop", event => {
  event.preventDefault();
  document.body.classList.remove("over");
  add(event.dataTransfer.files);
});
document.addEventListener("paste", event => add(event.clipboardData.files));
connect();
