// Plays the course that stands in #played: one moment, `now_s`, moves the floor map, the cursor of
// every chart, the figures in the legends and the list of failures. Names are set as text.

const film = JSON.parse(document.getElementById("played").textContent);
const at = (id) => document.getElementById(id);
const still = matchMedia("(prefers-reduced-motion: reduce)");
const start_ms = film.start_unix_s * 1000;

// Elements.
function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}
const element = (name, attributes = {}, ...children) => filled(document.createElement(name), attributes, children);
const drawn = (name, attributes = {}, ...children) =>
  filled(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);

// Packed numbers.
function bytes(text) {
  const raw = atob(text);
  const all = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) all[i] = raw.charCodeAt(i);
  return all;
}

function frames({ runs, bytes: text }, size) {
  const packed = bytes(text);
  if (!runs) return packed;
  const all = new Uint8Array(size);
  for (let i = 0, to = 0; i < packed.length; i += 2) {
    all.fill(packed[i], to, to + packed[i + 1] + 1);
    to += packed[i + 1] + 1;
  }
  return all;
}

function curve({ low, high, steps }) {
  if (!steps) return new Float64Array(film.at_s.length).fill(low);
  const codes = new Uint16Array(bytes(steps).buffer);
  return Float64Array.from(codes, (code) => (code === 65535 ? NaN : low + (code / 65534) * (high - low)));
}

function last(times, t) {
  // The place of the last time that is not after t; -1 where all are.
  let low = 0, high = times.length;
  while (low < high) {
    const half = (low + high) >> 1;
    if (times[half] <= t) low = half + 1; else high = half;
  }
  return low - 1;
}

// Words.
const digits = (value, most = 3) => value.toLocaleString("en", { maximumSignificantDigits: most });
function prefixed(value, unit) {
  const [factor, prefix] = [[1e9, "G"], [1e6, "M"], [1e3, "k"]].find(([f]) => Math.abs(value) >= f) ?? [1, ""];
  return `${digits(value / factor)} ${prefix}${unit}`;
}
const count = (value) => Math.round(value).toLocaleString("en");
const watts = (value) => prefixed(value, "W");
const watt_hours = (value) => prefixed(value, "Wh");
function duration(s) {
  if (s < 60) return `${digits(s)} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  return s < 172800 ? `${digits(s / 3600)} h` : `${(s / 86400).toFixed(1)} days`;
}
const written = (options) => {
  const form = new Intl.DateTimeFormat("en-GB", { timeZone: "UTC", ...options });
  return (t) => form.format(start_ms + t * 1000);
};
const clock = { hour: "2-digit", minute: "2-digit" };
const moment = written({ weekday: "short", day: "numeric", month: "short", ...clock });
const short = written({ day: "numeric", month: "short", ...clock });
const day = written({ day: "numeric", month: "short" });
const hour = written(clock);

// What a node looks like.
const STATES = { 0: "idle", 252: "straggling", 253: "drained or in maintenance", 254: "down", 255: "not there yet" };
const N = film.frames.nodes, F = film.frames.at_s.length;
const node = frames(film.frames.node, N * F), busy = frames(film.frames.busy, N * F);
const poolOf = new Uint16Array(N);
film.pools.forEach((pool, place) => poolOf.fill(place, pool.first_node, pool.first_node + pool.nodes));
let inks = {}, fills = new Map();

function colours() {
  const all = getComputedStyle(document.documentElement);
  const of = (name) => all.getPropertyValue(name).trim();
  inks = Object.fromEntries(["sheet", "track", "soft", "line", "ink", "warn", "bad", ...[0, 1, 2, 3, 4, 5, 6, 7, 8].map((i) => `s${i}`)].map((name) => [name, of(`--${name}`)]));
  fills = new Map();
}

function mixed(over, under, share) {
  const parts = [1, 3, 5].map((i) => {
    const [a, b] = [over, under].map((hex) => parseInt(hex.slice(i, i + 2), 16));
    return Math.round(a * share + b * (1 - share));
  });
  return `rgb(${parts})`;
}

function fill(state, share) {
  const key = state * 128 + share;
  if (!fills.has(key)) fills.set(key, looked(state, share));
  return fills.get(key);
}

function looked(state, share) {
  if (state === 0 || state === 253) return inks.track;
  if (state === 252) return inks.warn;
  if (state === 254) return inks.bad;
  if (state === 255) return inks.sheet;
  // A node with few busy chips is pale, but never as pale as an idle one.
  return mixed(inks[`s${film.tenants[state - 1]?.[1] ?? 8}`], inks.track, 0.35 + 0.65 * (Math.min(share, 100) / 100));
}

function paint(pen, x, y, size, state, share) {
  pen.fillStyle = fill(state, share);
  pen.fillRect(x, y, size, size);
  if (state < 252 || size < 3) return;
  // Not by colour alone: a cross is down, strokes are drained, a dot is slow, a frame is not there.
  pen.strokeStyle = pen.fillStyle = state === 253 ? inks.soft : state === 255 ? inks.line : inks.sheet;
  pen.lineWidth = size < 7 ? 1 : 1.4;
  pen.beginPath();
  const line = (a, b, c, d) => { pen.moveTo(x + a * size, y + b * size); pen.lineTo(x + c * size, y + d * size); };
  if (state === 254) { line(0.2, 0.2, 0.8, 0.8); line(0.8, 0.2, 0.2, 0.8); }
  if (state === 253) { line(0, 0.6, 0.6, 0); line(0.4, 1, 1, 0.4); }
  if (state === 255) pen.rect(x + 0.5, y + 0.5, size - 1, size - 1);
  pen.stroke();
  if (state === 252) pen.fillRect(x + size / 3, y + size / 3, size / 3, size / 3);
}

// The floor: sites as blocks in rows, in them racks as columns of nodes, as large as there is room.
const FOLD = 16; // A rack with more nodes than that takes several columns.
let hall = { at: new Float32Array(2 * N), cell: 4, width: 0, height: 0, labels: [] };
const halls = film.sites.map((site) => ({
  site,
  rows: film.pools.filter((pool) => pool.site === site).map((pool) => {
    const racks = new Map();
    for (let i = 0; i < pool.nodes; i++) {
      const rack = pool.racks[i];
      if (!racks.has(rack)) racks.set(rack, []);
      racks.get(rack).push(pool.first_node + i);
    }
    return [...racks.values()];
  }),
}));

function arranged(cell, width) {
  const pitch = cell + (cell > 3 ? 1 : 0), alley = Math.max(1, Math.round(cell / 3));
  const spots = new Float32Array(2 * N), labels = [];
  let x = 0, y = 0, tall = 0;
  for (const { site, rows } of halls) {
    const wide = (rack) => Math.ceil(rack.length / FOLD) * pitch + alley;
    const high = (racks) => Math.min(FOLD, Math.max(...racks.map((rack) => rack.length))) * pitch + alley;
    const area = rows.reduce((sum, racks) => sum + racks.reduce((s, rack) => s + wide(rack), 0) * high(racks), 0);
    const room = Math.min(width, Math.max(Math.sqrt(area * 1.9), ...rows.flat().map(wide)));
    const inside = [];
    let left = 0, top = 16, right = 0;
    for (const racks of rows) {
      left = 0;
      for (const rack of racks) {
        if (left && left + wide(rack) > room + 1) { left = 0; top += high(racks); }
        rack.forEach((n, i) => inside.push([n, left + Math.floor(i / FOLD) * pitch, top + (i % FOLD) * pitch]));
        left += wide(rack);
        right = Math.max(right, left);
      }
      top += high(racks) + (rows.length > 1 ? alley : 0);
    }
    const block = Math.min(width, Math.max(right, Math.min(90, 7 * site.length + 4)));
    if (x && x + block > width) { x = 0; y += tall + 8; tall = 0; }
    for (const [n, dx, dy] of inside) { spots[2 * n] = x + dx; spots[2 * n + 1] = y + dy; }
    labels.push([site, x, y + 11, block]);
    x += block + 12;
    tall = Math.max(tall, top);
  }
  return { at: spots, cell, width, height: y + tall + 4, labels };
}

function laid(width) {
  const most = width < 600 ? 780 : 640;
  for (const cell of [26, 22, 18, 16, 14, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3]) {
    const plan = arranged(cell, width);
    if (plan.height <= most) return plan;
  }
  return arranged(2, width);
}

const floor = at("floor"), ground = document.createElement("canvas");
let frame = -1, dots = 1, pointed = -1;

function measure() {
  hall = laid(floor.clientWidth);
  dots = devicePixelRatio || 1;
  for (const one of [floor, ground]) {
    one.width = Math.max(1, Math.round(hall.width * dots)); // A page not laid out yet is 0 wide.
    one.height = Math.max(1, Math.round(hall.height * dots));
  }
  floor.style.height = `${hall.height}px`;
  frame = -1;
}

function groundOf(number) {
  if (number === frame) return;
  frame = number;
  const pen = ground.getContext("2d");
  pen.setTransform(dots, 0, 0, dots, 0, 0);
  pen.clearRect(0, 0, hall.width, hall.height);
  pen.font = "11px system-ui, sans-serif";
  pen.fillStyle = inks.soft;
  for (const [site, x, y, width] of hall.labels) pen.fillText(fitted(pen, site, width), x, y);
  for (let n = 0; n < N; n++) paint(pen, hall.at[2 * n], hall.at[2 * n + 1], hall.cell, node[n * F + number], busy[n * F + number]);
  states(number);
  if (pointed >= 0) at("pointed").textContent = said(pointed);
}

function fitted(pen, text, width) {
  let said = text;
  while (said.length > 1 && pen.measureText(said).width > width) said = `${said.replace(/…$/, "").slice(0, -1)}…`;
  return said;
}

function paintFloor() {
  groundOf(Math.max(0, last(film.frames.at_s, now_s)));
  const pen = floor.getContext("2d");
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.clearRect(0, 0, floor.width, floor.height);
  pen.drawImage(ground, 0, 0);
  // A failure flashes as a ring that grows and fades; where motion is not wanted, it stands still.
  pen.setTransform(dots, 0, 0, dots, 0, 0);
  pen.strokeStyle = inks.bad;
  for (let i = last(failed_s, now_s); i >= 0 && now_s - failed_s[i] < flash_s; i--) {
    const n = film.failures[i][1], age = still.matches ? 0.3 : (now_s - failed_s[i]) / flash_s;
    pen.globalAlpha = 1 - age;
    pen.lineWidth = 2;
    pen.beginPath();
    pen.arc(hall.at[2 * n] + hall.cell / 2, hall.at[2 * n + 1] + hall.cell / 2, hall.cell / 2 + 2 + (4 + hall.cell / 3) * age, 0, 7);
    pen.stroke();
  }
  pen.globalAlpha = 1;
}

const stateItems = new Map();
function legend() {
  const named = film.tenants.map(([name], place) => [place + 1, name]);
  const seen = new Set(node);
  const shown = [...named, ...Object.entries(STATES).map(([state, name]) => [Number(state), name])].filter(([state]) => seen.has(state));
  stateItems.clear();
  at("states").replaceChildren(...shown.map(([state, name]) => {
    const sample = element("canvas", { width: 26, height: 26, "aria-hidden": "true" });
    const pen = sample.getContext("2d");
    pen.scale(2, 2);
    paint(pen, 0, 0, 13, state, 100);
    const number = element("b");
    stateItems.set(state, number);
    return element("li", {}, sample, `${name} `, number);
  }));
}

function states(number) {
  const counts = new Map();
  for (let n = 0; n < N; n++) {
    const state = node[n * F + number];
    counts.set(state, (counts.get(state) ?? 0) + 1);
  }
  for (const [state, item] of stateItems) item.textContent = count(counts.get(state) ?? 0);
}

function said(n) {
  const pool = film.pools[poolOf[n]], place = n - pool.first_node;
  const state = node[n * F + frame], share = busy[n * F + frame];
  const what = STATES[state] ?? `${film.tenants[state - 1]?.[0] ?? "a tenant"}, ${share} % of its ${pool.chips_per_node} chips busy`;
  return `${pool.site}, ${pool.name}, rack ${pool.racks[place] + 1}, node ${place + 1} (${pool.system}): ${what}`;
}

floor.addEventListener("pointermove", (event) => {
  const x = event.offsetX - hall.cell / 2, y = event.offsetY - hall.cell / 2;
  let best = -1, near = (hall.cell + 4) ** 2;
  for (let n = 0; n < N; n++) {
    const far = (hall.at[2 * n] - x) ** 2 + (hall.at[2 * n + 1] - y) ** 2;
    if (far < near) [best, near] = [n, far];
  }
  if (best < 0) return;
  pointed = best;
  at("pointed").textContent = said(pointed);
});

// Charts: layers over one axis of time, with a cursor and the figures at the cursor.
const cursors = [];

function steps(low, high, most) {
  const span = high - low || Math.abs(high) || 1, size = 10 ** Math.floor(Math.log10(span / most));
  const step = [1, 2, 2.5, 5, 10].map((f) => f * size).find((f) => span / f <= most) ?? 10 * size;
  const first = Math.floor(low / step + 1e-9), until = Math.max(first + 1, Math.ceil(high / step - 1e-9));
  return Array.from({ length: until - first + 1 }, (_, i) => (first + i) * step);
}

function chart(into, { title, unit, say, layers, base = 0, cuts = [], marks = [] }) {
  const items = layers.map(({ name, kind, ink }) => {
    const value = element("b");
    return [element("li", { class: kind, style: `--ink-of: var(--${ink})` }, `${name} `, value), value];
  });
  const width = into.chart_width, height = 118, left = 60, right = 6, top = 6, low = height - 20;
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": `${title}, ${unit}, over time` });
  const stacked = new Float64Array(film.at_s.length);
  const bounds = layers.filter(({ kind }) => kind !== "told").map(({ kind, values }) => {
    if (kind !== "area") return { values };
    const under = stacked.slice();
    values.forEach((value, i) => (stacked[i] += value || 0));
    return { values: stacked.slice(), under };
  });
  let most = base, least = base ?? Infinity;
  for (const { values } of bounds) for (const value of values) {
    if (value > most || most === null) most = value;
    if (value < least) least = value;
  }
  const ticks = steps(least, most, 4);
  const x = (t) => left + ((width - left - right) * t) / film.end_s;
  const y = (value) => low - ((low - top) * (value - ticks[0])) / (ticks.at(-1) - ticks[0]);
  for (const tick of ticks) {
    svg.append(drawn("path", { class: "grid", d: `M${left} ${y(tick)}H${width - right}` }),
      drawn("text", { class: "end", x: left - 6, y: y(tick) + 4 }, say(tick)));
  }
  for (const { at_s, lasts_s, site, cut } of cuts) {
    svg.append(drawn("rect", { class: "cut", x: x(at_s), y: top, width: Math.max(2, x(at_s + lasts_s) - x(at_s)), height: low - top },
      drawn("title", {}, `${site}: ${Math.round(cut * 100)} % less power for ${duration(lasts_s)}`)));
  }
  let place = 0;
  for (const { kind, ink } of layers) {
    if (kind === "told") continue;
    const { values, under } = bounds[place++];
    const there = [...film.at_s.keys()].filter((i) => !Number.isNaN(values[i]));
    const points = (of, order) => order.map((i) => `${x(film.at_s[i]).toFixed(1)} ${y(of[i]).toFixed(1)}`).join("L");
    const d = there.length ? `M${points(values, there)}${under ? `L${points(under, there.toReversed())}Z` : ""}` : "";
    svg.append(drawn("path", { class: kind, style: `--ink-of: var(--${ink})`, d }));
  }
  if (marks.length) svg.append(drawn("path", { class: "mark", d: marks.map((t) => `M${x(t).toFixed(1)} ${low + 1}v5`).join("") }));
  for (const [t, name] of days(Math.max(1, Math.floor((width - left) / 62)))) {
    if (x(t) < width - 20) svg.append(drawn("text", { class: "middle", x: x(t), y: height - 5 }, name));
  }
  const cursor = drawn("path", { class: "now" });
  svg.append(cursor);
  const seek = (event) => {
    if (event.type === "pointermove" && !event.buttons) return;
    halt();
    go(((event.clientX - svg.getBoundingClientRect().left) * (width / svg.clientWidth) - left) / (width - left - right) * film.end_s);
  };
  svg.addEventListener("pointerdown", seek);
  svg.addEventListener("pointermove", seek);
  cursors.push((i) => {
    cursor.setAttribute("d", `M${x(now_s).toFixed(1)} ${top}V${low}`);
    layers.forEach(({ values }, k) => (items[k][1].textContent = Number.isNaN(values[i]) ? "–" : say(values[i])));
  });
  into.append(element("div", { class: "plotted" },
    element("h4", {}, title, element("small", {}, ` ${unit}`)),
    svg, element("ul", { class: "legend" }, ...items.map(([item]) => item))));
}

function days(most) {
  // Every so many midnights, or hours where the course is short.
  const each = film.end_s > 3 * 86400 ? 86400 : 3600;
  const step = [1, 2, 3, 6, 7, 12, 14, 28].map((n) => n * each).find((s) => film.end_s / s <= most) ?? 28 * each * Math.ceil(film.end_s / most / 28 / each);
  const first = Math.ceil(start_ms / 1000 / each) * each - start_ms / 1000;
  return Array.from({ length: Math.max(0, Math.floor((film.end_s - first) / step) + 1) }, (_, i) => first + i * step)
    .map((t) => [t, each === 86400 ? day(t) : hour(t)]);
}

const curves = Object.fromEntries(Object.entries(film.curves).map(([name, one]) => [name, curve(one)]));
const bySite = Object.fromEntries(Object.entries(film.by_site).map(([site, all]) =>
  [site, Object.fromEntries(Object.entries(all).map(([name, one]) => [name, curve(one)]))]));
const failed_s = film.failures.map(([t]) => t);
const few = film.sites.length <= 4, all = Object.keys(bySite);

function holders() {
  // Those with a colour of their own, then all others as one.
  const own = film.tenants.filter(([name, ink]) => ink < 8 && film.busy[name]);
  const others = film.tenants.filter(([name, ink]) => ink >= 8 && film.busy[name]).map(([name]) => curve(film.busy[name]));
  const layers = own.map(([name, ink]) => ({ name, kind: "area", ink: `s${ink}`, values: curve(film.busy[name]) }));
  if (others.length) layers.push({ name: `${others.length} others`, kind: "area", ink: "s8", values: others[0].map((_, i) => others.reduce((sum, one) => sum + one[i], 0)) });
  return layers;
}

function powered(into, site) {
  const { power, cap } = bySite[site];
  const layers = [{ name: "meter", kind: "area", ink: "s4", values: power }];
  if (cap) layers.push({ name: "cap", kind: "dash", ink: "bad", values: cap });
  const cuts = film.curtailments.filter((one) => site === all[0] && all.length > 1 || one.site === site);
  chart(into, { title: `Power, ${site}`, unit: cap ? "against cap" : "no cap known", say: watts, layers, cuts });
}

function emptied(id) {
  // As wide as a card of its grid is.
  const into = at(id), { gridTemplateColumns: tracks } = getComputedStyle(into);
  into.replaceChildren();
  into.chart_width = parseFloat(tracks) || into.clientWidth;
  return into;
}

function draw() {
  cursors.length = 0;
  const into = emptied("charts");
  chart(into, { title: "Queue", unit: "jobs", say: count, layers: [
    { name: "waiting", kind: "line", ink: "s1", values: curves.waiting },
    { name: "chips they want", kind: "told", ink: "s1", values: curves.waiting_chips },
    { name: "running", kind: "dash", ink: "s0", values: curves.running }] });
  chart(into, { title: "Chips busy", unit: "by tenant; ticks are failures", say: count, marks: failed_s,
    layers: [...holders(), { name: "up", kind: "dash", ink: "ink", values: curves.chips }] });
  powered(into, all[0]);
  drawSites();
}

function drawSites() {
  const into = emptied("site-charts"), kept = 3;
  cursors.length = Math.min(cursors.length, kept);
  const chosen = few ? film.sites : [at("site").value];
  for (const site of chosen) if (site !== all[0]) powered(into, site);
  const lined = few ? film.sites : [...new Set([all[0], ...chosen])];
  const lines = (name) => lined.map((site, place) => ({ name: site, kind: "line", ink: `s${place}`, values: bySite[site][name] })).filter(({ values }) => values);
  chart(into, { title: "PUE", unit: "meter over machines", say: (value) => value.toFixed(3), base: null, layers: lines("pue") });
  chart(into, { title: "Carbon", unit: "gCO₂e/kWh", say: (value) => digits(value), layers: lines("carbon") });
  const batteries = lines("battery_wh").filter(({ values }) => values.some((value) => value > 0));
  if (batteries.length) chart(into, { title: "Battery", unit: "energy held", say: watt_hours, layers: batteries });
  cursors.slice(kept).forEach((move) => move(hourOf()));
}

// Failures near the cursor: the last ones, and the next.
let told = null;
function near() {
  const i = last(failed_s, now_s), key = `${i}`;
  if (key === told) return;
  told = key;
  const lost_h = film.failures.slice(0, i + 1).reduce((sum, [, , , lost_s]) => sum + (lost_s ?? 0), 0) / 3600;
  at("failed").textContent = failed_s.length
    ? `${count(i + 1)} of ${count(failed_s.length)} listed failures so far; work lost ${digits(lost_h)} h.`
    : "None in this course.";
  const rows = film.failures.slice(Math.max(0, i - 3), i + 3).map(([t, n, what, lost_s]) => {
    const pool = film.pools[poolOf[n]];
    const where = `${what}, ${pool.site} rack ${pool.racks[n - pool.first_node] + 1}`;
    return element("li", { class: t <= now_s ? "gone" : "next" }, element("time", {}, short(t)),
      element("span", {}, where), element("span", { class: "soft" }, t > now_s ? "to come" : lost_s ? `lost ${duration(lost_s)}` : "no work lost"));
  });
  rows.findLast((row) => row.className === "gone")?.classList.add("now");
  at("failures").replaceChildren(...rows);
}

// The player.
const SPEEDS = [[600, "10 min a second"], [3600, "1 h a second"], [21600, "6 h a second"], [86400, "1 day a second"], [259200, "3 days a second"]];
let now_s = 0, playing = false, before_ms = 0, speed = 3600;
const frame_s = film.end_s / Math.max(1, F);
const flash_s = Math.max(frame_s, film.end_s / 150);
const hourOf = () => Math.max(0, last(film.at_s, now_s));

function show() {
  at("time").value = now_s;
  at("clock").textContent = `day ${Math.min(Math.floor(now_s / 86400) + 1, Math.ceil(film.end_s / 86400))}, ${moment(now_s)}`;
  const i = hourOf();
  for (const move of cursors) move(i);
  paintFloor();
  near();
}

function go(t) {
  now_s = Math.min(Math.max(t, 0), film.end_s);
  show();
}

function tick(ms) {
  if (!playing) return;
  go(now_s + ((ms - before_ms) / 1000) * speed);
  before_ms = ms;
  if (now_s >= film.end_s) halt(); else requestAnimationFrame(tick);
}

function halt() {
  playing = false;
  at("play").textContent = "Play";
}

function play() {
  if (playing) return halt();
  if (now_s >= film.end_s) now_s = 0;
  playing = true;
  at("play").textContent = "Pause";
  before_ms = performance.now();
  requestAnimationFrame(tick);
}

function lookAgain() {
  colours();
  measure();
  legend();
  draw();
  show();
}

// A large floor takes the whole width, with the charts below it.
at("stage").classList.toggle("large", N > 1000);
at("time").max = film.end_s;
at("play").addEventListener("click", play);
at("time").addEventListener("input", (event) => { halt(); go(Number(event.target.value)); });
at("speed").append(...SPEEDS.map(([value, name]) => element("option", { value }, name)));
// The whole course in about a minute.
speed = SPEEDS.reduce((best, [value]) => Math.abs(Math.log(film.end_s / value / 60)) < Math.abs(Math.log(film.end_s / best / 60)) ? value : best, 600);
at("speed").value = speed;
at("speed").addEventListener("change", (event) => (speed = Number(event.target.value)));
if (!few) {
  at("choice").hidden = false;
  at("site").append(...film.sites.map((site) => element("option", {}, site)));
  at("site").addEventListener("change", drawSites);
}
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, summary")) return;
  const far = event.shiftKey ? 86400 : frame_s;
  const ways = { ArrowLeft: () => now_s - far, ArrowRight: () => now_s + far, Home: () => 0, End: () => film.end_s };
  if (event.key === " " && event.target.id !== "play") play();
  else if (ways[event.key]) { halt(); go(ways[event.key]()); }
  else return;
  event.preventDefault();
});

let measured = document.body.clientWidth;
lookAgain();
new ResizeObserver(() => {
  // Only a new width asks for a new layout; what this draws changes heights alone.
  if (document.body.clientWidth === measured) return;
  measured = document.body.clientWidth;
  lookAgain();
}).observe(document.body);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", lookAgain);
if (!still.matches) play();
