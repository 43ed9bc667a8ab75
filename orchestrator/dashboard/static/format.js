/** Numbers as text. */

/** @import { Plugin, ShownState, State } from "./types.js" */

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

/** @param {number} count */
export function bytes(count) {
  let value = count;
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${value >= 100 || unit === 0 ? Math.round(value) : Number(value.toFixed(1))} ${UNITS[unit]}`;
}

/** @param {number} ms */
export function milliseconds(ms) {
  if (ms < 0.1) return "<0.1 ms";
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  return seconds(ms / 1000);
}

/** @param {number} total */
export function seconds(total) {
  const whole = Math.floor(total);
  const units = /** @type {[number, string][]} */ ([
    [Math.floor(whole / 86400), "d"],
    [Math.floor(whole / 3600) % 24, "h"],
    [Math.floor(whole / 60) % 60, "min"],
    [whole % 60, "s"],
  ]);
  const first = units.findIndex(([count]) => count > 0);
  if (first < 0) return "0 s";
  return units
    .slice(first, first + 2)
    .filter(([count]) => count > 0)
    .map(([count, unit]) => `${count} ${unit}`)
    .join(" ");
}

/** @param {number} count @param {string} singular */
export function plural(count, singular) {
  return `${count.toLocaleString()} ${singular}${count === 1 ? "" : "s"}`;
}

/** The number under `name`, or null. @param {Record<string, unknown>} record @param {string} name */
export function numberIn(record, name) {
  const value = record[name];
  return typeof value === "number" ? value : null;
}

/** Whether the instance has ended. @param {Pick<Plugin, "state">} plugin */
export const hasEnded = (plugin) => plugin.state === "FAILED" || plugin.state === "UNAVAILABLE";

/** The state that it is shown as. @param {{ state: State, reason_code: string | null }} subject @returns {ShownState} */
export const stateOf = (subject) => (subject.reason_code === "PARKED" ? "PARKED" : subject.state);

/**
 * What somebody should read about it, and the state that this is shown as: a plugin that is degraded, or whose restart
 * was refused, is well, but needs somebody.
 * @param {Plugin} plugin
 */
export function reasonOf(plugin) {
  const needy = plugin.degraded || plugin.restart?.state === "refused";
  return {
    state: needy && !hasEnded(plugin) ? "UNAVAILABLE" : stateOf(plugin),
    code: plugin.reason_code ?? (plugin.degraded ? "degraded" : ""),
    text: [plugin.degraded_reason, plugin.reason].filter(Boolean).join(" "),
  };
}

/** `2 of 3 ready`, where more than one instance is wanted; else empty. @param {Plugin} plugin */
export const replicasOf = ({ replicas }) =>
  replicas.wanted > 1 ? `${replicas.ready} of ${replicas.wanted} ready` : "";

/** How long a run for it waits while it starts; empty unless it is parked. @param {Plugin} plugin */
export const startEstimateOf = (plugin) =>
  stateOf(plugin) === "PARKED" && plugin.start_estimate_seconds !== null
    ? `starts in about ${milliseconds(plugin.start_estimate_seconds * 1000)}`
    : "";
