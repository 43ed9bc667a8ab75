/** The tab with a plugin's log, followed as it grows. */

import { failure, lines, pluginPath, request } from "./api.js";
import { h, setText } from "./dom.js";
import { hasEnded } from "./format.js";
import { live } from "./live.js";

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
  let stream = new AbortController();
  let followed = -1;
  let following = false;
  let closed = false;

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

  async function read() {
    stream.abort();
    const opened = (stream = new AbortController());
    log.replaceChildren();
    pending = [];
    try {
      const response = await request(pluginPath(name, `logs?follow=true&tail=${TAIL}`), { signal: opened.signal });
      if (!response.ok) throw await failure(response);
      following = true;
      setText(state, "Following; nothing printed yet");
      for await (const line of lines(response)) if (line && opened === stream) add(line); // an empty one is a heartbeat
      if (opened !== stream) return;
      following = false;
      setText(state, "The container has ended; these are its last lines.");
      const plugin = live.get(name);
      if (plugin && !hasEnded(plugin)) setTimeout(() => opened === stream && !closed && void read(), RETRY_DELAY);
    } catch (error) {
      if (opened.signal.aborted) return;
      following = false;
      setText(state, error instanceof Error ? error.message : String(error));
      setTimeout(() => opened === stream && !closed && void read(), RETRY_DELAY);
    }
  }

  // A new instance has a log of its own.
  const unwatch = live.watch(() => {
    const generation = live.get(name)?.generation;
    if (generation === undefined || generation === followed) return;
    followed = generation;
    void read();
  });
  const close = () => {
    closed = true;
    unwatch();
    stream.abort();
  };
  return { element, close };
}

/** A line of the form `2026-01-31T12:00:00.123456789Z text`; the time is the engine's. @param {string} line */
function lineOf(line) {
  const found = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)) ?/.exec(line);
  if (!found?.[1]) return h("span", { class: "log-line" }, `${line}\n`);
  const date = new Date(found[1]);
  const time = h("time", { datetime: found[1] }, date.toLocaleTimeString(undefined, { hour12: false }));
  return h("span", { class: "log-line" }, time, ` ${line.slice(found[0].length)}\n`);
}
