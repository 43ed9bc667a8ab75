/** The tab with a plugin's figures, post-mortem, checks and history. */

/** @import { LifecycleEvent, Plugin, PluginDetail } from "./types.js" */

import { json, pluginPath } from "./api.js";
import { facts, h, setText, timeOf } from "./dom.js";
import { bytes, hasEnded, milliseconds, numberIn, stateOf } from "./format.js";
import { instancesTable } from "./instances.js";
import { live } from "./live.js";
import { earlierPostMortem, postMortem } from "./post_mortem.js";
import { runsTable } from "./runs_view.js";
import { bar, gpuMemoryOf, memoryOf, sparkline } from "./widgets.js";

const MAX_EVENTS = 50;
const POST_MORTEM_DELAYS = [300, 1000, 2000, 4000, 8000]; // milliseconds; it exists once the container is removed

/** @param {string} name */
export function overviewTab(name) {
  const figures = figuresOf(name);
  const instances = instancesTable(name);
  const [postMortemBox, checks, events, environment] = [h("div"), h("div"), h("div"), h("div")];
  const runs = runsTable(name, 10);
  const element = h(
    "div",
    { class: "overview" },
    figures.element,
    instances.element,
    postMortemBox,
    h(
      "div",
      { class: "column" },
      h("section", {}, h("h2", {}, "History"), events),
      h("section", {}, h("h2", {}, "Last runs"), runs.element),
    ),
    h(
      "div",
      { class: "column" },
      h("section", {}, h("h2", {}, "Checks"), checks),
      h("section", {}, h("h2", {}, "Container and limits"), environment),
    ),
  );
  const closing = new AbortController();
  let loaded = "";

  /** Loads what the list of plugins does not hold. @param {string} step */
  async function load(step, tries = 0) {
    try {
      /** @type {[PluginDetail, LifecycleEvent[]]} */
      const [detail, history] = await Promise.all([
        json(pluginPath(name, "health"), { signal: closing.signal }),
        json(pluginPath(name, "events"), { signal: closing.signal }),
      ]);
      if (loaded !== step) return;
      const report = stateOf(detail) === "PARKED" ? null : detail.post_mortem; // at rest: the history has it
      postMortemBox.replaceChildren(
        ...(report ? [h("section", { class: "post-mortem" }, h("h2", {}, "Post-mortem"), ...postMortem(report))] : []),
      );
      events.replaceChildren(historyOf(history, detail));
      if (hasEnded(detail) && !detail.post_mortem) retry(step, tries);
    } catch (error) {
      if (closing.signal.aborted) return;
      setText(events, error instanceof Error ? error.message : String(error));
      retry(step, tries);
    }
  }

  /** @param {string} step @param {number} tries */
  function retry(step, tries) {
    const pause = POST_MORTEM_DELAYS[tries];
    if (pause !== undefined) {
      setTimeout(() => loaded === step && !closing.signal.aborted && void load(step, tries + 1), pause);
    }
  }

  let shown = "";
  const unwatch = live.watch(() => {
    const plugin = live.get(name);
    if (!plugin) return;
    figures.show(plugin);
    instances.show(plugin);
    const each = plugin.instances.map((instance) => [instance.generation, instance.state, instance.role]);
    const step = [plugin.generation, plugin.state, plugin.activity?.what, plugin.restart?.state, each].join(" ");
    if (step !== loaded) {
      loaded = step;
      void load(step);
    }
    const now = JSON.stringify([plugin.checks, plugin.container, plugin.limits, plugin.gpus]);
    if (now === shown) return;
    shown = now;
    checks.replaceChildren(checksOf(plugin));
    environment.replaceChildren(environmentOf(plugin));
  });
  const close = () => {
    unwatch();
    runs.close();
    closing.abort();
  };
  return { element, close };
}

/** @param {string} name */
function figuresOf(name) {
  const [runs, errors, now, average, last, used] = [h("span"), h("span"), h("span"), h("span"), h("span"), h("span")];
  const latency = sparkline();
  const memory = bar(`Memory of ${name}`);
  const gpu = bar(`GPU memory of ${name}`);
  const gpuRow = h("div", {}, h("dt", {}, "GPU memory"), h("dd", {}, gpu.element));
  const element = h(
    "dl",
    { class: "tiles" },
    h("div", {}, h("dt", {}, "Runs"), h("dd", {}, h("span", { class: "big" }, runs), errors, now)),
    h("div", {}, h("dt", {}, "Latency"), h("dd", {}, h("span", { class: "big" }, average), last, latency.element)),
    h("div", {}, h("dt", {}, "Memory"), h("dd", {}, memory.element)),
    gpuRow,
    h("div", {}, h("dt", {}, "Last used"), h("dd", {}, used)),
  );
  let usedAt = "";
  return {
    element,
    /** @param {Plugin} plugin */
    show(plugin) {
      setText(runs, (plugin.success_count + plugin.error_count).toLocaleString());
      setText(errors, plugin.error_count ? `${plugin.error_count.toLocaleString()} failed` : "none failed");
      errors.className = plugin.error_count ? "errors" : "sub";
      setText(now, `${plugin.in_flight} now, ${plugin.queued} waiting`);
      setText(average, plugin.avg_execution_time_ms === null ? "—" : milliseconds(plugin.avg_execution_time_ms));
      setText(
        last,
        plugin.last_execution_time_ms === null
          ? "no run yet"
          : `on average, last ${milliseconds(plugin.last_execution_time_ms)}`,
      );
      latency.show(live.latencies(name));
      memory.show(...memoryOf(plugin));
      const gpuMemory = gpuMemoryOf(plugin);
      gpuRow.hidden = gpuMemory === null;
      if (gpuMemory) gpu.show(...gpuMemory);
      if (usedAt === (plugin.last_used ?? "never")) return;
      usedAt = plugin.last_used ?? "never";
      used.replaceChildren(plugin.last_used ? timeOf(plugin.last_used) : "never");
    },
  };
}

/** @param {LifecycleEvent[]} events @param {Plugin} plugin */
function historyOf(events, plugin) {
  if (events.length === 0) return h("p", { class: "empty" }, "No events yet.");
  const newest = [...events].reverse().slice(0, MAX_EVENTS);
  return h(
    "ol",
    { class: "history" },
    ...newest.map((event) =>
      h(
        "li",
        { "data-state": stateOf(event) },
        timeOf(event.time),
        h(
          "span",
          { class: "step" },
          h("span", { class: "badge small", "data-state": stateOf(event) }, stateOf(event)),
          h("span", { class: "sub" }, `instance ${event.generation}`),
        ),
        event.reason && h("p", {}, h("strong", { class: "code" }, event.reason_code), " ", event.reason),
        // The last one's is shown above, unless others serve on, or it is parked.
        hasEnded(event) &&
          (event.generation < plugin.generation || plugin.instances.length > 1 || stateOf(plugin) === "PARKED") &&
          earlierPostMortem(plugin.name, event.generation),
      ),
    ),
  );
}

/** @param {Plugin} plugin */
function checksOf(plugin) {
  if (plugin.checks.length === 0) return h("p", { class: "empty" }, "No checks yet.");
  return h(
    "ul",
    { class: "checks" },
    ...plugin.checks.map((check) =>
      h(
        "li",
        { "data-ok": check.ok },
        h(
          "span",
          { class: "mark" },
          check.ok ? "✓" : "✗",
          h("span", { class: "visually-hidden" }, check.ok ? "passed: " : "failed: "),
        ),
        h(
          "span",
          {},
          h("strong", {}, check.name),
          " ",
          h("span", { class: "sub" }, `(${check.source})`),
          check.detail && ` ${check.detail}`,
        ),
      ),
    ),
  );
}

/** @param {Plugin} plugin */
function environmentOf(plugin) {
  const rows = [...Object.entries(plugin.limits), ...Object.entries(plugin.container)]
    .filter(([name]) => name !== "memory_usage_bytes")
    .map(
      ([name, value]) =>
        /** @type {[string, string]} */ ([
          name.replace(/_(bytes|seconds)$/, "").replaceAll("_", " "),
          valueOf(name, value),
        ]),
    );
  for (const gpu of plugin.gpus) {
    rows.push([`GPU ${gpu.index ?? ""}`.trim(), [gpu.name, gpu.uuid].filter(Boolean).join(", ")]);
  }
  return rows.length === 0 ? h("p", { class: "empty" }, "No container yet.") : facts(rows);
}

/** @param {string} name @param {unknown} value */
function valueOf(name, value) {
  if (value === null || value === undefined) return "—";
  const number = numberIn({ value }, "value");
  if (number !== null && name.endsWith("_bytes")) return bytes(number);
  if (number !== null && name.endsWith("_seconds")) return milliseconds(number * 1000);
  return typeof value === "string" ? value.replace(/^(sha256:[0-9a-f]{12})[0-9a-f]+$/, "$1…") : JSON.stringify(value);
}
