/** Asking again and again while a view is open. */

/**
 * Calls `ask` at once and `pause` milliseconds after each end, not while the page is out of sight; the function returned ends that.
 * @param {number} pause
 * @param {(signal: AbortSignal) => Promise<void>} ask
 */
export function regularly(pause, ask) {
  const ending = new AbortController();
  const round = async () => {
    if (!document.hidden) await ask(ending.signal);
    if (!ending.signal.aborted) setTimeout(round, pause);
  };
  void round();
  return () => ending.abort();
}
