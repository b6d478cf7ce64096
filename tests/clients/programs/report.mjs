// What a client's script is asked (`task`), and how it tells what its client gave: report.py for JavaScript.
import { readFileSync, writeSync } from "node:fs";

const here = (name) => new URL(name, import.meta.url);

export const task = JSON.parse(readFileSync(here("task.json"), "utf8"));

export const versionOf = (name) => JSON.parse(readFileSync(here(`node_modules/${name}/package.json`), "utf8")).version;

// What a client prints goes to stderr: stdout is the report alone.
console.log = console.error;

export async function report(version, calls, absent) {
  const features = {};
  for (const [name, call] of Object.entries(calls)) {
    try {
      features[name] = { gave: (await call()) ?? null };
    } catch (error) {
      console.error(error);
      features[name] = { raised: `${error?.name}: ${error?.message}`.slice(0, 500) };
    }
  }
  writeSync(1, JSON.stringify({ version, features, absent }));
  process.exit(0);
}

export async function raised(call) {
  let gave;
  try {
    gave = await call();
  } catch (error) {
    const name = error?.constructor?.name;
    return { class: name, status: error?.status ?? error?.status_code ?? error?.statusCode ?? null, message: String(error?.message) };
  }
  throw new Error(`no error, but ${JSON.stringify(gave)}`);
}

export async function listed(iterable) {
  const found = [];
  for await (const each of iterable) found.push(each);
  return found;
}
