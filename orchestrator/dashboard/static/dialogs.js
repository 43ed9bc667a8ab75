/** The dialogs for the API key and for confirmation, and notices. */

import { h, setText } from "./dom.js";
import { key, onKeyRefused } from "./api.js";

const find = (/** @type {string} */ id) => /** @type {HTMLElement} */ (document.getElementById(id));
const keyDialog = /** @type {HTMLDialogElement} */ (find("key-dialog"));
const keyInput = /** @type {HTMLInputElement} */ (find("key-input"));
const confirmDialog = /** @type {HTMLDialogElement} */ (find("confirm-dialog"));

/**
 * Opens the key dialog at the button, and when the server refuses a request because of its key. `changed` is called after every new key.
 * @param {() => void} changed
 */
export function offerKey(changed) {
  const explain = (/** @type {string} */ why) => setText(find("key-why"), why);
  const open = () => {
    keyInput.value = "";
    if (!keyDialog.open) keyDialog.showModal();
    keyInput.focus();
  };
  let dismissed = false; // after that, only the button opens the dialog again
  find("key-button").addEventListener("click", () => {
    explain("It is sent with every request and forgotten when this tab is closed.");
    open();
  });
  onKeyRefused((why) => {
    if (dismissed || keyDialog.open) return;
    explain(`${why} The key is forgotten when this tab is closed.`);
    open();
  });
  keyDialog.addEventListener("close", () => {
    const answer = keyDialog.returnValue;
    dismissed = answer !== "use";
    if (answer === "forget") key.set("");
    if (answer === "use") key.set(keyInput.value.trim());
    keyInput.value = "";
    if (answer === "use" || answer === "forget") changed();
  });
  // A form's Enter presses its first button, which is Cancel.
  keyInput.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    keyDialog.close("use");
  });
  keyDialog.addEventListener("cancel", () => (keyDialog.returnValue = "cancel"));
}

/**
 * Opens the confirmation dialog; whether the user confirms.
 * @param {string} title
 * @param {string} text
 * @param {string} yes the button's label
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

/** A message of success or failure; screen readers read it aloud when it changes. */
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
