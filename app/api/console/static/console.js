/* The live page. Asks /console/live once a second while it is visible; text only ever enters the page as text. */
"use strict";

const EVERY_MS = 1000;
const HISTORY = 120; // points of a sparkline, about a second each
const SHORTEST = 40; // and the fewest that fill its width
const SMOOTH_S = 3; // rates are means over so long: roll-ups come about once a second
const RETRY_MAX_MS = 15000;
const token = document.querySelector('meta[name="volley-token"]').content;
const operator = document.querySelector('meta[name="volley-operator"]').content === "yes";
const whole = new Intl.NumberFormat("en");
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const SERIES = ["accepted", "submitted", "delivered"];
const STOPPED = ["suppressed", "cancelled", "expired"];
const BAD = ["undelivered", "rejected", "failed"];
const UNCLEAR = ["unknown", "unconfirmed"];
const ACTIONS = { loading: ["cancel"], running: ["pause", "cancel"], paused: ["resume", "cancel"] };
const TONES = { running: "accent", loading: "accent", paused: "warn", cancelled: "", completed: "good" };

const byId = (id) => document.getElementById(id);

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function percent(share) {
  if (share === null) return "–";
  const value = share * 100;
  return value > 0 && value < 0.01 ? "< 0.01 %" : value.toFixed(value === 100 || value === 0 ? 0 : value > 99.9 ? 2 : 1) + " %";
}

function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return s + " s";
  if (s < 3600) return Math.round(s / 60) + " min";
  if (s < 172800) return Math.floor(s / 3600) + " h " + Math.round((s % 3600) / 60) + " min";
  return Math.round(s / 86400) + " days";
}

function sum(counts, names) {
  return names.reduce((total, name) => total + (counts[name] || 0), 0);
}

/* Rows that stay the same element from poll to poll, so that focus and scrolling survive. */
function reconcile(parent, items, keyOf, build, update) {
  const old = new Map([...parent.children].map((row) => [row.dataset.key, row]));
  items.forEach((item, index) => {
    const key = String(keyOf(item));
    const row = old.get(key) || build(item);
    row.dataset.key = key;
    old.delete(key);
    update(row, item);
    if (parent.children[index] !== row) parent.insertBefore(row, parent.children[index] || null);
  });
  old.forEach((row) => row.remove());
}

/* Throughput: differences of totals. */

const samples = []; // {at, since, accepted, submitted, delivered}
const rates = { accepted: [], submitted: [], delivered: [] };

function sample(document_) {
  const { totals, read_at: at, since } = document_;
  const last = samples[samples.length - 1];
  if (last && (last.since !== since || at - last.at > 30)) samples.length = 0; // another day's hours, or a long pause
  else if (last && at <= last.at) return;
  samples.push({ at, since, accepted: totals.accepted, submitted: totals.submitted, delivered: totals.delivered });
  while (samples.length > 2 && at - samples[1].at >= SMOOTH_S) samples.shift();
  if (samples.length < 2) return;
  const first = samples[0];
  for (const name of SERIES) {
    rates[name].push(Math.max(0, totals[name] - first[name]) / (at - first.at));
    if (rates[name].length > HISTORY) rates[name].shift();
  }
}

const SVG = "http://www.w3.org/2000/svg";

function sparkline(box, points, label) {
  let svg = box.firstElementChild;
  if (!svg) {
    svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", "0 0 100 40");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
    for (const name of ["area", "trace"]) {
      const path = document.createElementNS(SVG, "path");
      path.setAttribute("class", name);
      svg.append(path);
    }
    box.append(svg);
  }
  svg.setAttribute("aria-label", label);
  if (points.length < 2) return;
  const top = Math.max(...points, 1);
  const step = 100 / (Math.max(SHORTEST, points.length) - 1);
  const left = 100 - step * (points.length - 1);
  const line = points.map((v, i) => (left + i * step).toFixed(2) + "," + (38 - (v / top) * 35).toFixed(2));
  svg.children[0].setAttribute("d", "M" + left.toFixed(2) + ",40L" + line.join("L") + "L100,40Z");
  svg.children[1].setAttribute("d", "M" + line.join("L"));
}

function showTiles(document_) {
  const { totals } = document_;
  for (const name of SERIES) {
    const tile = document.querySelector('[data-series="' + name + '"]');
    const points = rates[name];
    const now = points.length ? points[points.length - 1] : null;
    setText(tile.querySelector(".value"), now === null ? "–" : whole.format(Math.round(now)));
    const peak = points.length ? Math.round(Math.max(...points)) : 0;
    sparkline(tile.querySelector(".spark"), points, name + " a second, the last two minutes; peak " + peak);
    setText(tile.querySelector(".foot"), whole.format(totals[name]) + " in 24 h" + (peak ? " · peak " + compact.format(peak) + "/s" : ""));
  }
  const tile = byId("rate");
  setText(tile.querySelector(".value"), percent(totals.delivery_rate));
  const all = Math.max(1, totals.submitted + totals.unknown);
  const bad = sum(totals.final, BAD);
  const awaited = Math.max(0, totals.submitted - totals.delivered - bad);
  setText(tile.querySelector(".foot"), totals.submitted + totals.unknown ? "unknown " + percent(totals.unknown_share) + " · " + whole.format(awaited) + " without receipt" : "nothing submitted in 24 h");
  const meter = tile.querySelector(".meter");
  setWidths(meter, [totals.delivered / all, bad / all, totals.unknown / all]);
  meter.setAttribute("aria-label", whole.format(totals.delivered) + " delivered, " + whole.format(bad) + " failed, " + whole.format(totals.unknown) + " unknown");
}

function setWidths(meter, shares) {
  shares.forEach((share, i) => {
    meter.children[i].style.width = Math.min(100, share * 100) + "%";
  });
}

/* What operators see. */

function showOperations(operations, now) {
  byId("accounting").hidden = byId("operations").hidden = false;
  const books = operations.accounting;
  for (const side of ["accepted", "final", "open"]) setText(document.querySelector('[data-side="' + side + '"]'), whole.format(books[side]));
  const badge = document.querySelector('[data-side="difference"] .badge');
  setText(badge, whole.format(books.difference));
  badge.className = "badge " + (books.difference === 0 ? "good" : Math.abs(books.difference) > 1000 ? "bad" : "warn");
  showDispatchers(operations, now);
  reconcile(byId("gateways"), operations.gateways, (g) => g.name, buildGateway, updateGateway);
  reconcile(byId("lanes"), operations.lanes, (l) => l.region + ":" + l.category, () => buildRow(["", "Waiting", "Deferred", "In flight", "Next opening"]), (row, lane) => updateLane(row, lane, now));
  byId("no-lanes").hidden = operations.lanes.length > 0;
}

function showDispatchers(operations) {
  const items = operations.dispatchers.map((d) => {
    const silent = d.silent_s > 3;
    const tone = silent || d.attached === false ? "bad" : d.attached === null ? "warn" : "good";
    const text = silent ? "silent for " + span(d.silent_s) : d.attached ? "at work, " + d.parcels + " parcels" : d.attached === false ? "waits for Redis" : "state unknown";
    return { key: d.lease, tone, text: d.name + ": " + text };
  });
  if (!items.length) items.push({ key: "none", tone: "bad", text: "no dispatcher runs" });
  if (!operations.redis_up) items.push({ key: "redis", tone: "bad", text: "Redis can't be reached" });
  reconcile(byId("dispatchers"), items, (d) => d.key, () => {
    const line = make("span");
    line.append(make("span", "dot"), make("span"));
    line.firstElementChild.setAttribute("aria-hidden", "true");
    return line;
  }, (line, d) => {
    line.firstElementChild.className = "dot " + d.tone;
    setText(line.lastElementChild, d.text);
  });
}

function buildGateway() {
  const item = make("li");
  const head = make("div", "gateway-head");
  head.append(make("b"), make("span", "quiet"), make("span", "badge"));
  item.append(head, make("div"));
  return item;
}

function updateGateway(item, gateway) {
  const [name, place, badge] = item.firstElementChild.children;
  setText(name, gateway.name);
  setText(place, gateway.kind + "://" + gateway.host + (gateway.rate ? " · " + whole.format(gateway.rate) + "/s" : ""));
  const up = gateway.binds.filter((b) => b.state === "bound").length;
  const words = !gateway.enabled ? ["disabled", ""] : !gateway.binds.length ? ["not open", "bad"] : up === gateway.binds.length ? [up + " bound", "good"] : [up + " of " + gateway.binds.length + " bound", up ? "warn" : "bad"];
  setText(badge, words[0]);
  badge.className = "badge " + words[1];
  reconcile(item.lastElementChild, gateway.binds, (b) => b.lease + "/" + b.slot, () => {
    const row = make("div", "bind");
    const use = make("span", "use");
    use.append(make("span"));
    row.append(make("span", "dot"), make("span"), use, make("span", "n"), make("span", "error"));
    return row;
  }, (row, bind) => {
    const [dot, slot, use, figures, error] = row.children;
    dot.className = "dot " + (bind.state === "bound" ? "good" : bind.state === "down" ? "bad" : "warn");
    dot.title = bind.state;
    setText(slot, "bind " + bind.slot);
    use.firstElementChild.style.width = (bind.window ? Math.min(100, (bind.in_flight / bind.window) * 100) : 0) + "%";
    setText(figures, bind.state === "bound" ? whole.format(bind.in_flight) + " / " + whole.format(bind.window) : bind.state);
    setText(error, bind.error || "");
    error.hidden = !bind.error;
  });
}

function buildRow(labels) {
  const row = make("tr");
  labels.forEach((label, i) => {
    const cell = make("td", i > 0 && i < labels.length - 1 ? "n" : "");
    if (label) cell.dataset.label = label;
    row.append(cell);
  });
  return row;
}

function updateLane(row, lane, now) {
  const [name, waiting, deferred, flight, next] = row.children;
  if (!name.children.length) name.append(make("span", "name", lane.region), make("span", "sub", lane.category));
  setText(waiting, whole.format(lane.waiting));
  setText(deferred, whole.format(lane.deferred));
  setText(flight, whole.format(lane.in_flight));
  const at = lane.next_at ? Date.parse(lane.next_at) / 1000 : null;
  setText(next, at === null ? "–" : "in " + span(at - now) + (lane.reason ? " · " + lane.reason.replaceAll("_", " ") : ""));
  next.title = lane.next_at ? new Date(lane.next_at).toLocaleString() : "";
}

/* Batches. */

function buildBatch() {
  const row = buildRow(["", "", "", "Delivered", "Open", "Other", "Total", ""]);
  const [name, state, progress] = row.children;
  state.className = "state";
  state.append(make("span", "badge"));
  progress.className = "wide";
  name.append(make("span", "name"), make("span", "sub"));
  const bar = make("div", "progress");
  const meter = make("div", "meter");
  meter.setAttribute("role", "img");
  for (const kind of ["delivered", "bad", "unknown", "stopped", "open"]) meter.append(make("span", "part " + kind));
  bar.append(meter, make("span", "percent"));
  progress.append(bar);
  return row;
}

function updateBatch(row, batch) {
  const [name, state, progress, delivered, open, other, total, actions] = row.children;
  const title = batch.name || batch.campaign || batch.id.slice(0, 8) + "…" + batch.id.slice(-4);
  setText(name.children[0], title);
  name.title = batch.id;
  setText(name.children[1], batch.category + " · " + new Date(batch.created_at).toLocaleString([], { dateStyle: "short", timeStyle: "short" }) + (batch.rejected ? " · " + whole.format(batch.rejected) + " not accepted" : ""));
  const badge = state.firstElementChild;
  setText(badge, batch.state);
  badge.className = "badge " + TONES[batch.state];
  const c = batch.counts;
  const good = c.delivered || 0, bad = sum(c, BAD), unclear = sum(c, UNCLEAR), stopped = sum(c, STOPPED);
  const pending = sum(c, ["accepted", "queued", "deferred", "submitting", "submitted", "unknown"]);
  const all = Math.max(1, batch.total);
  const meter = progress.querySelector(".meter");
  setWidths(meter, [good / all, bad / all, unclear / all, stopped / all, sum(c, ["submitting", "submitted"]) / all]);
  const spoken = Object.entries(c).map(([key, n]) => whole.format(n) + " " + key).join(", ");
  meter.setAttribute("aria-label", spoken);
  meter.title = spoken;
  setText(progress.querySelector(".percent"), Math.floor(batch.progress * 100) + " %");
  setText(delivered, whole.format(good));
  setText(open, whole.format(pending));
  setText(other, whole.format(Math.max(0, batch.total - good - pending)));
  setText(total, whole.format(batch.total));
  const wanted = operator ? ACTIONS[batch.state] || [] : [];
  reconcile(actions, wanted.map((action) => ({ action })), (a) => a.action, (a) => {
    const button = make("button", a.action === "cancel" ? "danger" : "", a.action[0].toUpperCase() + a.action.slice(1));
    button.type = "button";
    button.setAttribute("aria-label", button.textContent + " batch " + title);
    button.addEventListener("click", () => act(batch.id, a.action, title, button));
    return button;
  }, () => {});
}

function confirmed(title) {
  const dialog = byId("confirm");
  setText(byId("confirm-text"), "What of “" + title + "” was not handed over yet never will be. This can't be undone.");
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}

async function act(id, action, title, button) {
  if (action === "cancel" && !(await confirmed(title))) return;
  button.disabled = true;
  try {
    const answer = await fetch("/console/batches/" + encodeURIComponent(id) + "/" + action, {
      method: "POST",
      headers: { "content-type": "application/json", "x-volley-token": token },
      body: JSON.stringify({ reason: "console" }),
    });
    if (answer.status === 401) return location.reload();
    if (!answer.ok) {
      const problem = await answer.json().catch(() => ({}));
      toast("The batch was not changed: " + (problem.detail || answer.status));
    }
    poll();
  } catch {
    toast("Volley can't be reached; the batch may or may not have changed.");
  } finally {
    button.disabled = false;
  }
}

let toastTimer;
function toast(text) {
  const box = byId("toast");
  box.textContent = text;
  box.hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { box.hidden = true; }, 6000);
}

/* Polling. */

let timer, failures = 0, running = false;

function pulse(state, text) {
  byId("pulse").className = "pulse " + state;
  setText(byId("pulse-text"), text);
}

async function poll() {
  if (running) return;
  running = true;
  clearTimeout(timer);
  try {
    const answer = await fetch("/console/live", { cache: "no-store", signal: AbortSignal.timeout(10000) });
    if (answer.status === 401) return location.reload();
    if (!answer.ok) throw new Error(String(answer.status));
    const document_ = await answer.json();
    failures = 0;
    sample(document_);
    showTiles(document_);
    if (document_.operations) showOperations(document_.operations, document_.now);
    reconcile(byId("batches"), document_.batches, (b) => b.id, buildBatch, updateBatch);
    byId("no-batches").hidden = document_.batches.length > 0;
    pulse("live", "live");
  } catch (error) {
    failures += 1;
    if (failures > 1) pulse("stale", "not up to date");
    if (error instanceof TypeError === false && !/^\d+$/.test(error.message) && error.name !== "TimeoutError") console.error(error);
  } finally {
    running = false;
    if (!document.hidden) timer = setTimeout(poll, Math.min(RETRY_MAX_MS, EVERY_MS * 2 ** failures));
  }
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(timer);
  else poll();
});
poll();
