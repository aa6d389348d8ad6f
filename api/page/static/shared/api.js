// Requests to the service: the key, problems (RFC 9457), and one promise of a key for all that wait for one.

/** The service's own address. Relative to this file, so that the page also works below a path of a proxy. */
export const BASE = new URL("../../", import.meta.url);

const KEY = "lit.key";

export class Problem extends Error {
  constructor(status, body) {
    super(body.detail ?? body.title ?? `The service answered ${status}`);
    this.name = "Problem";
    this.status = status;
    this.type = (body.type ?? "").replace("/problems/", "");
    this.title = body.title;
    this.detail = this.message;
    this.errors = body.errors ?? [];
  }
}

export function storedKey() {
  return sessionStorage.getItem(KEY) ?? localStorage.getItem(KEY);
}

/** Keep the key for this tab or, with `remember`, for this browser. */
export function storeKey(key, remember) {
  forgetKey();
  (remember ? localStorage : sessionStorage).setItem(KEY, key);
}

export function forgetKey() {
  sessionStorage.removeItem(KEY);
  localStorage.removeItem(KEY);
}

let askForKey = null;
let asked = null;
let tellConnection = () => {};

/** `ask(wrong)` shows the prompt and resolves when a key was stored; `wrong` says that there was one. */
export function installKeyPrompt(ask) {
  askForKey = ask;
}

/** `tell(text)` is called with what is wrong with the connection, and with null when it works again. */
export function installConnectionNotice(tell) {
  tellConnection = tell;
}

/**
 * The answer to a request of a path such as `v1/jobs`. Raises Problem; status 0 means that nothing answered.
 *
 * A request that is answered with 401 waits for a key and is sent again.
 */
export async function send(path, { method = "GET", json, body, headers = {}, signal, type } = {}) {
  for (;;) {
    const key = storedKey();
    const sent = { ...headers };
    if (key) sent.Authorization = `Bearer ${key}`;
    if (json !== undefined) sent["Content-Type"] = type ?? "application/json";
    let answer;
    try {
      answer = await fetch(new URL(path, BASE), {
        method,
        headers: sent,
        body: json === undefined ? body : JSON.stringify(json),
        signal,
        cache: "no-store",
        credentials: "omit",
      });
    } catch (failure) {
      if (failure.name === "AbortError") throw failure;
      tellConnection("The service doesn't answer. Trying again…");
      throw new Problem(0, { title: "The service doesn't answer", detail: "Check that it runs, and try again." });
    }
    tellConnection(null);
    if (answer.status === 401 && askForKey) {
      // Another request may have got a new key meanwhile.
      if (storedKey() === key) {
        asked ??= askForKey(key !== null).finally(() => {
          asked = null;
        });
        await asked;
      }
      continue;
    }
    if (answer.ok || answer.status === 304) return answer;
    throw new Problem(answer.status, await problemIn(answer));
  }
}

async function problemIn(answer) {
  try {
    return await answer.json();
  } catch {
    return { title: `The service answered ${answer.status} ${answer.statusText}` };
  }
}

export async function get(path, options = {}) {
  return (await send(path, options)).json();
}

export async function post(path, json = {}, options = {}) {
  return (await send(path, { method: "POST", json, ...options })).json();
}

/** A query string of the parameters that have a value. */
export function query(parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return given.length ? `?${new URLSearchParams(given)}` : "";
}

/** A part of a path. */
export const part = encodeURIComponent;

/** For the header Idempotency-Key. crypto.randomUUID is missing on plain http. */
export function idempotencyKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason);
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, seconds * 1000);
    signal.addEventListener("abort", stop, { once: true });
  });
}

/** Until `signal` aborts: run `action`, then wait for the seconds that it returns. A hidden page asks rarely. */
export async function repeat(signal, action) {
  while (!signal.aborted) {
    let seconds = 5;
    try {
      seconds = await action();
    } catch (problem) {
      // What isn't worth another try is shown by the view itself.
      if (!(problem instanceof Problem) || (problem.status > 0 && problem.status < 500)) throw problem;
    }
    if (seconds === null) return;
    await pause(document.hidden ? Math.max(seconds, 15) : seconds, signal);
  }
}

let documentPromise = null;

/** The OpenAPI document, fetched once. */
export function openapi() {
  documentPromise ??= get("openapi.json").catch((problem) => {
    documentPromise = null;
    throw problem;
  });
  return documentPromise;
}
