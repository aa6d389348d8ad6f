// Follows a job: by server-sent events over fetch, because EventSource can't send a key; else by long polls.

import { Problem, get, part, pause, send } from "./api.js";

const WAIT_SECONDS = 30;
const SECONDS_UNTIL_AGAIN = 2;

/**
 * Until the job has ended or `signal` aborts. `onEvents(events)` gets each event once, in order. `onChange(news)` is
 * called when the job has changed; `news` is what the stream said of it, or null if the caller must look itself.
 */
export async function followJob(id, { onEvents, onChange, signal }) {
  let last = 0;
  const take = (events) => {
    const fresh = events.filter((event) => event.seq > last);
    if (!fresh.length) return;
    last = fresh[fresh.length - 1].seq;
    onEvents(fresh);
  };
  let streamed = true;
  while (!signal.aborted) {
    try {
      const ended = streamed ? await stream(id, last, take, onChange, signal) : await longPolls(id, () => last, take, onChange, signal);
      if (ended === "unsupported") streamed = false;
      else if (ended === "ended") return;
    } catch (failure) {
      if (signal.aborted) return;
      if (failure instanceof Problem && failure.status >= 400 && failure.status < 500) throw failure;
    }
    if (streamed) await pause(SECONDS_UNTIL_AGAIN, signal).catch(() => {});
  }
}

async function stream(id, last, take, onChange, signal) {
  const headers = { Accept: "text/event-stream" };
  if (last) headers["Last-Event-ID"] = String(last);
  // In the query as well: a service without streams answers with a page of events, which begins there.
  const answer = await send(`v1/jobs/${part(id)}/events?after=${last}`, { headers, signal });
  if (!(answer.headers.get("Content-Type") ?? "").startsWith("text/event-stream")) {
    await answer.body?.cancel();
    return "unsupported";
  }
  for await (const message of messagesOf(answer.body)) {
    if (message.event === "end") return "ended";
    if (message.event === "progress") onChange(JSON.parse(message.data));
    else if (message.id) {
      take([JSON.parse(message.data)]);
      onChange(null);
    }
  }
  // The connection broke: go on after the last event.
  return "broken";
}

/** The messages of a stream, as in the HTML standard, section 9.2.6. */
export async function* messagesOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  let message = { event: "message", data: [], id: "" };
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      text += value;
      const lines = text.split(/\r\n|\n|\r(?!$)/);
      text = lines.pop();
      for (const line of lines) {
        if (line === "") {
          if (message.data.length) yield { ...message, data: message.data.join("\n") };
          message = { event: "message", data: [], id: "" };
          continue;
        }
        const colon = line.indexOf(":");
        const field = colon < 0 ? line : line.slice(0, colon);
        const given = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
        if (field === "data") message.data.push(given);
        else if (field === "event") message.event = given;
        else if (field === "id") message.id = given;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function longPolls(id, last, take, onChange, signal) {
  let etag = null;
  for (;;) {
    const headers = etag ? { "If-None-Match": etag } : {};
    const answer = await send(`v1/jobs/${part(id)}${etag ? `?wait=${WAIT_SECONDS}` : ""}`, { headers, signal });
    let job = null;
    if (answer.status !== 304) {
      etag = answer.headers.get("ETag");
      job = await answer.json();
    }
    for (;;) {
      const page = await get(`v1/jobs/${part(id)}/events?after=${last()}&limit=1000`, { signal });
      take(page.items);
      if (last() >= page.last || !page.items.length) break;
    }
    if (job) {
      onChange(job);
      if (["succeeded", "failed", "cancelled"].includes(job.state)) return "ended";
    }
  }
}
