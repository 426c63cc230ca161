// Elements, numbers and the data of the page. Text from a run reaches the document as text nodes only.

function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.entries(value).forEach(([key, to]) => element.style.setProperty(key, to));
    else if (name in element && !["list", "form"].includes(name)) element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// Text of a sample: kept apart from its surroundings, so that marks of direction inside do not reorder the page.
const foreign = (text, tag = "bdi", className = "") => h(tag, { dir: "auto", className }, text);

const hint = (text, label = "") =>
  h("span", { className: "hint", tabIndex: 0, role: "note", "aria-label": text, "data-hint": text }, label || "?");

async function unpack(base64) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).json();
}

const blob = (id) => document.getElementById(id).textContent;

function short(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 1e15 || size < 1e-4) return value.toExponential(2).replace("e+", "e");
  for (const [unit, factor] of [["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e4]]) {
    if (size >= factor) return `${trim((value / (unit === "k" ? 1e3 : factor)).toPrecision(digits))}${unit}`;
  }
  return trim(size >= 1000 ? value.toFixed(0) : value.toPrecision(digits));
}

const trim = (text) => (text.includes(".") && !text.includes("e") ? text.replace(/\.?0+$/, "") : text);

const percent = (share) => `${Math.round(100 * share)} %`;

const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// Accuracy as a colour, from hard (orange) over middling to easy (teal); readable behind the page's ink.
const SCALE = {
  light: [[240, 163, 115], [240, 223, 160], [124, 196, 194]],
  dark: [[150, 72, 28], [112, 96, 40], [24, 106, 112]],
};

const isDark = () => document.documentElement.dataset.theme === "dark";

function accuracyColour(accuracy) {
  const [hard, middle, easy] = SCALE[isDark() ? "dark" : "light"];
  const [from, to, share] = accuracy < 0.5 ? [hard, middle, accuracy * 2] : [middle, easy, accuracy * 2 - 1];
  return `rgb(${from.map((start, index) => Math.round(start + (to[index] - start) * share)).join(" ")})`;
}

function scaleLegend() {
  const stops = [0, 0.25, 0.5, 0.75, 1].map(accuracyColour).join(", ");
  return h("span", { className: "scale" }, "nobody right",
    h("span", { className: "ramp", style: { background: `linear-gradient(90deg, ${stops})` } }), "everybody right");
}

function select(label, options, value, onchange) {
  const field = h("select", { "aria-label": label, onchange: () => onchange(field.value) },
    options.map(([key, text]) => h("option", { value: key, selected: key === value }, text)));
  return h("label", { className: "field" }, h("span", {}, label), field);
}

function remember(name, value) {
  try {
    if (value === undefined) return localStorage.getItem(name);
    localStorage.setItem(name, value);
  } catch {
    // A browser may refuse storage to pages that are opened from a file.
  }
  return null;
}
