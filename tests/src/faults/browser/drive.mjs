// Starts a browser with one page, and makes the page do what standard input says: a line of JSON for each
// thing, answered by a line on standard output. It ends, and the browser with it, when its input does.
//
// Arguments: chrome or firefox, its program, and the page's script.
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createInterface } from "node:readline";
import puppeteer from "puppeteer-core";

const [kind, program, script] = process.argv.slice(2);
// As strict as a page can be that talks to relays anywhere.
const policy = [
  "default-src 'none'",
  "script-src 'self'",
  "connect-src http: https: ws: wss:",
  "require-trusted-types-for 'script'",
].join("; ");
const server = createServer((request, answer) => {
  const isScript = request.url === "/page.js";
  answer.setHeader("content-type", isScript ? "text/javascript" : "text/html");
  answer.setHeader("content-security-policy", policy);
  answer.end(isScript ? readFileSync(script) : "<!doctype html><title>page</title><script src=/page.js></script>");
});
await new Promise((listening) => server.listen(0, "127.0.0.1", listening));

const say = (what) => process.stdout.write(`${JSON.stringify(what)}\n`);
const asRoot = process.getuid() === 0 && kind === "chrome" ? ["--no-sandbox"] : [];
const browser = await puppeteer.launch({
  browser: kind,
  executablePath: program,
  // The proxy's certificate is nobody's.
  acceptInsecureCerts: true,
  args: [...asRoot, ...(kind === "chrome" ? ["--disable-dev-shm-usage"] : [])],
});
const page = await browser.newPage();
await page.goto(`http://127.0.0.1:${server.address().port}/`);
say({ answer: await browser.version() });

for await (const line of createInterface({ input: process.stdin })) {
  const [what, argument] = JSON.parse(line);
  try {
    const answer = await page.evaluate((what, argument) => globalThis.doings[what](argument), what, argument);
    say({ answer: answer ?? null });
  } catch (error) {
    say({ failed: String(error) });
  }
}
await browser.close();
process.exit(0);
