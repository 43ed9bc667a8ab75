/** The tab with a plugin's log, followed as it grows. */

import { failure, lines, pluginPath, request } from "./api.js";
import { h, setText } from "./dom.js";

const TAIL = 500; // lines from before
const MAX_LINES = 5000; // in the page
const RETRY_DELAY = 3000; // milliseconds before a broken stream is opened again

/** @param {string} name */
export function logsTab(name) {
  const log = h("pre", { class: "log", role: "log", "aria-live": "off", "aria-label": `Log of ${name}`, tabindex: 0 });
  const state = h("span", { class: "sub", role: "status" });
  const follow = h("input", { type: "checkbox", checked: true, onchange: () => follow.checked && toEnd() });
  const wrap = h("input", {
    type: "checkbox",
    checked: true,
    onchange: () => log.classList.toggle("unwrapped", !wrap.checked),
  });
  const element = h(
    "section",
    { "aria-label": "Log" },
    h(
      "div",
      { class: "log-head" },
      h("label", {}, follow, " Keep to the end"),
      h("label", {}, wrap, " Wrap lines"),
      state,
    ),
    log,
  );
  const opened = new AbortController();
  let following = false;

  const toEnd = () => (log.scrollTop = log.scrollHeight);

  /** @type {string[]} */
  let pending = [];
  /** Adds the pending lines to the page. In batches, however fast they arrive. */
  function flush() {
    const fresh = pending.slice(-MAX_LINES);
    pending = [];
    log.append(...fresh.map(lineOf));
    if (following) setText(state, "Following");
    while (log.childElementCount > MAX_LINES) log.firstElementChild?.remove();
    if (follow.checked) toEnd();
  }

  /** @param {string} line */
  function add(line) {
    pending.push(line);
    if (pending.length === 1) setTimeout(flush, 50);
  }

  /** Follows the log over all instances; again when the stream ends, as when the orchestrator is restarted. */
  async function read() {
    while (!opened.signal.aborted) {
      try {
        const response = await request(pluginPath(name, `logs?follow=true&tail=${TAIL}`), { signal: opened.signal });
        if (!response.ok) throw await failure(response);
        pending = [];
        log.replaceChildren();
        following = true;
        setText(state, "Following; nothing printed yet");
        for await (const line of lines(response)) if (line) add(line); // an empty one is a heartbeat
        setText(state, "The stream has ended; it is opened again.");
      } catch (error) {
        if (opened.signal.aborted) return;
        setText(state, error instanceof Error ? error.message : String(error));
      }
      following = false;
      await new Promise((resolve) => setTimeout(resolve, RETRY_DELAY));
    }
  }

  void read();
  return { element, close: () => opened.abort() };
}

/** Begins a line of the orchestrator's own: an instance that is awaited, ended, or is the next. */
const NOTE = "--- ";

/** A line of the form `2026-01-31T12:00:00.123456789Z text`; the time is the engine's. @param {string} line */
function lineOf(line) {
  if (line.startsWith(NOTE)) return h("span", { class: "log-line log-note" }, `${line}\n`);
  const found = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)) ?/.exec(line);
  if (!found?.[1]) return h("span", { class: "log-line" }, `${line}\n`);
  const date = new Date(found[1]);
  const time = h("time", { datetime: found[1] }, date.toLocaleTimeString(undefined, { hour12: false }));
  return h("span", { class: "log-line" }, time, ` ${line.slice(found[0].length)}\n`);
}
