/** What the orchestrator would refuse, so that it is not offered: by the rights of the key, or during an update. */

/** @import { Right, Update } from "./types.js" */

import { live } from "./live.js";

const WHAT = { run: "run tools", operate: "operate plugins" };

/** Why the key that is used may not do this; empty where it may. @param {Right} right */
export function whyKeyMayNot(right) {
  const who = live.caller();
  if (right === "read" || who === null || who.may.includes(right)) return "";
  const rights = who.may.map((each) => (each === "read" ? "look" : each)).join(" and ") || "do nothing";
  return `${who.name ? `The key “${who.name}”` : "This caller"} may ${rights}, and not ${WHAT[right]}.`;
}

/** Why a command waits for the update that is under way; empty where none is. @param {Update | null} update */
export function whyItWaits(update) {
  return update ? `The ${update.kind} ${update.id} is under way. Wait for its end; Stop ends it too.` : "";
}
