// WebSocket: the original Shimmy's /ws/generate.
import WebSocket from "ws";
import { raised, report, task, versionOf } from "./report.mjs";

// The frames of one answer, each as JSON.
const ask = (fields) =>
  new Promise((resolve, reject) => {
    const socket = new WebSocket(`${task.url.replace("http", "ws")}/ws/generate?frames=json`);
    const frames = [];
    socket.on("error", reject);
    socket.on("open", () => socket.send(JSON.stringify({ temperature: 0, max_tokens: 60, ...fields })));
    socket.on("close", (code) => reject(new Error(`closed with ${code} after ${frames.length} frames`)));
    socket.on("message", (data) => {
      const frame = JSON.parse(data);
      frames.push(frame);
      if (frame.error) reject(Object.assign(new Error(frame.error), { code: frame.code }));
      if (frame.done) resolve(frames);
      if (frame.error || frame.done) socket.close();
    });
  });

const pieces = async () => {
  const messages = [{ role: "user", content: task.question }];
  const frames = await ask({ model: task.model, messages });
  return frames.filter((frame) => frame.token).map((frame) => frame.token);
};

const none = "these messages have none";
await report(versionOf("ws"), {
  chat: async () => (await pieces()).join(""),
  stream: pieces,
  error: () => raised(() => ask({ model: task.unknown, prompt: "Hello" })),
}, { models: none, usage: none, tools: none, results: none, schema: none, embed: none });
