/** The post-mortem of an instance that has ended. */

/** @import { PostMortem } from "./types.js" */

import { json, pluginPath } from "./api.js";
import { facts, h, timeOf } from "./dom.js";
import { bytes } from "./format.js";

/**
 * How the instance ended, and the texts that explain it.
 * @param {PostMortem} report
 * @returns {HTMLElement[]}
 */
export function postMortem(report) {
  /** @type {[string, string, boolean][]} */
  const texts = [
    ["Where it hung: stacks of all threads", report.stacks, true],
    ["Traceback", report.traceback, true],
    ["Build output", report.build_output, true],
    ["Last lines of its log", report.log_tail, !report.stacks && !report.traceback && !report.build_output],
  ];
  return [
    facts([
      ["Ended", timeOf(report.ended_at)],
      ["Exit code", report.exit_code ?? "—"],
      ["Signal", report.signal ?? "—"],
      ["Peak memory", report.peak_memory_bytes === null ? "—" : bytes(report.peak_memory_bytes)],
    ]),
    ...texts
      .filter(([, text]) => text)
      .map(([title, text, open]) =>
        h(
          "details",
          { open },
          h("summary", {}, title),
          h("pre", { class: "text", tabindex: 0, role: "region", "aria-label": title }, text),
        ),
      ),
  ];
}

/** The post-mortem of an earlier instance, loaded when it is opened. @param {string} name @param {number} generation */
export function earlierPostMortem(name, generation) {
  const body = h("div", { class: "earlier" });
  const element = h("details", {}, h("summary", {}, `Post-mortem of instance ${generation}`), body);
  element.addEventListener("toggle", async () => {
    if (!element.open || body.childElementCount) return;
    try {
      body.replaceChildren(...postMortem(await json(pluginPath(name, `post-mortem?generation=${generation}`))));
    } catch (error) {
      body.textContent = error instanceof Error ? error.message : String(error);
    }
  });
  return element;
}
