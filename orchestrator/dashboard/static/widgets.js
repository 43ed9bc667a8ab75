/** Badge, bar and sparkline. Each is updated by `show`. */

/** @import { Plugin, ShownState, State } from "./types.js" */

import { h, setAttribute, setText, svg } from "./dom.js";
import { bytes, hasEnded, milliseconds, numberIn, stateOf } from "./format.js";

/** The meaning of each state, shown on hover. @type {Record<ShownState, string>} */
const MEANING = {
  LOADED: "starting",
  INITIALIZED: "ready, not used yet",
  RUNNING: "ready and used",
  FAILED: "something broke",
  UNAVAILABLE: "something is missing, or it was stopped",
  PARKED: "at rest: its next run starts it",
};

/** The state in its colour. */
export function badge() {
  const element = h("span", { class: "badge" });
  return {
    element,
    /** @param {{ state: State, reason_code: string | null }} subject */
    show(subject) {
      const state = stateOf(subject);
      setText(element, state);
      setAttribute(element, "data-state", state);
      setAttribute(element, "title", MEANING[state]);
    },
  };
}

/** How much of a limit is used. @param {string} label */
export function bar(label) {
  const fill = h("span", { class: "fill" });
  const meter = h("span", { class: "bar", role: "meter", "aria-label": label, "aria-valuemin": 0 }, fill);
  const text = h("span", { class: "bar-text" });
  const element = h("span", { class: "gauge" }, meter, text);
  return {
    element,
    /** In bytes; null if not known. @param {number | null} used @param {number | null} limit */
    show(used, limit) {
      const share = used === null || !limit ? 0 : Math.min(1, used / limit);
      const words =
        used === null ? (limit ? `limit ${bytes(limit)}` : "—") : `${bytes(used)}${limit ? ` of ${bytes(limit)}` : ""}`;
      setAttribute(meter, "aria-valuemax", limit ?? 1);
      setAttribute(meter, "aria-valuenow", Math.min(used ?? 0, limit ?? 1));
      setAttribute(meter, "aria-valuetext", used === null ? "not known" : words);
      setAttribute(meter, "data-level", share > 0.9 ? "high" : share > 0.75 ? "warm" : "low");
      fill.style.setProperty("inline-size", `${(share * 100).toFixed(1)}%`);
      setText(text, words);
    },
  };
}

/** Memory in use by all instances that serve or drain, null once none does; their memory limit. @param {Plugin} plugin @returns {[number | null, number | null]} */
export function memoryOf(plugin) {
  const alive = plugin.instances.filter((instance) => !hasEnded(instance) && instance.role !== "candidate");
  const limit = numberIn(plugin.limits, "memory_bytes");
  return [
    alive.length ? sum(alive.map((instance) => numberIn(instance.container, "memory_usage_bytes"))) : null,
    limit === null ? null : limit * Math.max(1, alive.length),
  ];
}

/** Memory in use and in total over all GPUs of the plugin; null if it has none. @param {Plugin} plugin @returns {[number | null, number | null] | null} */
export function gpuMemoryOf(plugin) {
  if (!plugin.gpus.length) return null;
  const total = plugin.gpus.map((gpu) => gpu.memory_total_bytes ?? null);
  const used = plugin.gpus.map((gpu) => gpu.memory_used_bytes ?? null);
  return [sum(used), sum(total)];
}

/** @param {(number | null)[]} values */
function sum(values) {
  return values.reduce((left, right) => (left === null || right === null ? null : left + right), 0);
}

const WIDTH = 120;
const HEIGHT = 28;
const EDGE = 3;

/** A line of the last latencies. */
export function sparkline() {
  const line = svg("polyline", { class: "line" });
  const dot = svg("circle", { class: "dot", r: 2.5 });
  const element = svg(
    "svg",
    { class: "sparkline", role: "img", preserveAspectRatio: "xMinYMid meet", viewBox: `0 0 ${WIDTH} ${HEIGHT}` },
    line,
    dot,
  );
  return {
    element,
    /** Milliseconds, oldest first. @param {number[]} values */
    show(values) {
      setAttribute(element, "data-empty", values.length < 2);
      if (values.length < 2) {
        setAttribute(element, "aria-label", "Latency: too few runs for a line");
        return;
      }
      const [low, high] = [Math.min(...values), Math.max(...values)];
      const points = values.map((value, index) => [
        EDGE + (index / (values.length - 1)) * (WIDTH - 2 * EDGE),
        HEIGHT - EDGE - (high === low ? 0.5 : (value - low) / (high - low)) * (HEIGHT - 2 * EDGE),
      ]);
      setAttribute(line, "points", points.map((point) => point.map((at) => at?.toFixed(1)).join(",")).join(" "));
      setAttribute(dot, "cx", points.at(-1)?.[0]);
      setAttribute(dot, "cy", points.at(-1)?.[1]);
      const range = `Latency of the last ${values.length} runs: ${milliseconds(low)} to ${milliseconds(high)}`;
      setAttribute(element, "aria-label", `${range}, last ${milliseconds(values.at(-1) ?? 0)}`);
    },
  };
}
