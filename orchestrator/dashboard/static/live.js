/** What is known of all plugins now: followed over a stream of events, asked for again and again where there is none. */

/** @import { LifecycleEvent, Plugin, Run } from "./types.js" */

import { ApiError, json, request, serverEvents } from "./api.js";
import { hasEnded } from "./format.js";

/** @typedef {"connecting" | "live" | "polling" | "lost"} Connection */

const POLL = 2000;
const RETRY = [1000, 2000, 5000, 10_000]; // milliseconds before the stream is tried again
const SILENCE = 40_000; // milliseconds; the server sends something every 15 s
const LATENCIES = 40;
const TICK = 1000;

/** @type {Map<string, Plugin>} */
const plugins = new Map();
/** When each was heard of last, in milliseconds of the page's clock. @type {Map<string, number>} */
const heard = new Map();
/** @type {Map<string, number[]>} */
const latencies = new Map();
/** @type {Set<() => void>} */
const watchers = new Set();
/** @type {Set<(event: LifecycleEvent) => void>} */
const eventWatchers = new Set();
/** @type {{ connection: Connection, problem: string | null, since: Date }} */
const status = { connection: "connecting", problem: null, since: new Date() };
let lastEvent = "";
let known = false;
let seeded = false;
/** @type {AbortController | null} */
let current = null;
let told = false;

export const live = {
  /** By name. */
  list: () => [...plugins.values()].sort((a, b) => a.name.localeCompare(b.name)),
  /** @param {string} name */
  get: (name) => plugins.get(name),
  /** Seconds up to this moment; of an instance that has ended, all of them. Null before it was ready. @param {Plugin} plugin */
  uptime(plugin) {
    if (plugin.uptime_seconds === null || hasEnded(plugin)) return plugin.uptime_seconds;
    return plugin.uptime_seconds + (performance.now() - (heard.get(plugin.name) ?? performance.now())) / 1000;
  },
  /** Milliseconds of the last runs, oldest first. @param {string} name */
  latencies: (name) => latencies.get(name) ?? [],
  /** Whether the plugins were ever heard of. */
  known: () => known,
  status: () => status,

  /** Calls `watcher` at once and after every change; the function returned ends that. @param {() => void} watcher */
  watch(watcher) {
    watchers.add(watcher);
    watcher();
    return () => void watchers.delete(watcher);
  },
  /** @param {(event: LifecycleEvent) => void} watcher */
  watchEvents(watcher) {
    eventWatchers.add(watcher);
    return () => void eventWatchers.delete(watcher);
  },
  /** Takes in one plugin's state that came another way. @param {Plugin} plugin */
  learn(plugin) {
    take(plugin);
    tell();
  },
  /** Connect anew, for example with another key. */
  reconnect: () => current?.abort(),
};

/** Runs as long as the page does. */
export async function follow() {
  setInterval(() => document.hidden || tell(), TICK); // uptimes go on
  for (let failures = 0; ;) {
    current = new AbortController();
    try {
      await seedLatencies(current.signal);
      await askAll(current.signal);
      await stream(current.signal, () => (failures = 0));
    } catch (error) {
      note(error);
    }
    const pause = RETRY[Math.min(failures, RETRY.length - 1)] ?? POLL;
    failures += 1;
    await poll(pause);
  }
}

/**
 * Ends when the stream does. Raises where there is none.
 * @param {AbortSignal} signal
 * @param {() => void} opened
 */
async function stream(signal, opened) {
  const silence = new AbortController();
  let timer = setTimeout(() => silence.abort(), SILENCE);
  const response = await request("/v1/events?include=health", {
    headers: { Accept: "text/event-stream", ...(lastEvent && { "Last-Event-ID": lastEvent }) },
    signal: AbortSignal.any([signal, silence.signal]),
  });
  try {
    if (!response.ok || !response.headers.get("Content-Type")?.startsWith("text/event-stream")) {
      await response.body?.cancel();
      throw new NoStream();
    }
    opened();
    become("live", null);
    for await (const { event, id, data } of serverEvents(response)) {
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(), SILENCE);
      if (id) lastEvent = id;
      if (event === "health") take(JSON.parse(data));
      else if (event === "lifecycle") for (const watcher of eventWatchers) watcher(JSON.parse(data));
      status.since = new Date();
      tell();
    }
  } finally {
    clearTimeout(timer);
  }
}

/** Where the server has no stream of events. */
class NoStream extends Error {}

/** @param {number} pause milliseconds until the stream is tried again */
async function poll(pause) {
  const end = Date.now() + pause;
  do {
    current = new AbortController();
    try {
      await askAll(current.signal);
      become("polling", null);
    } catch (error) {
      note(error);
    }
    await sleep(Math.min(POLL, pause), current.signal);
  } while (Date.now() < end && !current.signal.aborted);
}

/** @param {AbortSignal} signal */
async function askAll(signal) {
  /** @type {Plugin[]} */
  const all = await json("/v1/plugins", { signal });
  const names = new Set(all.map((plugin) => plugin.name));
  for (const name of plugins.keys()) if (!names.has(name)) plugins.delete(name);
  all.forEach(take);
  known = true;
  status.since = new Date();
  tell();
}

/** From the runs of the past. @param {AbortSignal} signal */
async function seedLatencies(signal) {
  if (seeded) return;
  /** @type {Run[]} */
  let runs;
  try {
    runs = await json("/v1/runs?state=finished&limit=500", { signal });
  } catch (error) {
    if (error instanceof ApiError && error.status >= 500) return; // the history cannot be read now; all else can
    throw error;
  }
  seeded = true;
  for (const run of runs.reverse()) {
    if (run.started_at !== null && run.execution_time_ms !== null) addLatency(run.plugin, run.execution_time_ms);
  }
}

/** @param {Plugin} plugin */
function take(plugin) {
  const before = plugins.get(plugin.name);
  const ran = before && before.success_count + before.error_count < plugin.success_count + plugin.error_count;
  if ((ran || !latencies.has(plugin.name)) && plugin.last_execution_time_ms !== null) {
    addLatency(plugin.name, plugin.last_execution_time_ms);
  }
  plugins.set(plugin.name, plugin);
  heard.set(plugin.name, performance.now());
}

/** @param {string} name @param {number} ms */
function addLatency(name, ms) {
  latencies.set(name, [...(latencies.get(name) ?? []), ms].slice(-LATENCIES));
}

/** @param {unknown} error */
function note(error) {
  if (error instanceof NoStream || (error instanceof Error && error.name === "AbortError")) return;
  become("lost", error instanceof ApiError ? error.message : "The connection broke.");
}

/** @param {Connection} connection @param {string | null} problem */
function become(connection, problem) {
  status.connection = connection;
  status.problem = problem;
  tell();
}

/** At most once a frame; at once where the page is not seen and draws none. */
function tell() {
  if (told) return;
  told = true;
  const now = () => {
    told = false;
    for (const watcher of [...watchers]) watcher();
  };
  if (document.hidden) queueMicrotask(now);
  else requestAnimationFrame(now);
}

/** @param {number} ms @param {AbortSignal} signal @returns {Promise<void>} */
function sleep(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    });
  });
}
