// Opens a report in headless Chromium, does what a reader does, and prints what was seen as JSON.
// usage: node look.mjs CHROMIUM REPORT.html HOSTILE.html [COMPARISON.html ...]
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const [executablePath, report, hostile, ...comparisons] = process.argv.slice(2);
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const seen = { trouble: [], requests: [] };

const open = async (file, options = {}) => {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  page.on("pageerror", (error) => seen.trouble.push(error.message));
  page.on("console", (message) => { if (message.type() === "error") seen.trouble.push(message.text()); });
  page.on("dialog", (dialog) => { seen.trouble.push("dialog: " + dialog.message()); dialog.dismiss(); });
  page.on("request", (request) => { if (!/^(file|data):/.test(request.url())) seen.requests.push(request.url()); });
  await page.goto(pathToFileURL(file).href);
  return page;
};
const check = (page) => page.evaluate(async () => {
  const result = await axe.run(document, { resultTypes: ["violations"] });
  return result.violations.map((each) => `${each.id} (${each.impact}): ${each.nodes[0].target} and ${each.nodes.length - 1} more`);
});

// axe in both colour schemes, with a filter, an open light-box and a figure's tip on the page
for (const colorScheme of ["light", "dark"]) {
  const page = await open(report, { colorScheme, bypassCSP: true });
  await page.evaluate(axe);
  seen["axe " + colorScheme] = await check(page);
  if (colorScheme === "dark") {
    seen.dark = await page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
    await page.locator(".shot").first().click();
    seen["axe light-box"] = await check(page);
  }
  await page.context().close();
}
// what the script builds for a narrow screen
const narrow = await open(report, { viewport: { width: 360, height: 700 }, bypassCSP: true });
await narrow.evaluate(axe);
seen["axe narrow"] = await check(narrow);
seen.narrow = await narrow.evaluate(() => document.documentElement.scrollWidth - innerWidth);
await narrow.context().close();

const page = await open(report);
// the first stop of the keyboard leads past the navigation, and is seen
await page.keyboard.press("Tab");
seen.skip = await page.evaluate(() => {
  const at = document.activeElement;
  return { hash: at.hash, left: at.getBoundingClientRect().left, outline: getComputedStyle(at).outlineStyle };
});

const table = page.locator("table.probes");
const column = (index) => table.locator("tbody tr").evaluateAll((rows, at) => rows.filter((row) => !row.hidden).map((row) => row.cells[at].textContent.trim()), index);

const severity = table.locator("thead th").nth(2);
await severity.locator("button").focus();
await page.keyboard.press("Enter");
seen.sorted = { up: await column(2), said: await severity.getAttribute("aria-sort") };
await page.keyboard.press("Enter");
seen.sorted.down = await column(2);

await page.locator("#probes .filter select").first().selectOption("fail");
seen.filtered = { status: await column(1), said: await page.locator("#probes .filter [role=status]").first().textContent() };
await page.locator("#probes .filter select").first().selectOption({ index: 0 });
await page.locator("#probes .filter input").first().fill("pgd");
seen.filtered.word = await column(0);
await page.locator("#probes .filter input").first().fill("");

const shot = page.locator(".image-grid").first().locator(".shot").first();
await shot.focus();
await page.keyboard.press("Enter");
const box = page.locator("#lightbox");
seen.box = { open: await box.evaluate((each) => each.open), place: await box.locator(".place").textContent() };
await page.keyboard.press("ArrowRight");
seen.box.next = await box.locator(".place").textContent();
seen.box.width = await box.locator(".stage .shot").evaluate((each) => each.getBoundingClientRect().width);
await page.keyboard.press("ArrowLeft");
await page.keyboard.press("Escape");
seen.box.closed = await box.evaluate((each) => !each.open);
seen.box.focus = await shot.evaluate((each) => document.activeElement === each);

const plot = page.locator(".curve .plot").first();
await plot.scrollIntoViewIfNeeded();
const tip = plot.locator(".tip");
await plot.locator("[data-line] .mark").first().hover({ force: true });
seen.hovered = await tip.textContent();
await page.mouse.move(2, 2);
seen.left = await tip.textContent();
await page.locator(".skip").focus();
await plot.focus();
await page.keyboard.press("Home");
seen.stepped = [await tip.textContent()];
for (const key of ["ArrowRight", "End", "Escape"]) {
  await page.keyboard.press(key);
  seen.stepped.push(await tip.textContent());
}

await page.emulateMedia({ media: "print" });
seen.print = await page.evaluate(() => {
  const shown = (selector) => [...document.querySelectorAll(selector)].some((each) => each.getClientRects().length);
  return { navigation: shown("nav"), filter: shown(".filter"), buttons: shown("dialog"), findings: shown(".finding .statement"),
    background: getComputedStyle(document.documentElement).backgroundColor };
});
seen.pages = (await page.pdf({ format: "A4" })).length;
await page.context().close();

// the pages of comparisons: both colour schemes and a narrow screen
seen.comparisons = [];
for (const file of comparisons) {
  for (const options of [{ colorScheme: "light" }, { colorScheme: "dark" }, { viewport: { width: 360, height: 700 } }]) {
    const page = await open(file, { ...options, bypassCSP: true });
    await page.evaluate(axe);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    const rows = await page.locator("#headlines tbody tr").count();
    seen.comparisons.push({ violations: await check(page), wide, rows });
    await page.context().close();
  }
}

const evil = await open(hostile);
seen.hostile = { title: await evil.title(), wide: await evil.evaluate(() => document.documentElement.scrollWidth - innerWidth) };
await browser.close();
console.log(JSON.stringify(seen));
