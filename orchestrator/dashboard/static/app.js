/** The page: the view that the address names, the state of the connection, announcements for screen readers. */

/** @import { ShownState } from "./types.js" */

import { offerKey } from "./dialogs.js";
import { setAttribute, setText } from "./dom.js";
import { stateOf } from "./format.js";
import { gpusView } from "./gpus_view.js";
import { follow, live } from "./live.js";
import { pluginView } from "./plugin_view.js";
import { pluginsView } from "./plugins_view.js";
import { runsView } from "./runs_view.js";

/** @typedef {{ element: HTMLElement, heading: HTMLElement, title: string, close: () => void }} View */

const find = (/** @type {string} */ id) => /** @type {HTMLElement} */ (document.getElementById(id));
const main = find("main");
/** @type {View | null} */
let view = null;

/** @param {string} address what follows the `#` */
function viewOf(address) {
  const [, first = "", name = "", tab = ""] = address.split("/").map(decoded);
  if (first === "plugins" && name) return pluginView(name, tab);
  if (first === "runs") return runsView();
  if (first === "gpus") return gpusView();
  return pluginsView();
}

/** @param {string} text */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function show() {
  const first = view === null;
  view?.close();
  view = viewOf(location.hash.slice(1));
  main.replaceChildren(view.element);
  document.title = `${view.title} · Plugin orchestrator`;
  for (const link of document.querySelectorAll("nav[aria-label=Main] a")) {
    const [, target = ""] = (link.getAttribute("href") ?? "").slice(1).split("/");
    const [, here = ""] = location.hash.slice(1).split("/");
    setAttribute(link, "aria-current", target === (here === "plugins" ? "" : here) ? "page" : null);
  }
  if (first) return;
  window.scrollTo(0, 0);
  view.heading.focus({ preventScroll: true });
}

const WORDS = { connecting: "Connecting…", live: "Live", polling: "Polling every 2 s", lost: "Not connected" };

function showConnection() {
  const { connection, problem, since } = live.status();
  const lost = live.known()
    ? `Reconnecting: as of ${since.toLocaleTimeString()}`
    : (problem ?? "Not connected, trying again");
  const element = find("connection");
  setText(element, connection === "lost" ? lost : WORDS[connection]);
  setAttribute(element, "data-connection", connection);
  setAttribute(element, "title", problem);
  setAttribute(document.body, "data-connection", connection);
}

/** The last announced state of each plugin. @type {Map<string, ShownState>} */
const announced = new Map();

/** Has screen readers read changes of state aloud. */
function announce() {
  const news = [];
  for (const plugin of live.list()) {
    const before = announced.get(plugin.name);
    const state = stateOf(plugin);
    announced.set(plugin.name, state);
    if (before && before !== state) news.push(`${plugin.name} is now ${state}. ${plugin.reason ?? ""}`);
  }
  if (news.length) setText(find("announcer"), news.slice(0, 3).join(" "));
}

find("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
offerKey(() => {
  live.reconnect();
  show();
});
window.addEventListener("hashchange", show);
live.watch(showConnection);
live.watch(announce);
show();
void follow();
