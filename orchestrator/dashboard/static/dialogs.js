/** The two questions the page asks: which key, and are you sure. */

import { h, setText } from "./dom.js";
import { key, onKeyWanted } from "./api.js";

const find = (/** @type {string} */ id) => /** @type {HTMLElement} */ (document.getElementById(id));
const keyDialog = /** @type {HTMLDialogElement} */ (find("key-dialog"));
const keyInput = /** @type {HTMLInputElement} */ (find("key-input"));
const confirmDialog = /** @type {HTMLDialogElement} */ (find("confirm-dialog"));

/**
 * Asks for a key at the button, and once whenever the server wants one. `used` is called with every new choice.
 * @param {() => void} used
 */
export function offerKey(used) {
  const explain = (/** @type {string} */ why) => setText(find("key-why"), why);
  const open = () => {
    keyInput.value = "";
    if (!keyDialog.open) keyDialog.showModal();
    keyInput.focus();
  };
  let refused = false; // who closed the dialog without a key is not asked again and again
  find("key-button").addEventListener("click", () => {
    explain("It is sent with every request and forgotten when this tab is closed.");
    open();
  });
  onKeyWanted((why) => {
    if (refused || keyDialog.open) return;
    explain(`${why} The key that you give is forgotten when this tab is closed.`);
    open();
  });
  keyDialog.addEventListener("close", () => {
    const answer = keyDialog.returnValue;
    refused = answer !== "use";
    if (answer === "forget") key.set("");
    if (answer === "use") key.set(keyInput.value.trim());
    keyInput.value = "";
    if (answer === "use" || answer === "forget") used();
  });
  // Enter in the field means the last button, not the first.
  keyInput.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    keyDialog.close("use");
  });
  keyDialog.addEventListener("cancel", () => (keyDialog.returnValue = "cancel"));
}

/**
 * Whether the reader says yes.
 * @param {string} title
 * @param {string} text
 * @param {string} yes what the button says
 * @returns {Promise<boolean>}
 */
export function confirm(title, text, yes) {
  setText(find("confirm-title"), title);
  setText(find("confirm-text"), text);
  setText(find("confirm-yes"), yes);
  confirmDialog.returnValue = "cancel";
  confirmDialog.showModal();
  return new Promise((resolve) => {
    confirmDialog.addEventListener("close", () => resolve(confirmDialog.returnValue === "yes"), { once: true });
  });
}

/** A place for what went wrong or well; read aloud when it changes. */
export function notice() {
  const element = h("p", { class: "notice", role: "status" });
  element.hidden = true;
  return {
    element,
    /** @param {string} text @param {"bad" | "good"} [kind] */
    show(text, kind = "bad") {
      element.hidden = text === "";
      element.dataset["kind"] = kind;
      setText(element, text);
    },
  };
}
