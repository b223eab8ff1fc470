// Keeps a page fresh and follows a log. Everything works without it, by reloading.

const PAGE_MS = 2000;
const LOG_MS = 1000;
const LOG_LETTERS_MAX = 500_000;

let shown = "";
let typed = false;
let pressed = false;

// Not while somebody types, has typed, selects, presses, watches, or stands on something by keyboard that
// could not be found again: what they see must not go away under them.
function busy() {
  const at = document.activeElement;
  if (at?.matches("main textarea, main select, main input:not([type=checkbox])")) return true;
  if (at?.matches("main :focus-visible:not([id])")) return true;
  if ([...document.querySelectorAll("main video")].some((film) => !film.paused)) return true;
  return typed || pressed || !getSelection().isCollapsed;
}

async function refresh() {
  const main = document.getElementById("main");
  if (document.hidden || !("fresh" in main.dataset) || busy()) return;
  const reply = await fetch(location.href, { cache: "no-store" }).catch(() => null);
  trouble(reply);
  if (!reply?.ok) return;
  const text = await reply.text();
  if (text === shown || busy()) return;
  shown = text;
  const page = new DOMParser().parseFromString(text, "text/html");
  document.title = page.title;
  exchange(main, page.getElementById("main"));
}

// The new for the old; what a person opened, ticked, scrolled or focused stays as they left it.
function exchange(old, fresh) {
  const focus = old.contains(document.activeElement) ? document.activeElement.id : "";
  const scrolled = new Map();
  const films = [...old.querySelectorAll("video[data-keep]")].map((film) => [film, film.currentTime]);
  for (const node of old.querySelectorAll("[id]")) if (node.scrollTop) scrolled.set(node.id, node.scrollTop);
  for (const node of old.querySelectorAll("details[open][id]")) fresh.querySelector(`#${CSS.escape(node.id)}`)?.setAttribute("open", "");
  for (const node of old.querySelectorAll("input[type=checkbox][id]")) {
    const next = fresh.querySelector(`#${CSS.escape(node.id)}`);
    if (next) next.checked = node.checked;
  }
  for (const node of old.querySelectorAll("[data-keep]")) {
    fresh.querySelector(`[data-keep="${CSS.escape(node.dataset.keep)}"]`)?.replaceWith(node);
  }
  old.replaceChildren(...fresh.childNodes);
  for (const [film, at_s] of films) if (at_s && film.isConnected) film.currentTime = at_s; // A film that moves begins anew.
  for (const [id, top] of scrolled) {
    const node = document.getElementById(id);
    if (node) node.scrollTop = top;
  }
  if (focus) document.getElementById(focus)?.focus({ preventScroll: true });
}

async function follow() {
  const log = document.querySelector("[data-log]");
  if (!log || document.hidden || log.dataset.over) return;
  const reply = await fetch(`${log.dataset.log}?offset=${log.dataset.offset}`, { cache: "no-store" }).catch(() => null);
  if (!reply?.ok) return;
  const { text, offset, ended } = await reply.json();
  if (!log.isConnected) return;
  if (text) {
    log.append(text);
    if (log.textContent.length > LOG_LETTERS_MAX) log.textContent = log.textContent.slice(-LOG_LETTERS_MAX / 2);
    log.dataset.offset = offset;
    if (document.getElementById("follow").checked) log.scrollTop = log.scrollHeight;
  } else if (ended) {
    log.dataset.over = "yes";
  }
}

function trouble(reply) {
  const line = document.getElementById("trouble");
  line.hidden = reply?.ok ?? false;
  if (!reply) line.textContent = "The factory does not answer. What is shown is what it last said; it is asked again.";
  else if (reply.status === 401) line.textContent = "Your key opens nothing any more. Reload the page to come in with another.";
  else if (!reply.ok) line.textContent = `The factory answers ${reply.status}. What is shown is what it last said.`;
}

async function forever(what, ms) {
  await what().catch(console.error);
  setTimeout(forever, ms, what, ms);
}

document.addEventListener("input", (event) => { typed ||= event.target.matches("textarea, select, input:not([type=checkbox])"); });
document.addEventListener("pointerdown", () => { pressed = true; });
for (const end of ["pointerup", "pointercancel"]) document.addEventListener(end, () => setTimeout(() => { pressed = false; }));
document.addEventListener("visibilitychange", () => void refresh());
for (const log of document.querySelectorAll("[data-log]")) log.scrollTop = log.scrollHeight;
setTimeout(forever, PAGE_MS, refresh, PAGE_MS);
forever(follow, LOG_MS);
