/** The last update of a plugin, or the one that is under way: its steps, and how it ended. */

/** @import { Releases, Update, UpdateStep } from "./types.js" */

import { json, pluginPath } from "./api.js";
import { h, setText, timeOf } from "./dom.js";
import { live } from "./live.js";
import { postMortem } from "./post_mortem.js";

const POLL_INTERVAL = 1000; // milliseconds while one is under way
/** @type {UpdateStep[]} */
const STEPS = ["PROPOSED", "BUILT", "STARTING", "PROVING", "SWITCHED", "SETTLED"];

/**
 * @param {string} name
 * @param {boolean} always whether the last one is shown too, where none is under way or has just been
 * @param {() => void} onLoad called when more is known
 */
export function updatePanel(name, always, onLoad) {
  const title = h("h2");
  const outcome = h("p", { class: "outcome-line", role: "status" });
  const more = h("div");
  const element = h(
    "section",
    { class: "update", hidden: true, "aria-label": `Update of ${name}` },
    title,
    outcome,
    more,
  );
  const closing = new AbortController();
  /** @type {Update[]} */
  let known = [];
  /** @type {Releases} */
  let releases = { current: null, revert: null };
  let followed = false;
  let shown = "";
  let asked = "";
  let timer = 0;

  async function load() {
    clearTimeout(timer);
    timer = 0;
    try {
      /** @type {[Update[], Releases]} */
      const [updates, found] = await Promise.all([
        json(pluginPath(name, "updates"), { signal: closing.signal }),
        json(pluginPath(name, "releases"), { signal: closing.signal }),
      ]);
      known = updates;
      releases = found;
    } catch {
      if (closing.signal.aborted) return; // else what was known last is shown, and asked for again
    }
    render();
    onLoad();
    if (known[0] && !known[0].ended) timer = setTimeout(() => void load(), POLL_INTERVAL);
  }

  function render() {
    const [last, ...earlier] = known;
    if (last && !last.ended) followed = true;
    element.hidden = !last || !(always || followed);
    if (!last || element.hidden) return;
    const now = JSON.stringify([last, earlier.length]);
    if (now === shown) return;
    shown = now;
    setText(title, titleOf(last));
    element.dataset["kind"] = kindOf(last);
    setText(outcome, outcomeOf(last));
    const list = h("ol", { class: "steps" }, ...stepsOf(last).map((step) => stepOf(last, step)));
    if (last.ended) {
      more.replaceChildren(h("details", {}, h("summary", {}, "Steps"), list), ...reportOf(last), ...listOf(earlier));
    } else more.replaceChildren(list);
  }

  const unwatch = live.watch(() => {
    const plugin = live.get(name);
    if (!plugin) return;
    const now = JSON.stringify([plugin.version, plugin.generation, plugin.candidate?.state, plugin.activity?.what]);
    if (now === asked) return;
    asked = now;
    // Once more: what has just become ready is on file a moment later.
    void load().then(() => {
      if (!closing.signal.aborted) timer ||= setTimeout(() => void load(), POLL_INTERVAL);
    });
  });
  return {
    element,
    /** The one that is under way. */
    underWay: () => (known[0] && !known[0].ended ? known[0] : null),
    /** What a revert goes back to. */
    revertsTo: () => releases.revert,
    /** An update that has just begun. @param {Update} update */
    begin(update) {
      followed = true;
      known = [update, ...known.filter((each) => each.id !== update.id)];
      render();
      onLoad();
      void load();
    },
    close() {
      unwatch();
      clearTimeout(timer);
      closing.abort();
    },
  };
}

/** @param {Update} update */
function titleOf(update) {
  const kind = update.ended ? `Last ${update.kind}` : update.kind === "revert" ? "Revert" : "Update";
  return update.to_release ? `${kind} to ${update.to_release.version}` : kind;
}

/** Those that it has reached, and those to come. @param {Update} update @returns {UpdateStep[]} */
function stepsOf(update) {
  const reached = /** @type {UpdateStep[]} */ (Object.keys(update.step_times));
  return update.ended ? reached : [...reached, ...STEPS.filter((step) => !reached.includes(step))];
}

/** @param {Update} update @param {UpdateStep} step */
function stepOf(update, step) {
  const time = update.step_times[step];
  const current = step === update.step && !update.ended;
  return h(
    "li",
    { "data-reached": time !== undefined, "aria-current": current ? "step" : null },
    h("span", { class: "code" }, step),
    h("span", {}, time !== undefined && sentenceOf(update, step)),
    time !== undefined && timeOf(time),
  );
}

/** What a step means for this update. @param {Update} update @param {UpdateStep} step */
function sentenceOf(update, step) {
  const version = update.to_release?.version ?? "";
  switch (step) {
    case "PROPOSED":
      return update.kind === "revert" ? "its former image is looked up" : "its folder is checked, its image is built";
    case "BUILT":
      return `${version}: ${update.strategy}, since ${update.strategy_reason}`;
    case "STARTING":
      return `an instance of ${version} starts`;
    case "PROVING":
      return `${version} is being proven`;
    case "SWITCHED":
      return `${update.replicas_updated} of ${update.replicas} instances are of ${version}`;
    case "SETTLED":
      return update.reason_code === null ? (update.proof ?? update.reason ?? "") : causeOf(update);
    case "REVERTED":
      return "an operator went back to the former release";
    default:
      return causeOf(update);
  }
}

/** What goes on, or how it ended and what serves now. @param {Update} update */
function outcomeOf(update) {
  const [before, after] = [update.from_release?.version, update.to_release?.version ?? ""];
  switch (update.step) {
    case "SETTLED":
      return update.reason_code === null
        ? `It is ${after} now. ${sentenceOf(update, "SETTLED")}`
        : `It stopped. ${causeOf(update)}`;
    case "REJECTED":
      return `Rejected: the plugin stays what it was${before ? ` (${before})` : ""}. ${causeOf(update)}`;
    case "REVERTED":
      return `It was ${after}, and went back.`;
    default:
      return `${update.step}: ${sentenceOf(update, update.step)}.`;
  }
}

/** @param {Update} update */
const causeOf = (update) => [update.reason_code, update.reason].filter(Boolean).join(": ");

/** @param {Update} update */
function kindOf(update) {
  if (!update.ended) return "open";
  return update.reason_code === null ? "good" : "bad";
}

/** @param {Update} update */
function reportOf(update) {
  if (!update.post_mortem) return [];
  return [h("details", {}, h("summary", {}, "Post-mortem of the candidate"), ...postMortem(update.post_mortem))];
}

/** @param {Update[]} earlier */
function listOf(earlier) {
  if (earlier.length === 0) return [];
  const rows = earlier.map((update) =>
    h(
      "li",
      { "data-reached": true },
      h("span", { class: "code" }, update.step),
      h("span", {}, `${update.kind === "revert" ? "Revert" : "Update"}. ${outcomeOf(update)}`),
      timeOf(update.requested_at),
    ),
  );
  return [h("details", {}, h("summary", {}, "Earlier ones"), h("ol", { class: "steps" }, ...rows))];
}
