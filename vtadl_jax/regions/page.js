"use strict";
// Draws polygons on an image, in its pixels, and sends them to the program that serves this page.
const COLOURS = {inspect: "#4fa3ff", ignore: "#ff8a3d"};
const NEAR = 9; // px on the screen
const $ = (id) => document.getElementById(id);
const canvas = $("canvas"), pen = canvas.getContext("2d"), picture = new Image();
let size = {width: 1, height: 1}, shapes = [], open = [], past = [], future = [];
let selected = -1, drag = null, pointer = null, saved = "[]", scale = 1;

const copy = (value) => JSON.parse(JSON.stringify(value));
const label = () => document.querySelector("[name=label]:checked").value;
const dirty = () => JSON.stringify(shapes) !== saved;

function say(text, fault = false) {
  $("message").textContent = text;
  $("message").className = fault ? "fault" : "";
}

function change(edit) {
  past.push(copy(shapes));
  future = [];
  edit();
  show();
}

function travel(from, to) {
  if (!from.length) return;
  to.push(copy(shapes));
  shapes = from.pop();
  selected = -1;
  open = [];
  show();
}

function undo() {
  if (open.length) { open.pop(); show(); } else travel(past, future);
}

function close() {
  const distinct = new Set(open.map(String));
  if (!open.length) return;
  if (distinct.size < 3) { say("a polygon has 3 or more corners", true); return; }
  const points = open;
  open = [];
  change(() => { shapes.push({label: label(), points}); });
  say("");
}

function fit() {
  const room = $("room").clientWidth - 2, tall = Math.max(window.innerHeight * 0.72, 240);
  const whole = Math.min(room / size.width, tall / size.height);
  scale = whole * Number($("zoom").value);
  const dense = window.devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(size.width * scale * dense));
  canvas.height = Math.max(1, Math.round(size.height * scale * dense));
  canvas.style.width = `${size.width * scale}px`;
  canvas.style.height = `${size.height * scale}px`;
  draw();
}

function trace(target, points) {
  target.beginPath();
  points.forEach(([x, y], i) => (i ? target.lineTo(x, y) : target.moveTo(x, y)));
  target.closePath();
}

function shade(width, height) {
  // What is ignored, as an opaque layer of its own: polygons may overlap.
  const layer = new OffscreenCanvas(width, height), at = layer.getContext("2d");
  const fill = (wanted) => shapes.filter((s) => s.label === wanted).forEach((s) => {
    trace(at, s.points);
    at.fill();
  });
  at.scale(width / size.width, height / size.height);
  if (shapes.some((s) => s.label === "inspect")) {
    at.fillRect(0, 0, size.width, size.height);
    at.globalCompositeOperation = "destination-out";
    fill("inspect");
    at.globalCompositeOperation = "source-over";
  }
  fill("ignore");
  return layer;
}

function draw() {
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
  pen.globalAlpha = 0.6;
  pen.drawImage(shade(canvas.width, canvas.height), 0, 0);
  pen.globalAlpha = 1;
  const unit = size.width / canvas.width * (window.devicePixelRatio || 1); // a px of the screen
  pen.scale(canvas.width / size.width, canvas.height / size.height);
  const line = (colour, width) => { pen.strokeStyle = colour; pen.lineWidth = width * unit; pen.stroke(); };
  const corner = ([x, y], colour) => {
    pen.beginPath();
    pen.arc(x, y, 4 * unit, 0, 7);
    pen.fillStyle = colour;
    pen.fill();
    line("#000", 1);
  };
  shapes.forEach((shape, i) => {
    trace(pen, shape.points);
    line("#000a", i === selected ? 5 : 3.5);
    line(COLOURS[shape.label], i === selected ? 3 : 1.75);
    if (i === selected) shape.points.forEach((p) => corner(p, COLOURS[shape.label]));
  });
  const colour = COLOURS[label()];
  if (open.length) {
    pen.beginPath();
    [...open, ...(pointer ? [pointer] : [])].forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
    line("#000a", 3.5);
    line(colour, 1.75);
    open.forEach((p) => corner(p, colour));
  }
  if (drag && drag.kind === "rectangle" && drag.moved) {
    trace(pen, rectangle(drag.from, pointer));
    line("#000a", 3.5);
    line(colour, 1.75);
  }
}

const rectangle = ([a, b], [c, d]) => [[a, b], [c, b], [c, d], [a, d]];

function share() {
  // Counted on a small copy: the program says the exact share when it saves.
  const side = 400 / Math.max(size.width, size.height);
  const width = Math.max(1, Math.round(size.width * side)), height = Math.max(1, Math.round(size.height * side));
  const layer = shade(width, height).getContext("2d").getImageData(0, 0, width, height).data;
  let ignored = 0;
  for (let i = 3; i < layer.length; i += 4) ignored += layer[i] > 127;
  return 1 - ignored / (width * height);
}

function show() {
  $("undo").disabled = !past.length && !open.length;
  $("redo").disabled = !future.length;
  $("remove").disabled = $("switch").disabled = selected < 0;
  $("clear").disabled = !shapes.length;
  $("save").disabled = !shapes.length;
  $("list").replaceChildren(...shapes.map((shape, i) => {
    const item = document.createElement("li"), button = document.createElement("button");
    button.className = shape.label;
    button.textContent = `${shape.label}, ${shape.points.length} corners`;
    button.setAttribute("aria-pressed", String(i === selected));
    button.onclick = () => { selected = i === selected ? -1 : i; show(); };
    item.append(button);
    return item;
  }));
  $("share").textContent = shapes.length ? `about ${(100 * share()).toFixed(0)} % of the image are inspected` : "everything is inspected";
  document.title = `${dirty() ? "• " : ""}Where to inspect`;
  draw();
}

function place(event) {
  const box = canvas.getBoundingClientRect();
  const inside = (value, most) => Math.min(Math.max(Math.round(value * 10) / 10, 0), most);
  return [
    inside((event.clientX - box.left) / box.width * size.width, size.width),
    inside((event.clientY - box.top) / box.height * size.height, size.height),
  ];
}

const apart = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]) * scale;

function cornerAt(at) {
  for (const i of [selected, ...shapes.keys()]) {
    if (i < 0) continue;
    const j = shapes[i].points.findIndex((p) => apart(p, at) < NEAR);
    if (j >= 0) return [i, j];
  }
  return null;
}

canvas.onpointerdown = (event) => {
  if (event.button) return;
  canvas.focus();
  canvas.setPointerCapture(event.pointerId);
  pointer = place(event);
  const corner = open.length ? null : cornerAt(pointer);
  drag = corner ? {kind: "corner", corner, before: copy(shapes)} : {kind: "rectangle", from: pointer};
  if (corner) { selected = corner[0]; show(); }
};

canvas.onpointermove = (event) => {
  pointer = place(event);
  if (drag) drag.moved = drag.moved || drag.kind === "corner" || apart(drag.from, pointer) > NEAR;
  if (drag && drag.kind === "corner") shapes[drag.corner[0]].points[drag.corner[1]] = pointer;
  draw();
};

canvas.onpointerup = (event) => {
  if (!drag) return;
  const done = drag, at = place(event);
  drag = null;
  if (done.kind === "corner") {
    if (done.moved) { past.push(done.before); future = []; }
    show();
  } else if (done.moved && !open.length) {
    const points = rectangle(done.from, at);
    if (points[0][0] === points[1][0] || points[0][1] === points[3][1]) { show(); return; }
    change(() => { shapes.push({label: label(), points}); });
  } else if (open.length > 2 && apart(open[0], at) < NEAR) {
    close();
  } else {
    selected = -1;
    if (!open.length || apart(open[open.length - 1], at) > 1) open.push(at);
    show();
  }
};

canvas.ondblclick = () => { if (open.length > 2) close(); };
canvas.onpointercancel = () => { drag = null; draw(); };
canvas.onpointerleave = () => { if (!drag) { pointer = null; draw(); } };

function remove() {
  if (selected < 0) return;
  const i = selected;
  change(() => { shapes.splice(i, 1); selected = -1; });
}

document.onkeydown = (event) => {
  const command = event.ctrlKey || event.metaKey, key = event.key.toLowerCase();
  if (command && key === "z") { event.preventDefault(); event.shiftKey ? travel(future, past) : undo(); }
  else if (command && key === "y") { event.preventDefault(); travel(future, past); }
  else if (command && key === "s") { event.preventDefault(); save(); }
  else if (event.target !== canvas && event.target !== document.body) return;
  else if (key === "enter" && open.length) close();
  else if (key === "escape") { open = []; selected = -1; show(); }
  else if (key === "backspace" && open.length) { event.preventDefault(); open.pop(); show(); }
  else if (key === "delete" || key === "backspace") remove();
};

async function send(name, body) {
  const answer = await fetch(name, {method: "POST", body: JSON.stringify(body)});
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}

async function save() {
  if (!shapes.length) { say("draw a polygon first", true); return; }
  if (open.length) { say("close the open polygon first (Enter), or drop it (Esc)", true); return; }
  const sent = copy(shapes);
  try {
    const found = await send("save", {shapes: sent});
    saved = JSON.stringify(sent);
    say([`saved to ${found.output}: ${(100 * found.share).toFixed(1)} % of the image are inspected`, ...found.notes].join(". "));
  } catch (error) {
    say(`not saved: ${error.message}`, true);
  }
  show();
}

async function end() {
  if ((dirty() || open.length) && !confirm("Close without saving what was drawn since the last save?")) return;
  saved = JSON.stringify(shapes);
  open = [];
  try {
    await send("end", {});
    say("closed: this page may be left");
    document.querySelectorAll("button, input").forEach((control) => { control.disabled = true; });
  } catch (error) {
    say(`the program has ended: ${error.message}`, true);
  }
}

$("undo").onclick = undo;
$("redo").onclick = () => travel(future, past);
$("remove").onclick = remove;
$("switch").onclick = () => change(() => {
  shapes[selected].label = shapes[selected].label === "ignore" ? "inspect" : "ignore";
});
$("clear").onclick = () => change(() => { shapes = []; selected = -1; });
$("save").onclick = save;
$("end").onclick = end;
$("zoom").oninput = fit;
document.querySelectorAll("[name=label]").forEach((choice) => {
  choice.onchange = draw;
});
window.onresize = fit;
window.onbeforeunload = (event) => { if (dirty() || open.length) event.preventDefault(); };

async function start() {
  const found = await (await fetch("state")).json();
  size = {width: found.width, height: found.height};
  shapes = found.shapes;
  saved = JSON.stringify(shapes);
  $("name").textContent = `${found.name}, ${found.width}×${found.height}, to ${found.output}`;
  picture.src = "image";
  await picture.decode();
  fit();
  show();
  document.body.dataset.ready = "yes";
}

start().catch((error) => say(`the image can't be shown: ${error.message}`, true));
