/** The current state of all plugins: from the stream of events, or by polling while there is no stream. */

/** @import { Caller, LifecycleEvent, Plugin, Run } from "./types.js" */

import { ApiError, json, request, serverEvents } from "./api.js";
import { hasEnded } from "./format.js";

/** @typedef {"connecting" | "live" | "polling" | "lost"} Connection */

const POLL_INTERVAL = 2000;
const RETRY_DELAYS = [1000, 2000, 5000, 10_000]; // milliseconds before the stream is opened again
const SILENCE = 40_000; // milliseconds without data before the stream counts as broken; the server sends a heartbeat every 15 s
const MAX_LATENCIES = 40;
const TICK = 1000;

/** @type {Map<string, Plugin>} */
const plugins = new Map();
/** When each plugin was last updated, by `performance.now()`. @type {Map<string, number>} */
const updatedAt = new Map();
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
/** @type {Caller | null} */
let caller = null;
/** @type {AbortController | null} */
let current = null;
let scheduled = false;

export const live = {
  /** All plugins, sorted by name. */
  list: () => [...plugins.values()].sort((a, b) => a.name.localeCompare(b.name)),
  /** @param {string} name */
  get: (name) => plugins.get(name),
  /** Seconds until now, or until the instance ended. Null before it was ready. @param {Plugin} plugin */
  uptime(plugin) {
    if (plugin.uptime_seconds === null || hasEnded(plugin)) return plugin.uptime_seconds;
    return plugin.uptime_seconds + live.since(plugin);
  },
  /** Seconds since it was reported. @param {Plugin} plugin */
  since: (plugin) => (performance.now() - (updatedAt.get(plugin.name) ?? performance.now())) / 1000,
  /** Milliseconds of the last runs, oldest first. @param {string} name */
  latencies: (name) => latencies.get(name) ?? [],
  /** Whether the plugins were loaded at least once. */
  known: () => known,
  status: () => status,
  /** Who the page is to the orchestrator; null where that is not known. */
  caller: () => caller,

  /** Calls `watcher` at once and after every change. The function returned stops that. @param {() => void} watcher */
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
  /** Updates one plugin with a state from another request. @param {Plugin} plugin */
  update(plugin) {
    store(plugin);
    notify();
  },
  /** Connects again, for example with another key. */
  reconnect: () => current?.abort(),
};

/** Follows the plugins for as long as the page is open. */
export async function follow() {
  setInterval(() => document.hidden || notify(), TICK); // for uptimes
  for (let failures = 0; ;) {
    current = new AbortController();
    try {
      await seedLatencies(current.signal);
      await loadCaller(current.signal);
      await loadAll(current.signal);
      await stream(current.signal, () => (failures = 0));
    } catch (error) {
      reportLoss(error);
    }
    const pause = RETRY_DELAYS[Math.min(failures, RETRY_DELAYS.length - 1)] ?? POLL_INTERVAL;
    failures += 1;
    await poll(pause);
  }
}

/**
 * Reads the stream until it ends. Raises if there is none.
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
    setConnection("live", null);
    for await (const { event, id, data } of serverEvents(response)) {
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(), SILENCE);
      if (id) lastEvent = id;
      if (event === "health") store(JSON.parse(data));
      else if (event === "removed") plugins.delete(JSON.parse(data).name);
      else if (event === "lifecycle") for (const watcher of eventWatchers) watcher(JSON.parse(data));
      status.since = new Date();
      notify();
    }
  } finally {
    clearTimeout(timer);
  }
}

/** The server opens no stream of events. */
class NoStream extends Error {}

/** @param {number} pause milliseconds until the stream is opened again */
async function poll(pause) {
  const end = Date.now() + pause;
  do {
    current = new AbortController();
    try {
      await loadAll(current.signal);
      setConnection("polling", null);
    } catch (error) {
      reportLoss(error);
    }
    await sleep(Math.min(POLL_INTERVAL, pause), current.signal);
  } while (Date.now() < end && !current.signal.aborted);
}

/** @param {AbortSignal} signal */
async function loadAll(signal) {
  /** @type {Plugin[]} */
  const all = await json("/v1/plugins", { signal });
  const names = new Set(all.map((plugin) => plugin.name));
  for (const name of plugins.keys()) if (!names.has(name)) plugins.delete(name);
  all.forEach(store);
  known = true;
  status.since = new Date();
  notify();
}

/** @param {AbortSignal} signal */
async function loadCaller(signal) {
  try {
    caller = await json("/v1/caller", { signal });
  } catch (error) {
    if (!(error instanceof ApiError) || error.status !== 404) throw error;
    caller = null; // an orchestrator from before it says so
  }
}

/** Fills the latencies from earlier runs. @param {AbortSignal} signal */
async function seedLatencies(signal) {
  if (seeded) return;
  /** @type {Run[]} */
  let runs;
  try {
    runs = await json("/v1/runs?state=finished&limit=500", { signal });
  } catch (error) {
    if (error instanceof ApiError && error.status >= 500) return; // only the history cannot be read
    throw error;
  }
  seeded = true;
  for (const run of runs.reverse()) {
    if (run.started_at !== null && run.execution_time_ms !== null) addLatency(run.plugin, run.execution_time_ms);
  }
}

/** @param {Plugin} plugin */
function store(plugin) {
  const before = plugins.get(plugin.name);
  const ran = before && before.success_count + before.error_count < plugin.success_count + plugin.error_count;
  if ((ran || !latencies.has(plugin.name)) && plugin.last_execution_time_ms !== null) {
    addLatency(plugin.name, plugin.last_execution_time_ms);
  }
  plugins.set(plugin.name, plugin);
  updatedAt.set(plugin.name, performance.now());
}

/** @param {string} name @param {number} ms */
function addLatency(name, ms) {
  latencies.set(name, [...(latencies.get(name) ?? []), ms].slice(-MAX_LATENCIES));
}

/** @param {unknown} error */
function reportLoss(error) {
  if (error instanceof NoStream || (error instanceof Error && error.name === "AbortError")) return;
  setConnection("lost", error instanceof ApiError ? error.message : "The connection was lost.");
}

/** @param {Connection} connection @param {string | null} problem */
function setConnection(connection, problem) {
  status.connection = connection;
  status.problem = problem;
  notify();
}

/** Calls all watchers, at most once per frame. */
function notify() {
  if (scheduled) return;
  scheduled = true;
  const callAll = () => {
    scheduled = false;
    for (const watcher of [...watchers]) watcher();
  };
  // A hidden page draws no frames.
  if (document.hidden) queueMicrotask(callAll);
  else requestAnimationFrame(callAll);
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
