// Draws the snapshot that /api/view answers, once a second. What comes from a job, a model or a
// user is set as text, never as markup.

const POLL_MS = 1000;
const key = new URLSearchParams(location.search).get("key") ?? "";
const SIGNS = {
  waiting: "○", queued: "◔", starting: "◑", running: "●", stopping: "◐", paused: "‖",
  done: "✓", failed: "✕", cancelled: "–", blocked: "⊘", lost: "?", stopped: "‖",
};

// Elements.
const at = (id) => document.getElementById(id);
const shown = new Map();

function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

function drawn(name, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== ""));
  return node;
}

function show(id, known, draw) {
  // Only where something changed, so that a selection or a scroll position outlives a poll.
  const text = JSON.stringify(known);
  if (shown.get(id) === text) return;
  shown.set(id, text);
  at(id).replaceChildren(...[draw(known)].flat().filter((child) => child !== null));
}

// Quantities.
function digits(value, most = 3) {
  return value.toLocaleString("en", { maximumSignificantDigits: most });
}

const joined = (...parts) => parts.join("\u00a0"); // A quantity does not break over two lines.

function duration(s) {
  if (s === null || s === undefined) return "–";
  if (s < 0.9995) return joined(digits(s * 1e3), "ms");
  if (s < 59.95) return joined(digits(s), "s");
  if (s < 3599.5) return joined(Math.floor(s / 60), "min", Math.floor(s % 60), "s");
  if (s < 172800) return joined(Math.floor(s / 3600), "h", Math.floor((s % 3600) / 60), "min");
  return joined((s / 86400).toFixed(1), "days");
}

function scaled(value, unit) {
  const scales = [[1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""], [1e-3, "m"], [1e-6, "µ"]];
  const [factor, prefix] = scales.find(([factor]) => Math.abs(value) >= factor) ?? [1, ""];
  return joined(digits(value / factor), `${prefix}${unit}`);
}

const money = (micro, currency) => joined(digits(micro / 1e6, 4), currency);
const percent = (share) => new Intl.NumberFormat("en", { style: "percent", signDisplay: "exceptZero" }).format(share);
const plural = (number, noun) => joined(number.toLocaleString("en"), noun + (number === 1 ? "" : "s"));
const words = (name) => name.replaceAll("_", " ");

function plain(value) {
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "object") return `${plain(value.value)} (${plain(value.low)} – ${plain(value.high)})`;
  if (typeof value !== "number") return String(value);
  return Number.isInteger(value) ? value.toLocaleString("en") : digits(value);
}

// The parts of the page.
function facts(view, now_s) {
  const first = view.first_token;
  const first_s = view.simulated ? first.ready_s : first.measured_s;
  const planned = first.predicted_s === null ? "no service" : `planned ${duration(first.predicted_s)}`;
  return [
    fact(view.simulated ? "Simulated" : "Up", duration(now_s)),
    fact("Time to first token", first_s === null ? "not yet" : duration(first_s), planned),
    fact("Address", location.origin, "OpenAI protocol at /v1"),
  ];
}

function fact(name, value, more = "") {
  return element("div", {}, element("dt", {}, name),
    element("dd", {}, value, more && element("small", {}, ` ${more}`)));
}

function job(it, view, now_s) {
  const curve = view.curves[it.name];
  return element("li", { class: "job" },
    element("div", {},
      element("h3", {}, it.name),
      element("p", {}, `${it.kind} · ${it.tenant} · ${plural(it.chips, "chip")}`),
      status(it)),
    element("div", {},
      it.reason && element("p", { class: "reason" }, it.reason),
      it.reason && it.error?.remedy ? element("p", {}, `hint: ${it.error.remedy}`) : null,
      ...progress(it),
      ...time(it, now_s, view.simulated ? "simulated" : "measured"),
      figures(it, view.currency)),
    element("div", {},
      curve?.some((point) => point.loss !== null) ? lossCurve(it.name, curve) : null,
      highlights(it.results)));
}

function status(it) {
  const attempts = it.attempts > 1 ? `, attempt ${it.attempts}` : "";
  const gate = it.verdict ? `, ${it.verdict}` : "";
  return element("span", { class: `status ${it.status}` },
    element("b", { "aria-hidden": "true" }, SIGNS[it.status] ?? "·"), it.status + gate + attempts);
}

function progress(it) {
  const { phase, step, steps, tokens, loss, tokens_per_s, share } = it.progress;
  const runs = it.status === "running";
  if (it.service) return [runs ? element("p", {}, phase === "work" ? "answers" : phase ?? "") : null];
  const said = [
    runs && phase,
    it.status !== "done" && step !== null && `step ${plain(step)} of ${plain(steps)}`,
    tokens !== null && `${plain(tokens)} tokens`,
    loss !== null && `loss ${digits(loss)}`,
    runs && tokens_per_s && `${digits(tokens_per_s)} tokens/s`,
  ].filter(Boolean).join(" · ");
  const bar = element("div", {
    class: `bar ${it.status}`, role: "progressbar", "aria-label": `progress of ${it.name}`,
    "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": Math.round(share * 100),
  }, element("i", { style: `width: ${(share * 100).toFixed(1)}%` }));
  return [bar, said ? element("p", {}, said) : null];
}

function time(it, now_s, took) {
  // What was quoted as a band with a stroke, what was measured, or has passed, as a dot.
  const { value, low, high, basis } = it.quote.duration_s;
  const runs = it.status === "running" && it.measured_s === null && it.started_s !== null;
  const seen_s = runs ? now_s - it.started_s : it.measured_s;
  const end_s = Math.max(high, seen_s ?? 0) * 1.03;
  const left = (s) => `left: ${((100 * s) / end_s).toFixed(2)}%`;
  const range = element("div", { class: "range", "aria-hidden": "true" },
    element("span", { class: "band", style: `${left(low)}; width: ${((100 * (high - low)) / end_s).toFixed(2)}%` }),
    element("span", { class: "said", style: left(value) }),
    seen_s === null ? null : element("span", { class: "seen", style: left(seen_s) }));
  const until = it.service ? " until it answers" : "";
  const quoted = `${basis === "measured" ? "quoted from measured runs" : "quoted, modelled"}: `;
  const seen = seen_s === null ? [] : runs
    ? ["; so far ", element("b", {}, duration(seen_s))]
    : [`; ${took} `, element("b", {}, duration(seen_s)), it.error_s === null ? "" : ` (${percent(it.error_s)})`];
  return [range, element("p", {}, quoted, element("b", {}, duration(value)),
    ` (${duration(low)} – ${duration(high)})${until}`, ...seen)];
}

function figures(it, currency) {
  if (!it.chip_s) return null;
  return element("p", {},
    `${digits(it.chip_s)} chip-seconds · ${money(it.money_micro, currency)} · `
    + `${scaled(it.energy_kwh * 1e3, "Wh")} and ${scaled(it.carbon_g, "g")} CO₂e (${it.energy_basis})`);
}

function highlights(results) {
  const known = Object.entries(results);
  if (!known.length) return null;
  return element("ul", { class: "chips", "aria-label": "results" },
    known.map(([name, value]) => element("li", {}, `${words(name)} ${plain(value)}`)));
}

function lossCurve(name, points) {
  const told = points.filter((point) => point.loss !== null);
  const [width, height, top, bottom] = [210, 84, 16, 66];
  const losses = told.map((point) => point.loss);
  const [least, most] = [Math.min(...losses), Math.max(...losses)];
  const [from, to] = [told[0].step, told.at(-1).step];
  const x = (point) => 4 + ((width - 8) * (point.step - from)) / Math.max(to - from, 1);
  const y = (point) => bottom - ((bottom - top) * (point.loss - least)) / Math.max(most - least, 1e-9);
  const line = told.map((point) => `${x(point).toFixed(1)} ${y(point).toFixed(1)}`).join("L");
  const last = told.at(-1);
  return drawn("svg", { class: "curve", viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": `loss of ${name}: ${digits(losses[0])} at step ${from}, ${digits(last.loss)} at step ${to}` },
    drawn("path", { class: "area", d: `M${x(told[0]).toFixed(1)} ${bottom}L${line}L${x(last).toFixed(1)} ${bottom}Z` }),
    drawn("path", { d: `M${line}` }),
    drawn("circle", { cx: x(last), cy: y(last), r: 3 }),
    drawn("text", { x: 4, y: 11 }, `loss ${digits(losses[0])}`),
    drawn("text", { x: width - 4, y: 11, "text-anchor": "end" }, digits(last.loss)),
    drawn("text", { x: 4, y: height - 5 }, `step ${from}`),
    drawn("text", { x: width - 4, y: height - 5, "text-anchor": "end" }, `${to}`));
}

function token(first) {
  if (first.measured_s === null) {
    const when = first.predicted_s === null ? "No service is planned."
      : `The first service is planned to answer ${duration(first.predicted_s)} after the start.`;
    return element("p", { class: "soft" }, when);
  }
  return [
    element("p", { class: "asked" }, `asked of ${first.job}: `, element("q", {}, first.prompt)),
    element("pre", {}, first.answer),
    element("p", { class: "soft" }, `first token ${duration(first.measured_s)} after the start; planned ${duration(first.predicted_s)}`),
  ];
}

function bill([rows, currency]) {
  if (!rows.length) return element("p", { class: "soft" }, "Nothing is billed yet; an attempt is billed when it ends.");
  const sum = (name) => rows.reduce((total, row) => total + row[name], 0);
  const line = (cell, name, row) => element("tr", {}, element(cell, { scope: "row" }, name),
    element("td", { class: "number" }, digits(row("chip_s"), 4)),
    element("td", { class: "number" }, plain(row("input_tokens") + row("output_tokens"))),
    element("td", { class: "number" }, money(row("total_micro"), "")));
  const head = ["tenant", "chip-s", "tokens", currency];
  return element("table", {},
    element("thead", {}, element("tr", {}, head.map((name, place) =>
      element("th", { scope: "col", class: place ? "number" : null }, name)))),
    element("tbody", {}, rows.map((row) => line("th", row.tenant, (name) => row[name]))),
    element("tfoot", {}, line("th", "all", sum)));
}

function gateway(requests) {
  if (!requests.settled && !requests.disputed) return element("p", { class: "soft" }, "No request yet.");
  return pairs([
    ["requests settled", plain(requests.settled)],
    ["tokens in, out", `${plain(requests.input_tokens)}, ${plain(requests.output_tokens)}`],
    ["time to first token, median", duration(requests.ttft_s_median)],
    ["the same, 95th percentile", duration(requests.ttft_s_p95)],
    ["whole answer, median", duration(requests.duration_s_median)],
    ["errors", plain(requests.errors)],
    ["disputed, billed 0", plain(requests.disputed)],
  ]);
}

function plan([blueprint, hashes, machine]) {
  return pairs([
    ["machine", machine ? `${plural(machine.chips, machine.kind === "gpu" ? "GPU" : "core")}, ${machine.model}` : "not calibrated"],
    ["blueprint", `${blueprint} ${hashes.blueprint.slice(0, 12)}`],
    ["catalog", hashes.catalog.slice(0, 12)],
    ["measurements", hashes.measured.slice(0, 12)],
  ]);
}

function pairs(rows) {
  return element("dl", { class: "pairs" },
    rows.map(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]).flat());
}

function ledger(lines) {
  const about = ({ kind, subject }) => kind.startsWith("Request") ? `request ${subject.slice(0, 8)}` : subject || kind;
  return [...lines].reverse().map((line) => element("tr", {},
    element("td", {}, String(line.seq)), element("td", {}, duration(line.at_s)),
    element("td", {}, about(line)), element("td", {}, line.text)));
}

function summary(jobs) {
  const counts = new Map();
  for (const { status } of jobs) counts.set(status, (counts.get(status) ?? 0) + 1);
  return [...counts].map(([status, count]) => `${count} ${status}`).join(", ");
}

function draw(view) {
  const now_s = view.simulated ? view.at_s : Math.max(view.at_s, Date.now() / 1e3 - view.opened_unix_s);
  const opened = new Date(view.opened_unix_s * 1e3).toLocaleString();
  document.title = `${view.run} – gigafactory`;
  show("run", view.run, (run) => run);
  show("clock", view.simulated ? `simulated day of ${opened}` : `opened ${opened}`, (text) => text);
  show("facts", [view.first_token, duration(now_s)], () => facts(view, now_s));
  show("summary", summary(view.jobs), (text) => text);
  const runs = view.jobs.some((it) => it.status === "running" && it.measured_s === null);
  show("jobs", [view.jobs, runs && Math.floor(now_s)], () =>
    view.jobs.map((it) => job(it, view, now_s)));
  show("token", view.first_token, token);
  show("bill", [view.bill, view.currency], bill);
  show("gateway", view.requests, gateway);
  show("plan", [view.blueprint, view.hashes, view.machine], plan);
  show("ledger", view.ledger, ledger);
  show("notes", view.notes, (notes) => notes.map((note) => element("p", {}, note)));
}

function complain(text) {
  at("trouble").hidden = text === null;
  if (text !== null && at("trouble").textContent !== text) at("trouble").textContent = text;
}

let answered = null;

async function poll() {
  if (document.hidden) return;
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  const reply = await fetch("/api/view", { headers, cache: "no-store" }).catch(() => null);
  if (reply === null) {
    const since = answered ? ` What stands here is of ${answered.toLocaleTimeString()}.` : "";
    complain(`The works does not answer; it is asked again.${since}`);
  } else if (reply.status === 401) {
    complain("This address has no valid key. Open the one that `gigafactory up` printed.");
  } else if (!reply.ok) {
    complain(`The works answers with an error, ${reply.status}; it is asked again.`);
  } else {
    draw(await reply.json());
    answered = new Date();
    complain(null);
  }
}

async function forever() {
  await poll().catch(console.error);
  setTimeout(forever, POLL_MS);
}

document.addEventListener("visibilitychange", poll);
forever();
